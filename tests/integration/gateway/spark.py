"""What stands behind an edge: an engine that does what each request asks of it, and the guard's own pages."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.integration.gateway.voice import Voice
from tests.scripted import free_port

sys.path.insert(0, str(Path(__file__).parents[3] / "roles/vllm/files"))
from vllm_guard.board import Board, server
from vllm_guard.judge import State


class Engine(BaseHTTPRequestHandler):
    """Answers every path with 200, so that whatever gets here is seen. A request's body may say:

    steps: N  a stream of N events; all but the first wait for spark.step
    cut: before | after  end the connection before the first byte, or after the first event
    """

    protocol_version = "HTTP/1.1"
    spark: Spark

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked: dict[str, Any] = json.loads(body) if body.startswith(b"{") else {}
        self.spark.asked.append((f"{self.command} {self.path}", dict(self.headers), time.monotonic()))
        if asked.get("cut") == "before":
            self._cut()
        elif "steps" in asked or "cut" in asked:
            self._stream(asked)
        else:
            self._head("application/json", ("Content-Length", str(len(self.spark.name) + 2)))
            if self.command != "HEAD":
                self.wfile.write(json.dumps(self.spark.name).encode())

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = _any

    def _head(self, kind: str, more: tuple[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header(*more)
        self.end_headers()

    def _stream(self, asked: dict[str, Any]) -> None:
        self._head("text/event-stream", ("Transfer-Encoding", "chunked"))
        for number in range(asked.get("steps", 1)):
            if number and not self.spark.step.acquire(timeout=60):
                raise TimeoutError("nobody asked for the next event")
            self._event(json.dumps({"number": number, "spark": self.spark.name}))
        if "cut" in asked:
            self._cut()
            return
        self._event("[DONE]")
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, text: str) -> None:
        data = f"data: {text}\n\n".encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _cut(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        return


class Spark:
    """Engine and guard's pages on free ports; what the engine was asked: (route, headers, when)."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.asked: list[tuple[str, dict[str, str], float]] = []
        self.step = threading.Semaphore(0)
        self.drain = folder / f"{name}.drain"
        self.board = Board(self.drain)
        self.heal()
        self.engine_port, self.ready_port, self.edge_port = free_port(), free_port(), free_port()
        self.voice = Voice(name, lambda route, headers: self.asked.append((route, headers, time.monotonic())))
        self.pages = server(self.board, self.ready_port)
        self.visits = 0
        self.pages.verify_request = self._visited  # type: ignore[method-assign]
        self.cut_off: list[str] = []  # answers that the guard could not end
        self.pages.handle_error = lambda *_: self.cut_off.append(traceback.format_exc())  # type: ignore[method-assign]
        threading.Thread(target=self.pages.serve_forever, daemon=True).start()
        self.start()

    def _visited(self, request: object, client_address: object) -> bool:
        self.visits += 1
        return True

    def heal(self) -> None:
        """The guard finds the engine alive, and goes on doing so."""
        self.board.state, self.board.looked, self.board.reason = (
            State.READY,
            time.monotonic() + 1e6,
            "completes",
        )
        self.drain.unlink(missing_ok=True)

    def wedge(self) -> None:
        """The guard's verdict: /ready is 503."""
        self.board.state = State.WEDGED

    def start(self) -> None:
        """The engine's server, at its port."""
        handler = type("Handler", (Engine,), {"spark": self})
        self.engine = ThreadingHTTPServer(("127.0.0.1", self.engine_port), handler)
        self.engine.daemon_threads = True
        threading.Thread(target=self.engine.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Nobody listens at the engine's port any more."""
        self.engine.shutdown()
        self.engine.server_close()

    def end(self) -> None:
        self.stop()
        self.voice.stop()
        self.pages.shutdown()
        self.pages.server_close()
