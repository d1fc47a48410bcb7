"""Silero's voice detector out of faster-whisper's wheel, window by window."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from voicebot.audio import Samples
from voicebot.turns.smart import TurnModel

WINDOW = 512
"""Samples at 16 kHz (32 ms): the model knows no other size."""
_CONTEXT = 64


class VoiceModel:
    """The loaded network, shared by all sessions: 0.13 ms of one core a window."""

    def __init__(self, smart_turn: Path | None = None) -> None:
        """`smart_turn`: a model that hears whether somebody has finished; None: only their words tell."""
        # Not faster_whisper's SileroVADModel: its call resets the state and zeroes the caller's samples.
        import onnxruntime
        from faster_whisper.utils import get_assets_path

        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        path = Path(get_assets_path()) / "silero_vad_v6.onnx"
        self._network: Any = onnxruntime.InferenceSession(
            str(path), providers=["CPUExecutionProvider"], sess_options=options
        )

        self.turns = TurnModel(smart_turn) if smart_turn else None

    def detector(self) -> VoiceDetector:
        """A detector for one stream of sound."""
        return VoiceDetector(self._network)


class VoiceDetector:
    """One stream: the state carries on from window to window."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self._h = np.zeros((1, 1, 128), np.float32)
        self._c = np.zeros((1, 1, 128), np.float32)
        self._context = np.zeros(_CONTEXT, np.float32)

    def probability(self, window: Samples) -> float:
        """How likely it is that somebody speaks in these 512 samples at 16 kHz."""
        fed = np.concatenate([self._context, window])[None, :]
        self._context = window[-_CONTEXT:].copy()
        output, self._h, self._c = self._network.run(None, {"input": fed, "h": self._h, "c": self._c})
        return float(output.reshape(-1)[0])
