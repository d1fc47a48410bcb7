"""Text to speech: a Protocol, and hibari in this process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any, Protocol

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

    async def check(self) -> None:
        """Raise SpeechError where it can't be used now; after a failure that means trying again."""
        ...

    def speak(self, clause: str, voice: str | None = None) -> AsyncGenerator[bytes, None]:
        """16-bit mono PCM, in pieces, the first at once; by the configured voice or this one."""
        ...

    def close(self) -> None:
        """Let go of threads and memory."""
        ...


class HibariVoice:
    """hibari-tts: English, about 130 times real time on one core; no download at run time."""

    def __init__(self, settings: Tts, others: Iterable[str] = ()) -> None:
        """Load and warm up all voices that may be asked for: blocks for a second or so."""
        self._default = settings.voice
        self._speed = settings.speed
        self._failed = False
        names = dict.fromkeys([settings.voice, *others])
        self._voices = {name: _loaded(name) for name in names}
        self.sample_rate: int = self._voices[self._default].sample_rate
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tts")
        for name in names:
            list(self._synthesise("Ready.", name))

    async def check(self) -> None:
        """What failed last is tried with a word."""
        if self._failed:
            async with aclosing(self.speak("Ready.")) as speech:
                async for _ in speech:
                    pass

    async def speak(self, clause: str, voice: str | None = None) -> AsyncGenerator[bytes, None]:
        """PCM of one clause; an abandoned call stops after the sentence in work."""
        loop = asyncio.get_running_loop()
        abandoned = threading.Event()
        sentences = self._synthesise(clause, voice or self._default)
        try:
            while (pcm := await loop.run_in_executor(self._worker, _next, sentences, abandoned)) is not None:
                step = 2 * int(_CHUNK_S * self.sample_rate)
                for start in range(0, len(pcm), step):
                    yield pcm[start : start + step]
            self._failed = False
        except (RuntimeError, ValueError, LookupError) as error:
            self._failed = True
            raise SpeechError("tts_failed", f"Speech synthesis failed: {error}.") from error
        finally:
            abandoned.set()

    def _synthesise(self, clause: str, voice: str) -> Iterator[bytes]:
        text = speakable(clause)
        if not text:
            return
        for samples in self._voices[voice].stream(text, self._speed, seed=0):
            if len(samples):
                yield pcm16(trim(samples, self.sample_rate, keep_tail=bool(SENTENCE_END.search(text))))

    def close(self) -> None:
        """Let go of the thread."""
        self._worker.shutdown(wait=False, cancel_futures=True)


def _loaded(name: str) -> Any:
    from hibari import Hibari
    from hibari.voices import VOICES, cache_dir, voice_path

    try:
        voice_path(name, download_missing=False)
    except (ValueError, FileNotFoundError) as error:
        here = [voice for voice in VOICES if VOICES[voice].get("bundled")]
        raise ConfigError(
            "tts_voice",
            f"tts.voice (or a persona's voice) is {name!r}, which is not on this host.",
            rule="a voice that comes with the package or lies in the cache; none is downloaded.",
            remedy=f"set tts.voice to {' or '.join(here)}, or put the voice's file into {cache_dir()}.",
        ) from error
    return Hibari(voice=name)


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
