"""Who gets a place: sessions up to their limit, requests at their rate; at SIGTERM everybody leaves."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from voicebot.errors import VoicebotError

_KNOWN_CALLERS = 4096
_LOOK_EVERY_S = 0.05
_GOODBYE_S = 2.0
GOING_AWAY = 1001


class BusyError(VoicebotError):
    """Not now; `retry_after_s` says when."""

    status = 503
    retry_after_s = 5


class Guest(Protocol):
    """A session that has a place."""

    @property
    def engaged(self) -> bool:
        """Whether somebody speaks, or an answer is on its way."""
        ...

    def end(self, code: int, reason: str) -> None:
        """Close it soon, with a WebSocket's close code."""
        ...


class Admission:
    """Places for sessions. A place is taken before the handshake is answered, so none is given twice."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0
        self._guests: set[Guest] = set()
        self._closing = False

    @property
    def taken(self) -> int:
        """Places that are taken."""
        return self._taken

    @contextmanager
    def place(self) -> Iterator[None]:
        """Have a place, or raise BusyError."""
        if self._closing:
            raise BusyError("stopping", "The service is stopping.", remedy="try again later.")
        if self._taken >= self._places:
            raise BusyError(
                "too_many_sessions",
                f"{self._taken} conversations are going on.",
                rule=f"at most {self._places} (limits.max_sessions).",
                remedy="try again later.",
            )
        self._taken += 1
        try:
            yield
        finally:
            self._taken -= 1

    @contextmanager
    def seated(self, guest: Guest) -> Iterator[None]:
        """A guest that is asked to go when the service stops."""
        self._guests.add(guest)
        try:
            yield
        finally:
            self._guests.discard(guest)

    async def drain(self, seconds: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Let nobody in; end each session as soon as it is silent, and all after some seconds."""
        self._closing = True
        end = time.monotonic() + seconds
        while self._guests and not hurry():
            over = time.monotonic() > end
            for guest in list(self._guests):
                if over or not guest.engaged:
                    guest.end(GOING_AWAY, "the service is stopping")
            if time.monotonic() > end + _GOODBYE_S:
                return
            await asyncio.sleep(_LOOK_EVERY_S)


@dataclass
class _Bucket:
    tokens: float
    at: float


class Rate:
    """So many requests a minute for each caller, all of them at once if need be."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_s(self, caller: str) -> float:
        """Count a request; 0, or the seconds after which it would be accepted."""
        now = self._clock()
        bucket = self._buckets.pop(caller, None) or _Bucket(self._per_minute, now)
        self._buckets[caller] = bucket
        while len(self._buckets) > _KNOWN_CALLERS:
            self._buckets.popitem(last=False)
        refilled = bucket.tokens + (now - bucket.at) * self._per_minute / 60
        bucket.tokens, bucket.at = min(self._per_minute, refilled), now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) * 60 / self._per_minute
        bucket.tokens -= 1
        return 0.0
