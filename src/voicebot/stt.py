"""Speech to text: a Protocol, and Whisper by faster-whisper from a local directory."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from voicebot import cores
from voicebot.audio import SAMPLE_RATE, Recording, Samples
from voicebot.config import Stt
from voicebot.errors import BusyError, ConfigError, SpeechError
from voicebot.worker import PriorityWorker, Steps, Urgency

_FILES = ("config.json", "model.bin", "tokenizer.json")
_WINDOW_SECONDS = 30.0


_STUCK_S = 60.0
"""No window takes so long."""


@dataclass(frozen=True)
class Word:
    """One word and when it is said, in seconds."""

    start: float
    end: float
    word: str


@dataclass(frozen=True)
class Segment:
    """Some words and when they are said, in seconds; and how sure the model is of them."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()
    """Only where they were asked for."""
    tokens: tuple[int, ...] = ()
    temperature: float = 0.0
    avg_logprob: float = 0.0
    compression_ratio: float = 0.0
    no_speech_prob: float = 0.0


def _nobody(_: Segment) -> None:
    """Nobody wants to hear of segments as they come."""


class SpeechToText(Protocol):
    """Understands a recording."""

    async def check(self) -> None:
        """Raise SpeechError where it can't be used now; after a failure that means trying again."""
        ...

    async def transcribe(
        self, recording: Recording, *, language: str | None = None, partial: bool = False
    ) -> str:
        """The words said; empty when nothing was. A partial look lets all others go first."""
        ...

    async def segments(
        self,
        recording: Recording,
        *,
        language: str | None = None,
        words: bool = False,
        told: Callable[[Segment], None] = _nobody,
    ) -> list[Segment]:
        """The words said, with times; `told` gets each segment as it is understood."""
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
        self._failed = False
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
        for _ in self._steps(_noise(), threading.Event(), vad_filter=False, without_timestamps=True):
            pass

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

    async def check(self) -> None:
        """Its thread is alive and gets on; what failed last is tried with a bit of noise."""
        if not self._worker.alive or self._worker.working_s > _STUCK_S:
            raise SpeechError("stt_stuck", "Speech recognition hangs.", remedy="restart the service.")
        if self._failed:
            options = {"vad_filter": False, "without_timestamps": True}
            await self._segments(_noise(), Urgency.FINAL, _nobody, options)

    async def transcribe(
        self, recording: Recording, *, language: str | None = None, partial: bool = False
    ) -> str:
        """The words said; an abandoned call stops at the next segment."""
        urgency = Urgency.LOOK if partial else Urgency.FINAL
        options = {"language": language, "without_timestamps": recording.seconds <= _WINDOW_SECONDS}
        segments = await self._segments(recording.samples, urgency, _nobody, options)
        return " ".join(segment.text for segment in segments).strip()

    async def segments(
        self,
        recording: Recording,
        *,
        language: str | None = None,
        words: bool = False,
        told: Callable[[Segment], None] = _nobody,
    ) -> list[Segment]:
        """The words said, with times; between two segments live conversations go first."""
        loop = asyncio.get_running_loop()
        options = {"language": language, "word_timestamps": words}
        return await self._segments(
            recording.samples, Urgency.REQUEST, lambda found: loop.call_soon_threadsafe(told, found), options
        )

    async def _segments(
        self,
        samples: Samples,
        urgency: Urgency,
        told: Callable[[Segment], object],
        options: dict[str, Any],
    ) -> list[Segment]:
        abandoned = threading.Event()
        try:
            steps = self._steps(samples, abandoned, told, **options)
            segments = await self._worker.run_steps(steps, urgency=urgency)
        except BusyError:
            raise
        except (RuntimeError, ValueError) as error:
            self._failed = True
            raise SpeechError("stt_failed", f"Speech recognition failed: {error}.") from error
        else:
            self._failed = False
            return segments
        finally:
            abandoned.set()

    def _steps(
        self,
        samples: Samples,
        abandoned: threading.Event,
        told: Callable[[Segment], object] = _nobody,
        *,
        language: str | None = None,
        **options: Any,
    ) -> Steps[list[Segment]]:
        if abandoned.is_set():
            return []
        options = {"vad_filter": True, **options}  # Whisper invents words for silence
        segments, _info = self._model.transcribe(
            samples,
            language=language or self._settings.language,
            beam_size=self._settings.beam_size,
            condition_on_previous_text=False,  # a misheard sentence must not colour the next
            **options,
        )
        found: list[Segment] = []
        for segment in segments:
            if abandoned.is_set():
                break
            found.append(_segment(segment))
            told(found[-1])
            yield
        return found

    def close(self) -> None:
        """Let go of the thread."""
        self._worker.close()


def _noise() -> Samples:
    """A second of it."""
    return np.random.default_rng(0).normal(0, 0.01, SAMPLE_RATE).astype(np.float32)


def _segment(found: Any) -> Segment:
    words = tuple(Word(w.start, w.end, w.word.strip()) for w in found.words or ())
    sure = (found.temperature or 0.0, found.avg_logprob, found.compression_ratio, found.no_speech_prob)
    return Segment(found.start, found.end, found.text.strip(), words, tuple(found.tokens), *sure)


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
