"""The guard tells a live engine from one that only looks alive: a stopped core is found, kept as evidence and
restarted; an idle, prefilling, loading or crowded engine is left alone; a spent budget means hands off."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.e2e.tunnel import Tunnel
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
Record = Callable[[str, object], None]
MODEL = "/models/mistral-7b"
CORE = "pgrep -f '^VLLM::EngineCor'"
CONTEXT = 8000  # tokens; the model's window is 8192
VERDICT_LIMIT = 30.0
START_LIMIT = 300.0


class Guard:
    """The guard's pages through a tunnel, and what it has done since the test began."""

    def __init__(self, url: str, sh: Sh) -> None:
        self._web = httpx.Client(base_url=url, timeout=10)
        self._sh = sh

    def ready(self) -> int:
        return self._web.get("/ready").status_code

    def state(self) -> dict[str, Any]:
        return dict(self._web.get("/state").json())

    def wait(self, status: int, limit: float) -> float:
        """Seconds until /ready answers so."""
        began = time.monotonic()
        while time.monotonic() - began < limit:
            if self.ready() == status:
                return time.monotonic() - began
            time.sleep(0.25)
        journal = self._sh("journalctl -u vllm-guard --no-pager -n 30", check=False)
        pytest.fail(f"/ready is not {status} after {limit:.0f} s: {self.state()}\n{journal}")

    def spent(self, restarts: int) -> None:
        """Begin the day anew, with so many restarts behind it."""
        times = json.dumps([time.time()] * restarts)
        self._sh(
            f"systemctl stop vllm-guard; echo '{times}' > /var/lib/vllm-guard/restarts.json; systemctl start vllm-guard"
        )
        self.wait(200, START_LIMIT)


@pytest.fixture
def guard(lab: Lab, spark: str, sh: Sh) -> Iterator[Guard]:
    with Tunnel(lab, spark, 8001) as url:
        guard = Guard(url, sh)
        guard.spent(0)
        yield guard
        sh(f"{CORE} | xargs -r kill -CONT; rm -f /var/lib/vllm-guard/drain", check=False)
        guard.spent(0)


def complete(engine: str, prompt: list[int] | str = "Hi", tokens: int = 1, timeout: float = 600) -> int:
    question = {"model": MODEL, "prompt": prompt, "max_tokens": tokens, "ignore_eos": True, "temperature": 0}
    return httpx.post(f"{engine}/v1/completions", json=question, timeout=timeout).status_code


def wait_for_completion(engine: str, began: float) -> float:
    """Seconds from ``began`` until a completion comes back."""
    while time.monotonic() - began < START_LIMIT:
        try:
            if complete(engine, timeout=10) == 200:
                return time.monotonic() - began
        except httpx.HTTPError:
            pass
        time.sleep(0.25)
    pytest.fail(f"no completion within {START_LIMIT:.0f} s")


def started(sh: Sh) -> str:
    return sh("docker inspect -f '{{.State.StartedAt}}' vllm")


def progress(sh: Sh) -> str:
    """All that the engine counts, but for what its web server counts of itself."""
    return sh("curl -s http://127.0.0.1:8000/metrics | grep '^vllm:'")


def long_prompt(salt: int, tokens: int = CONTEXT) -> list[int]:
    """Tokens that no earlier prompt shares: nothing of it is cached."""
    return [(i * 7919 + salt) % 40000 + 10 for i in range(tokens)]


def left_alone_while(guard: Guard, sh: Sh, work: Callable[[], object]) -> float:
    """Seconds that the work took; all the while /ready said 200, and the engine is the same afterwards."""
    container, began, seen = started(sh), time.monotonic(), []
    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        seen.append(guard.ready())
        thread.join(1)
    assert set(seen) == {200}, sh("journalctl -u vllm-guard --no-pager -n 30")
    assert started(sh) == container
    state = guard.state()
    assert (state["verdicts"], state["restarts"]) == (0, 0), state
    return time.monotonic() - began


def freeze_and_recover(guard: Guard, sh: Sh, engine: str) -> tuple[float, float]:
    """Stop the core; seconds to the verdict, and from there to a served completion."""
    container, incidents = started(sh), set(sh("ls /var/lib/vllm-guard/incidents", check=False).split())
    sh(f"kill -STOP $({CORE})")
    frozen = time.monotonic()
    verdict = guard.wait(503, VERDICT_LIMIT + 15)
    serving = wait_for_completion(engine, frozen + verdict)
    assert started(sh) != container
    guard.wait(200, 15)
    [incident] = set(sh("ls /var/lib/vllm-guard/incidents").split()) - incidents
    folder = f"/var/lib/vllm-guard/incidents/{incident}"
    assert "State T (stopped)" in sh(f"cat {folder}/processes.txt")
    assert "vllm:generation_tokens_total" in sh(f"cat {folder}/metrics.txt")
    assert json.loads(sh(f"cat {folder}/verdict.json"))["state"] == "wedged"
    assert "MemAvailable" in sh(f"cat {folder}/meminfo.txt") and sh(f"cat {folder}/container.log").strip()
    return verdict, serving


def bare_start(guard: Guard, sh: Sh, engine: str) -> float:
    """Seconds from the unit's start to a completion; the guard says no until then, and does nothing: neither to an
    engine that was stopped on purpose, nor to one that loads."""
    sh("systemctl stop vllm")
    guard.wait(503, 15)
    assert guard.state()["state"] == "stopped"
    began = time.monotonic()
    sh("systemctl reset-failed vllm; systemctl start vllm", check=False)
    seconds = wait_for_completion(engine, began)
    guard.wait(200, 15)
    assert guard.state()["verdicts"] == 0
    return seconds


