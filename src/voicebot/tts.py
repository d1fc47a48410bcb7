"""Text to speech: a Protocol, and hibari in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from voicebot.audio import Samples, pcm16
from voicebot.clauses import SENTENCE_END, speakable
from voicebot.config import Tts
from voicebot.errors import ConfigError, SpeechError

_AUDIBLE = 0.02
"""Share of the peak below which a clause's edge counts as silence."""
_LEAD_S = 0.02
_PAUSE_S = 0.12
_CHUNK_S = 0.5


class TextToSpeech(Protocol):
    """Speaks a clause."""

    sample_rate: int

    @property
    def fault(self) -> str:
        """Why the last call failed; empty when it did not."""
        ...

    def speak(self, clause: str) -> AsyncGenerator[bytes, None]:
        """16-bit mono PCM, in pieces, the first as soon as it is ready."""
        ...

    def close(self) -> None:
        """Let go of threads and memory."""
        ...


class HibariVoice:
    """hibari-tts: English, about 130 times real time on one core; no download at run time."""

    def __init__(self, settings: Tts) -> None:
        """Load and warm up: blocks for a second or so."""
        from hibari import Hibari
        from hibari.voices import VOICES, cache_dir, voice_path

        try:
            voice_path(settings.voice, download_missing=False)
        except (ValueError, FileNotFoundError) as error:
            here = [name for name in VOICES if VOICES[name].get("bundled")]
            raise ConfigError(
                "tts_voice",
                f"tts.voice is {settings.voice!r}, which is not on this host.",
                rule="a voice that comes with the package or lies in the cache; none is downloaded.",
                remedy=f"set tts.voice to {' or '.join(here)}, or put the voice's file into {cache_dir()}.",
            ) from error
        self._hibari = Hibari(voice=settings.voice)
        self._speed = settings.speed
        self.fault = ""
        self.sample_rate: int = self._hibari.sample_rate
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tts")
        list(self._synthesise("Ready."))

    async def speak(self, clause: str) -> AsyncGenerator[bytes, None]:
        """PCM of one clause; an abandoned call stops after the sentence in work."""
        loop = asyncio.get_running_loop()
        abandoned = threading.Event()
        sentences = self._synthesise(clause)
        try:
            while (pcm := await loop.run_in_executor(self._worker, _next, sentences, abandoned)) is not None:
                step = 2 * int(_CHUNK_S * self.sample_rate)
                for start in range(0, len(pcm), step):
                    yield pcm[start : start + step]
            self.fault = ""
        except (RuntimeError, ValueError, LookupError) as error:
            self.fault = f"Speech synthesis failed: {error}."
            raise SpeechError("tts_failed", self.fault) from error
        finally:
            abandoned.set()

    def _synthesise(self, clause: str) -> Iterator[bytes]:
        text = speakable(clause)
        if not text:
            return
        for samples in self._hibari.stream(text, self._speed, seed=0):
            if len(samples):
                yield pcm16(trim(samples, self.sample_rate, keep_tail=bool(SENTENCE_END.search(text))))

    def close(self) -> None:
        """Let go of the thread."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def _next(sentences: Iterator[bytes], abandoned: threading.Event) -> bytes | None:
    return None if abandoned.is_set() else next(sentences, None)


def trim(samples: Samples, rate: int, *, keep_tail: bool) -> Samples:
    """Cut hibari's 0.3 s of near-silence at the start and, inside a sentence, most of that at the end."""
    level = np.abs(samples)
    audible = np.flatnonzero(level > _AUDIBLE * level.max())
    if not len(audible):
        return samples
    start = max(0, int(audible[0]) - int(_LEAD_S * rate))
    end = len(samples) if keep_tail else min(len(samples), int(audible[-1]) + int(_PAUSE_S * rate))
    return samples[start:end]
