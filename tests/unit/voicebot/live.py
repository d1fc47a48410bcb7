"""A live session over scripted stages: sound is loud or silent, and voice is what is loud."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

import numpy as np

from tests.unit.voicebot.conftest import Fakes
from voicebot import happenings as h
from voicebot.audio import Samples
from voicebot.config import Settings
from voicebot.listening import WIRE_RATE
from voicebot.metrics import Metrics
from voicebot.session import Session
from voicebot.setup import Setup
from voicebot.turns import PRESETS, TurnRules, VoiceModel

T = TypeVar("T", bound=h.Happening)
RULES = replace(PRESETS["commands"], silence_s=0.5)


class LoudIsVoice:
    """A detector of loudness."""

    turns = None

    def detector(self) -> LoudIsVoice:
        return self

    def probability(self, window: Samples) -> float:
        return 0.95 if np.abs(window).mean() > 0.01 else 0.01


VOICES = cast(VoiceModel, LoudIsVoice())


class Clock:
    """Of the client's loudspeaker."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def sound(seconds: float, level: float = 0.3) -> bytes:
    """Noise as pcm16 at 24 kHz; level 0 is silence."""
    noise = np.random.default_rng(0).uniform(-level, level, round(seconds * WIRE_RATE))
    return (noise * 32767).astype("<i2").tobytes()


class Live:
    """A session and what happened in it."""

    def __init__(
        self, fakes: Fakes, settings: Settings, rules: TurnRules | None = RULES, **setup: Any
    ) -> None:
        self.happened: list[h.Happening] = []
        self.clock = Clock()
        self.metrics = Metrics()
        self.session = Session(
            fakes.stages(), VOICES, settings, Setup(rules, **setup),
            self.happened.append, self.metrics, self.clock,
        )  # fmt: skip

    async def say(self, seconds: float = 0.8) -> None:
        """Speech, in packets of 20 ms."""
        await self._send(sound(seconds))

    async def pause(self, seconds: float = 0.7) -> None:
        """Silence, in packets of 20 ms."""
        await self._send(sound(seconds, 0))

    async def _send(self, pcm: bytes) -> None:
        for start in range(0, len(pcm), 960):
            await self.session.hear(pcm[start : start + 960])
            await asyncio.sleep(0)

    def of(self, kind: type[T]) -> list[T]:
        """What happened of one kind."""
        return [happening for happening in self.happened if isinstance(happening, kind)]

    async def until(self, kind: type[T], count: int = 1) -> T:
        """Wait for the count-th of a kind."""
        await self.wait(lambda: len(self.of(kind)) >= count)
        return self.of(kind)[count - 1]

    async def wait(self, condition: Callable[[], bool]) -> None:
        """Until it holds."""
        async with asyncio.timeout(60):
            while not condition():  # noqa: ASYNC110 (any condition at all)
                await asyncio.sleep(0.002)

    def window(self) -> list[str]:
        """What the next request would carry."""
        return [f"{m['role']}: {m['content']}" for m in self.session.conversation.window(system_role=True)]
