"""A scripted engine, stages that do as they are told, and servers on free ports."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from voicebot.audio import Recording
from voicebot.config import Llm, Settings, Stt
from voicebot.conversation import Message
from voicebot.errors import VoicebotError
from voicebot.llm import Piece
from voicebot.turn import Stages


@contextmanager
def running(app: Any) -> Iterator[str]:
    """Serve an application from a thread; its address."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
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
    url: str = ""

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
        return JSONResponse({"data": [{"id": "m"}]})

    async def _tokenize(self, request: Request) -> Response:
        self.tokenized += 1
        messages = (await request.json())["messages"]
        if self.system_role == "refused":
            return JSONResponse({"error": {"message": "roles must alternate"}}, status_code=400)
        counted = [m for m in messages if m["role"] == "user" or self.system_role == "rendered"]
        return JSONResponse({"count": sum(len(m["content"].split()) for m in counted)})

    async def _chat(self, request: Request) -> Response:
        self.asked.append(await request.json())
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
            self.abandoned.set()
            raise


@pytest.fixture
def engine() -> Iterator[Engine]:
    scripted = Engine()
    with running(scripted.app()) as url:
        scripted.url = url
        yield scripted


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(stt=Stt(model=tmp_path), llm=Llm(model="m"))


@dataclass
class FakeStt:
    """Hears what it is told."""

    text: str = "what is a spark"
    delay: float = 0.0
    fault: str = ""
    error: VoicebotError | None = None
    calls: int = 0
    closed: bool = False

    async def transcribe(self, recording: Recording) -> str:
        self.calls += 1
        await asyncio.sleep(self.delay)
        if self.error:
            raise self.error
        return self.text

    def close(self) -> None:
        self.closed = True


@dataclass
class FakeLlm:
    """Writes what it is told; an exception or a pause may be among the pieces."""

    pieces: Sequence[Piece | VoicebotError | float] = (Piece("Hello there. How"), Piece(" are you?", "stop"))
    system_role: bool = False
    down: VoicebotError | None = None
    windows: list[Sequence[Message]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    async def prepare(self) -> bool:
        if self.down:
            raise self.down
        return self.system_role

    async def stream(self, messages: Sequence[Message]) -> AsyncGenerator[Piece, None]:
        self.windows.append(messages)
        try:
            for piece in self.pieces:
                if isinstance(piece, VoicebotError):
                    raise piece
                if isinstance(piece, float):
                    await asyncio.sleep(piece)
                else:
                    yield piece
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class FakeTts:
    """Two bytes of sound a character."""

    sample_rate: int = 24_000
    fault: str = ""
    error: VoicebotError | None = None
    spoken: list[str] = field(default_factory=list)
    on_clause: Callable[[str], None] = lambda _: None

    async def speak(self, clause: str) -> AsyncGenerator[bytes, None]:
        self.spoken.append(clause)
        self.on_clause(clause)
        if self.error:
            raise self.error
        yield b"\1\0" * len(clause)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Fakes:
    """The stages of a turn, each scripted."""

    stt: FakeStt = field(default_factory=FakeStt)
    llm: FakeLlm = field(default_factory=FakeLlm)
    tts: FakeTts = field(default_factory=FakeTts)

    def stages(self) -> Stages:
        return Stages(self.stt, self.llm, self.tts)


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()
