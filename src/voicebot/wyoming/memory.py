"""Conversations by the names that clients give them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from voicebot.conversation import Conversation

_MOST = 64
_FORGOTTEN_AFTER_S = 900.0


@dataclass
class Remembered:
    """A conversation; one answer at a time."""

    conversation: Conversation
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used: float = 0.0


class Memory:
    """Home Assistant opens a connection for each sentence, and names the conversation that it belongs to."""

    def __init__(self, new: Callable[[], Conversation], clock: Callable[[], float] = time.monotonic) -> None:
        self._new = new
        self._clock = clock
        self._known: dict[str, Remembered] = {}  # the last used comes last

    def new(self) -> Remembered:
        """One that has no name."""
        return Remembered(self._new())

    def named(self, name: str) -> Remembered:
        """That of this name; a new one where it was not used for 15 minutes, or too many others were."""
        now = self._clock()
        for known in list(self._known):
            if self._known[known].used + _FORGOTTEN_AFTER_S >= now:
                break
            del self._known[known]
        found = self._known.pop(name, None) or self.new()
        found.used = now
        self._known[name] = found
        if len(self._known) > _MOST:
            del self._known[next(iter(self._known))]
        return found
