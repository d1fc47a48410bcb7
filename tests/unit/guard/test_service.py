"""The guard as a process of the system's own Python, beside a page that talks like an engine."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.guard.test_parts import PAGE

FILES = Path(__file__).parents[3] / "roles/vllm/files"
QUICK = {
    "poll_s": 0.1, "quiet_s": 0.3, "probe_timeout_s": 0.5, "start_limit_s": 60, "dead_after_s": 3,
    "recheck_s": 1, "restarts_per_day": 1,
}  # fmt: skip


class Page:
    """Answers as an engine does; `frozen` holds metrics and completions, as a stopped core would."""

    def __init__(self) -> None:
        self.tokens = 0
        self.frozen = threading.Event()
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(PAGE.replace(" 7.0", f" {page.tokens}.0"))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                while page.frozen.is_set():
                    time.sleep(0.05)
                page.tokens += 1
                self._answer('{"choices": [{"text": "1"}]}')

            def _answer(self, text: str) -> None:
                try:
                    self.send_response(200)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except BrokenPipeError:
                    return  # the guard gave up waiting

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Running:
    """A guard process and its folder."""

    def __init__(self, folder: Path, page: Page, **more: object) -> None:
        self.folder, self.page = folder, page
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (folder / "run").write_text("1", encoding="utf-8")
        self.engine = subprocess.Popen(["sleep", "600"])  # a container that burns no processor time
        settings = {
            "model": "m", "engine_port": page.port, "listen_port": self.port, "judgement": QUICK,
            "state_dir": str(folder / "state"), "drain_file": str(folder / "drain"),
            "status_command": ["sh", "-c", f"echo ActiveState=active; echo InvocationID=$(cat {folder}/run)"],
            "restart_commands": [["sh", "-c", f"echo restarted >> {folder}/restarts; echo 2 > {folder}/run"]],
            "pid_command": ["echo", str(self.engine.pid)],
            "evidence_commands": {"container.log": ["echo", "prompt: 'secret'"]},
        } | more  # fmt: skip
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(folder / "notify"))
        self.systemd.setblocking(False)
        self.config = folder / "guard.json"
        self.config.write_text(json.dumps(settings), encoding="utf-8")
        self.begin()

    def begin(self) -> None:
        with (self.folder / "log").open("a", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                ["/usr/bin/python3", "-B", "-m", "vllm_guard", str(self.config)],
                env={
                    "PYTHONPATH": str(FILES),
                    "PATH": "/usr/bin:/bin",
                    "NOTIFY_SOCKET": str(self.folder / "notify"),
                },
                stderr=log,
            )

    def end(self) -> None:
        self.process.kill()
        self.process.wait()

    def told_systemd(self) -> str:
        """What was sent since the last call, as far as the queue held it, and what is sent now."""
        said = b""
        for _ in range(2):
            with contextlib.suppress(BlockingIOError):
                while True:
                    said += self.systemd.recv(4096) + b"\n"
            time.sleep(0.4)
        return said.decode()

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return int(answer.status), answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()
        except OSError as error:
            return 0, str(error)

    def wait(self, status: int, seconds: float = 20) -> dict[str, Any]:
        """Until /ready answers so."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            now, text = self.get("/ready")
            if now == status:
                return dict(json.loads(text))
            time.sleep(0.05)
        raise AssertionError(f"{self.get('/state')}\n{self.log}")

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text(encoding="utf-8")


@pytest.fixture
def page() -> Iterator[Page]:
    page = Page()
    yield page
    page.frozen.clear()
    page.server.shutdown()
    page.server.server_close()


@pytest.fixture
def start(tmp_path: Path, page: Page) -> Iterator[Callable[..., Running]]:
    begun: list[Running] = []

    def begin(**more: object) -> Running:
        begun.append(Running(tmp_path, page, **more))
        return begun[-1]

    yield begin
    for running in begun:
        running.end()
        running.engine.kill()
        running.engine.wait()
        running.systemd.close()


