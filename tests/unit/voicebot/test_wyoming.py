"""Wyoming's server over scripted stages: what it answers, and what it makes of bad input."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from wyoming.asr import Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.handle import Handled, NotHandled
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop

from tests.unit.voicebot.conftest import Fakes
from voicebot import config
from voicebot.config import Settings
from voicebot.conversation import Conversation
from voicebot.errors import ConfigError, EngineError
from voicebot.llm import Piece
from voicebot.wyoming import server
from voicebot.wyoming.ear import Ear
from voicebot.wyoming.memory import Memory

WITHIN_S = 60


@asynccontextmanager
async def serving(settings: Settings, fakes: Fakes, **mine: Any) -> AsyncIterator[int]:
    """A server on a port that the kernel chose."""
    chosen = settings.wyoming.model_copy(update={"enabled": True, **mine})
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        told = settings.model_copy(update={"wyoming": chosen})
        async with asyncio.timeout(WITHIN_S), server.serving(listener, told, fakes.stages()):
            yield port


async def until(client: AsyncTcpClient, last: str) -> list[Event]:
    """Events up to one of this type."""
    events: list[Event] = []
    while not events or events[-1].type != last:
        event = await client.read_event()
        assert event is not None, [e.type for e in events]
        events.append(event)
    return events


async def said(port: int, raw: bytes) -> tuple[list[dict[str, Any]], bool]:
    """Send bytes; every event's data until the server ends the connection, and whether it did so in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    try:
        writer.write(raw)
        await writer.drain()
        while line := await reader.readline():
            head = json.loads(line)
            answers.append(json.loads(await reader.readexactly(head.get("data_length", 0)) or b"{}"))
        return answers, True
    except (ConnectionResetError, BrokenPipeError):
        return answers, False
    finally:
        writer.close()


def chunks(seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> list[Event]:
    """A recording, as Home Assistant sends it."""
    events = [AudioStart(rate, 2, channels).event()]
    left = round(seconds * rate)
    while left > 0:
        frames = min(left, 1024)
        events.append(AudioChunk(rate, 2, channels, b"\1\0" * frames * channels).event())
        left -= frames
    return [*events, AudioStop().event()]


async def test_a_recording_is_transcribed_twice_on_one_connection(settings: Settings, fakes: Fakes) -> None:
    async with serving(settings, fakes) as port, AsyncTcpClient("127.0.0.1", port) as client:
        for language in ("de-DE", None):
            await client.write_event(Event("transcribe", {"language": language}))
            for event in chunks(1.0, 48_000, 2):
                await client.write_event(event)
            events = await until(client, "transcript-stop")
            assert [e.type for e in events] == [
                "transcript-start", "transcript-chunk", "transcript", "transcript-stop",
            ]  # fmt: skip
            assert events[1].data["text"] == events[2].data["text"] == fakes.stt.text
    assert fakes.stt.languages == ["de", "en"]
    assert [round(r.seconds, 2) for r in fakes.stt.heard] == [1.0, 1.0]


async def test_a_conversation_remembers_by_its_name_or_its_connection(
    settings: Settings, fakes: Fakes
) -> None:
    async with serving(settings, fakes) as port:
        for context in ({"conversation_id": "kitchen"}, {"conversation_id": "kitchen"}, None):
            async with AsyncTcpClient("127.0.0.1", port) as client:
                for _ in range(1 if context else 2):
                    await client.write_event(Transcript("and now", context=context).event())
                    events = await until(client, "handled-stop")
                    pieces = [e.data["text"] for e in events if e.type == "handled-chunk"]
                    assert pieces == ["Hello there.", " How are you?"]
                    assert Handled.from_event(events[-2]).text == "".join(pieces)
    asked = [
        [m["content"].split()[-2:] for m in window if m["role"] == "user"] for window in fakes.llm.windows
    ]
    assert [len(questions) for questions in asked] == [1, 2, 1, 2]


async def test_what_fails_is_not_handled_and_not_remembered(settings: Settings, fakes: Fakes) -> None:
    fakes.llm.pieces = (Piece("One. Two"), EngineError("engine_broke", "It broke off."))
    async with serving(settings, fakes) as port, AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Transcript("first").event())
        events = await until(client, "handled-stop")
        assert [e.type for e in events[-2:]] == ["not-handled", "handled-stop"]
        assert NotHandled.from_event(events[-2]).text == settings.conversation.apology
        fakes.llm.down = EngineError("engine_unreachable", "It is away.")
        await client.write_event(Transcript("second").event())
        assert [e.type for e in await until(client, "not-handled")] == ["not-handled"]
        fakes.llm.down, fakes.llm.pieces = None, (Piece("Yes.", "stop"),)
        await client.write_event(Transcript("third").event())
        await until(client, "handled-stop")
    assert "first" not in str(fakes.llm.windows[-1]) and "second" not in str(fakes.llm.windows[-1])


