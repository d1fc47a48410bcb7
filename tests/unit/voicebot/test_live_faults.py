"""Engines that fail in every way, through the real client, under a live session: it says so and goes on."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.responses import JSONResponse

from tests.scripted import ANSWER, Broken, Engine, chunk, free_port
from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.live import Live, sound
from voicebot import happenings as h
from voicebot.config import Llm, Settings
from voicebot.errors import SpeechError
from voicebot.llm import OpenAIChat

ERROR = {"error": {"message": "out of memory", "type": "server_error"}}
LONG = {"error": {"message": "This model's maximum context length is 10 tokens."}}


async def one_turn(live: Live, count: int) -> h.ReplyDone:
    await live.say()
    await live.pause()
    done = await live.until(h.ReplyDone, count)
    live.clock.now += 600
    return done


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ({"script": [chunk("Well, I"), Broken]}, "engine_cut"),
        ({"script": [chunk("Well, I think. But")]}, "engine_cut"),
        ({"script": [chunk("Well, I"), ERROR]}, "engine_failed"),
        ({"script": [chunk("", "stop"), "[DONE]"]}, "engine_empty"),
        ({"script": [600.0, chunk("late", "stop")]}, "engine_slow"),
        ({"response": JSONResponse(ERROR)}, "engine_failed"),
        ({"response": JSONResponse(LONG, status_code=400)}, "engine_refused"),
        ({"healthy": 503}, "engine_unhealthy"),
    ],
)  # fmt: skip
async def test_engine(
    fakes: Fakes, settings: Settings, engine: Engine, fault: dict[str, Any], code: str
) -> None:
    patience = 0.5 if code == "engine_slow" else 60
    llm = Llm(base_url=f"{engine.url}/v1", model="m", first_token_timeout_s=patience, connect_timeout_s=30)
    fakes.llm = OpenAIChat(llm)  # type: ignore[assignment]
    live = Live(fakes, settings, partials=False)
    for name, value in fault.items():
        setattr(engine, name, value)
    done = await one_turn(live, 1)
    assert done.status == "failed"
    assert done.error and done.error.code == code
    assert fakes.tts.spoken[-1].startswith("Sorry, ")
    engine.script, engine.response, engine.healthy = list(ANSWER), None, 200
    assert (await one_turn(live, 2)).text == "Hello there. How are you?"
    assert fakes.stt.calls == 2, "one for each turn"
    await fakes.llm.close()


async def test_engine_down(fakes: Fakes, settings: Settings) -> None:
    fakes.llm = OpenAIChat(Llm(base_url=f"http://127.0.0.1:{free_port()}/v1"))  # type: ignore[assignment]
    live = Live(fakes, settings, partials=False)
    for count in (1, 2):
        error = (await one_turn(live, count)).error
        assert error and error.code == "engine_unreachable"
    assert fakes.stt.calls == 2
    await fakes.llm.close()


async def test_voice_that_fails_in_the_second_sentence(fakes: Fakes, settings: Settings) -> None:
    def second(clause: str) -> None:
        if clause == "How are you?":
            raise SpeechError("tts_failed", "no voice")

    fakes.tts.on_clause = second
    live = Live(fakes, settings)
    done = await one_turn(live, 1)
    assert (done.status, done.error and done.error.code) == ("failed", "tts_failed")
    assert live.of(h.ReplyAudio), "the first sentence was heard"
    fakes.tts.on_clause = lambda _: None
    assert (await one_turn(live, 2)).status == "completed"


async def test_the_event_loop_stays_free(fakes: Fakes, settings: Settings) -> None:
    """Twenty seconds of sound in one packet (a megabyte) leave room for others."""
    live = Live(fakes, settings, answer=False, partials=False)
    turns = 0

    async def watch() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    watching = asyncio.create_task(watch())
    await live.session.hear(bytes(2 * 24_000 * 20))
    watching.cancel()
    assert turns >= 10


async def test_voice_that_breaks_off_in_the_middle_of_a_sentence(fakes: Fakes, settings: Settings) -> None:
    fakes.tts.breaks = SpeechError("tts_failed", "no breath")
    live = Live(fakes, settings, partials=False)
    done = await one_turn(live, 1)
    assert (done.status, done.error and done.error.code) == ("failed", "tts_failed")
    assert live.of(h.ReplyAudio)
    assert not any(line.startswith("assistant") for line in live.window()), "not remembered"
    fakes.tts.breaks = None
    assert (await one_turn(live, 2)).status == "completed"
    assert fakes.stt.calls == 2


@pytest.mark.parametrize("size", [1, 1_000_000])
async def test_packets_of_any_size(fakes: Fakes, settings: Settings, size: int) -> None:
    live = Live(fakes, settings, answer=False, partials=False)
    pcm = sound(0.5, 0) + sound(0.8) + sound(20 if size > 1 else 0.7, 0)
    for start in range(0, len(pcm), size):
        await live.session.hear(pcm[start : start + size])
    await live.until(h.Transcribed)
    assert len(live.of(h.SpeechStarted)) == len(live.of(h.SpeechStopped)) == fakes.stt.calls == 1
    assert fakes.stt.heard[0].seconds == pytest.approx(0.3 + 0.8 + 0.1, abs=0.1)


async def test_a_client_that_vanishes_in_the_middle_of_a_word(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.delay = 600
    live = Live(fakes, settings, partials=False)
    await live.say()
    await live.pause(0.2)
    await live.wait(fakes.stt.begun.is_set)
    await asyncio.wait_for(live.session.close(), 60)
    await live.wait(fakes.stt.cancelled.is_set)
    assert live.of(h.ReplyStarted) == []


async def test_a_recogniser_that_fails_once(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.error = SpeechError("stt_failed", "no ears")
    live = Live(fakes, settings, partials=False)
    await live.say()
    await live.pause()
    assert (await live.until(h.NotTranscribed)).error.code == "stt_failed"
    fakes.stt.error = None
    assert (await one_turn(live, 1)).status == "completed"
    assert fakes.stt.calls == 2, "no sound twice"
