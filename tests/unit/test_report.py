"""The JSON report of a test run, and the exit code of its reader."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests import report

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest

def test_good(record_property):
    record_property("wer", 0.05)
    record_property("where", pytest.Function)  # not a JSON value

def test_bad():
    assert False

@pytest.fixture
def broken():
    raise OSError

def test_error(broken): ...

@pytest.mark.skip
def test_skipped(): ...
"""


def run(folder: Path, selected: str) -> Path:
    (folder / "test_it.py").write_text(TESTS)
    path = folder / "reports/r.json"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "--rootdir", str(folder)]
    subprocess.run(
        [*command, "-k", selected, "--report", str(path), str(folder)], cwd=ROOT, capture_output=True
    )
    return path


def test_it_holds_outcomes_durations_and_figures(tmp_path: Path) -> None:
    path = run(tmp_path, "test")
    found = json.loads(path.read_text())
    tests = {name.split("::")[-1]: entry for name, entry in found["tests"].items()}
    assert {name: entry["outcome"] for name, entry in tests.items()} == {
        "test_good": "passed", "test_bad": "failed", "test_error": "error", "test_skipped": "skipped"
    }  # fmt: skip
    assert found["outcomes"] == {"passed": 1, "failed": 1, "error": 1, "skipped": 1}
    assert tests["test_good"]["figures"]["wer"] == 0.05
    assert all(entry["seconds"] >= 0 for entry in tests.values())
    assert found["machine"]["cores"] >= 1
    assert report.main([str(path)]) == 1


def test_its_reader_is_content_only_with_passed_tests(tmp_path: Path) -> None:
    assert report.main([str(run(tmp_path, "test_good"))]) == 0
    assert report.main([str(run(tmp_path, "no_such_test"))]) == 1, "a report without a test proves nothing"
