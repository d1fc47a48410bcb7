"""Metrics, budget, evidence, settings: each by itself."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from vllm_guard import evidence
from vllm_guard.budget import Budget
from vllm_guard.config import Config, ConfigError, Judgement, load
from vllm_guard.engine import Engine, parse_metrics, run
from vllm_guard.judge import View
from vllm_guard.procs import consumed_below, describe_process, process_tree

PAGE = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 0.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.0125
vllm:prompt_tokens_total{engine="0",model_name="m"} 31.0
vllm:prompt_tokens_created{engine="0",model_name="m"} 1.7e+09
vllm:generation_tokens_total{engine="0",model_name="m"} 7.0
process_cpu_seconds_total 12.5
"""


def test_only_the_series_that_show_progress_are_read() -> None:
    seen = parse_metrics(PAGE)
    assert not isinstance(seen, View)
    assert sorted(name.partition("{")[0] for name in seen) == [
        "vllm:generation_tokens_total",
        "vllm:kv_cache_usage_perc",
        "vllm:num_requests_running",
        "vllm:num_requests_waiting",
        "vllm:prompt_tokens_total",
    ]


def test_a_page_without_one_of_them_is_blind() -> None:
    assert parse_metrics(PAGE.replace("kv_cache_usage_perc", "gpu_cache_usage_perc")) is View.BLIND
    assert parse_metrics("") is View.BLIND


