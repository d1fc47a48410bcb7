"""What all tests share: the JSON report, the lab's speech models, and human speech."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

import pytest

from tests import speech
from tests.lab import models, packages


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--report", type=Path, help="write outcomes, durations and measured figures as JSON")


class Report:
    """Collects each test's outcome and what it recorded with record_property."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.began = time.time()
        self.tests: dict[str, dict[str, Any]] = {}

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        entry = self.tests.setdefault(report.nodeid, {"outcome": "passed", "seconds": 0.0, "figures": {}})
        entry["seconds"] = round(entry["seconds"] + report.duration, 2)
        if report.outcome != "passed":
            entry["outcome"] = report.outcome if report.when == "call" or report.skipped else "error"
        entry["figures"].update({str(k): v for k, v in report.user_properties})

    @pytest.hookimpl
    def pytest_sessionfinish(self) -> None:
        outcomes = [t["outcome"] for t in self.tests.values()]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        report = {
            "seconds": round(time.time() - self.began, 1),
            "machine": {
                "cores": os.cpu_count(),
                "arch": platform.machine(),
                "python": platform.python_version(),
            },
            "outcomes": {name: outcomes.count(name) for name in sorted(set(outcomes))},
            "tests": self.tests,
        }
        self.path.write_text(json.dumps(report, indent=1, default=str), encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--report")
    if path and not hasattr(config, "workerinput"):  # xdist's workers hear of their own tests only
        config.pluginmanager.register(Report(path), "json-report")


@pytest.fixture(scope="session")
def speech_models() -> Path:
    """A folder with whisper-base and whisper-tiny.en; built first where the cache lacks them."""
    return models.built()[0]


@pytest.fixture(scope="session")
def human_speech() -> list[speech.Utterance]:
    """Five read sentences and what is said in them; the package is installed where it is missing."""
    packages.install_missing()
    return speech.librivox()
