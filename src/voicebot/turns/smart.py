"""smart-turn v3: does this voice sound finished? An optional model, and no more than a hint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from voicebot.audio import SAMPLE_RATE, Recording
from voicebot.errors import ConfigError
from voicebot.worker import PriorityWorker

_SECONDS = 8
_FRAMES = 800
_FINISHED = 0.5


class TurnModel:
    """smart-turn-v3.*.onnx (BSD-2, Daily) in a local file: about 0.1 s of one small core a look."""

    def __init__(self, path: Path) -> None:
        """Load it."""
        import onnxruntime
        from faster_whisper.feature_extractor import FeatureExtractor

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        try:
            self._network: Any = onnxruntime.InferenceSession(str(path), sess_options=options)
        except Exception as error:
            raise ConfigError(
                "smart_turn",
                f"conversation.smart_turn is {path}, which can't be loaded: {error}.",
                rule="a smart-turn v3 model (.onnx).",
                remedy="correct the path, or leave it out: the words of the transcript are a hint too.",
            ) from error
        self._features: Any = FeatureExtractor(feature_size=80, chunk_length=_SECONDS)
        self._worker = PriorityWorker("smart-turn")

    async def sounds_finished(self, recording: Recording) -> bool:
        """Of the last eight seconds."""
        return await self._worker.run(lambda: self.probability(recording) > _FINISHED)

    def probability(self, recording: Recording) -> float:
        """How likely nothing will follow."""
        samples = recording.samples[-_SECONDS * SAMPLE_RATE :]
        samples = np.pad(samples, (_SECONDS * SAMPLE_RATE - len(samples), 0))
        samples = (samples - samples.mean()) / np.sqrt(samples.var() + 1e-7)
        features = self._features(samples.astype(np.float32), padding=0)[None, :, :_FRAMES]
        fed = {"input_features": features.astype(np.float32)}
        return float(self._network.run(None, fed)[0].reshape(-1)[0])

    def close(self) -> None:
        """Let go of the thread."""
        self._worker.close()
