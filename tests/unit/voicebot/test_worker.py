"""The thread that heavy work has."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from voicebot.errors import BusyError
from voicebot.metrics import Metrics
from voicebot.worker import ROOM, PriorityWorker, Steps, Urgency


def alive(name: str) -> bool:
    return any(thread.name == name for thread in threading.enumerate())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 (a thread is watched)
            await asyncio.sleep(0.002)


class Held:
    """A worker that is busy until told otherwise."""

    def __init__(self, name: str) -> None:
        self.worker, self.begun, self.release = PriorityWorker(name), threading.Event(), threading.Event()
        self.call = asyncio.ensure_future(self.worker.run(self._work))

    def _work(self) -> None:
        self.begun.set()
        assert self.release.wait(60)

    async def ready(self) -> PriorityWorker:
        await until(self.begun.is_set)
        return self.worker


async def test_closing_waits_for_the_call_in_work_and_starts_no_other() -> None:
    worker, begun, done = PriorityWorker("closing"), threading.Event(), []

    def work() -> None:
        begun.set()
        time.sleep(0.2)
        done.append("first")

    first = asyncio.ensure_future(worker.run(work))
    second = asyncio.ensure_future(worker.run(lambda: done.append("second"), urgency=Urgency.REQUEST))
    await asyncio.to_thread(begun.wait, 60)
    worker.close()
    assert done == ["first"]
    assert not alive("closing"), "an interpreter that ends under it would abort"
    assert not worker.alive
    await first
    second.cancel()


async def test_what_is_urgent_goes_first_and_what_was_given_up_never_starts() -> None:
    held = Held("order")
    order: list[str] = []
    worker = await held.ready()
    calls = {
        name: asyncio.ensure_future(worker.run(partial(order.append, name), urgency=urgency))
        for name, urgency in (
            ("look", Urgency.LOOK), ("request", Urgency.REQUEST), ("given up", Urgency.FINAL),
            ("final", Urgency.FINAL), ("later", Urgency.FINAL),
        )
    }  # fmt: skip
    await until(lambda: worker.waiting == 5)
    given_up = calls.pop("given up")
    given_up.cancel()
    await asyncio.wait([given_up])
    assert worker.waiting == 4, "nobody waits for it any more"
    assert "voicebot_stt_queue 4" in Metrics(lambda: worker.waiting).text()
    held.release.set()
    await asyncio.gather(held.call, *calls.values())
    worker.close()
    assert order == ["final", "later", "request", "look"]
    assert worker.waiting == 0


async def test_a_long_request_lets_somebody_who_waits_go_first() -> None:
    worker, first_done, go_on, order = PriorityWorker("steps"), threading.Event(), threading.Event(), []

    def steps() -> Steps[str]:
        order.append("window 1")
        first_done.set()
        assert go_on.wait(60)
        yield
        order.append("window 2")
        return "text"

    request = asyncio.ensure_future(worker.run_steps(steps(), urgency=Urgency.REQUEST))
    await until(first_done.is_set)
    another = asyncio.ensure_future(worker.run(lambda: order.append("another"), urgency=Urgency.REQUEST))
    final = asyncio.ensure_future(worker.run(lambda: order.append("final")))
    await until(lambda: worker.waiting == 2)
    go_on.set()
    assert await request == "text"
    await asyncio.gather(another, final)
    worker.close()
    assert order == ["window 1", "final", "window 2", "another"], "begun before goes on before its equals"


async def test_a_step_that_fails_is_told() -> None:
    worker = PriorityWorker("failing")

    def steps() -> Steps[None]:
        yield
        raise ValueError("no such language")

    with pytest.raises(ValueError, match="no such language"):
        await worker.run_steps(steps())
    assert await worker.run(lambda: 1) == 1, "and the next one is served"
    worker.close()


@pytest.mark.parametrize("urgency", list(Urgency))
async def test_the_queue_is_bounded(urgency: Urgency) -> None:
    held = Held("bounded")
    worker = await held.ready()
    room = ROOM[urgency]
    calls = [asyncio.ensure_future(worker.run(lambda: None, urgency=urgency)) for _ in range(room)]
    await until(lambda: worker.waiting == room)
    with pytest.raises(BusyError, match=f"at most {room} of their kind"):
        await worker.run(lambda: None, urgency=urgency)
    other = asyncio.ensure_future(worker.run(lambda: None, urgency=Urgency((urgency + 1) % 3)))
    given_up = calls.pop()
    given_up.cancel()
    await asyncio.wait([given_up])
    again = asyncio.ensure_future(worker.run(lambda: None, urgency=urgency))
    held.release.set()
    await asyncio.gather(held.call, *calls, other, again)
    worker.close()
