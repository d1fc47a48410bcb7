"""Conversations through the gateway, and what is to be seen when one does not begin."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tests.integration.gateway.house import House, Proxy
from tests.websocket import Conversation

HANDSHAKE_S = 45
Record = Callable[[str, object], None]


class Call:
    """A conversation that has begun."""

    def __init__(self, connection: Conversation) -> None:
        self.connection = connection
        self.spark = str(json.loads(connection.recv())["spark"])

    def echoes(self, text: str) -> bool:
        """Whether it goes on."""
        self.connection.send(text)
        return self.connection.recv() == text


@contextmanager
def calling(
    house: House, key: str, session: str = "", *, browser: bool = False, record: Record | None = None
) -> Iterator[Call]:
    """A conversation; refusals are raised. A handshake without an answer is tried once more, and recorded."""
    offered = ["realtime", f"openai-insecure-api-key.{key}"] if browser else []
    headers = {} if browser else {"Authorization": f"Bearer {key}"}
    origin = {"Origin": "https://elsewhere.example"} if browser else {}

    def dial() -> Conversation:
        began = time.monotonic()
        try:
            return Conversation(
                f"wss://localhost:{house.ports['gateway']}/v1/realtime?model=voicebot&session={session}",
                additional_headers={**headers, **origin},
                subprotocols=offered or None,
                ssl=house.trust(),
                open_timeout=HANDSHAKE_S,
            )
        except TimeoutError as error:
            waited = round(time.monotonic() - began, 1)
            raise AssertionError(f"no handshake within {waited} s\n{evidence(house)}") from error

    try:
        connection = dial()
    except AssertionError as lost:
        if record is None:
            raise
        record("handshake_lost", str(lost))
        connection = dial()
    with connection:
        yield Call(connection)


def evidence(house: House) -> str:
    """What each proxy knows of its connections, and the end of its log."""
    return "\n\n".join(_of(proxy) for proxy in house.proxies)


def _of(proxy: Proxy) -> str:
    found = [f"=== {proxy.config.parent.name}: {proxy.workers()}"]
    for command in ("show info", "show servers state", "show sess all", "show errors"):
        try:
            with socket.socket(socket.AF_UNIX) as admin:
                admin.settimeout(5)
                admin.connect(str(proxy.config.parent / "admin.sock"))
                admin.sendall(f"{command}\n".encode())
                found.append(f"$ {command}\n" + b"".join(iter(lambda: admin.recv(65536), b"")).decode())
        except OSError as error:
            found.append(f"$ {command}: {error}")
    found.append(proxy.log.read_text(encoding="utf-8")[-4000:])
    return "\n".join(found)
