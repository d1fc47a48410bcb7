"""A voicebot behind an edge, scripted: it says who it is, and echoes."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.integration.gateway.waiting import until

Asked = Callable[[str, dict[str, str]], None]


class Voice:
    """On a port of its own, which it keeps through stop and start."""

    def __init__(self, name: str, asked: Asked) -> None:
        self.name = name
        self._asked = asked
        self.port = 0
        self.start()

    def start(self) -> None:
        """Serve from a thread of its own, all connections in one event loop."""
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        options = uvicorn.Config(self._app(), log_config=None, timeout_graceful_shutdown=1, backlog=512)
        self._server = uvicorn.Server(options)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]})
        self._thread.start()
        until(lambda: self._server.started, "the voicebot serves")

    def stop(self) -> None:
        """Nobody listens at its port any more."""
        self._server.should_exit = True
        self._thread.join()

    def _app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/health", self._health),
                WebSocketRoute("/v1/realtime", self._converse),
                Route("/{path:path}", self._any, methods=["GET", "POST"]),
            ]
        )

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=503)  # the engine is away: that is the guard's to say

    async def _any(self, request: Request) -> Response:
        self._asked(f"{request.method} {request.url.path}", dict(request.headers))
        return JSONResponse({"spark": self.name, "bytes": len(await request.body())})

    async def _converse(self, client: WebSocket) -> None:
        self._asked("GET /v1/realtime", dict(client.headers))
        offered = client.scope["subprotocols"]
        await client.accept(subprotocol="realtime" if "realtime" in offered else None)
        await client.send_text(json.dumps({"spark": self.name}))
        try:
            while True:
                await client.send_text(await client.receive_text())
        except WebSocketDisconnect:
            return
