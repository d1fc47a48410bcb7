"""A scripted engine, and stages that do as they are told."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.scripted import Engine, running
from voicebot.audio import Recording
from voicebot.config import Llm, Settings, Stt
from voicebot.conversation import Message
from voicebot.errors import ConfigError, VoicebotError
from voicebot.llm import Asking, Piece
from voicebot.stages import Stages
from voicebot.stt import Segment, Word

_AS_CONFIGURED = Asking()


@pytest.fixture
def engine() -> Iterator[Engine]:
    scripted = Engine()
    with running(scripted.app()) as url:
        scripted.url = url
        yield scripted


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(stt=Stt(model=tmp_path), llm=Llm(model="m"))


@dataclass
class FakeStt:
    """Hears what it is told."""

    text: str = "what is a spark"
    delay: float = 0.0
    unfit: VoicebotError | None = None
    error: VoicebotError | None = None
    script: list[str] = field(default_factory=list)
    calls: int = 0
    closed: bool = False
    waiting: int = 0
    working_s: float = 0.0
    heard: list[Recording] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)
    begun: threading.Event = field(default_factory=threading.Event)
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def check(self) -> None:
        if self.unfit:
            raise self.unfit

    async def transcribe(
        self, recording: Recording, *, language: str | None = None, partial: bool = False
    ) -> str:
        self.calls += 1
        self.heard.append(recording)
        self.languages.append(language)
        self.begun.set()
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        if self.error:
            raise self.error
        return self.script.pop(0) if self.script and not partial else self.text

    async def segments(
        self,
        recording: Recording,
        *,
        language: str | None = None,
        words: bool = False,
        told: Callable[[Segment], None] = lambda _: None,
    ) -> list[Segment]:
        """One for each line, a second each; its words share it."""
        lines = (await self.transcribe(recording, language=language)).splitlines()
        found = []
        for start, line in enumerate(lines):
            said = line.split() if words else []
            share = 1.0 / max(1, len(said))
            timed = [Word(start + i * share, start + (i + 1) * share, word) for i, word in enumerate(said)]
            found.append(Segment(float(start), start + 1.0, line, tuple(timed), tokens=(1, 2)))
            told(found[-1])
        return found

    def check_language(self, language: str) -> None:
        if language not in ("en", "de"):
            raise ConfigError("stt_language", f"stt.language is {language!r}.")

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeLlm:
    """Writes what it is told; an exception or a pause may be among the pieces."""

    pieces: Sequence[Piece | VoicebotError | float] = (Piece("Hello there. How"), Piece(" are you?", "stop"))
    system_role: bool = False
    down: VoicebotError | None = None
    context_length: int | None = None
    asked: list[Asking] = field(default_factory=list)
    windows: list[Sequence[Message]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def check(self) -> None:
        await self.prepare()

    async def prepare(self) -> bool:
        if self.down:
            raise self.down
        return self.system_role

    async def context(self) -> int | None:
        return self.context_length

    async def count(self, messages: Sequence[Message]) -> int | None:
        return sum(len(m["content"].split()) + 4 for m in messages)

    async def stream(
        self, messages: Sequence[Message], asking: Asking = _AS_CONFIGURED
    ) -> AsyncGenerator[Piece, None]:
        self.windows.append(messages)
        self.asked.append(asking)
        try:
            for piece in self.pieces:
                if isinstance(piece, VoicebotError):
                    raise piece
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    yield piece
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class FakeTts:
    """Two bytes of sound a character."""

    sample_rate: int = 24_000
    unfit: VoicebotError | None = None
    error: VoicebotError | None = None
    spoken: list[str] = field(default_factory=list)
    voices: list[str | None] = field(default_factory=list)
    samples_a_character: int = 1
    on_clause: Callable[[str], None] = lambda _: None
    breaks: VoicebotError | None = None
    """After the first piece of a clause."""

    async def check(self) -> None:
        if self.unfit:
            raise self.unfit

    async def speak(self, clause: str, voice: str | None = None) -> AsyncGenerator[bytes, None]:
        self.spoken.append(clause)
        self.voices.append(voice)
        self.on_clause(clause)
        if self.error:
            raise self.error
        yield b"\1\0" * len(clause) * self.samples_a_character
        if self.breaks:
            raise self.breaks

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Fakes:
    """The stages of a turn, each scripted."""

    stt: FakeStt = field(default_factory=FakeStt)
    llm: FakeLlm = field(default_factory=FakeLlm)
    tts: FakeTts = field(default_factory=FakeTts)

    def stages(self) -> Stages:
        return Stages(self.stt, self.llm, self.tts)


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()