async def test_who_leaves_gets_no_more_written(settings: Settings, fakes: Fakes) -> None:
    fakes.llm.pieces = (Piece("One. "), 3600.0)
    async with serving(settings, fakes) as port:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Transcript("tell me").event())
            while not fakes.llm.windows:  # noqa: ASYNC110 (the engine is at work)
                await asyncio.sleep(0.01)
        while not fakes.llm.cancelled.is_set():  # noqa: ASYNC110 (bounded by serving's limit)
            await asyncio.sleep(0.01)


async def test_a_text_is_spoken_while_it_is_written(settings: Settings, fakes: Fakes) -> None:
    async with serving(settings, fakes) as port, AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk("Hello there. How").event())
        assert [e.type for e in await until(client, "audio-chunk")] == ["audio-start", "audio-chunk"]
        await client.write_event(SynthesizeChunk(" are you?").event())
        await client.write_event(Synthesize("Hello there. How are you?").event())  # for older servers
        await client.write_event(SynthesizeStop().event())
        events = await until(client, "synthesize-stopped")
        assert [e.type for e in events] == ["audio-chunk", "audio-stop", "synthesize-stopped"]
        await client.write_event(Synthesize("Once more.").event())
        start, *_, stop = await until(client, "audio-stop")
        assert AudioStart.from_event(start).rate == fakes.tts.sample_rate and stop.type == "audio-stop"
    assert fakes.tts.spoken == ["Hello there.", "How are you?", "Once more."]


def event(kind: str, data: Any = None, payload: bytes = b"", **head: Any) -> bytes:
    return json.dumps({"type": kind, "data": data or {}, **head}).encode() + b"\n" + payload


START = {"rate": 16000, "width": 2, "channels": 1}
BAD = {
    "no JSON": (b"GET / HTTP/1.1\r\n\r\n", "bad_event"),
    "no object": (b"[1]\n", "bad_event"),
    "deep": (b"[" * 60_000 + b"\n", "bad_event"),
    "no type": (b'{"data": {}}\n', "bad_event"),
    "a line without end": (b"x" * 200_000, "bad_event"),
    "a payload too large": (event("audio-chunk", START, payload_length=1 << 40), "bad_event"),
    "a negative length": (event("describe", data_length=-1), "bad_event"),
    "a length of text": (event("describe", data_length="7"), "bad_event"),
    "data that is no object": (event("describe", data_length=2) + b"[]", "bad_event"),
    "no rate": (event("audio-start", {"width": 2, "channels": 1}), "bad_event"),
    "rate 0": (event("audio-start", START | {"rate": 0}), "bad_event"),
    "eight channels": (event("audio-start", START | {"channels": 8}), "bad_event"),
    "a stop alone": (event("audio-stop"), "bad_event"),
    "a text that is none": (event("transcript", {"text": 7}), "bad_event"),
    "nothing asked": (event("transcript", {"text": " "}), "bad_event"),
    "a context that is none": (event("transcript", {"text": "x", "context": [1]}), "bad_event"),
    "an endless question": (event("transcript", {"text": "x" * 5000}), "bad_event"),
    "an unknown voice": (event("synthesize", {"text": "x", "voice": {"name": "../x"}}), "voice"),
    "a voice that is none": (event("synthesize", {"text": "x", "voice": "heart"}), "bad_event"),
    "a piece alone": (event("synthesize-chunk", {"text": "x"}), "bad_event"),
    "amid a text": (event("synthesize-start") + event("transcript", {"text": "x"}), "bad_event"),
    "an endless dictation": (
        event("synthesize-start") + event("synthesize-chunk", {"text": "x" * 4000}) * 2, "bad_event",
    ),
    "an unknown language": (
        event("transcribe", {"language": "tlh"})
        + event("audio-chunk", START, b"\0" * 8000, payload_length=8000)
        + event("audio-stop"),
        "stt_language",
    ),
    "sound without end": (
        event("audio-chunk", START, b"\0" * 1_000_000, payload_length=1_000_000) * 5, "audio_too_long",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "code"), BAD.values(), ids=BAD)
async def test_bad_input_gets_an_error_and_an_end(
    settings: Settings, fakes: Fakes, raw: bytes, code: str
) -> None:
    async with serving(settings, fakes) as port:
        answers, in_order = await said(port, raw)
        assert in_order, "the server closed with something unread"
        assert answers[-1]["code"] == code and answers[-1]["text"]
        async with AsyncTcpClient("127.0.0.1", port) as client:  # others are served
            await client.write_event(Event("describe"))
            await until(client, "info")


async def test_unknown_events_are_passed_over(settings: Settings, fakes: Fakes) -> None:
    async with serving(settings, fakes) as port, AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Event("select-program", {"name": "voicebot"}))
        await client.write_event(Event("no-such-event", {"x": 1}, b"123"))
        await client.write_event(Event("ping", {"text": "x"}))
        assert (await until(client, "pong"))[-1].data == {"text": "x"}


