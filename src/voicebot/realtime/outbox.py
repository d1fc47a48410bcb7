"""What waits to be sent to one client: bounded, and those who fill it never wait."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Callable
from typing import Any


class Outbox:
    """Events in order, as JSON. One that takes them too slowly loses them all, and the session."""

    def __init__(self, max_bytes: int, overflowed: Callable[[], None]) -> None:
        """`overflowed` is called once."""
        self._max = max_bytes
        self._overflowed = overflowed
        self._waiting: deque[tuple[str, str]] = deque()
        self._some = asyncio.Event()
        self._lost = False
        self.size = 0
        """Bytes that wait."""

    def put(self, event: dict[str, Any], audio_of: str = "") -> None:
        """Append an event; `audio_of` names the answer that it is a piece of."""
        if self._lost:
            return
        text = json.dumps(event)
        self.size += len(text)
        if self.size > self._max:
            self._lost = True
            self._waiting.clear()
            self.size = 0
            self._overflowed()
            return
        self._waiting.append((text, audio_of))
        self._some.set()

    def silence(self, answer: str) -> None:
        """Forget an answer's sound: nobody wants to hear the rest of it."""
        self._waiting = deque(entry for entry in self._waiting if entry[1] != answer)
        self.size = sum(len(text) for text, _ in self._waiting)

    async def get(self) -> str:
        """The next event, when there is one."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        text, _ = self._waiting.popleft()
        self.size -= len(text)
        return text
