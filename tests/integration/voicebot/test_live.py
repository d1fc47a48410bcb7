"""The `openai` client, a recorded human voice in real time, real Whisper and real speech synthesis."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soxr
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from tests import speech
from tests.integration.voicebot.conftest import ANSWER, Service, Start
from tests.scripted import Engine, chunk
from voicebot.audio import decode

pytestmark = pytest.mark.lab

PACKET_S = 0.02


class Microphone:
    """Sends sound at the pace of real time, silence where nothing is said."""

    def __init__(self, connection: AsyncRealtimeConnection) -> None:
        self._connection = connection
        self._sound = b""
        self.spoke_until = 0.0

    def say(self, utterance: speech.Utterance, seconds: float = 60.0) -> None:
        """Its first seconds, from now on."""
        self._sound = pcm(utterance, seconds)

    async def run(self) -> None:
        """Until cancelled."""
        step = 2 * int(24_000 * PACKET_S)
        due = time.monotonic()
        while True:
            packet, self._sound = self._sound[:step], self._sound[step:]
            if packet:
                self.spoke_until = time.monotonic()
            audio = base64.b64encode(packet.ljust(step, b"\0")).decode()
            await self._connection.input_audio_buffer.append(audio=audio)
            due += PACKET_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))


def pcm(utterance: speech.Utterance, seconds: float = 60.0) -> bytes:
    with utterance.path.open("rb") as file:
        samples = decode(file, max_seconds=60).samples[: int(seconds * 16_000)]
    louder = np.clip(soxr.resample(samples, 16_000, 24_000), -1, 1)
    return bytes((louder * 32767).astype("<i2").tobytes())


@asynccontextmanager
async def talking(
    service: Service, session: Any = None
) -> AsyncIterator[tuple[AsyncRealtimeConnection, Microphone]]:
    url = f"{service.url}/v1"
    client = openai.AsyncOpenAI(base_url=url, websocket_base_url=url.replace("http", "ws"), api_key="none")
    async with client.realtime.connect(model="voicebot") as connection:
        await until(connection, "session.created")
        if session:
            await connection.session.update(session=session)
            await until(connection, "session.updated")
        microphone = Microphone(connection)
        running = asyncio.create_task(microphone.run())
        yield connection, microphone
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def until(connection: AsyncRealtimeConnection, kind: str, seconds: float = 180) -> list[Any]:
    events: list[Any] = []
    async with asyncio.timeout(seconds):
        while not events or events[-1].type != kind:
            events.append(await connection.recv())
            assert events[-1].type != "error", events[-1]
    return events


async def test_a_human_sentence_is_answered_aloud(
    service: Service,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    question = human_speech[1]
    async with talking(service) as (connection, microphone):
        microphone.say(question)
        await until(connection, "response.output_audio.delta")
        record_property("end_of_speech_to_first_audio_s", round(time.monotonic() - microphone.spoke_until, 3))
        events = await until(connection, "response.done")
        await connection.conversation.item.retrieve(item_id=events[-1].response.output[0].id)
        microphone.say(human_speech[4])
        events = await until(connection, "conversation.item.input_audio_transcription.completed")
    assert speech.word_error_rate(human_speech[4].text, events[-1].transcript) <= 0.2
    async with httpx.AsyncClient() as http:
        metrics = (await http.get(f"{service.url}/metrics")).text
    assert 'voicebot_turns_total{status="completed"}' in metrics
    assert 'voicebot_speculations_total{fate="used"}' in metrics


@contextmanager
def answering(engine: Engine, text: str) -> Iterator[str]:
    """The engine answers that, for now."""
    before, words = engine.script, text.replace(" ", "| ").split("|")
    engine.script = [*(chunk(word) for word in words), chunk("", "stop"), "[DONE]"]
    try:
        yield text
    finally:
        engine.script = before


async def test_speech_interrupts_a_burst_of_noise_does_not(
    service: Service, engine: Engine, human_speech: list[speech.Utterance]
) -> None:
    with answering(engine, " ".join(6 * [ANSWER])) as answer:  # half a minute: time enough to interrupt it
        heard, cut_ms = await _interrupted(service, human_speech)
    assert answer.startswith(heard)
    assert heard != answer
    assert cut_ms > 0


async def _interrupted(service: Service, human_speech: list[speech.Utterance]) -> tuple[str, int]:
    """What was kept of the answer, and where it was cut."""
    async with talking(service) as (connection, microphone):
        microphone.say(human_speech[1])
        events = await until(connection, "response.output_audio.delta")
        noise = np.random.default_rng(1).normal(0, 0.3, 7200)
        microphone._sound = (np.clip(noise, -1, 1) * 32767).astype("<i2").tobytes()
        events = await until(connection, "response.done")
        assert events[-1].response.status == "completed"
        assert "input_audio_buffer.speech_started" not in {event.type for event in events}
        microphone.say(human_speech[4])  # the answer is still being played
        events = await until(connection, "conversation.item.truncated")
        cut = events[-1]
        await connection.conversation.item.retrieve(item_id=cut.item_id)
        item = (await until(connection, "conversation.item.retrieved"))[-1].item
    return item.content[0].text, cut.audio_end_ms


async def test_a_prompt_holds_what_was_heard(
    service: Service, engine: Engine, human_speech: list[speech.Utterance]
) -> None:
    manual = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    hello: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]}
    async with talking(service, manual) as (connection, _):
        await connection.conversation.item.create(item=hello)
        await connection.response.create()
        item = (await until(connection, "response.done"))[-1].response.output[0].id
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=1500)
        await connection.conversation.item.create(item=hello)
        await connection.response.create()
        await until(connection, "response.done")
    _, said, _ = engine.asked[-1]["messages"]
    assert said["role"] == "assistant"
    assert 3 <= len(said["content"].split()) <= 6
    assert ANSWER.startswith(said["content"])


def test_recognition_is_no_worse_than_the_bare_recogniser(
    service: Service,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    from faster_whisper import WhisperModel

    model = WhisperModel(str(_model(service)), device="cpu", compute_type="int8")
    bare = []
    for utterance in human_speech:
        segments, _ = model.transcribe(
            str(utterance.path), language="en", beam_size=1, vad_filter=True, without_timestamps=True,
            condition_on_previous_text=False,
        )  # fmt: skip
        bare.append(" ".join(segment.text.strip() for segment in segments))
    heard = asyncio.run(_all_transcripts(service, human_speech))
    references = [utterance.text for utterance in human_speech]
    rates = [speech.corpus_error_rate(references, texts) for texts in (heard, bare)]
    record_property("wer_live_and_bare", [round(rate, 4) for rate in rates])
    assert rates[0] <= rates[1]


async def _all_transcripts(service: Service, utterances: list[speech.Utterance]) -> list[str]:
    """Each sentence as a turn found by the voice detector, sent as fast as it is taken."""
    heard = []
    session = {"type": "transcription", "audio": {"input": {"transcription": None}}}
    for utterance in utterances:
        async with talking(service, session) as (connection, _):
            sound = pcm(utterance) + bytes(2 * 48_000)
            await connection.input_audio_buffer.append(audio=base64.b64encode(sound).decode())
            done = await until(connection, "conversation.item.input_audio_transcription.completed")
            heard.append(done[-1].transcript)
    return heard


def _model(service: Service) -> str:
    import yaml

    return str(yaml.safe_load(service.config.read_text())["stt"]["model"])


async def test_an_engine_that_is_away_is_apologised_for(
    start: Start, whisper_tiny: Any, human_speech: list[speech.Utterance]
) -> None:
    service = start(whisper_tiny, "http://127.0.0.1:9")
    async with talking(service) as (connection, microphone):
        microphone.say(human_speech[1])
        events = await until(connection, "response.done")
        response = events[-1].response
        assert response.status == "failed"
        assert response.status_details.error.code == "engine_unreachable"
        audio = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
        assert len(audio) > 24_000, "an apology is heard"
        microphone.say(human_speech[4])
        await until(connection, "conversation.item.input_audio_transcription.completed")
    service.stop()
