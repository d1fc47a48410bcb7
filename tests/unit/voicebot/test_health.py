"""/health: of every stage, never late, and cheap for those who ask often."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.voicebot.conftest import Fakes
from voicebot import health
from voicebot.errors import EngineError, SpeechError
from voicebot.health import Health


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("stage", ["stt", "llm", "tts"])
async def test_one_unfit_stage_is_enough(fakes: Fakes, stage: str) -> None:
    fakes.stt.unfit = SpeechError("x", "gone") if stage == "stt" else None
    fakes.tts.unfit = SpeechError("x", "gone") if stage == "tts" else None
    fakes.llm.down = EngineError("x", "gone") if stage == "llm" else None
    wanted = {"status": "unavailable", "stt": "ok", "llm": "ok", "tts": "ok"} | {stage: "gone"}
    assert await Health(fakes.stages()).check() == wanted


async def test_it_never_hangs(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "PATIENCE_S", 0.05)
    monkeypatch.setattr(fakes.tts, "check", asyncio.Event().wait)
    found = await asyncio.wait_for(Health(fakes.stages()).check(), 60)
    assert (found["status"], found["stt"]) == ("unavailable", "ok")
    assert found["tts"] == "It did not answer within 0.05 s."


async def test_stages_are_asked_once_for_all_who_ask_within_two_seconds(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, asked = Clock(), []

    async def check() -> None:
        asked.append(clock.now)
        await asyncio.sleep(0)

    monkeypatch.setattr(fakes.stt, "check", check)
    fitness = Health(fakes.stages(), clock)
    await asyncio.gather(*(fitness.check() for _ in range(50)))
    clock.now = 1.9
    await fitness.check()
    assert asked == [0.0]
    fakes.stt.unfit = SpeechError("x", "gone")
    clock.now = 2.1
    await fitness.check()
    assert asked == [0.0, 2.1]


async def test_who_leaves_takes_the_answer_from_nobody(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    monkeypatch.setattr(fakes.stt, "check", gate.wait)
    fitness = Health(fakes.stages())
    first, second = (asyncio.create_task(fitness.check()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    gate.set()
    assert (await asyncio.wait_for(second, 60))["status"] == "ok"
