"""A scripted OpenAI-compatible engine, and servers on free ports: for tests of the voice service."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application from a thread; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def free_port() -> int:
    """A port where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Broken(Exception):
    """Makes the scripted engine cut the connection."""


def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    """A chat completion chunk as vLLM sends it."""
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}


ANSWER: list[Any] = [chunk("Hello"), chunk(" there. How"), chunk(" are you?"), chunk("", "stop"), "[DONE]"]


@dataclass
class Engine:
    """A scripted OpenAI server: what it answers, and what it was asked."""

    script: list[Any] = field(default_factory=lambda: list(ANSWER))
    response: Response | None = None
    healthy: int = 200
    system_role: str = "rendered"  # rendered | ignored | refused
    asked: list[dict[str, Any]] = field(default_factory=list)
    tokenized: int = 0
    abandoned: threading.Event = field(default_factory=threading.Event)
    abandoned_at: list[float] = field(default_factory=list)
    """On the monotonic clock."""
    url: str = ""
    model: str = "m"

    def app(self) -> Starlette:
        """Its routes."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/models", self._models),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
            ]
        )

    async def _health(self, _request: Request) -> Response:
        return Response(status_code=self.healthy)

    async def _models(self, _request: Request) -> Response:
        return JSONResponse({"data": [{"id": self.model}]})

    async def _tokenize(self, request: Request) -> Response:
        self.tokenized += 1
        messages = (await request.json())["messages"]
        if self.system_role == "refused":
            return JSONResponse({"error": {"message": "roles must alternate"}}, status_code=400)
        counted = [m for m in messages if m["role"] == "user" or self.system_role == "rendered"]
        return JSONResponse({"count": sum(len(m["content"].split()) for m in counted)})

    async def _chat(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        if body["model"] != self.model:
            message = f"The model `{body['model']}` does not exist."
            return JSONResponse({"error": {"message": message}}, status_code=404)
        if self.system_role == "refused" and any(m["role"] == "system" for m in body["messages"]):
            return JSONResponse({"error": {"message": "roles must alternate"}}, status_code=400)
        return self.response or StreamingResponse(self._stream(), media_type="text/event-stream")

    async def _stream(self) -> AsyncGenerator[str, None]:
        try:
            for step in self.script:
                if isinstance(step, float):
                    await asyncio.sleep(step)
                elif step is Broken:
                    raise Broken
                else:
                    yield f"data: {step if isinstance(step, str) else json.dumps(step)}\n\n"
        except asyncio.CancelledError:
            self.abandoned_at.append(time.monotonic())
            self.abandoned.set()
            raise
