"""Waiting for a service, no longer than there is hope. (systemd's own part is tried end to end.)"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plugins.modules import unit_ready

ACTIVE = {"ActiveState": "active", "SubState": "running", "Result": "success", "NRestarts": "0"}


class Late(BaseHTTPRequestHandler):
    """503 until the third request."""

    seen = 0

    def do_GET(self) -> None:
        type(self).seen += 1
        self.send_response(200 if self.seen > 2 else 503)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture
def url() -> Iterator[str]:
    handler = type("Handler", (Late,), {"seen": 0})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/health"
        server.shutdown()


def states(monkeypatch: pytest.MonkeyPatch, *told: dict[str, str]) -> None:
    """What systemd says, look by look; the last for ever."""
    left = list(told)
    monkeypatch.setattr(unit_ready, "state", lambda unit: left.pop(0) if len(left) > 1 else left[0])


def test_it_waits_until_it_answers(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states(monkeypatch, ACTIVE)
    assert unit_ready.wait("a.service", url, 30, 2, 0.01)["seconds"] >= 0


def test_it_gives_up_at_once_when_the_unit_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    states(monkeypatch, ACTIVE, ACTIVE | {"ActiveState": "failed", "Result": "exit-code"})
    began = time.monotonic()
    told = unit_ready.wait("a.service", "http://127.0.0.1:9/", 600, 2, 0.01)
    assert told["failed"] and "failed for good (Result=exit-code)" in told["msg"]
    assert time.monotonic() - began < 60


def test_it_gives_up_when_it_is_restarted_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    states(monkeypatch, *(ACTIVE | {"ActiveState": "activating", "NRestarts": n} for n in ("5", "6", "7")))
    told = unit_ready.wait("a.service", "http://127.0.0.1:9/", 600, 2, 0.01)
    assert told["failed"] and "was restarted 2 times" in told["msg"]


def test_one_restart_is_forgiven_and_a_cleared_count_too(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states(monkeypatch, *(ACTIVE | {"NRestarts": n} for n in ("4", "0", "1")))
    assert "seconds" in unit_ready.wait("a.service", url, 30, 2, 0.01)


def test_time_is_up(monkeypatch: pytest.MonkeyPatch) -> None:
    states(monkeypatch, ACTIVE)
    told = unit_ready.wait("a.service", "http://127.0.0.1:9/", 0, 2, 0.01)
    assert told["failed"] and "time is up" in told["msg"] and "http://127.0.0.1:9/" in told["msg"]
