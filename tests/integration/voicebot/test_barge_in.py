"""A human interrupts an answer: it ends, and so does the engine's request. Real recogniser, real voice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests import speech
from tests.integration.voicebot.conftest import Service
from tests.integration.voicebot.test_live import Microphone, talking, until
from tests.scripted import Engine, chunk

pytestmark = pytest.mark.lab
AT_ONCE_S = 0.1


@contextmanager
def endless(engine: Engine) -> Iterator[None]:
    """The engine writes on and on."""
    before = engine.script
    sentence = [chunk(word) for word in ("It", " goes", " on", " and", " on.", " ")]
    engine.script = [step for word in 2000 * sentence for step in (word, 0.05)]
    try:
        yield
    finally:
        engine.script = before


async def barge_in(
    connection: Any, microphone: Microphone, engine: Engine, utterances: list[speech.Utterance]
) -> tuple[float, float]:
    """Seconds from `speech_started` to the answer's end, and to the end of the engine's request."""
    asked, ended = len(engine.asked), len(engine.abandoned_at)
    microphone.say(utterances[1])
    await until(connection, "response.output_audio.delta")
    microphone.say(utterances[4])
    await until(connection, "input_audio_buffer.speech_started")
    began = time.monotonic()
    response = (await until(connection, "response.done"))[-1].response
    done = time.monotonic()
    assert response.status == "cancelled"
    assert response.status_details.reason == "turn_detected"
    async with asyncio.timeout(60):
        while len(engine.abandoned_at) == ended:  # noqa: ASYNC110 (a thread is watched)
            await asyncio.sleep(0.005)
    assert len(engine.asked) > asked
    # What interrupted is answered, too: that answer is stopped, so that the next round begins in silence.
    await until(connection, "response.output_audio.delta")
    await connection.response.cancel()
    await until(connection, "response.done")
    return done - began, engine.abandoned_at[ended] - began


async def several(
    count: int, service: Service, engine: Engine, utterances: list[speech.Utterance]
) -> list[tuple[float, float]]:
    with endless(engine):
        async with talking(service) as (connection, microphone):
            return [await barge_in(connection, microphone, engine, utterances) for _ in range(count)]


async def test_speech_ends_answer_and_request(
    service: Service,
    engine: Engine,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    took = await several(2, service, engine, human_speech)
    record_property("barge_in_to_answer_and_request_ended_s", took)
    assert len(took) == 2


@pytest.mark.long
async def test_twenty_times_at_once(
    service: Service,
    engine: Engine,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    took = await several(20, service, engine, human_speech)
    record_property("barge_in_to_answer_and_request_ended_s", took)
    assert max(answer for answer, _ in took) <= AT_ONCE_S
    assert max(request for _, request in took) <= AT_ONCE_S
