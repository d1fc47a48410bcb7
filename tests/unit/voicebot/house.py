"""The service as it is served, with all its limits, in a thread, on stages that do as they are told."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.live import VOICES
from voicebot import rest
from voicebot.admission import Admission
from voicebot.config import Settings
from voicebot.keys import Keys
from voicebot.serving import Server, bind
from voicebot.systemd import Watchdog

PATIENCE_S = 60.0


@dataclass
class House:
    """Where it is, and who guards it."""

    url: str
    port: int
    server: Server
    admission: Admission


@contextmanager
def open_house(fakes: Fakes, settings: Settings) -> Iterator[House]:
    """Served until the block ends; ended as by SIGTERM."""
    keys = Keys(settings.server.keys) if settings.server.keys else None
    admission = Admission(settings.limits.max_sessions)
    application = rest.build(settings, fakes.stages(), VOICES, keys=keys, admission=admission)
    watchdog = Watchdog(lambda: 0.0, 60)
    with bind("127.0.0.1", 0) as listener:
        port: int = listener.getsockname()[1]
        secured = bind("127.0.0.1", 0) if settings.server.tls else None
        server = Server(application, settings, admission, watchdog, secured)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        until(lambda: server.started and len(server.servers) == (2 if secured else 1))
        try:
            yield House(f"http://127.0.0.1:{port}", port, server, admission)
        finally:
            server.should_exit = True
            thread.join()


def with_(settings: Settings, **sections: dict[str, Any]) -> Settings:
    """The settings with some fields changed, checked as if they came from a file."""
    data = settings.model_dump()
    for name, fields in sections.items():
        data[name] |= fields
    return Settings.model_validate(data)


def write_keys(path: Path, **keys: str) -> Path:
    """A file of hashes, put in place at once as the role does."""
    lines = [f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n" for name, key in keys.items()]
    fresh = path.with_suffix(".new")
    fresh.write_text("# who may come in\n" + "".join(lines))
    fresh.replace(path)
    return path


def until(condition: Any, seconds: float = PATIENCE_S) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def exchange(port: int, request: bytes, *, source: str = "127.0.0.1") -> tuple[int, dict[str, Any]]:
    """Send bytes, read the answer to its end: status and JSON. What can't be sent any more is no fault."""
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S, (source, 0)) as client:
        with suppress(OSError):
            client.sendall(request)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body or b"{}")
