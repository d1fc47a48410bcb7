"""An engine that fails safely: a start without memory is held and counted, what somebody started by hand is recognised,
the container is made anew for what it runs and for nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.play import play
from tests.e2e.test_3_faults import wait_for_answer
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
CONFIG = "/etc/vllm-guard.json"
DROP_IN = "/run/systemd/system/vllm.service.d/quick.conf"
GIB = 1024**3


def container(sh: Sh) -> str:
    return sh("docker inspect -f '{{.Id}} {{.State.StartedAt}}' vllm").strip()


def show(sh: Sh, *properties: str) -> list[str]:
    lines = sh(f"systemctl show vllm {' '.join(f'-p {name}' for name in properties)}").splitlines()
    values = dict(line.split("=", 1) for line in lines)
    return [values[name] for name in properties]


def until(sh: Sh, line: str, seconds: int) -> None:
    """Wait on the host until a shell line succeeds."""
    sh(
        f"for i in $(seq {seconds * 2}); do if {line}; then exit 0; fi; sleep 0.5; done; systemctl status vllm; exit 1"
    )


def test_only_what_the_engine_runs_makes_a_new_container(lab: Lab, sh: Sh) -> None:
    """How long it may take to stop, and what its start waits for, is the unit's affair. (The run that replaces the
    engine started by hand, below, sets both back.)"""
    before = container(sh)
    other = {"vllm_stop_timeout": 31, "vllm_gate_timeout": 299}
    run = play("site.yml", "--tags", "vllm", extra=other)
    assert run.code == 0, run.output[-4000:]
    assert any("Install program" in name for name in run.changed()), run.changed()
    assert not any("container" in name for name in run.changed()), run.changed()
    assert container(sh) == before
    assert "--time 31" in sh("systemctl cat vllm")
    assert show(sh, "NeedDaemonReload") == ["no"]


def test_memory_is_capped_and_what_must_outlive_it_is_protected(sh: Sh) -> None:
    limits = json.loads(sh("docker inspect -f '{{json .HostConfig}}' vllm"))
    total = int(sh("awk '/^MemTotal/ {print $2 * 1024}' /proc/meminfo | xargs printf %.0f"))
    assert 2 * GIB < limits["Memory"] <= total - 4 * GIB + (1 << 20)
    assert limits["MemorySwap"] == limits["Memory"]
    assert limits["OomScoreAdj"] == 500
    pid = sh("docker inspect -f '{{.State.Pid}}' vllm").strip()
    assert sh(f"cat /proc/{pid}/oom_score_adj").strip() == "500"
    assert sh("systemctl show -P MemoryMin ssh systemd-journald system.slice").split() == [
        str(64 << 20), str(64 << 20), str(256 << 20),
    ]  # fmt: skip
    assert sh("systemctl show -P OOMScoreAdjust systemd-journald").strip() == "-900"
    assert int(sh("cat /proc/$(systemctl show -P MainPID ssh)/oom_score_adj")) <= 0
    assert json.loads(sh(f"cat {CONFIG}"))["gate"]["needed_bytes"] > 0
    assert "memory gate passed" in sh("journalctl -u vllm --no-pager -o cat -g 'memory gate'")


@pytest.fixture
def greedy(sh: Sh) -> Iterator[None]:
    """The plan says that the engine needs more memory than there is; a start waits four seconds for it."""
    kept = sh(f"cat {CONFIG}")
    settings = json.loads(kept)
    settings["gate"] = {"needed_bytes": 1 << 50, "claimed_bytes": 1 << 50, "wait_s": 4}
    sh(f"systemctl stop vllm; cat > {CONFIG} <<'EOF'\n{json.dumps(settings)}\nEOF")
    yield
    sh(
        f"cat > {CONFIG} <<'EOF'\n{kept.rstrip()}\nEOF\nrm -f {DROP_IN}; systemctl daemon-reload; systemctl stop vllm"
    )


def refused_starts(sh: Sh, starts: int, limit: int) -> None:
    """Start the unit; it is held and refused so often, then left alone."""
    before = container(sh)
    mark = sh("date '+%Y-%m-%d %H:%M:%S'").strip()
    sh("systemctl reset-failed vllm; systemctl start --no-block vllm")
    held = "systemctl status vllm | tr '\\n' ' ' | grep -q 'activating (start-pre).*memory gate holds the start: needs 1048576.00 GiB'"
    until(sh, held, 15)
    until(sh, """curl -s http://127.0.0.1:8001/state | grep -q '"state": "loading"'""", 15)
    until(sh, "systemctl is-failed -q vllm", limit)
    said = sh(f"journalctl -u vllm --since '{mark}' -o cat --no-pager")
    assert said.count("memory gate refused the start") == starts, said
    assert "Start request repeated too quickly" in said
    assert container(sh) == before, "never started"
    until(sh, "curl -s http://127.0.0.1:8001/state | grep -q given_up", 15)
    assert json.loads(sh("curl -s http://127.0.0.1:8001/state"))["restarts"] == 0


