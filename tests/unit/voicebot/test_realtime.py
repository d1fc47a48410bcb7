"""The `openai` client, unmodified, against /v1/realtime."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import openai
import pytest
import websockets
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from tests.scripted import running
from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.live import VOICES, sound
from voicebot import rest
from voicebot.config import Conversing, Limits, Settings
from voicebot.errors import EngineError
from voicebot.llm import Piece, ToolCall

MANUAL: Any = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
HELLO: Any = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]}


@asynccontextmanager
async def connected(
    fakes: Fakes, settings: Settings, session: Any = None
) -> AsyncIterator[AsyncRealtimeConnection]:
    with running(rest.build(settings, fakes.stages(), VOICES)) as url:
        client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", websocket_base_url=f"{url.replace('http', 'ws')}/v1", api_key="none"
        )
        async with client.realtime.connect(model="voicebot") as connection:
            assert (await connection.recv()).type == "session.created"
            if session:
                await connection.session.update(session=session)
                assert (await connection.recv()).type == "session.updated"
            yield connection


async def until(connection: AsyncRealtimeConnection, kind: str) -> list[Any]:
    """Events up to the first of a kind."""
    events: list[Any] = []
    async with asyncio.timeout(60):
        while not events or events[-1].type != kind:
            events.append(await connection.recv())
    return events


async def append(connection: AsyncRealtimeConnection, pcm: bytes, size: int = 4800) -> None:
    for start in range(0, len(pcm), size):
        await connection.input_audio_buffer.append(audio=base64.b64encode(pcm[start : start + size]).decode())


async def metrics(url: str) -> str:
    async with httpx.AsyncClient() as http:
        return (await http.get(f"{url}/metrics")).text


def names(events: list[Any]) -> list[str]:
    found: list[str] = []
    for event in events:
        if not found or found[-1] != event.type:
            found.append(event.type)
    return found


async def test_a_spoken_turn(fakes: Fakes, settings: Settings) -> None:
    async with connected(fakes, settings) as connection:
        await append(connection, sound(0.9) + sound(1.3, 0))
        events = await until(connection, "response.done")
    told = [n for n in names(events) if not n.endswith("transcription.delta")]
    assert told[:8] == [
        "input_audio_buffer.speech_started", "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed", "conversation.item.added", "conversation.item.done",
        "conversation.item.input_audio_transcription.completed", "response.created",
        "response.output_item.added",
    ]  # fmt: skip
    assert told[-7:] == [
        "response.output_audio.delta", "response.output_audio.done",
        "response.output_audio_transcript.done", "response.content_part.done",
        "response.output_item.done", "conversation.item.done", "response.done",
    ]  # fmt: skip
    pcm = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
    assert len(pcm) == 2 * len("Hello there.How are you?")
    response = events[-1].response
    assert response.status == "completed"
    assert response.output[0].content[0].transcript == "Hello there. How are you?"
    assert float(response.metadata["first_audio_s"]) > 0
    assert len({event.event_id for event in events}) == len(events)


async def test_text_only(fakes: Fakes, settings: Settings) -> None:
    async with connected(fakes, settings, {"type": "realtime", "output_modalities": ["text"]}) as connection:
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        events = await until(connection, "response.done")
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == "Hello there. How are you?"
    assert events[-1].response.output[0].content[0].text == text
    assert fakes.tts.spoken == []
    assert fakes.llm.windows[0][-1]["content"].endswith("Hi.")


async def test_push_to_talk(fakes: Fakes, settings: Settings) -> None:
    async with connected(fakes, settings, MANUAL) as connection:
        await connection.input_audio_buffer.commit()
        (error,) = await until(connection, "error")
        assert error.error.code == "input_audio_buffer_commit_empty"
        await append(connection, sound(0.5) + sound(2, 0))
        await connection.input_audio_buffer.commit()
        await until(connection, "conversation.item.input_audio_transcription.completed")
        await connection.response.create()
        assert (await until(connection, "response.done"))[-1].response.status == "completed"
        await append(connection, sound(0.5))
        await connection.input_audio_buffer.clear()
        await until(connection, "input_audio_buffer.cleared")
        await connection.input_audio_buffer.commit()
        await until(connection, "error")
    assert fakes.stt.calls == 1


async def test_a_tool_is_called_and_its_output_used(fakes: Fakes, settings: Settings) -> None:
    fakes.llm = FakeLlm(
        [Piece("", None, (ToolCall(0, "c1", "clock", '{"zone":"UTC"}'),)), Piece("", "tool_calls")]
    )
    tool = {"type": "function", "name": "clock", "parameters": {"type": "object"}}
    async with connected(fakes, settings, {**MANUAL, "tools": [tool]}) as connection:
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        events = await until(connection, "response.done")
        (done,) = [e for e in events if e.type == "response.function_call_arguments.done"]
        assert (done.name, done.call_id, done.arguments) == ("clock", "c1", '{"zone":"UTC"}')
        assert events[-1].response.output[0].type == "function_call"
        choice: Any = {"tool_choice": {"type": "function", "name": "clock"}, "max_output_tokens": 7}
        await connection.response.create(response=choice)
        await until(connection, "response.done")
        fakes.llm.pieces = [Piece("It is noon.", "stop")]
        output: Any = {"type": "function_call_output", "call_id": "c1", "output": "12:00"}
        await connection.conversation.item.create(item=output)
        await connection.response.create()
        await until(connection, "response.done")
    assert fakes.llm.asked[0].tools[0]["function"]["name"] == "clock"
    forced = fakes.llm.asked[1]
    assert forced.tool_choice == {"type": "function", "function": {"name": "clock"}}
    assert forced.max_tokens == 7
    assert [m["role"] for m in fakes.llm.windows[2]] == ["user", "assistant", "tool"]
    assert fakes.llm.windows[2][2] == {"role": "tool", "content": "12:00", "tool_call_id": "c1"}


async def test_cancel_and_truncate_shape_the_next_prompt(fakes: Fakes, settings: Settings) -> None:
    fakes.llm = FakeLlm([Piece("One two three four. And"), 30.0])
    fakes.tts.samples_a_character = 2400
    async with connected(fakes, settings, MANUAL) as connection:
        await connection.response.cancel()
        assert (await until(connection, "error"))[-1].error.code == "response_cancel_not_active"
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        item = (await until(connection, "response.output_audio.delta"))[-1].item_id
        await connection.response.cancel()
        response = (await until(connection, "response.done"))[-1].response
        assert (response.status, response.status_details.reason) == ("cancelled", "client_cancelled")
        await connection.conversation.item.truncate(item_id=item, content_index=0, audio_end_ms=1000)
        await until(connection, "conversation.item.truncated")
        fakes.llm.pieces = [Piece("Fine.", "stop")]
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        await until(connection, "response.done")
    assert fakes.llm.cancelled.is_set()
    assert fakes.llm.windows[1][1] == {"role": "assistant", "content": "One two"}


async def test_barge_in(fakes: Fakes, settings: Settings) -> None:
    fakes.llm = FakeLlm([Piece("One two three four. And"), 30.0])
    fakes.tts.samples_a_character = 2400
    async with connected(fakes, settings) as connection:
        await append(connection, sound(0.9) + sound(1.3, 0))
        await until(connection, "response.output_audio.delta")
        fakes.llm.pieces = [Piece("Yes.", "stop")]
        await append(connection, sound(1.0))
        events = await until(connection, "conversation.item.truncated")
        assert "input_audio_buffer.speech_started" in names(events)
        (done,) = [e for e in events if e.type == "response.done"]
        assert (done.response.status, done.response.status_details.reason) == ("cancelled", "turn_detected")
        await append(connection, sound(1.3, 0))
        events = await until(connection, "response.done")
        assert {e.response_id for e in events if e.type == "response.output_audio.delta"} == {
            events[-1].response.id
        }


async def test_a_transcription_session_never_answers(fakes: Fakes, settings: Settings) -> None:
    session = {"type": "transcription", "audio": {"input": {"transcription": {"language": "de"}}}}
    async with connected(fakes, settings, session) as connection:
        await append(connection, sound(0.9) + sound(1.3, 0))
        await until(connection, "conversation.item.input_audio_transcription.completed")
        await append(connection, sound(0.9) + sound(1.3, 0))
        events = await until(connection, "conversation.item.input_audio_transcription.completed")
    assert not [e for e in events if e.type.startswith("response.")]
    assert set(fakes.stt.languages) == {"de"}


async def test_items(fakes: Fakes, settings: Settings) -> None:
    async with connected(fakes, settings, MANUAL) as connection:
        first: Any
        second: Any
        first, second = ({**HELLO, "id": f"item_{name}"} for name in "ab")
        await connection.conversation.item.create(item=first)
        await connection.conversation.item.create(item=second, previous_item_id="root")
        spoken: Any = {"type": "input_audio", "audio": base64.b64encode(sound(0.5)).decode()}
        third: Any = {**HELLO, "id": "item_c", "content": [spoken]}
        await connection.conversation.item.create(item=third)
        await until(connection, "conversation.item.input_audio_transcription.completed")
        await connection.conversation.item.retrieve(item_id="item_c")
        item = (await until(connection, "conversation.item.retrieved"))[-1].item
        assert item.content[0].text == "what is a spark"
        await connection.conversation.item.delete(item_id="item_a")
        await until(connection, "conversation.item.deleted")
        await connection.conversation.item.retrieve(item_id="item_a")
        assert (await until(connection, "error"))[-1].error.code == "item_not_found"


async def test_an_answer_with_its_own_instructions_and_no_trace(fakes: Fakes, settings: Settings) -> None:
    async with connected(fakes, settings, MANUAL) as connection:
        await connection.conversation.item.create(item=HELLO)
        for _ in range(2):
            response: Any = {
                "instructions": "Be a pirate.",
                "conversation": "none",
                "output_modalities": ["text"],
            }
            await connection.response.create(response=response)
            done = (await until(connection, "response.done"))[-1]
            assert done.response.conversation_id is None
    assert [[m["content"] for m in w] for w in fakes.llm.windows] == [["Be a pirate.\n\nHi."]] * 2


async def test_a_prompt_names_a_persona(fakes: Fakes, settings: Settings) -> None:
    session = {**MANUAL, "prompt": {"id": "customer-service"}}
    async with connected(fakes, settings, session) as connection:
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        await until(connection, "response.done")
        await connection.session.update(session={"type": "realtime", "prompt": {"id": "nobody"}})
        error = (await until(connection, "error"))[-1].error
        assert "customer-service" in error.message
    assert "customer support" in fakes.llm.windows[0][0]["content"]
    assert fakes.llm.asked[0].max_tokens == 64


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ('{"type": "session.destroy", "event_id": "mine"}', "unknown_event"),
        ('{"type": "input_audio_buffer.append", "audio": "%%%"}', "invalid_audio"),
        ('{"type": "input_audio_buffer.append"}', "invalid_event"),
        ('{"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": 1}',
         "item_not_found"),
        ('{"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"turn_detection": '
         '{"type": "server_vad", "silence_duration_ms": 5}}}}}', "invalid_value"),
        ('{"type": "session.update", "session": {"type": "realtime", "audio": {"input": {"transcription": '
         '{"language": "tlh"}}}}}', "stt_language"),
        ('{"type": "response.create", "response": {"input": []}}', "unsupported"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_and_changes_nothing(
    fakes: Fakes, settings: Settings, message: str, code: str
) -> None:
    with running(rest.build(settings, fakes.stages(), VOICES)) as url:
        async with websockets.connect(f"{url.replace('http', 'ws')}/v1/realtime") as socket:
            created = json.loads(await socket.recv())
            await socket.send(message)
            error = json.loads(await socket.recv())
            assert error["type"] == "error"
            assert error["error"]["code"] == code
            if "mine" in message:
                assert error["error"]["event_id"] == "mine"
            await socket.send('{"type": "session.update", "session": {"type": "realtime"}}')
            updated = json.loads(await socket.recv())
            assert updated["session"] == created["session"]


async def test_a_failed_answer(fakes: Fakes, settings: Settings) -> None:
    fakes.llm.down = EngineError("engine_unreachable", "The engine is down.")
    async with connected(fakes, settings, MANUAL) as connection:
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        response = (await until(connection, "response.done"))[-1].response
        assert response.status == "failed"
        assert response.status_details.error.code == "engine_unreachable"
        fakes.llm.down = None
        await connection.response.create()
        assert (await until(connection, "response.done"))[-1].response.status == "completed"


async def test_a_client_that_vanishes_ends_its_answer(fakes: Fakes, settings: Settings) -> None:
    fakes.llm = FakeLlm([Piece("First clause. And"), 30.0])
    async with connected(fakes, settings, MANUAL) as connection:
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        await until(connection, "response.output_audio.delta")
        await connection.close()
        assert await asyncio.to_thread(fakes.llm.cancelled.wait, 2)


async def test_packets_of_one_byte_and_of_a_megabyte(fakes: Fakes, settings: Settings) -> None:
    async with connected(fakes, settings) as connection:
        await append(connection, sound(0.05), size=1)
        await append(connection, sound(0.9) + sound(21, 0), size=1_000_000)
        events = await until(connection, "response.done")
    assert events[-1].response.status == "completed"
    assert names(events).count("input_audio_buffer.speech_started") == 1


async def test_who_may_connect(fakes: Fakes, settings: Settings) -> None:
    few = settings.model_copy(update={"limits": Limits(max_sessions=1)})
    with running(rest.build(few, fakes.stages(), VOICES)) as url:
        address = f"{url.replace('http', 'ws')}/v1/realtime"
        with pytest.raises(websockets.InvalidStatus, match="403"):
            await websockets.connect(address, origin=websockets.Origin("http://evil.example"))
        with pytest.raises(websockets.InvalidStatus, match="400"):
            await websockets.connect(f"{address}?persona=nobody")
        async with websockets.connect(address, origin=websockets.Origin(url)):
            with pytest.raises(websockets.InvalidStatus, match="503"):
                await websockets.connect(address)
            assert "voicebot_sessions 1" in await metrics(url)
        async with asyncio.timeout(60):
            while "voicebot_sessions 0" not in await metrics(url):  # noqa: ASYNC110 (seen from outside)
                await asyncio.sleep(0.01)
        async with websockets.connect(address):
            pass


async def test_words_are_logged_only_if_asked(
    fakes: Fakes, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    fakes.stt.text, fakes.llm.pieces = "the word is swordfish", [Piece("Marlin it is.", "stop")]
    for logged in (False, True):
        talk = settings.model_copy(update={"conversation": Conversing(log_words=logged)})
        caplog.clear()
        with caplog.at_level("DEBUG", logger="voicebot"):
            async with connected(fakes, talk) as connection:
                await append(connection, sound(0.9) + sound(1.3, 0))
                await until(connection, "response.done")
        assert ("swordfish" in caplog.text, "Marlin" in caplog.text) == (logged, logged)
        assert "answer completed" in caplog.text
