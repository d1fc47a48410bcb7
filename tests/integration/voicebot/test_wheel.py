"""A release as a host gets it: wheels by the lock, installed into a fresh environment without a network."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests import speech
from tests.integration.voicebot.conftest import Service
from voicebot.ask import sample

pytestmark = pytest.mark.lab

ROOT = Path(__file__).parents[3]
SCRIPTS = ROOT / "roles/python_venv/files"


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = run(
        sys.executable, SCRIPTS / "wheelhouse.py", "build", "--lock", ROOT / "requirements/voicebot.txt",
        "--project", ROOT, "--python", platform.python_version(), "--arch", platform.machine(),
        "--cache", tmp_path_factory.mktemp("wheelhouse"),
    )  # fmt: skip
    return Path(json.loads(built)["archive"])


def test_the_wheel_holds_code_data_types_and_the_command(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        [name] = [name for name in tar.getnames() if name.startswith("spark_voicebot-")]
        tar.extract(name, tmp_path, filter="data")
    with zipfile.ZipFile(tmp_path / name) as wheel:
        names = set(wheel.namelist())
        [entry] = [name for name in names if name.endswith("entry_points.txt")]
        assert "voicebot = voicebot.cli:main" in wheel.read(entry).decode()
    kinds = {".py", ".yml", ".html", ".css", ".js"}
    files = [path for path in (ROOT / "src").rglob("*") if path.suffix in kinds]
    assert {str(path.relative_to(ROOT / "src")) for path in files} < names
    assert {"voicebot/py.typed", "voicebot/data/question.wav", "voicebot/data/question.txt"} < names


def test_it_hears_from_a_fresh_environment(archive: Path, service: Service, tmp_path: Path) -> None:
    run(sys.executable, SCRIPTS / "install_release.py", archive, tmp_path / "release", "voicebot")
    voicebot = tmp_path / "release/bin/voicebot"
    assert run(voicebot, "--version").startswith("voicebot 0.")
    run(tmp_path / "release/bin/python", "-m", "pip", "check")
    heard = run(voicebot, "transcribe", "--config", service.config, sample()[0])
    assert speech.word_error_rate(sample()[1], heard) == 0
