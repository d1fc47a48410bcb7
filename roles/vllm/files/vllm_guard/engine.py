"""What the guard can see of an engine: its unit, its metrics, its health, and one token when asked."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Sequence

from .config import Config
from .judge import Health, Metrics, Outcome, Probe, Unit, View
from .procs import consumed_below

HOST = "127.0.0.1"
LOOK_TIMEOUT_S = 2.0
ROOT_RETRY_S = 15.0  # a Docker that does not answer must not slow down the looks
WATCHED = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
)
UNITS = {
    "active": Unit.ACTIVE, "reloading": Unit.ACTIVE, "activating": Unit.ACTIVATING, "failed": Unit.FAILED,
}  # fmt: skip


def parse_metrics(text: str) -> Metrics | View:
    """The watched series with their values as printed; blind if one of them is missing."""
    seen: dict[str, str] = {}
    for line in text.splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] in WATCHED:
            seen[series] = value
    return seen if {series.partition("{")[0] for series in seen} == set(WATCHED) else View.BLIND


def run(argv: Sequence[str], timeout: float) -> str:
    """Output of a command; OSError if it fails, with what it said."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", timeout=timeout, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise OSError(f"{argv[0]}: no end after {timeout:g} s") from error
    if done.returncode != 0:
        raise OSError(f"{' '.join(argv)}: exit {done.returncode}: {done.stdout.strip()[-300:]}")
    return done.stdout


class Engine:
    """One engine on this host's loopback."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._root: tuple[str, int] = ("", 0)  # run, pid
        self._root_missed = float("-inf")

    def unit(self) -> tuple[Unit, str, float]:
        """State of the unit, identity of its present start, and when (monotonic clock) that start began."""
        said = run(self._config.status_command, timeout=5)
        values = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        state = UNITS.get(values.get("ActiveState", ""), Unit.INACTIVE)
        began = int(values.get("InactiveExitTimestampMonotonic", "0")) / 1e6
        return state, values.get("InvocationID", ""), began

    def root(self) -> int:
        """The first process of the engine's container."""
        pid = int(run(self._config.pid_command, timeout=5))
        if pid <= 0:
            raise ProcessLookupError("the container has no process")
        return pid

    def consumed(self, identity: str) -> float | None:
        """Processor seconds that the processes below the container's first one (the server, which answers
        the guard) have consumed in this run; None if that cannot be had."""
        if time.monotonic() - self._root_missed < ROOT_RETRY_S:
            return None
        try:
            if self._root[0] != identity:
                self._root = (identity, self.root())
            return consumed_below(self._root[1])
        except (OSError, ValueError):
            self._root, self._root_missed = ("", 0), time.monotonic()
            return None

    def metrics_text(self) -> str:
        """The engine's own metrics page."""
        status, text = self._ask("GET", "/metrics", LOOK_TIMEOUT_S)
        if status != 200:
            raise ConnectionError(f"/metrics answered {status}")
        return text

    def metrics(self) -> Metrics | View:
        """The series by which progress is seen."""
        try:
            return parse_metrics(self.metrics_text())
        except TimeoutError:
            return View.SILENT
        except (OSError, http.client.HTTPException):
            return View.BLIND

    def health(self) -> Health:
        """What /health answers."""
        try:
            return Health.OK if self._ask("GET", "/health", LOOK_TIMEOUT_S)[0] == 200 else Health.BAD
        except TimeoutError:
            return Health.SILENT
        except (OSError, http.client.HTTPException):
            return Health.BAD

    def probe(self) -> Probe:
        """Ask for one token."""
        began = time.monotonic()
        question = json.dumps({"model": self._config.model, "prompt": "1", "max_tokens": 1, "temperature": 0})
        try:
            status, text = self._ask(
                "POST", "/v1/completions", self._config.judgement.probe_timeout_s, question
            )
            outcome, detail = Outcome.ERROR, f"HTTP {status} {text[:200]}"
            answer = json.loads(text) if status == 200 else None
            if isinstance(answer, dict) and answer.get("choices"):
                outcome, detail = Outcome.OK, ""
        except TimeoutError:
            outcome, detail = Outcome.TIMEOUT, "timed out"
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcome, detail = Outcome.ERROR, f"{type(error).__name__}: {error}"
        return Probe(outcome, began, time.monotonic(), detail)

    def _ask(self, method: str, path: str, timeout: float, body: str | None = None) -> tuple[int, str]:
        headers = {"Content-Type": "application/json", "Connection": "close"}
        if self._config.api_key:
            headers["Authorization"] = f"Bearer {self._config.api_key}"
        connection = http.client.HTTPConnection(HOST, self._config.engine_port, timeout=timeout)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        finally:
            connection.close()