def test_too_little_memory_is_held_and_ends_without_a_loop(lab: Lab, sh: Sh, greedy: None) -> None:
    """With three starts instead of six, close to each other; the unit is the real one."""
    wrote = "[Unit]\\nStartLimitBurst=3\\n[Service]\\nRestartSec=1\\nRestartMaxDelaySec=2\\n"
    sh(f"mkdir -p $(dirname {DROP_IN}); printf '{wrote}' > {DROP_IN}; systemctl daemon-reload; "
       "systemctl restart vllm-guard")  # fmt: skip
    refused_starts(sh, 3, 60)


@pytest.mark.long
def test_six_starts_with_growing_delays_and_then_none(lab: Lab, sh: Sh, greedy: None) -> None:
    sh("systemctl restart vllm-guard")
    refused_starts(sh, 6, 240)


def test_an_engine_started_by_hand_is_named_and_on_request_replaced(lab: Lab, sh: Sh) -> None:
    """As the tutorial starts it. The engine was stopped, or given up, before: the same run has it back."""
    sh("systemctl stop vllm")
    image = sh("docker inspect -f '{{.Config.Image}}' vllm").strip()
    sh(
        f"docker run -d --name by-hand --restart unless-stopped --gpus all -p 8000:8000 {image} vllm serve /models/mistral-7b"
    )
    try:
        refused = play("playbooks/preflight.yml")
        assert refused.code != 0 and refused.changed() == []
        for word in (
            "container by-hand",
            "vllm serve on port 8000",
            "vllm_replace_handmade",
            "docker stop by-hand",
        ):
            assert word in refused.messages(), refused.messages()
        replaced = play("site.yml", "--tags", "vllm", extra={"vllm_replace_handmade": True})
        assert replaced.code == 0, replaced.output[-4000:]
        state = sh(
            "docker inspect -f '{{.State.Running}} {{.HostConfig.RestartPolicy.Name}}' by-hand"
        ).split()
        assert state == ["false", "no"], "kept, but stays down"
    finally:
        sh("docker rm -f by-hand")
    wait_for_answer(lab)


@pytest.mark.long
def test_an_engine_that_is_stopped_has_not_failed_even_if_it_had_to_be_killed(lab: Lab, sh: Sh) -> None:
    for frozen in (False, True):
        if frozen:
            sh("docker kill --signal STOP vllm")
        sh("systemctl stop vllm")
        assert show(sh, "ActiveState", "Result") == ["inactive", "success"]
        assert sh("docker inspect -f '{{.State.ExitCode}}' vllm").strip() in (
            ("137",) if frozen else ("0", "143")
        )
        sh("systemctl reset-failed vllm; systemctl start vllm", check=False)
        wait_for_answer(lab)


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [{"vllm_args": {"max-num-seqs": 4}}, {"vllm_environment": {"LOUDNESS": "11"}}],
    ids=["argv", "environment"],
)
def test_what_the_engine_runs_makes_a_new_container(lab: Lab, sh: Sh, change: dict[str, object]) -> None:
    for extra in (change, None):
        before = container(sh).split()[0]
        run = play("site.yml", "--tags", "vllm", extra=extra)
        assert run.code == 0, run.output[-4000:]
        assert container(sh).split()[0] != before
        names = [name.split(" | ")[-1] for name in run.changed()]
        assert names.index("Stop the engine before its container is replaced") < names.index(
            "Create the container"
        )
    assert play("site.yml", "--tags", "vllm").changed() == []
