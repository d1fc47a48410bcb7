"""What comes from outside may be anything: no crash, no hang, nothing left behind, nobody else disturbed."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.fuzz import message
from tests.unit.voicebot.house import PATIENCE_S, open_house, until, with_
from voicebot.config import Settings
from voicebot.conversation import Message
from voicebot.llm import Asking, Piece

_AS_CONFIGURED = Asking()
_A_BATCH = 25


@dataclass
class Echo(FakeLlm):
    """Says the last words again."""

    async def stream(
        self, messages: Sequence[Message], asking: Asking = _AS_CONFIGURED
    ) -> AsyncGenerator[Piece, None]:
        last = messages[-1]["content"].splitlines()[-1:] if messages else []
        yield Piece(f"You said {(last or [''])[0][-200:]}.", "stop")


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.long)], ids=["short", "long"])
async def test_random_and_mutated_events(
    fakes: Fakes, settings: Settings, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    fakes.llm = Echo()
    caplog.set_level(logging.WARNING)
    chance = random.Random(count)
    with open_house(fakes, with_(settings, limits={"max_audio_seconds": 5})) as house:
        url = f"ws://127.0.0.1:{house.port}/v1/realtime"
        async with connect(url, ping_interval=None, max_queue=None) as neighbour:
            for batch in range(count // _A_BATCH):
                async with connect(url, ping_interval=None, max_queue=None) as fuzzed:
                    sent = [message(chance) for _ in range(_A_BATCH)]
                    await _survives(fuzzed, sent)
                if batch % 4 == 0:
                    await _answers(neighbour, f"marker {batch}")
        async with httpx.AsyncClient() as http:
            metrics = (await http.get(f"{house.url}/metrics")).text
        assert 'voicebot_turns_total{status="completed"}' in metrics
        assert "marker" not in metrics and "You said" not in metrics
        await asyncio.to_thread(until, lambda: house.admission.taken == 0)
        await asyncio.to_thread(until, lambda: not house.server.server_state.tasks)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR and record.exc_info] == []
    gc.collect()
    left = [
        thing
        for thing in gc.get_objects()
        if type(thing).__name__ == "Connection" and hasattr(thing, "_wire")
    ]
    assert left == []


async def _survives(connection: ClientConnection, sent: list[str]) -> None:
    """It answers what comes after the last of them."""
    mark = json.dumps(
        {"type": "conversation.item.retrieve", "item_id": "no such item", "event_id": "the-end"}
    )
    async with asyncio.timeout(PATIENCE_S):
        for text in [*sent, mark]:
            await connection.send(text)
        while True:
            event = json.loads(await connection.recv())
            if event["type"] == "error" and event["error"]["event_id"] == "the-end":
                return


async def _answers(connection: ClientConnection, marker: str) -> None:
    """With its own words, and nobody else's."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": marker}]}
    await connection.send(json.dumps({"type": "conversation.item.create", "item": item}))
    await connection.send(json.dumps({"type": "response.create"}))
    async with asyncio.timeout(PATIENCE_S):
        while True:
            event: dict[str, Any] = json.loads(await connection.recv())
            if event["type"] == "response.done":
                assert event["response"]["output"][0]["content"][0]["transcript"] == f"You said {marker}."
                return
