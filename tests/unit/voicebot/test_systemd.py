"""The watchdog is fed only while the service gets on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from voicebot.systemd import Watchdog


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


def told(manager: socket.socket) -> list[bytes]:
    found = []
    try:
        while True:
            found.append(manager.recv(100))
    except BlockingIOError:
        return found


def test_fed_three_times_in_each_interval(manager: socket.socket) -> None:
    now = 1000.0
    watchdog = Watchdog(lambda: 0.0, 60, lambda: now)
    for _ in range(300):
        watchdog.feed()
        now += 0.1
    assert told(manager) == [b"WATCHDOG=1"] * 3


def test_a_recogniser_that_hangs_starves_it(manager: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    now, working = 1000.0, 59.0
    watchdog = Watchdog(lambda: working, 60, lambda: now)
    watchdog.feed()
    assert told(manager) == [b"WATCHDOG=1"]
    now, working = 1020.0, 61.0
    watchdog.feed()
    watchdog.feed()
    assert told(manager) == []
    assert caplog.text.count("no more signs of life") == 1
    working = 0.0
    watchdog.feed()
    assert told(manager) == [b"WATCHDOG=1"]


@pytest.mark.parametrize(("name", "value"), [("WATCHDOG_USEC", "0"), ("WATCHDOG_PID", "1")])
def test_nobody_asks_for_it(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    Watchdog(lambda: 0.0, 60).feed()
    assert told(manager) == []
