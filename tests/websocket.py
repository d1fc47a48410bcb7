"""A WebSocket client for tests that are written without async.

The `websockets` package has one for threads, but over TLS 1.3 it may hang: its reader wakes up for a session
ticket, waits for data inside OpenSSL, and the writer waits for the reader. Its asyncio client does not.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import TimeoutError as NotInTime
from types import TracebackType
from typing import Any, Self, TypeVar

from websockets.asyncio.client import ClientConnection, connect

T = TypeVar("T")
WITHIN_S = 120


class Conversation:
    """Context manager of one connection, in an event loop of its own."""

    def __init__(self, url: str, *, open_timeout: float = 60, **options: Any) -> None:
        """Connects. Raises TimeoutError, or InvalidStatus where the handshake is refused."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._connection = self._run(self._connect(url, open_timeout, options))
        except BaseException:
            self._end()
            raise

    @staticmethod
    async def _connect(url: str, open_timeout: float, options: dict[str, Any]) -> ClientConnection:
        return await connect(url, open_timeout=open_timeout, proxy=None, max_size=None, **options)

    @property
    def subprotocol(self) -> str | None:
        """What the server chose."""
        return self._connection.subprotocol

    def send(self, text: str) -> None:
        """One message."""
        self._run(self._connection.send(text))

    def recv(self) -> str:
        """The next message. Raises TimeoutError."""
        return str(self._run(self._connection.recv()))

    def close(self) -> None:
        """The closing handshake."""
        self._run(self._connection.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        finally:
            self._end()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(WITHIN_S)
        except NotInTime:
            future.cancel()
            raise

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN_S)
        self._loop.close()
