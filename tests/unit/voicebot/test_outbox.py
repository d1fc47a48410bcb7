"""What waits for a client is bounded."""

from __future__ import annotations

import asyncio
import json

from voicebot.realtime.outbox import Outbox


async def test_events_come_in_order_and_are_counted() -> None:
    outbox = Outbox(1000, lambda: None)
    getting = asyncio.create_task(outbox.get())
    await asyncio.sleep(0)
    for number in range(3):
        outbox.put({"n": number})
    assert [json.loads(text)["n"] for text in [await getting, await outbox.get(), await outbox.get()]] == [
        0,
        1,
        2,
    ]
    assert outbox.size == 0


async def test_an_answer_is_silenced() -> None:
    outbox = Outbox(1000, lambda: None)
    outbox.put({"audio": 1}, "a")
    outbox.put({"audio": 2}, "b")
    outbox.put({"text": 3})
    outbox.silence("a")
    assert json.loads(await outbox.get()) == {"audio": 2}
    assert json.loads(await outbox.get()) == {"text": 3}
    assert outbox.size == 0


async def test_overflow_is_told_once_and_holds_nothing() -> None:
    told: list[int] = []
    outbox = Outbox(100, lambda: told.append(1))
    for _ in range(50):
        outbox.put({"audio": "x" * 20})
    assert told == [1]
    assert outbox.size == 0
