"""One turn: the order of events, what runs side by side, and what remains after a failure."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing

import numpy as np
import pytest

from tests.unit.voicebot.conftest import FakeLlm, Fakes
from voicebot.audio import Recording
from voicebot.conversation import Conversation
from voicebot.errors import EngineError, SpeechError
from voicebot.llm import Piece
from voicebot.turn import Done, Event, Failed, Heard, Said, Spoken, Stopwatch, Written, events

SECOND = Recording(np.zeros(16_000, np.float32))


async def run(fakes: Fakes, conversation: Conversation | None = None) -> list[Event]:
    talk = conversation or Conversation("Be kind.")
    return [event async for event in events(fakes.stages(), talk, SECOND, Stopwatch())]


def failure(happened: list[Event]) -> str:
    *_, failed, done = happened
    assert isinstance(failed, Failed)
    assert isinstance(done, Done)
    assert done.status == "failed"
    return failed.error.code


async def test_a_turn(fakes: Fakes) -> None:
    conversation = Conversation("Be kind.")
    happened = await run(fakes, conversation)
    assert happened[0] == Heard("what is a spark")
    assert "".join(e.text for e in happened if isinstance(e, Written)) == "Hello there. How are you?"
    assert fakes.tts.spoken == ["Hello there.", "How are you?"]
    assert sum(len(e.pcm) for e in happened if isinstance(e, Spoken)) == 2 * len("Hello there.How are you?")
    done = happened[-1]
    assert isinstance(done, Done)
    assert done.status == "completed"
    assert fakes.llm.windows == [[{"role": "user", "content": "Be kind.\n\nwhat is a spark"}]]
    second = conversation.window("and now", system_role=True)
    assert second[1:3] == [
        {"role": "user", "content": "what is a spark"},
        {"role": "assistant", "content": "Hello there. How are you?"},
    ]


async def test_the_stages_add_up_to_the_first_sound(fakes: Fakes) -> None:
    fakes.stt.delay = 0.05
    fakes.llm = FakeLlm([0.05, Piece("One"), 0.05, Piece(" two. Three", "stop")])
    done = (await run(fakes))[-1]
    assert isinstance(done, Done)
    stages = ["decode_s", "stt_s", "llm_first_token_s", "first_clause_s", "tts_first_audio_s"]
    assert list(done.metrics) == [*stages, "first_audio_s", "total_s"]
    assert all(done.metrics[name] >= 0.045 for name in ("stt_s", "llm_first_token_s", "first_clause_s"))
    assert sum(done.metrics[name] for name in stages) == pytest.approx(
        done.metrics["first_audio_s"], abs=0.01
    )


async def test_the_first_clause_is_spoken_while_the_rest_is_written(fakes: Fakes) -> None:
    fakes.llm = FakeLlm([Piece("First clause. And"), 0.2, Piece(" then more.", "stop")])
    happened = await run(fakes)
    kinds = [type(event) for event in happened]
    assert kinds == [Heard, Written, Spoken, Written, Spoken, Said, Done]


async def test_the_engine_is_asked_for_health_while_the_recogniser_works(fakes: Fakes) -> None:
    fakes.stt.delay = 600
    fakes.llm.down = EngineError("engine_unreachable", "down")
    began = time.monotonic()
    assert failure(await run(fakes)) == "engine_unreachable"
    assert time.monotonic() - began < 60


async def test_nothing_heard(fakes: Fakes) -> None:
    fakes.stt.text = ""
    assert failure(await run(fakes)) == "nothing_heard"
    assert fakes.llm.windows == []


@pytest.mark.parametrize("written", [(), (Piece("Hello there. How"),)])
async def test_an_engine_that_fails_midway(fakes: Fakes, written: tuple[Piece, ...]) -> None:
    fakes.llm = FakeLlm([*written, 0.05, EngineError("engine_cut", "cut")])
    conversation = Conversation("")
    happened = await run(fakes, conversation)
    assert failure(happened) == "engine_cut"
    assert any(isinstance(e, Spoken) for e in happened) == bool(written)
    assert len(conversation.window("next", system_role=True)) == 1, "a failed round is not remembered"
    assert fakes.stt.calls == 1


async def test_speech_that_fails_stops_the_engine(fakes: Fakes) -> None:
    fakes.tts.error = SpeechError("tts_failed", "no voice")
    fakes.llm = FakeLlm([Piece("First clause. And"), 600.0])
    assert failure(await run(fakes)) == "tts_failed"
    assert fakes.llm.cancelled.is_set()


async def test_recognition_that_fails(fakes: Fakes) -> None:
    fakes.stt.error = SpeechError("stt_failed", "no ears")
    assert failure(await run(fakes)) == "stt_failed"


@pytest.mark.parametrize("pieces", [(Piece("", "stop"),), (Piece(" \n"), Piece("", "stop"))])
async def test_an_empty_answer_is_a_failure(fakes: Fakes, pieces: tuple[Piece, ...]) -> None:
    fakes.llm = FakeLlm(pieces)
    assert failure(await run(fakes)) == "engine_empty"


async def test_a_token_cap_drops_the_unfinished_sentence(fakes: Fakes) -> None:
    fakes.llm = FakeLlm([Piece("It is good. It is bett", "length")])
    *_, said, done = await run(fakes)
    assert isinstance(done, Done)
    assert done.status == "incomplete"
    assert fakes.tts.spoken == ["It is good."]
    assert said == Said("It is good.")


async def test_leaving_cancels_everything(fakes: Fakes) -> None:
    fakes.llm = FakeLlm([Piece("First clause. And"), 600.0])
    began = time.monotonic()
    async with aclosing(events(fakes.stages(), Conversation(""), SECOND, Stopwatch())) as turn:
        async for event in turn:
            if isinstance(event, Spoken):
                break
    assert fakes.llm.cancelled.is_set()
    assert time.monotonic() - began < 60


async def test_a_bug_is_not_swallowed(fakes: Fakes) -> None:
    def bug(_clause: str) -> None:
        raise ZeroDivisionError

    fakes.tts.on_clause = bug
    with pytest.raises(BaseExceptionGroup) as caught:
        await asyncio.wait_for(run(fakes), 60)
    assert caught.group_contains(ZeroDivisionError)
