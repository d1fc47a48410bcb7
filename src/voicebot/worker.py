"""A thread of its own for heavy work, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import atexit
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future
from enum import IntEnum
from types import MappingProxyType
from typing import Any, TypeVar

from voicebot.errors import BusyError

T = TypeVar("T")
Steps = Generator[None, None, T]
"""Work in pieces: at each `yield` something more urgent may go first."""
ENDING_S = 10.0  # seconds that the piece in work gets


class Urgency(IntEnum):
    """Who goes first: somebody waits for an answer, a program for a text, nobody for a look."""

    FINAL = 0
    REQUEST = 1
    LOOK = 2


ROOM = MappingProxyType({Urgency.FINAL: 64, Urgency.REQUEST: 16, Urgency.LOOK: 8})
"""How many calls of each kind may wait."""

_Entry = tuple[Urgency, int, "Future[Any]", Steps[Any]]


class PriorityWorker:
    """One thread. What is urgent goes before what has waited longer; what was given up never starts."""

    def __init__(self, name: str) -> None:
        self._heap: list[_Entry] = []
        self._changed = threading.Condition()
        self._count = itertools.count()
        self._closing = False
        self._began: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        atexit.register(self.close)  # an interpreter that ends under a thread in C++ aborts

    @property
    def waiting(self) -> int:
        """Calls that have not begun, or let others go first, and that somebody still waits for."""
        with self._changed:
            return sum(not future.cancelled() for _, _, future, _ in self._heap)

    @property
    def working_s(self) -> float:
        """How long the piece in work has been at it; 0 when there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    @property
    def alive(self) -> bool:
        """Whether anything will be done at all."""
        return self._thread.is_alive() and not self._closing

    async def run(self, work: Callable[[], T], *, urgency: Urgency = Urgency.FINAL) -> T:
        """The result of `work`, in one piece. Raises BusyError where too many of its kind wait."""
        return await self.run_steps(_in_one(work), urgency=urgency)

    async def run_steps(self, steps: Steps[T], *, urgency: Urgency = Urgency.FINAL) -> T:
        """The result of the steps; between two of them others may go first."""
        future: Future[T] = Future()
        with self._changed:
            self._heap = [entry for entry in self._heap if not entry[2].cancelled()]
            heapq.heapify(self._heap)
            waiting = sum(other is urgency for other, *_ in self._heap)
            if waiting >= ROOM[urgency]:
                raise BusyError(
                    "busy",
                    f"{waiting} calls wait already.",
                    rule=f"at most {ROOM[urgency]} of their kind.",
                    remedy="try again later.",
                )
            self._put((urgency, next(self._count), future, steps))
        return await asyncio.wrap_future(future)

    def _put(self, entry: _Entry) -> None:
        heapq.heappush(self._heap, entry)
        self._changed.notify()

    def close(self) -> None:
        """End after the piece in work, and wait for it."""
        atexit.unregister(self.close)
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(ENDING_S)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._heap or self._closing)
                if self._closing:
                    return
                entry = heapq.heappop(self._heap)
            _, _, future, steps = entry
            if not future.running() and not future.set_running_or_notify_cancel():
                continue
            self._began = time.monotonic()
            try:
                next(steps)
            except StopIteration as end:
                future.set_result(end.value)
            except BaseException as error:  # noqa: BLE001 (the caller gets it)
                future.set_exception(error)
            else:
                with self._changed:
                    self._put(entry)  # its number is older than those of its kind: it goes on first
            finally:
                self._began = None


def _in_one(work: Callable[[], T]) -> Steps[T]:
    return work()
    yield
