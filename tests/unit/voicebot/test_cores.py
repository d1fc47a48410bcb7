"""Fast cores out of a sysfs, and threads that stay on them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from voicebot import cores

CAPACITY, FREQUENCY = "cpu_capacity", "cpufreq/cpuinfo_max_freq"


def sysfs(folder: Path, source: str, values: list[int]) -> Path:
    for number, value in enumerate(values):
        path = folder / f"cpu{number}" / source
        path.parent.mkdir(parents=True)
        path.write_text(f"{value}\n")
    (folder / "cpufreq").mkdir()
    (folder / f"cpu{len(values)}").mkdir()  # offline
    return folder


@pytest.mark.parametrize(
    ("source", "values", "expected"),
    [
        (CAPACITY, [718] * 5 + [997] * 5 + [718] * 5 + [1024] * 5, {*range(5, 10), *range(15, 20)}),
        (FREQUENCY, [2_808_000] * 2 + [3_900_000, 4_004_000], {2, 3}),
        (FREQUENCY, [3_000_000] * 4, set()),
        (CAPACITY, [1024] * 4, set()),
        (CAPACITY, [], set()),
    ],
)
def test_fast(tmp_path: Path, source: str, values: list[int], expected: set[int]) -> None:
    assert cores.fast(sysfs(tmp_path, source, values)) == expected


def test_threads_begun_inside_stay_there() -> None:
    before = os.sched_getaffinity(0)
    core = min(before)
    seen: list[set[int]] = []
    go = threading.Event()

    def look() -> None:
        go.wait(60)
        seen.append(os.sched_getaffinity(0))

    with cores.pinned(frozenset({core, 100_000})):
        thread = threading.Thread(target=look)
        thread.start()
    assert os.sched_getaffinity(0) == before
    go.set()
    thread.join()
    assert seen == [{core}]


def test_none_of_them_is_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.sched_getaffinity(0)
    with cores.pinned(frozenset({100_000})):
        assert os.sched_getaffinity(0) == before


def test_a_kernel_that_forbids_it(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def forbidden(_pid: int, _cores: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setaffinity", forbidden)
    with cores.pinned(frozenset(os.sched_getaffinity(0))):
        pass
    assert "not pinned" in caplog.text
