"""The start gate: when it passes, holds, drops the page cache, gives up; what it clears away and spares."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from vllm_guard import debris, gate
from vllm_guard.config import ConfigError, Gate, load
from vllm_guard.debris import Container, orphans, parse_container, segments
from vllm_guard.gate import Answer

FILES = Path(__file__).parents[3] / "roles/vllm/files"
STATE = "%s %s 2026-11-01T10:00:00.123456789Z 2026-11-01T11:00:00.5Z"


@pytest.mark.parametrize(
    ("needed", "claimed", "available", "free", "dropped", "said"),
    [
        (10, 10, 20, 15, False, Answer.PASS),
        (10, 0, 9, 9, False, Answer.HOLD),
        (10, 0, 9, 9, True, Answer.HOLD),
        (10, 10, 20, 5, False, Answer.DROP),
        (10, 10, 20, 5, True, Answer.PASS),  # once; the engine sees for itself
        (10, 90, 95, 40, False, Answer.DROP),  # seed: 0.9 is claimed, less is needed
        (10, 90, 80, 40, False, Answer.PASS),  # dropping would not do: it is not done
        (0, 0, 1, 1, False, Answer.PASS),  # without a plan nothing is asked
    ],
)
def test_what_the_gate_answers(
    needed: int, claimed: int, available: int, free: int, dropped: bool, said: Answer
) -> None:
    seen = {"MemAvailable": available, "MemFree": free}
    assert gate.answer(Gate(needed_bytes=needed, claimed_bytes=claimed), seen, dropped) is said


def test_the_page_cache_is_dropped_once_and_only_then() -> None:
    drops: list[int] = []
    seen = {"MemAvailable": 20, "MemFree": 5}
    assert gate.wait(Gate(needed_bytes=10), lambda: seen, lambda: drops.append(1))
    assert drops == [1]
    assert gate.wait(Gate(needed_bytes=4), lambda: seen, lambda: drops.append(1))
    assert drops == [1]


def test_it_waits_for_memory_and_then_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LOOK_EVERY_S", 0.01)
    looks = iter([5, 5, 12])
    assert gate.wait(Gate(needed_bytes=10), lambda: {"MemAvailable": next(looks), "MemFree": 12})


def test_it_gives_up_at_its_bound() -> None:
    began = time.monotonic()
    assert not gate.wait(Gate(needed_bytes=10, wait_s=1), lambda: {"MemAvailable": 5, "MemFree": 5})
    assert time.monotonic() - began >= 1


def test_the_real_meminfo_is_read() -> None:
    seen = gate.memory()
    assert 0 < seen["MemFree"] <= seen["MemTotal"] and 0 < seen["MemAvailable"] <= seen["MemTotal"]


def run_gate(folder: Path, running: bool, **section: Any) -> subprocess.CompletedProcess[str]:
    config = folder / "guard.json"
    state = ["echo", STATE % ("f" * 64, str(running).lower())]
    config.write_text(
        json.dumps({"model": "m", "container_command": state, "gate": section}), encoding="utf-8"
    )
    return subprocess.run(
        ["/usr/bin/python3", "-B", "-m", "vllm_guard.gate", str(config)],
        env={"PYTHONPATH": str(FILES), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("running", "needed", "code", "said"),
    [
        (False, 1 << 20, 0, "<6>memory gate passed: needs 0.00 GiB, available "),
        (False, 1 << 60, 1, "<3>memory gate refused the start: needs 1073741824.00 GiB, available "),
        (True, 1 << 60, 0, ""),  # the container has its memory already
    ],
)
def test_the_gate_as_systemd_runs_it(
    tmp_path: Path, running: bool, needed: int, code: int, said: str
) -> None:
    done = run_gate(tmp_path, running, needed_bytes=needed, wait_s=1)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("wrong", [{"needed_bytes": -1}, {"needed_bytes": 1.5}, {"wait": 3}, "much"])
def test_wrong_settings_are_refused(tmp_path: Path, wrong: Any) -> None:
    path = tmp_path / "guard.json"
    path.write_text(json.dumps({"model": "m", "gate": wrong}), encoding="utf-8")
    with pytest.raises(ConfigError, match="gate"):
        load(path)


def test_dockers_words_about_a_container_are_understood() -> None:
    container = parse_container(STATE % ("abc", "false"))
    assert container == Container("abc", False, 1793527200.0, 1793530801.0)
    never = parse_container("abc false 0001-01-01T00:00:00Z 0001-01-01T00:00:00Z")
    assert never.ended < 0


@pytest.fixture
def shm(tmp_path: Path) -> Iterator[Path]:
    """A folder on the very file system, for maps and handles to be found by device and inode."""
    folder = Path("/dev/shm") / f"debris-{os.getpid()}"
    folder.mkdir()
    yield folder
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def test_only_what_the_ended_container_left_is_found(shm: Path) -> None:
    began, ended = 1000.0, 2000.0
    for name, mtime in {
        "psm_left": 1500, "sem.mp-left": 1500, "psm_before": 900, "psm_after": 2100, "database": 1500,
        "psm_mapped": 1500, "psm_open": 1500,
    }.items():  # fmt: skip
        (shm / name).write_bytes(b"x" * 4096)
        os.utime(shm / name, (mtime, mtime))
    (shm / "psm_link").symlink_to(shm / "database")
    with (shm / "psm_mapped").open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 4096, access=mmap.ACCESS_READ)
    with (shm / "psm_open").open("rb"):
        found = segments(began, ended, shm, os.getuid())
    mapped.close()
    assert [path.name for path in found] == ["psm_left", "sem.mp-left"]
    assert segments(began, ended, shm, os.getuid() + 1) == [], "another user's"


def test_a_process_is_an_orphan_by_its_cgroup_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = "0123abcd" * 8
    for pid, cgroup in {
        "11": f"0::/system.slice/docker-{identity}.scope\n",
        "12": "0::/user.slice\n",
    }.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cgroup").write_text(cgroup, encoding="utf-8")
    monkeypatch.setattr(debris, "PROC", tmp_path)
    assert orphans(identity) == [11]


def test_an_orphan_is_killed_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(debris, "orphans", lambda identity: [process.pid])
    said = debris.clear(Container("x", False, 0.0, 1.0))
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert said == [f"process {process.pid} of the ended container killed"]
