"""sd_notify: ready, stopping, and a watchdog that is fed only while the service gets on."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Callable

from voicebot import config

log = logging.getLogger("voicebot")


def tell(state: str) -> None:
    """Tell systemd, where there is one that listens."""
    path = config.notify_socket()
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + path[1:] if path.startswith("@") else path)
        channel.sendall(state.encode())


class Watchdog:
    """Call `feed` from the event loop, often: a loop that hangs does not."""

    def __init__(
        self,
        working_s: Callable[[], float],
        longest_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`working_s`: how long the recogniser has been at its present call, which may take `longest_s`."""
        self._working_s = working_s
        self._longest_s = longest_s
        self._clock = clock
        self._every_s = config.watchdog_s() / 3
        self._fed = 0.0
        self._stuck = False

    def feed(self) -> None:
        """A sign of life, where one is due and deserved."""
        if not self._every_s or self._clock() - self._fed < self._every_s:
            return
        working = self._working_s()
        if working > self._longest_s:
            if not self._stuck:
                log.error("the recogniser has been at one call for %.0f s: no more signs of life", working)
            self._stuck = True
            return
        self._stuck = False
        self._fed = self._clock()
        tell("WATCHDOG=1")
