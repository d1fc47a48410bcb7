"""A recorded release of the voicebot is that release or none: never what today's sources happen to make."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.unit.contract.conftest import ROOT

WHEELHOUSE = ROOT / "roles/python_venv/files/wheelhouse.py"


def ask(verb: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    lock = folder / "lock.txt"
    lock.write_text("one==1.0 --hash=sha256:" + "0" * 64 + "\n")
    inputs = ["--lock", str(lock), "--python", "3.12.3", "--arch", "x86_64", "--cache", f"{folder}/cache"]
    argv = [sys.executable, str(WHEELHOUSE), verb, *inputs, *more]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_a_known_id_is_the_key(tmp_path: Path) -> None:
    assert json.loads(ask("key", tmp_path, "--is", "0123456789ab").stdout) == {"id": "0123456789ab"}
    assert json.loads(ask("key", tmp_path).stdout)["id"] != "0123456789ab"


def test_sources_that_make_another_release_are_refused(tmp_path: Path) -> None:
    told = ask("build", tmp_path, "--is", "0123456789ab")
    assert told.returncode == 1 and told.stdout == ""
    own = json.loads(ask("key", tmp_path).stdout)["id"]
    for word in ("0123456789ab", own, "Rule: ", "Remedy: check out the commit"):
        assert word in told.stderr
    assert not list((tmp_path / "cache").glob("*.tar"))


def test_an_archive_in_the_cache_is_taken(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    manifest = tmp_path / "manifest.json"
    manifest.write_text('{"wheels": {}}')
    archive = tmp_path / "cache/wheelhouse-0123456789ab.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(manifest, arcname="manifest.json")
    told = json.loads(ask("build", tmp_path, "--is", "0123456789ab").stdout)
    assert (told["id"], told["archive"], told["built"]) == ("0123456789ab", str(archive), False)
