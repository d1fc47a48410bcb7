"""Sessions within their limits: places, time, silence, frames, slow readers, and the end of the service."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any

import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.house import PATIENCE_S, House, open_house, until, with_
from voicebot import serving
from voicebot.config import Settings
from voicebot.llm import Piece

HELLO = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]}


def address(house: House) -> str:
    return f"ws://127.0.0.1:{house.port}/v1/realtime"


async def expect(connection: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of a kind."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            event: dict[str, Any] = json.loads(await connection.recv())
            if event["type"] == kind:
                return event


async def ask(connection: ClientConnection) -> None:
    await connection.send(json.dumps({"type": "conversation.item.create", "item": HELLO}))
    await connection.send(json.dumps({"type": "response.create"}))


async def closed(connection: ClientConnection) -> tuple[int | None, str]:
    """The code and the reason that the server closes with."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await connection.recv()
            except websockets.ConnectionClosed as over:
                return (over.rcvd.code, over.rcvd.reason) if over.rcvd else (None, "")


async def test_one_too_many_is_refused_at_the_handshake(fakes: Fakes, settings: Settings) -> None:
    """Of 20 at once 8 come in, each of the others hears why and when; a place that is left is free again."""
    with open_house(fakes, settings) as house:
        async with AsyncExitStack() as stack:
            tries = [connect(address(house), open_timeout=PATIENCE_S) for _ in range(20)]
            results = await asyncio.gather(
                *(stack.enter_async_context(one) for one in tries), return_exceptions=True
            )
            refused = [one for one in results if isinstance(one, websockets.InvalidStatus)]
            inside = [one for one in results if not isinstance(one, BaseException)]
            assert (len(inside), len(refused)) == (8, 12)
            for one in refused:
                assert one.response.status_code == 503
                assert one.response.headers["Retry-After"] == "5"
                assert json.loads(one.response.body or b"")["error"]["code"] == "too_many_sessions"
            for connection in inside:
                await ask(connection)
            for connection in inside:
                assert (await expect(connection, "response.done"))["response"]["status"] == "completed"
            await inside[0].close()
            await asyncio.to_thread(until, lambda: house.admission.taken == 7)
            async with connect(address(house), open_timeout=PATIENCE_S) as another:
                await expect(another, "session.created")


@pytest.mark.parametrize(("limit", "code"), [("max_session_minutes", 1008), ("max_idle_minutes", 1008)])
async def test_a_session_ends(fakes: Fakes, settings: Settings, limit: str, code: int) -> None:
    with open_house(fakes, with_(settings, limits={limit: 0.5 / 60})) as house:
        async with connect(address(house)) as connection:
            assert await closed(connection) == (code, f"limits.{limit} is reached")
        await asyncio.to_thread(until, lambda: house.admission.taken == 0)


async def test_who_speaks_is_not_idle(fakes: Fakes, settings: Settings) -> None:
    with open_house(fakes, with_(settings, limits={"max_idle_minutes": 2 / 60})) as house:
        async with connect(address(house)) as connection:
            begin = time.monotonic()
            while time.monotonic() - begin < 3:
                await connection.send('{"type": "input_audio_buffer.clear"}')
                await expect(connection, "input_audio_buffer.cleared")
                await asyncio.sleep(0.05)
            assert await closed(connection) == (1008, "limits.max_idle_minutes is reached")


async def test_a_frame_too_large_ends_its_session_alone(fakes: Fakes, settings: Settings) -> None:
    with open_house(fakes, with_(settings, limits={"max_frame_mb": 0.1})) as house:
        async with connect(address(house)) as other, connect(address(house)) as connection:
            try:
                await connection.send("x" * 5_000_000)
                code, _ = await closed(connection)
            except websockets.ConnectionClosed as over:
                code = over.rcvd.code if over.rcvd else None
            assert code in (1009, None), "None: cut off while it was still sending"
            await ask(other)
            assert (await expect(other, "response.done"))["response"]["status"] == "completed"


async def test_a_binary_message(fakes: Fakes, settings: Settings) -> None:
    with open_house(fakes, settings) as house:
        async with connect(address(house)) as connection:
            await connection.send(b"\0\1")
            assert await closed(connection) == (1003, "events are text, this was a binary message")


async def test_who_takes_nothing_is_cut_off_and_blocks_nobody(
    fakes: Fakes, settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that asks for 75 MB of speech and never reads: others are answered, its session ends."""
    monkeypatch.setattr(serving, "_CUT_AFTER_S", 1.0)
    caplog.set_level(logging.INFO)
    fakes.tts.samples_a_character = 20_000
    fakes.llm = FakeLlm([Piece("One two three four five six seven. " * 40, "stop")])
    with open_house(fakes, settings) as house, _unread(house.port) as slow:
        await asyncio.to_thread(until, lambda: house.admission.taken == 1)
        for event in ({"type": "conversation.item.create", "item": HELLO}, {"type": "response.create"}):
            slow.sendall(_frame(json.dumps(event).encode()))
        async with connect(address(house), ping_interval=None) as other:
            while house.admission.taken > 1:
                await other.send('{"type": "input_audio_buffer.clear"}')
                await expect(other, "input_audio_buffer.cleared")
        await asyncio.to_thread(until, lambda: not house.server.server_state.connections)
    assert "events are taken too slowly" in caplog.text


async def test_a_half_open_session_ends(fakes: Fakes, settings: Settings) -> None:
    """Nobody answers pings: the cable was pulled."""
    with open_house(fakes, with_(settings, limits={"ping_seconds": 0.5})) as house, _unread(house.port):
        await asyncio.to_thread(until, lambda: house.admission.taken == 1)
        await asyncio.to_thread(until, lambda: house.admission.taken == 0)
        await asyncio.to_thread(until, lambda: not house.server.server_state.connections)


@contextmanager
def _unread(port: int) -> Iterator[socket.socket]:
    """A WebSocket that is never read."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(PATIENCE_S)
    client.connect(("127.0.0.1", port))
    key = base64.b64encode(bytes(16)).decode()
    client.sendall(
        f"GET /v1/realtime HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    with client:
        yield client


def _frame(payload: bytes) -> bytes:
    """A client's text frame below 64 kB, masked with zeros."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return b"\x81" + size + bytes(4) + payload


async def test_at_the_end_what_is_being_said_is_finished(fakes: Fakes, settings: Settings) -> None:
    fakes.llm = FakeLlm([Piece("First clause. And"), 1.5, Piece(" last.", "stop")])
    with open_house(fakes, with_(settings, server={"drain_s": 50})) as house:
        async with connect(address(house)) as talking, connect(address(house)) as silent:
            await ask(talking)
            await expect(talking, "response.output_audio.delta")
            house.server.should_exit = True
            assert await closed(silent) == (1001, "the service is stopping")
            done = await expect(talking, "response.done")
            assert done["response"]["status"] == "completed"
            assert await closed(talking) == (1001, "the service is stopping")


async def test_the_end_waits_for_nobody_for_ever(fakes: Fakes, settings: Settings) -> None:
    fakes.llm = FakeLlm([Piece("First clause. And"), 600.0])
    with open_house(fakes, with_(settings, server={"drain_s": 0.5})) as house:
        async with connect(address(house)) as talking:
            await ask(talking)
            await expect(talking, "response.output_audio.delta")
            house.server.should_exit = True
            assert (await closed(talking))[0] in (1001, 1012)