class Clock:
    """A wall clock to set."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def test_the_budget_survives_the_guard_and_renews_after_a_day(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "restarts.json"
    first = Budget(path, 2, clock)
    first.spend()
    clock.now += 3600
    first.spend()
    assert first.left == 0
    again = Budget(path, 2, clock)
    assert again.left == 0
    clock.now += 23 * 3600 + 1
    assert again.left == 1
    clock.now += 3600
    assert again.left == 2


def test_a_clock_set_back_does_not_renew_the_budget(tmp_path: Path) -> None:
    clock = Clock()
    budget = Budget(tmp_path / "restarts.json", 1, clock)
    budget.spend()
    clock.now -= 10 * 86400
    assert budget.left == 0


@pytest.mark.parametrize("text", ["", "{", "{}x", '["yesterday"]', "[null]", "3"])
def test_an_unreadable_budget_allows_nothing_and_says_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "restarts.json"
    path.write_text(text, encoding="utf-8")
    budget = Budget(path, 3)
    assert budget.left == 0
    assert str(path) in budget.problem and "Remedy" in budget.problem


def test_a_budget_that_cannot_be_written_counts_in_memory(tmp_path: Path) -> None:
    budget = Budget(tmp_path / "no such folder" / "restarts.json", 1)
    with pytest.raises(OSError, match="No such file"):
        budget.spend()
    assert budget.left == 0


def test_what_people_said_is_not_kept() -> None:
    log = (
        "INFO Received request cmpl-1: prompt: 'my secret', params: Sampling(n=1), prompt_token_ids: [1]\n"
        "INFO Generated response cmpl-1: output: 'your secret', output_token_ids: [2]\n"
        '{"messages": [{"role": "user", "content": "the secret"}]}\n'
        "ValidationError: input_value='a secret', input_type=str\n"
        '(APIServer pid=1) INFO:     172.17.0.1:55130 - "GET /metrics HTTP/1.1" 200 OK\n'
        "INFO Engine 000: Avg prompt throughput: 3.0 tokens/s, Running: 1 reqs\n"
    )
    kept = evidence.redact(log)
    assert "secret" not in kept and "/metrics" not in kept
    assert "Avg prompt throughput: 3.0 tokens/s, Running: 1 reqs" in kept
    assert "Received request cmpl-1" in kept


def test_endless_lines_are_cut() -> None:
    assert len(evidence.redact("x" * 10_000)) == evidence.LINE_LIMIT


def test_a_stopped_process_is_seen_with_its_tree() -> None:
    # the child only has to be there: it is killed below, long before its minute is over
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as child:
        try:
            subprocess.run(["kill", "-STOP", str(child.pid)], check=True)
            time.sleep(0.2)
            assert child.pid in process_tree(os.getpid())
            text = describe_process(child.pid)
        finally:
            child.kill()
    assert "State T (stopped)" in text
    assert "time.sleep" not in text  # no command line
    assert "No such" in describe_process(2**22 + 1)


def test_processor_time_is_that_of_the_descendants() -> None:
    # the parent idles, its child burns; both are killed below
    burn = "import subprocess, sys, time\n"
    burn += "subprocess.Popen([sys.executable, '-c', 'while True: pass']); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", burn], start_new_session=True) as parent:
        try:
            time.sleep(0.5)
            before = consumed_below(parent.pid)
            time.sleep(1)
            after = consumed_below(parent.pid)
            os.killpg(parent.pid, signal.SIGSTOP)
            time.sleep(0.2)
            stopped = consumed_below(parent.pid)
            time.sleep(0.5)
            assert consumed_below(parent.pid) == stopped
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    assert 0.1 < after - before < 1.5
    with pytest.raises(ProcessLookupError, match="is gone"):
        consumed_below(parent.pid)


def test_an_incident_is_kept_within_limits_and_the_oldest_go(tmp_path: Path) -> None:
    config = Config(
        model="m",
        engine_port=9,  # nothing listens
        state_dir=tmp_path,
        incidents_kept=2,
        pid_command=("sh", "-c", "exit 3"),
        evidence_commands={"long.log": ("sh", "-c", "seq 100000; echo the end")},
    )
    for day in (1, 2, 3):
        (tmp_path / f"incidents/2020-01-0{day}T00-00-00Z").mkdir(parents=True)
    folder = evidence.collect(config, Engine(config), {"reason": "a test"})
    kept = sorted(p.name for p in (tmp_path / "incidents").iterdir())
    assert kept == ["2020-01-03T00-00-00Z", folder.name]
    assert json.loads((folder / "verdict.json").read_text()) == {"reason": "a test"}
    assert "MemAvailable" in (folder / "meminfo.txt").read_text()
    assert "could not be had" in (folder / "metrics.txt").read_text()
    assert "exit 3" in (folder / "processes.txt").read_text()
    long = (folder / "long.log").read_text()
    assert len(long) <= evidence.FILE_LIMIT + 1 and long.rstrip().endswith("the end")


def test_a_command_that_hangs_is_given_up() -> None:
    with pytest.raises(OSError, match=r"sleep: no end after 0\.2 s"):
        run(["sleep", "5"], timeout=0.2)


def written(tmp_path: Path, **values: object) -> Path:
    path = tmp_path / "guard.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_settings_are_read_with_their_kinds(tmp_path: Path) -> None:
    config = load(
        written(
            tmp_path,
            model="/models/x",
            judgement={"probe_timeout_s": 20, "restarts_per_day": 0},
            state_dir="/somewhere",
            restart_commands=[["true"]],
            evidence_commands={"a.log": ["echo", "a"]},
        )
    )
    assert config.judgement == Judgement(probe_timeout_s=20, restarts_per_day=0)
    assert config.state_dir == Path("/somewhere")
    assert config.restart_commands == (("true",),)
    assert config.evidence_commands == {"a.log": ("echo", "a")}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "model is missing"),
        ({"model": 3}, "model is 3. Rule: a string"),
        ({"model": "m", "modle": "m"}, "modle is no setting. Remedy: use model"),
        ({"model": "m", "judgement": {"quiet": 3}}, "judgement: quiet is no setting. Remedy: use quiet_s"),
        ({"model": "m", "judgement": []}, "judgement is []. Rule: a JSON object"),
        ({"model": "m", "judgement": {"poll_s": 0}}, "poll_s is 0. Rule: a positive number"),
        ({"model": "m", "judgement": {"restarts_per_day": -1}}, "restarts_per_day is -1"),
        ({"model": "m", "judgement": {"restarts_per_day": 1.5}}, "restarts_per_day is 1.5"),
        ({"model": "m", "engine_port": "8000"}, "engine_port is '8000'"),
        ({"model": "m", "engine_port": True}, "engine_port is True"),
        ({"model": "m", "pid_command": "docker"}, "pid_command is 'docker'. Rule: a list of strings"),
        ({"model": "m", "evidence_commands": []}, "evidence_commands is []. Rule: a JSON object"),
        ({"model": "m", "restart_commands": []}, "restart_commands is []. Rule: a list of commands"),
        ({"model": "m", "evidence_commands": {"a": []}}, "evidence_commands.a is []"),
        ({"model": "m", "restart_commands": ["true"]}, "restart_commands is 'true'"),
    ],
)
def test_bad_settings_name_key_and_rule(tmp_path: Path, values: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(written(tmp_path, **values))
    assert says in str(refused.value) and "guard.json" in str(refused.value)
