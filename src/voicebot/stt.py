"""Speech to text: a Protocol, and Whisper by faster-whisper from a local directory."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import partial as bind
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from voicebot import cores
from voicebot.audio import SAMPLE_RATE, Recording, Samples
from voicebot.config import Stt
from voicebot.errors import ConfigError, SpeechError
from voicebot.worker import PriorityWorker

_FILES = ("config.json", "model.bin", "tokenizer.json")
_WINDOW_SECONDS = 30.0


@dataclass(frozen=True)
class Segment:
    """Some words and when they are said, in seconds."""

    start: float
    end: float
    text: str


class SpeechToText(Protocol):
    """Understands a recording."""

    @property
    def fault(self) -> str:
        """Why the last call failed; empty when it did not."""
        ...

    async def transcribe(
        self, recording: Recording, *, language: str | None = None, partial: bool = False
    ) -> str:
        """The words said; empty when nothing was. A partial look lets all others go first."""
        ...

    async def segments(self, recording: Recording, *, language: str | None = None) -> list[Segment]:
        """The words said, with times."""
        ...

    def check_language(self, language: str) -> None:
        """Raise ConfigError for a language that the model lacks."""
        ...

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        ...

    @property
    def working_s(self) -> float:
        """How long the call in work has taken so far, in seconds; 0 when there is none."""
        ...

    def close(self) -> None:
        """Let go of threads and memory."""
        ...


class FasterWhisper:
    """One model for the whole process; a thread of its own keeps the event loop free."""

    def __init__(self, settings: Stt) -> None:
        """Load and warm up: blocks for a second or so."""
        check_model(settings.model)
        self.fault = ""
        # Set before the first import: a missing file must be an error, never a download.
        os.environ["HF_HUB_OFFLINE"] = "1"
        from faster_whisper import WhisperModel

        self._settings = settings
        fast = cores.fast()
        try:
            with cores.pinned(fast):  # the model's threads are begun here
                self._model: Any = WhisperModel(
                    str(settings.model),
                    device=settings.device,
                    compute_type=settings.compute_type,
                    cpu_threads=settings.cpu_threads or len(fast),
                    local_files_only=True,
                )
        except (RuntimeError, ValueError) as error:
            raise ConfigError(
                "stt_model",
                f"The speech model {settings.model} can't be loaded: {error}.",
                rule=f"a complete CTranslate2 Whisper model for {settings.device}/{settings.compute_type}.",
                remedy="fetch the model again, or correct stt.device and stt.compute_type.",
            ) from error
        self._languages: list[str] = self._model.supported_languages
        self.check_language(settings.language)
        self._worker = PriorityWorker("stt")
        noise = np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)
        self._run(noise, None, threading.Event(), vad=False)

    def check_language(self, language: str) -> None:
        """Raise ConfigError for a language that the model lacks."""
        if language not in self._languages:
            raise ConfigError(
                "stt_language",
                f"stt.language is {language!r}.",
                rule=f"a language of {self._settings.model}: {', '.join(self._languages)}.",
                remedy="set stt.language to one of them, or choose a multilingual model.",
            )

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return self._worker.waiting

    @property
    def working_s(self) -> float:
        """How long the call in work has taken so far."""
        return self._worker.working_s

    async def transcribe(
        self, recording: Recording, *, language: str | None = None, partial: bool = False
    ) -> str:
        """The words said; an abandoned call stops at the next segment."""
        segments = await self._segments(recording, language, urgency=1 if partial else 0)
        return " ".join(segment.text for segment in segments).strip()

    async def segments(self, recording: Recording, *, language: str | None = None) -> list[Segment]:
        """The words said, with times."""
        return await self._segments(recording, language, urgency=0, times=True)

    async def _segments(
        self, recording: Recording, language: str | None, *, urgency: int, times: bool = False
    ) -> list[Segment]:
        abandoned = threading.Event()
        work = bind(self._run, recording.samples, language, abandoned, times=times)
        try:
            segments = await self._worker.run(work, urgency=urgency)
        except (RuntimeError, ValueError) as error:
            self.fault = f"Speech recognition failed: {error}."
            raise SpeechError("stt_failed", self.fault) from error
        else:
            self.fault = ""
            return segments
        finally:
            abandoned.set()

    def _run(
        self,
        samples: Samples,
        language: str | None,
        abandoned: threading.Event,
        vad: bool = True,
        times: bool = False,
    ) -> list[Segment]:
        if abandoned.is_set():
            return []
        segments, _info = self._model.transcribe(
            samples,
            language=language or self._settings.language,
            beam_size=self._settings.beam_size,
            condition_on_previous_text=False,  # a misheard sentence must not colour the next
            without_timestamps=not times and len(samples) <= _WINDOW_SECONDS * SAMPLE_RATE,
            vad_filter=vad,  # Whisper invents words for silence
        )
        found: list[Segment] = []
        for segment in segments:
            if abandoned.is_set():
                break
            found.append(Segment(segment.start, segment.end, segment.text.strip()))
        return found

    def close(self) -> None:
        """Let go of the thread."""
        self._worker.close()


def check_model(directory: Path) -> None:
    """Refuse what is not a complete local model: faster-whisper would take it for a name on a hub."""
    rule = f"a directory with {', '.join(_FILES)} and a vocabulary."
    remedy = "set stt.model to such a directory; model_store puts them under /srv/models."
    if not directory.is_dir():
        raise ConfigError(
            "stt_model", f"stt.model is {directory}, not a directory.", rule=rule, remedy=remedy
        )
    missing = [name for name in _FILES if not (directory / name).is_file()]
    if not list(directory.glob("vocabulary.*")):
        missing.append("vocabulary.json or .txt")
    if missing:
        what = f"The speech model {directory} lacks {', '.join(missing)}."
        raise ConfigError("stt_model", what, rule=rule, remedy=remedy)
