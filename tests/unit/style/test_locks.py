"""The lock files: names, versions and hashes, for every Python and architecture that we say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def requirements(lock: Path, **environment: str) -> list[Requirement]:
    text = re.sub(r"\\\n\s*", "", lock.read_text(encoding="utf-8"))
    found = [Requirement(line.split(" --hash")[0]) for line in text.splitlines() if line.strip()]
    return [r for r in found if r.marker is None or r.marker.evaluate(environment)]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.stem)
def test_lock_is_pinned_and_hashed_and_holds_no_url(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    for entry in re.sub(r"\\\n\s*", "", text).splitlines():
        assert re.match(r"[a-z0-9._-]+==[^ ]+( ;.*)? --hash=sha256:[0-9a-f]{64}", entry), entry


def test_service_is_a_small_tree_on_a_spark() -> None:
    spark = {"platform_machine": "aarch64", "sys_platform": "linux", "python_version": "3.12"}
    spark["python_full_version"] = "3.12.3"
    assert 20 < len(requirements(ROOT / "requirements/voicebot.txt", **spark)) <= 45


def test_locks_agree_with_each_other() -> None:
    everything = {r.name: str(r.specifier) for r in requirements(ROOT / "requirements/dev.txt")}
    for r in requirements(ROOT / "requirements/voicebot.txt"):
        assert everything[r.name] == str(r.specifier), r


@pytest.mark.long
@pytest.mark.parametrize(
    ("lock", "python", "platform"),
    [("dev", v, "x86_64") for v in ("3.11", "3.12", "3.13")]
    + [("voicebot", v, "aarch64") for v in ("3.12", "3.13")],
)
def test_lock_resolves_to_wheels(lock: str, python: str, platform: str, tmp_path: Path) -> None:
    tags = [f"--platform=manylinux_2_28_{platform}", f"--platform=manylinux_2_17_{platform}"]
    tags += [f"--platform=manylinux2014_{platform}", f"--platform=linux_{platform}"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--no-deps",
         "--require-hashes", "--only-binary=:all:", f"--python-version={python}", *tags,
         f"--target={tmp_path}", f"--requirement={ROOT / f'requirements/{lock}.txt'}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
