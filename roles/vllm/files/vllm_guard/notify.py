"""Word to systemd: ready, alive, and the line that `systemctl status` shows."""

from __future__ import annotations

import contextlib
import os
import socket


def tell_systemd(*words: str) -> None:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=…`; nothing where systemd does not listen."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):  # abstract
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
        to.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # systemd is behind; the next look says it again
            to.sendto("\n".join(words).encode(), address)
