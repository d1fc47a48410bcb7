"""Eight people at once on one Whisper: each gets an answer to their own words; the ninth is told to wait."""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests import speech
from tests.integration.voicebot.test_live import pcm
from tests.unit.voicebot.conftest import FakeLlm, Fakes, FakeTts
from tests.unit.voicebot.house import House, open_house
from voicebot.audio import decode
from voicebot.config import Settings, Stt
from voicebot.conversation import Message
from voicebot.llm import Asking, Piece
from voicebot.stages import Stages
from voicebot.stt import FasterWhisper

pytestmark = pytest.mark.lab

PATIENCE_S = 180.0
PEOPLE = 8
_AS_CONFIGURED = Asking()


@dataclass
class Echo(FakeLlm):
    """Says the last words again."""

    async def stream(
        self, messages: Sequence[Message], asking: Asking = _AS_CONFIGURED
    ) -> AsyncGenerator[Piece, None]:
        yield Piece(messages[-1]["content"].splitlines()[-1], "stop")


@dataclass
class Ears(Fakes):
    """A real Whisper; the rest at once."""

    whisper: FasterWhisper | None = None

    def stages(self) -> Stages:
        assert self.whisper
        return Stages(self.whisper, self.llm, self.tts)


@pytest.fixture
def whisper(whisper_tiny: Path) -> FasterWhisper:
    return FasterWhisper(Stt(model=whisper_tiny))


@pytest.fixture
def house(whisper: FasterWhisper, whisper_tiny: Path) -> Iterator[House]:
    """It closes the recogniser at its end."""
    settings = Settings(stt=Stt(model=whisper_tiny))
    with open_house(Ears(llm=Echo(), tts=FakeTts(), whisper=whisper), settings) as open_:
        yield open_


async def until(connection: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            event: dict[str, Any] = json.loads(await connection.recv())
            assert event["type"] != "error", event
            if event["type"] == kind:
                return event


async def prepared(stack: AsyncExitStack, house: House, sound: bytes) -> ClientConnection:
    """Inside, with a turn's sound sent, which is not committed yet."""
    url = f"ws://127.0.0.1:{house.port}/v1/realtime"
    connection = await stack.enter_async_context(connect(url, ping_interval=None, max_queue=None))
    manual = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    await connection.send(json.dumps({"type": "session.update", "session": manual}))
    audio = base64.b64encode(sound).decode()
    await connection.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
    await until(connection, "session.updated")
    return connection


async def turn(connection: ClientConnection) -> tuple[str, str]:
    """What was heard, and what was answered."""
    await connection.send('{"type": "input_audio_buffer.commit"}')
    await connection.send('{"type": "response.create"}')
    heard = await until(connection, "conversation.item.input_audio_transcription.completed")
    done = await until(connection, "response.done")
    return heard["transcript"], done["response"]["output"][0]["content"][0]["transcript"]


def utterances(human_speech: list[speech.Utterance]) -> list[speech.Utterance]:
    everybody = [*human_speech, *speech.cards()]
    return everybody[:PEOPLE]


async def test_each_gets_an_answer_to_their_own_words(
    house: House, human_speech: list[speech.Utterance]
) -> None:
    said = utterances(human_speech)
    async with AsyncExitStack() as stack:
        people = [await prepared(stack, house, pcm(one)) for one in said]
        with pytest.raises(websockets.InvalidStatus, match="503"):
            await connect(f"ws://127.0.0.1:{house.port}/v1/realtime")
        answers = await asyncio.gather(*(turn(person) for person in people))
    for number, (heard, answered) in enumerate(answers):
        assert answered.split() == heard.split()
        errors = [speech.word_error_rate(one.text, heard) for one in said]
        assert errors.index(min(errors)) == number, f"{heard!r} is not what {said[number].name} says"


@pytest.mark.long
def test_eight_turns_take_hardly_longer_than_the_same_eight_bare(
    house: House,
    whisper: FasterWhisper,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    said = utterances(human_speech)
    recordings = []
    for one in said:
        with one.path.open("rb") as file:
            recordings.append(decode(file, max_seconds=60))

    async def bare() -> float:
        began = time.monotonic()
        for recording in recordings:
            await whisper.transcribe(recording)
        return time.monotonic() - began

    async def together() -> float:
        async with AsyncExitStack() as stack:
            people = [await prepared(stack, house, pcm(one)) for one in said]
            began = time.monotonic()
            await asyncio.gather(*(turn(person) for person in people))
            return time.monotonic() - began

    ratios: list[float] = []
    for _ in range(3):
        for _ in range(3):
            alone = asyncio.run(bare())
            ratios.append(asyncio.run(together()) / alone)
        if statistics.median(ratios) <= 1.25:
            break
    record_property("eight_at_once_against_bare", [round(ratio, 3) for ratio in ratios])
    assert statistics.median(ratios) <= 1.25, ratios
