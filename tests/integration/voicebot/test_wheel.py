"""The wheel holds everything that the service needs beside its dependencies."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_data_and_types_are_inside(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md"):
        if (ROOT / name).exists():
            (source / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(tmp_path),
        str(source),
    ]
    subprocess.run(command, check=True)
    [wheel] = tmp_path.glob("spark_voicebot-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        [entry] = [name for name in names if name.endswith("entry_points.txt")]
        assert "voicebot = voicebot.cli:main" in archive.read(entry).decode()
    modules = {f"voicebot/{path.name}" for path in (ROOT / "src/voicebot").glob("*.py")}
    assert modules < names
    assert {"voicebot/py.typed", "voicebot/data/question.wav", "voicebot/data/question.txt"} < names
