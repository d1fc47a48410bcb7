"""Pruning: what goes, what stays, and that a kill in the middle leaves nothing that looks whole.

Models and voicebots lie in real directories; containers and images are Docker's, and tried end to end.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.release import Ledger
from plugins.modules import release_prune
from tests.unit.release.conftest import GATE, release

OLD, NEW, FOREIGN = "a" * 40, "c" * 40, "f" * 40


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Models OLD, NEW and one that nobody named; voicebots v1 to v4 and a half-installed one."""
    for revision in (OLD, NEW, FOREIGN):
        folder = tmp_path / "models/mistral-7b" / revision
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text("weights")
        folder.with_name(f"{revision}.json").write_text("{}")
    for name in ("v1", "v2", "v3", "v4", "killed"):
        (tmp_path / "voicebot/releases" / name / "bin").mkdir(parents=True)
    (tmp_path / "voicebot/current").symlink_to(tmp_path / "voicebot/releases/v4")
    monkeypatch.setattr(release_prune, "containers", lambda: [])
    monkeypatch.setattr(release_prune, "image_id", lambda reference: "")
    return tmp_path


def ledger(host: Path, *releases: dict[str, Any]) -> Ledger:
    book = Ledger(host / "ledger.json")
    for one in releases:
        book.confirm(one, {}, GATE)
    book.write()
    return book


def prune(host: Path, keep: int = 2, check: bool = False, **more: Any) -> dict[str, Any]:
    options = {"path": host / "ledger.json", "keep": keep, "model_root": host / "models"}
    return release_prune.run(options | {"service_root": host / "voicebot", "all": False} | more, check)


def models(host: Path) -> set[str]:
    return {path.name for path in (host / "models/mistral-7b").iterdir()}


def voicebots(host: Path) -> set[str]:
    return {path.name for path in (host / "voicebot/releases").iterdir()}


FOUR = [release("v1", OLD), release("v2", OLD), release("v3", NEW), release("v4", NEW)]


def test_what_no_kept_release_names_goes_and_nothing_else(host: Path) -> None:
    ledger(host, *FOUR)
    result = prune(host)
    assert result["changed"]
    assert models(host) == {NEW, f"{NEW}.json", FOREIGN, f"{FOREIGN}.json"}
    assert voicebots(host) == {"v3", "v4"}
    assert [e["release"]["voicebot"]["id"] for e in Ledger(host / "ledger.json").entries] == ["v3", "v4"]
    assert prune(host) == {"changed": False, "removed": [], "spared": []}


def test_a_revision_that_a_kept_release_shares_stays(host: Path) -> None:
    ledger(host, release("v1", OLD), release("v2", NEW), release("v3", OLD))
    prune(host)
    assert {OLD, NEW} <= models(host)


def test_current_and_previous_stay_whatever_their_age(host: Path) -> None:
    ledger(host, *FOUR, FOUR[0])  # rolled back to the first
    prune(host)
    assert voicebots(host) == {"v1", "v4"}
    assert {OLD, NEW} <= models(host)


def test_what_a_failed_attempt_was_made_of_goes(host: Path) -> None:
    book = ledger(host, release("v3", NEW), release("v4", NEW))
    book.fail(release("v2", OLD), "gate", "nonsense")
    book.write()
    assert f"model mistral-7b/{OLD}" in prune(host)["removed"]
    assert OLD not in models(host)
    assert Ledger(host / "ledger.json").data["failures"][0]["reason"] == "nonsense"


def test_a_model_that_a_running_container_mounts_stays(host: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mount = {"Source": str(host / "models/mistral-7b" / OLD)}
    running = {"Image": "x", "State": {"Running": True}, "Mounts": [mount]}
    monkeypatch.setattr(release_prune, "containers", lambda: [running])
    ledger(host, *FOUR)
    result = prune(host)
    assert f"model mistral-7b/{OLD}" in result["spared"] and OLD in models(host)
    assert len(Ledger(host / "ledger.json").entries) == 4, "not forgotten before it is gone"
    running["State"] = {"Running": False}
    assert f"model mistral-7b/{OLD}" in prune(host)["removed"]
    assert OLD not in models(host)


def test_a_voicebot_that_a_process_uses_stays(host: Path) -> None:
    ledger(host, *FOUR)
    script = host / "voicebot/releases/v1/bin/sleeper.py"
    script.write_text("import sys\nprint('up', flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout and process.stdout.readline() == "up\n"
        assert "voicebot v1" in prune(host)["spared"]
        assert process.stdin
        process.stdin.close()
    assert prune(host)["removed"] == ["voicebot v1"]


def test_what_a_link_names_stays(host: Path) -> None:
    (host / "voicebot/previous").symlink_to(host / "voicebot/releases/v2")
    ledger(host, *FOUR)
    prune(host)
    assert voicebots(host) == {"v2", "v3", "v4"}


def test_check_mode_tells_and_removes_nothing(host: Path) -> None:
    ledger(host, *FOUR)
    before = (host / "ledger.json").read_bytes(), models(host), voicebots(host)
    told = prune(host, check=True)
    assert ((host / "ledger.json").read_bytes(), models(host), voicebots(host)) == before
    assert told["changed"] and told["removed"] == prune(host)["removed"]


def test_without_a_ledger_nothing_is_removed(host: Path) -> None:
    before = models(host), voicebots(host)
    assert prune(host) == {"changed": False, "removed": [], "spared": []}
    assert (models(host), voicebots(host)) == before


def test_the_rest_of_a_killed_removal_goes(host: Path) -> None:
    ledger(host, *FOUR)
    folder = host / "models/mistral-7b" / OLD
    folder.rename(folder.with_name(f".gone-{OLD}"))
    prune(host)
    assert not list(host.glob("models/*/.gone-*"))