def test_freeze_verdict_evidence_restart_recovery_then_hands_off(
    start: Callable[..., Running], page: Page
) -> None:
    guard = start()
    assert guard.wait(200)["state"] == "ready"
    told = guard.told_systemd()
    assert told.startswith("READY=1\n") and "WATCHDOG=1\nSTATUS=ready: completes" in told
    page.frozen.set()
    assert guard.wait(503)["ready"] is False
    page.frozen.clear()  # the new start answers
    guard.wait(200)
    assert (guard.folder / "restarts").read_text() == "restarted\n"
    (incident,) = (guard.folder / "state/incidents").iterdir()
    assert {p.name for p in incident.iterdir()} == {
        "verdict.json", "metrics.txt", "processes.txt", "meminfo.txt", "container.log",
    }  # fmt: skip
    assert "secret" not in (incident / "container.log").read_text()
    until = time.monotonic() + 20
    while "serving again" not in guard.log:  # the page may say it a moment before the journal
        assert time.monotonic() < until, guard.log
        time.sleep(0.05)

    guard.end()  # the budget outlives the guard
    guard.begin()
    guard.wait(200)
    time.sleep(1.2)  # incidents are named by the second
    page.frozen.set()
    until = time.monotonic() + 20
    while json.loads(guard.get("/state")[1])["state"] != "hands_off":
        assert time.monotonic() < until, guard.log
        time.sleep(0.1)
    assert guard.get("/ready")[0] == 503
    assert "STATUS=HANDS_OFF: " in guard.told_systemd()
    assert "<3>" in guard.log and "see to it by hand" in guard.log
    assert (guard.folder / "restarts").read_text() == "restarted\n"
    metrics = guard.get("/metrics")[1]
    assert 'vllm_guard_state{state="hands_off"} 1' in metrics
    assert "vllm_guard_restarts_left 0" in metrics
    page.frozen.clear()
    assert guard.wait(200)["ready"] is True


def test_drain_is_a_file_and_never_hides_that_the_engine_is_down(
    start: Callable[..., Running], page: Page
) -> None:
    guard = start(judgement=QUICK | {"restarts_per_day": 0})
    guard.wait(200)
    (guard.folder / "drain").touch()
    assert guard.wait(404)["reason"].startswith("drained by request")
    page.frozen.set()
    guard.wait(503)
    page.frozen.clear()
    guard.wait(404)
    (guard.folder / "drain").unlink()
    guard.wait(200)


def test_each_who_drains_has_a_mark_and_lifts_no_other(start: Callable[..., Running]) -> None:
    guard = start()
    guard.wait(200)
    (guard.folder / "drained.not").touch()
    rollout, operator = guard.folder / "drain.rollout", guard.folder / "drain.operator"
    for mark in (rollout, operator):
        mark.touch()
    said = guard.wait(404)["reason"]
    assert str(rollout) in said and str(operator) in said
    rollout.unlink()
    assert guard.get("/ready")[0] == 404
    assert json.loads(guard.get("/state")[1])["drained_by"] == ["operator"]
    assert "vllm_guard_drained 1" in guard.get("/metrics")[1]
    operator.unlink()
    guard.wait(200)


def test_a_restart_that_fails_is_said_and_not_ready(start: Callable[..., Running], page: Page) -> None:
    guard = start(restart_commands=[["sh", "-c", "echo no such unit; exit 5"]])
    guard.wait(200)
    page.frozen.set()
    guard.wait(503)
    until = time.monotonic() + 20
    while "hands_off" not in guard.log:
        assert time.monotonic() < until, guard.log
        assert guard.get("/ready")[0] == 503
        time.sleep(0.1)
    assert "restart failed: sh -c echo no such unit; exit 5: exit 5: no such unit" in guard.log


def test_nothing_but_three_pages_is_served_and_on_loopback_only(start: Callable[..., Running]) -> None:
    guard = start()
    guard.wait(200)
    assert guard.get("/")[0] == 400
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", guard.port), timeout=2)
    names = {
        line.split()[0].partition("{")[0]
        for line in guard.get("/metrics")[1].splitlines()
        if line and line[0] != "#"
    }
    expected = "state ready drained verdicts_total restarts_total restarts_left probes_total"
    expected += " probe_seconds_sum probe_seconds_count probe_last_seconds"
    assert {f"vllm_guard_{name}" for name in expected.split()} <= names


def test_a_bad_file_is_refused_with_a_reason(tmp_path: Path) -> None:
    bad = tmp_path / "guard.json"
    bad.write_text('{"model": "m", "judgment": {}}', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "vllm_guard", "--check", str(bad)],
        env={"PYTHONPATH": str(FILES)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "judgment is no setting. Remedy: use judgement." in done.stderr
