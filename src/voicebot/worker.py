"""A thread of its own for heavy work, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import atexit
import itertools
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
ENDING_S = 10.0  # seconds that the call in work gets


class PriorityWorker:
    """One thread. What is urgent goes before what has waited longer; what was given up never starts."""

    def __init__(self, name: str) -> None:
        self._queue: queue.PriorityQueue[tuple[int, int, Future[Any] | None, Callable[[], Any]]] = (
            queue.PriorityQueue()
        )
        self._count = itertools.count()
        self._began: float | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()
        atexit.register(self.close)  # an interpreter that ends under a thread in C++ aborts

    @property
    def waiting(self) -> int:
        """Calls that have not begun."""
        return self._queue.qsize()

    @property
    def working_s(self) -> float:
        """How long the call in work has taken so far; 0 when there is none."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    async def run(self, work: Callable[[], T], *, urgency: int = 0) -> T:
        """The result of `work`; low numbers go first."""
        future: Future[T] = Future()
        self._queue.put((urgency, next(self._count), future, work))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """End after the call in work, and wait for it."""
        atexit.unregister(self.close)
        self._queue.put((-1, next(self._count), None, lambda: None))
        self._thread.join(ENDING_S)

    def _work(self) -> None:
        while True:
            _, _, future, work = self._queue.get()
            if future is None:
                return
            if not future.set_running_or_notify_cancel():
                continue
            self._began = time.monotonic()
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001 (the caller gets it)
                future.set_exception(error)
            finally:
                self._began = None