async def test_idle_and_surplus_connections_end(settings: Settings, fakes: Fakes) -> None:
    async with serving(settings, fakes, idle_s=0.5, max_connections=1) as port:
        assert (await said(port, b""))[0][-1]["code"] == "idle"
        assert (await said(port, b'{"type": "desc'))[0][-1]["code"] == "idle"
        assert (await said(port, event("synthesize-start")))[0][-1]["code"] == "idle"
    async with serving(settings, fakes, max_connections=1) as port:
        async with AsyncTcpClient("127.0.0.1", port) as client:
            await client.write_event(Event("describe"))
            await until(client, "info")
            answers, _ = await said(port, event("describe"))
            assert answers[-1]["code"] == "too_many_connections"
        first: dict[str, Any] = {"code": ""}
        while "code" in first:  # until the server has seen that the other one left
            answers, _ = await said(port, event("describe") + event("audio-stop"))
            first = answers[0] if answers else first
        assert first["asr"]


async def test_it_describes_itself(settings: Settings, fakes: Fakes) -> None:
    async with serving(settings, fakes) as port, AsyncTcpClient("127.0.0.1", port) as client:
        await client.write_event(Event("describe"))
        info = (await until(client, "info"))[-1].data
    (ear,), (mind,), (voice,) = info["asr"], info["handle"], info["tts"]
    assert ear["models"][0]["languages"] == ["de", "en"] == mind["models"][0]["languages"]
    assert [v["name"] for v in voice["voices"]] == ["heart"]
    assert ear["supports_transcript_streaming"] and mind["supports_handled_streaming"]
    assert voice["supports_synthesize_streaming"]
    assert all(p["attribution"]["name"] and p["installed"] for p in (ear, mind, voice))
    assert ear["version"] and voice["version"]


async def test_requests_in_work_end_before_the_service_does(settings: Settings, fakes: Fakes) -> None:
    fakes.llm.pieces = (Piece("One. "), 0.3, Piece("Two.", "stop"))
    async with serving(settings, fakes) as port:
        client = AsyncTcpClient("127.0.0.1", port)
        await client.connect()
        await client.write_event(Transcript("count").event())
        while not fakes.llm.windows:  # noqa: ASYNC110 (the engine is at work)
            await asyncio.sleep(0.01)
    events = await until(client, "handled-stop")
    assert Handled.from_event(events[-2]).text == "One. Two."
    assert await client.read_event() is None
    await client.disconnect()


def test_memory_is_bounded_and_fades() -> None:
    now = [0.0]
    memory = Memory(lambda: Conversation("x"), lambda: now[0])
    first = memory.named("first")
    assert memory.named("first") is first
    for number in range(63):
        memory.named(str(number))
    assert memory.named("first") is first  # the last used again
    memory.named("one more")
    assert memory.named("first") is first and len(memory._known) == 64
    now[0] = 901.0
    assert memory.named("first") is not first and len(memory._known) == 1


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (22_050, 1), (48_000, 2), (8_000, 2)])
def test_sound_cut_anywhere_is_heard_as_a_whole(rate: int, channels: int) -> None:
    tone = np.sin(np.arange(rate) * 2 * np.pi * 300 / rate) * 0.5
    pcm = np.repeat((tone * 32767).astype("<i2"), channels).tobytes()
    ear = Ear({"rate": rate, "width": 2, "channels": channels}, 10)
    for start in range(0, len(pcm), 999):
        ear.feed(pcm[start : start + 999])
    samples = ear.recording().samples
    assert len(samples) == pytest.approx(16_000, abs=20)
    crossings = np.count_nonzero(np.diff(np.signbit(samples)))
    assert crossings == pytest.approx(600, abs=6)
    assert np.abs(samples[1000:-1000]).max() == pytest.approx(0.5, abs=0.03)


def test_it_is_off_and_stays_on_this_host_unless_told(settings: Settings) -> None:
    assert server.bind(settings) is None

    def given(**wyoming: Any) -> Settings:
        return config.parse({"stt": {"model": "/m"}, "wyoming": {"enabled": True, **wyoming}}, "x")

    with pytest.raises(ConfigError, match=r"needs wyoming\.trust_network: true.*Remedy: "):
        given(host="0.0.0.0")
    assert given(host="0.0.0.0", trust_network=True).wyoming.port == 10300
    with pytest.raises(ConfigError, match=r"wyoming\.host is an IP address"):
        given(host="nowhere")


def test_a_port_that_is_taken_is_said(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        told = settings.wyoming.model_copy(update={"enabled": True, "port": port})
        with pytest.raises(ConfigError, match=rf"can't listen on 127.0.0.1:{port}.*Remedy.*wyoming.port"):
            server.bind(settings.model_copy(update={"wyoming": told}))
