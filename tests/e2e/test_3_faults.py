"""It answers again with no hand on it: reboot, restart of dockerd, death of the engine core."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.play import BIN
from tests.e2e.test_1_answers import ask
from tests.e2e.tunnel import Tunnel
from tests.lab.api import Lab
from tests.speech import librivox

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
COMPLETION = (
    "curl -sf -m 60 http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' -d "
    "'" + json.dumps({"model": "/models/mistral-7b", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}) + "'"
)  # fmt: skip


def wait_for_answer(lab: Lab, limit: float = 240) -> float:
    """Seconds until a completion succeeds on the host; fails after ``limit``."""
    began = time.monotonic()
    while time.monotonic() - began < limit:
        if lab.ssh("spark1", ["sh", "-c", COMPLETION], check=False).returncode == 0:
            return round(time.monotonic() - began, 1)
        time.sleep(1)
    state = lab.ssh(
        "spark1", ["systemctl", "status", "--no-pager", "-n", "30", "vllm", "voicebot", "docker"], check=False
    )
    pytest.fail(f"no completion within {limit:.0f} s\n{state.stdout}")


def speaks(lab: Lab, tmp_path: Path) -> None:
    lab.ssh(
        "spark1",
        ["sh", "-c", "for i in $(seq 60); do curl -sf http://127.0.0.1:8080/health && break; sleep 1; done"],
        check=False,
    )
    with Tunnel(lab, "spark1", 8080) as url:
        assert "young man" in ask(url, librivox()[1].path, tmp_path)["transcript"].lower()


def test_sigkill_of_the_engine_core(
    lab: Lab, sh: Sh, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    wait_for_answer(lab)
    before = sh("docker inspect -f '{{.State.StartedAt}}' vllm")
    assert sh("pkill -KILL -f '[E]ngineCore' && echo killed").strip() == "killed"
    time.sleep(3)
    record_property("core_killed_to_answer_s", wait_for_answer(lab))
    assert sh("docker inspect -f '{{.State.StartedAt}}' vllm") != before, "the container was started again"
    speaks(lab, tmp_path)


def test_restart_of_dockerd(
    lab: Lab, sh: Sh, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    before = sh("systemctl show -p MainPID --value docker")
    sh("systemctl restart docker")
    assert sh("systemctl show -p MainPID --value docker") != before
    record_property("dockerd_restart_to_answer_s", wait_for_answer(lab))
    speaks(lab, tmp_path)


def test_reboot(lab: Lab, sh: Sh, tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    before = sh("cat /proc/1/stat").split()[21]
    lab.reboot("spark1")
    record_property("reboot_to_answer_s", wait_for_answer(lab))
    assert sh("cat /proc/1/stat").split()[21] != before, "systemd is a new process"
    speaks(lab, tmp_path)


def test_engine_down_is_said_within_two_seconds(lab: Lab, sh: Sh, service: str, tmp_path: Path) -> None:
    sh("systemctl stop vllm")
    try:
        began = time.monotonic()
        told = subprocess.run(
            [BIN / "voicebot", "ask", librivox()[1].path, "--url", service, "--out", tmp_path / "a.wav"],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        seconds = time.monotonic() - began
    finally:
        sh("systemctl reset-failed vllm; systemctl start vllm")
    text = told.stdout + told.stderr
    assert told.returncode != 0
    assert "engine" in text.lower() and str(librivox()[1].path) in text, text
    assert seconds < 2.0, f"{seconds:.1f} s\n{text}"
    wait_for_answer(lab)
