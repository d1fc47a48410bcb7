"""The unmodified `wyoming` client, human speech, real Whisper and speech synthesis; and mDNS."""

from __future__ import annotations

import asyncio
import io
import socket
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import yaml
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, wav_to_chunks
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.handle import Handled, HandledChunk
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice
from zeroconf import ServiceStateChange
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from tests import speech
from tests.integration.voicebot.conftest import ANSWER, Service
from tests.scripted import Engine, free_port
from voicebot.audio import decode
from voicebot.config import Wyoming
from voicebot.wyoming import discovery

pytestmark = pytest.mark.lab

WITHIN_S = 120
TEXT = "The quick brown fox jumps over the lazy dog. Then it sleeps for a while."


@asynccontextmanager
async def connected(service: Service) -> AsyncIterator[AsyncTcpClient]:
    port = yaml.safe_load(service.config.read_text())["wyoming"]["port"]
    async with asyncio.timeout(WITHIN_S), AsyncTcpClient("127.0.0.1", port) as client:
        yield client


async def until(client: AsyncTcpClient, last: str) -> list[Event]:
    """Events up to one of this type."""
    events: list[Event] = []
    while not events or events[-1].type != last:
        event = await client.read_event()
        assert event is not None, [e.type for e in events]
        events.append(event)
    return events


async def transcript(client: AsyncTcpClient, wav: bytes, language: str | None = None) -> list[Event]:
    """Send a WAV as Home Assistant does."""
    await client.write_event(Transcribe(language=language).event())
    with wave.open(io.BytesIO(wav), "rb") as file:
        for chunk in wav_to_chunks(file, 1024, start_event=True, stop_event=True):
            await client.write_event(chunk.event())
    return await until(client, "transcript-stop")


def spoken(events: list[Event]) -> bytes:
    """The WAV that they are."""
    start = AudioStart.from_event(next(e for e in events if e.type == "audio-start"))
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((start.channels, start.width, start.rate, 0, "NONE", ""))
        for event in events:
            if event.type == "audio-chunk":
                out.writeframes(AudioChunk.from_event(event).audio)
    return file.getvalue()


async def test_it_transcribes_a_person(service: Service, human_speech: list[speech.Utterance]) -> None:
    async with connected(service) as client:
        await client.write_event(Describe().event())
        info = Info.from_event((await until(client, "info"))[-1])
        assert {"en", "de"} <= set(info.asr[0].models[0].languages)
        assert info.tts[0].voices[0].name == "heart"
        for utterance in human_speech[:2]:
            events = await transcript(client, utterance.path.read_bytes(), "en")
            text = Transcript.from_event(next(e for e in events if e.type == "transcript")).text
            assert speech.word_error_rate(utterance.text, text) <= 0.2
            parts = [TranscriptChunk.from_event(e).text for e in events if e.type == "transcript-chunk"]
            assert "".join(parts) == text


async def test_it_converses_over_connections(service: Service, engine: Engine) -> None:
    for question in ("Who are you?", "And what do you do?"):  # one connection each, as Home Assistant does
        async with connected(service) as client:
            context = {"conversation_id": "01KITCHEN"}
            await client.write_event(Transcript(question, context=context, language="en").event())
            events = await until(client, "handled-stop")
            chunks = [HandledChunk.from_event(e).text for e in events if e.type == "handled-chunk"]
            assert len(chunks) >= 2
            assert "".join(chunks) == Handled.from_event(events[-2]).text == ANSWER
    said = [m["content"] for m in engine.asked[-1]["messages"]]
    assert said[0].endswith("Who are you?") and said[1:] == [ANSWER, "And what do you do?"]


async def test_it_speaks_and_understands_itself(service: Service) -> None:
    async with connected(service) as client:
        await client.write_event(Synthesize(TEXT, SynthesizeVoice("heart")).event())
        wav = spoken(await until(client, "audio-stop"))
        assert decode(io.BytesIO(wav), max_seconds=60).seconds > 3
        events = await transcript(client, wav)
        text = next(e for e in events if e.type == "transcript").data["text"]
        assert speech.word_error_rate(TEXT, text) <= 0.2


async def test_it_speaks_before_the_text_is_whole(service: Service) -> None:
    async with connected(service) as client:
        await client.write_event(SynthesizeStart().event())
        first, rest = TEXT.split(". ")
        await client.write_event(SynthesizeChunk(f"{first}. {rest[:8]}").event())
        events = await until(client, "audio-chunk")  # nothing more is sent until it has come
        await client.write_event(SynthesizeChunk(rest[8:]).event())
        await client.write_event(Synthesize(TEXT).event())
        await client.write_event(SynthesizeStop().event())
        events += await until(client, "synthesize-stopped")
        assert [e.type for e in events].count("audio-start") == 1
        text = next(e for e in await transcript(client, spoken(events)) if e.type == "transcript")
        assert speech.word_error_rate(TEXT, text.data["text"]) <= 0.2


def multicasts() -> bool:
    """Whether the loopback interface carries multicast at all."""
    group, here = socket.inet_aton("224.0.0.251"), socket.inet_aton("127.0.0.1")
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth,
    ):
        try:
            ear.bind(("", 0))
            ear.settimeout(5)
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + here)
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
            mouth.sendto(b"x", ("224.0.0.251", ear.getsockname()[1]))
            return ear.recv(10) == b"x"
        except OSError:
            return False


async def test_zeroconf_finds_it() -> None:
    if not multicasts():
        pytest.skip("no multicast on loopback here")
    port, name = free_port(), f"voicebot-{free_port()}"
    found: dict[str, AsyncServiceInfo | None] = {}
    seen = asyncio.Event()

    def on_change(*, zeroconf: Any, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Added:
            found[name] = None
            seen.set()

    async with asyncio.timeout(WITHIN_S):
        browser_side = AsyncZeroconf(interfaces=["127.0.0.1"])
        browser = AsyncServiceBrowser(browser_side.zeroconf, discovery.SERVICE, handlers=[on_change])
        announcement = await discovery.announce(name, "127.0.0.1", port)
        try:
            mine = f"{name}.{discovery.SERVICE}"
            while mine not in found:
                await seen.wait()
                seen.clear()
            info = None
            while info is None:
                info = await browser_side.async_get_service_info(discovery.SERVICE, mine, timeout=3000)
            assert info.port == port and info.addresses == [socket.inet_aton("127.0.0.1")]
        finally:
            await announcement.end()
            await browser.async_cancel()
            await browser_side.async_close()


async def test_only_a_port_that_others_reach_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, int]] = []

    async def announce(name: str, address: str, port: int) -> discovery.Announcement:
        asked.append((name, address, port))
        raise OSError("no network")

    monkeypatch.setattr(discovery, "announce", announce)
    told = Wyoming(enabled=True, trust_network=True)
    for settings, host in (
        (told, "127.0.0.1"),
        (told, "::1"),
        (told.model_copy(update={"discovery": False}), "192.0.2.1"),
        (told, "192.0.2.1"),  # and that it fails ends nothing
    ):
        async with discovery.announced(settings, host, 10300):
            pass
    assert [(address, port) for _, address, port in asked] == [("192.0.2.1", 10300)]
