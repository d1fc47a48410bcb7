"""The thread that heavy work has."""

from __future__ import annotations

import asyncio
import threading
import time

from voicebot.worker import PriorityWorker


def alive(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


async def test_closing_waits_for_the_call_in_work_and_starts_no_other() -> None:
    worker, begun, done = PriorityWorker("closing"), threading.Event(), []

    def work() -> None:
        begun.set()
        time.sleep(0.2)
        done.append("first")

    first = asyncio.ensure_future(worker.run(work))
    second = asyncio.ensure_future(worker.run(lambda: done.append("second"), urgency=1))
    await asyncio.to_thread(begun.wait, 10)
    worker.close()
    assert done == ["first"]
    assert not alive("closing"), "an interpreter that ends under it would abort"
    await first
    second.cancel()


async def test_what_is_urgent_goes_first_and_what_was_given_up_never_starts() -> None:
    worker, hold, order = PriorityWorker("order"), threading.Event(), []
    held = asyncio.ensure_future(worker.run(lambda: hold.wait(10)))
    await asyncio.sleep(0.05)
    later = asyncio.ensure_future(worker.run(lambda: order.append("later"), urgency=1))
    given_up = asyncio.ensure_future(worker.run(lambda: order.append("given up")))
    soon = asyncio.ensure_future(worker.run(lambda: order.append("soon")))
    await asyncio.sleep(0.05)
    given_up.cancel()
    await asyncio.wait([given_up])
    hold.set()
    await asyncio.gather(held, later, soon)
    worker.close()
    assert order == ["soon", "later"]
