"""What the guard tells the world: JSON for machines that route, Prometheus text for those that watch."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .judge import Outcome, State

STALE_S = 30.0  # the guard looks every second; a restart it carries out may take longer


@dataclass
class Board:
    """The guard's loop writes it, web threads read it."""

    drain_file: Path
    state: State = State.UNKNOWN
    reason: str = "the guard has not looked yet"
    since: float = 0.0  # monotonic
    looked: float = 0.0  # monotonic
    moved: float = 0.0  # monotonic
    restarts_left: int = 0
    restarts: int = 0
    restarts_failed: int = 0
    verdicts: int = 0
    incident: str = ""
    recovery_s: float = 0.0
    probes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    probe_last_s: float = 0.0
    probe_sum_s: float = 0.0

    def ready(self) -> tuple[int, dict[str, Any]]:
        """HTTP status and reason: 200 send turns, 404 finish what runs and send no more, 503 down."""
        if self.state is not State.WEDGED and time.monotonic() - self.looked > STALE_S:
            return 503, self._says(False, "the guard itself has not looked at the engine lately")
        if not self.state.ready:
            return 503, self._says(False, self.reason)
        if marks := self.marks():
            places = " and ".join(f"{self.drain_file.with_name(mark)}" for mark in marks)
            return 404, self._says(False, f"drained by request ({places} exists)")
        return 200, self._says(True, self.reason)

    def marks(self) -> list[str]:
        """Names of the marks that drain: NAME.WHO, each for one who wants it, and NAME itself."""
        name = self.drain_file.name
        try:
            return sorted(
                file.name
                for file in self.drain_file.parent.iterdir()
                if file.name == name or file.name.startswith(f"{name}.")
            )
        except OSError:
            return []

    def _says(self, ready: bool, reason: str) -> dict[str, Any]:
        return {"ready": ready, "state": self.state.value, "reason": reason}

    def full(self) -> dict[str, Any]:
        """All there is to know."""
        now = time.monotonic()
        status, said = self.ready()
        return said | {
            "drained": bool(self.marks()),
            "drained_by": [mark[len(self.drain_file.name) + 1 :] or "hand" for mark in self.marks()],
            "ready_status": status,
            "in_state_s": round(now - self.since, 1),
            "since_progress_s": round(now - self.moved, 1),
            "restarts_left": self.restarts_left,
            "restarts": self.restarts,
            "verdicts": self.verdicts,
            "last_incident": self.incident,
            "last_recovery_s": round(self.recovery_s, 1),
            "probes": {outcome.value: count for outcome, count in self.probes.items()},
            "last_probe_s": round(self.probe_last_s, 3),
        }

    def exposition(self) -> str:
        """Prometheus text format."""
        rows: list[tuple[str, str, str, list[tuple[str, float]]]] = [
            ("state", "gauge", "The engine's state as judged: 1 for the present one",
             [(f'{{state="{s.value}"}}', float(s is self.state)) for s in State]),
            ("ready", "gauge", "1 when /ready says 200", [("", float(self.ready()[0] == 200))]),
            ("drained", "gauge", "1 when drained by request", [("", float(bool(self.marks())))]),
            ("verdicts_total", "counter", "Engines found wedged", [("", self.verdicts)]),
            ("restarts_total", "counter", "Restarts by the guard",
             [('{result="done"}', self.restarts), ('{result="failed"}', self.restarts_failed)]),
            ("restarts_left", "gauge", "Restarts that the day still allows", [("", self.restarts_left)]),
            ("last_recovery_seconds", "gauge", "From the last verdict to ready", [("", self.recovery_s)]),
            ("probes_total", "counter", "One-token completions by outcome",
             [(f'{{outcome="{o.value}"}}', n) for o, n in self.probes.items()]),
            ("probe_seconds", "summary", "Duration of the probes",
             [("_sum", self.probe_sum_s), ("_count", sum(self.probes.values()))]),
            ("probe_last_seconds", "gauge", "Duration of the last probe", [("", self.probe_last_s)]),
            ("since_progress_seconds", "gauge", "Since the engine last moved visibly",
             [("", time.monotonic() - self.moved)]),
        ]  # fmt: skip
        lines: list[str] = []
        for name, kind, text, samples in rows:
            lines += [f"# HELP vllm_guard_{name} {text}", f"# TYPE vllm_guard_{name} {kind}"]
            lines += [f"vllm_guard_{name}{suffix} {value:g}" for suffix, value in samples]
        return "\n".join(lines) + "\n"


def server(board: Board, port: int) -> ThreadingHTTPServer:
    """The loopback web server; the caller runs it. It reads and never changes anything."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 5

        def do_GET(self) -> None:
            if self.path == "/ready":
                status, said = board.ready()
                self._answer(status, "application/json", json.dumps(said))
            elif self.path == "/state":
                self._answer(200, "application/json", json.dumps(board.full()))
            elif self.path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4; charset=utf-8", board.exposition())
            else:
                self._answer(400, "application/json", '{"error": "ask /ready, /state or /metrics"}')

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are no news."""

    web = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    web.daemon_threads = True
    return web