@pytest.mark.long
def test_what_a_stopped_core_looks_like(guard: Guard, sh: Sh, engine: str) -> None:
    """The premise: /health says 200 and the metrics are those of an idle engine."""
    assert complete(engine) == 200
    guard.spent(3)
    sh(f"kill -STOP $({CORE})")
    before = progress(sh)
    assert httpx.get(f"{engine}/health", timeout=10).status_code == 200
    guard.wait(503, VERDICT_LIMIT)
    assert httpx.get(f"{engine}/health", timeout=10).status_code == 200
    assert progress(sh) == before


@pytest.mark.long
def test_spent_budget_means_hands_off_until_it_answers(guard: Guard, sh: Sh) -> None:
    guard.spent(3)
    container = started(sh)
    sh(f"kill -STOP $({CORE})")
    guard.wait(503, VERDICT_LIMIT)
    time.sleep(10)  # a restart would follow the verdict at once: ten seconds show that none does
    assert started(sh) == container
    assert guard.state()["state"] == "hands_off"
    assert "HANDS_OFF" in sh("systemctl status --no-pager -n 0 vllm-guard")
    assert "see to it by hand" in sh("journalctl -u vllm-guard -p err --no-pager -n 5")
    sh(f"kill -CONT $({CORE})")
    guard.wait(200, 60)


def test_a_stopped_core_is_found_and_restarted(
    guard: Guard, sh: Sh, engine: str, record_property: Record
) -> None:
    bare = bare_start(guard, sh, engine)
    record_property("engine_start_bare_s", round(bare, 1))
    verdict, serving = freeze_and_recover(guard, sh, engine)
    record_property("core_stopped_to_verdict_s", round(verdict, 1))
    record_property("verdict_to_answer_s", round(serving, 1))
    assert verdict <= VERDICT_LIMIT
    assert serving <= 1.5 * bare


@pytest.mark.long
def test_an_idle_engine_is_left_alone(guard: Guard, sh: Sh) -> None:
    # to be idle is the work: twice as long as a verdict may take
    left_alone_while(guard, sh, lambda: time.sleep(60))


@pytest.mark.long
@pytest.mark.parametrize("tokens", [CONTEXT // 2, CONTEXT])
def test_a_long_prefill_is_left_alone(
    guard: Guard, sh: Sh, engine: str, record_property: Record, tokens: int
) -> None:
    """One step of it may hold every metric for longer than a verdict takes."""
    statuses: list[int] = []
    salt = int(time.time())
    seconds = left_alone_while(
        guard, sh, lambda: statuses.append(complete(engine, long_prompt(salt, tokens)))
    )
    assert statuses == [200]
    record_property("long_prefill_s", round(seconds, 1))


@pytest.mark.long
def test_drain_is_a_mark_that_routes_requests_away(guard: Guard, sh: Sh) -> None:
    sh("touch /var/lib/vllm-guard/drain")
    guard.wait(404, 5)
    sh("rm /var/lib/vllm-guard/drain")
    guard.wait(200, 5)


@pytest.mark.long
def test_ten_stopped_cores(guard: Guard, sh: Sh, engine: str, record_property: Record) -> None:
    bare = bare_start(guard, sh, engine)
    seen = []
    for _ in range(10):
        guard.spent(0)
        seen.append(freeze_and_recover(guard, sh, engine))
    record_property("engine_start_bare_s", round(bare, 1))
    record_property("core_stopped_to_verdict_s", [round(verdict, 1) for verdict, _ in seen])
    record_property("verdict_to_answer_s", [round(serving, 1) for _, serving in seen])
    assert max(verdict for verdict, _ in seen) <= VERDICT_LIMIT
    assert max(serving for _, serving in seen) <= 1.5 * bare


@pytest.mark.parametrize(
    ("seconds", "context"),
    [(30, 0), pytest.param(600, CONTEXT, marks=pytest.mark.long)],
    ids=["short", "full"],
)
def test_full_load_is_left_alone(
    guard: Guard, sh: Sh, engine: str, record_property: Record, seconds: int, context: int
) -> None:
    """Sixteen callers at a time, in the full instance one of them with full contexts."""
    until = time.monotonic() + seconds
    statuses: list[int] = []

    def caller(number: int) -> None:
        while time.monotonic() < until:
            long = context and number == 0
            prompt = long_prompt(int(time.time()), context) if long else f"Say {number}"
            statuses.append(complete(engine, prompt, 1 if long else 64, timeout=1200))

    def load() -> None:
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(caller, range(16)))

    left_alone_while(guard, sh, load)
    record_property("requests_under_guard", len(statuses))
    assert set(statuses) == {200}


@pytest.mark.long
def test_a_cold_start_is_left_alone(guard: Guard, sh: Sh, engine: str, record_property: Record) -> None:
    """Nothing compiled yet: the cache volume is empty."""
    sh("systemctl stop vllm; rm -rf /var/lib/docker/volumes/vllm-cache/_data/*")
    began = time.monotonic()
    sh("systemctl reset-failed vllm; systemctl start vllm", check=False)
    record_property("engine_start_cold_s", round(wait_for_completion(engine, began), 1))
    guard.wait(200, 15)
    assert (guard.state()["verdicts"], guard.state()["restarts"]) == (0, 0)
