"""The module release_ledger: what it confirms, what it refuses, what check mode leaves alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.release import Ledger, LedgerError, release_id
from plugins.modules import release_ledger
from tests.unit.release.conftest import GATE, release


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host on which the voicebot's release v1 serves, and v2 lies ready."""
    for name in ("v1", "v2"):
        folder = tmp_path / "voicebot/releases" / name
        folder.mkdir(parents=True)
        (folder / ".complete").write_text(json.dumps({"wheels": {f"{name}.whl": "0" * 64}}))
    (tmp_path / "voicebot/current").symlink_to(tmp_path / "voicebot/releases/v1")
    return tmp_path


def wired(**more: Any) -> dict[str, Any]:
    """A release as the playbooks wire it: the voicebot's id is not known yet."""
    made = release(**more)
    del made["voicebot"]["id"]
    return made


def run(host: Path, state: str, check: bool = False, **more: Any) -> dict[str, Any]:
    given = {
        "path": host / "ledger.json",
        "state": state,
        "service_root": host / "voicebot",
        "service_id": "",
    }
    given |= {"gate": GATE, "target": "", "find": False, "keep": 2, "task": "", "reason": "", "since": 0}
    return release_ledger.run(given | {"release": {}, "units": []} | more, check)


def test_a_release_is_confirmed_once(host: Path) -> None:
    first = run(host, "confirmed", release=wired())
    assert first["changed"] and not first["same"]
    entry = Ledger(host / "ledger.json").current
    assert entry and entry["wheels"] == {"v1.whl": "0" * 64} and entry["release"]["voicebot"]["id"] == "v1"
    before = (host / "ledger.json").stat()
    again = run(host, "confirmed", release=wired())
    assert again["same"] and not again["changed"]
    assert (host / "ledger.json").stat() == before


def test_a_voicebot_that_does_not_serve_is_not_confirmed(host: Path) -> None:
    with pytest.raises(LedgerError, match="current names v1, and the release has v2"):
        run(host, "confirmed", release=wired(), service_id="v2")
    assert not (host / "ledger.json").exists()


def test_check_mode_tells_of_the_release_to_come_and_writes_nothing(host: Path) -> None:
    run(host, "confirmed", release=wired())
    assert run(host, "read", check=True, release=wired(), service_id="v2")["same"] is False
    told = run(host, "confirmed", check=True, release=wired(), service_id="v2")
    assert told["changed"]
    assert [e["release"]["voicebot"]["id"] for e in Ledger(host / "ledger.json").entries] == ["v1"]


def test_wheels_that_nobody_vouches_for_are_not_confirmed(host: Path) -> None:
    (host / "voicebot/releases/v1/.complete").unlink()
    with pytest.raises(LedgerError, match="does not tell the wheels"):
        run(host, "confirmed", release=wired())


def test_a_failed_attempt_and_the_way_back_are_remembered(host: Path) -> None:
    run(host, "confirmed", release=wired())
    failed = run(
        host, "failed", release=wired(model="c" * 40), service_id="v2", task="gate", reason="nonsense"
    )
    assert failed["current"]["release"]["voicebot"]["id"] == "v1" and not failed["same"]
    restored = run(host, "restored")
    [attempt] = Ledger(host / "ledger.json").data["failures"]
    assert attempt["reason"] == "nonsense" and attempt["restored"] == failed["current"]["id"]
    assert attempt["downtime_s"] == restored["attempt"]["downtime_s"]
    assert attempt["id"] == release_id(release("v2", "c" * 40))


def test_a_switch_is_open_from_its_beginning_to_its_gate(host: Path) -> None:
    assert run(host, "begun", release=wired(), check=True)["changed"]
    assert not (host / "ledger.json").exists()
    assert run(host, "begun", release=wired())["changed"]
    run(host, "confirmed", release=wired())
    assert run(host, "read", release=wired())["open"] == {}
    before = (host / "ledger.json").read_bytes()
    assert not run(host, "begun", release=wired())["changed"], "it serves: nothing to be switched"
    assert (host / "ledger.json").read_bytes() == before


def test_a_switch_that_was_cut_off_is_seen_and_closed_by_the_gate_of_either_release(host: Path) -> None:
    run(host, "confirmed", release=wired())
    first = Ledger(host / "ledger.json").current
    assert run(host, "begun", release=wired(model="c" * 40))["changed"]
    assert not run(host, "begun", release=wired(model="c" * 40))["changed"], "begun already"
    seen = run(host, "read", release=wired())
    assert seen["same"] and seen["open"]["id"] == release_id(release("v1", "c" * 40))
    assert run(host, "begun", release=wired())["changed"], "going back is a switch as well"
    closed = run(host, "confirmed", release=wired())
    assert closed["changed"] and closed["open"] == {}
    assert Ledger(host / "ledger.json").current == first, "as it was confirmed at first"


def test_a_failure_without_a_way_back_leaves_the_switch_open(host: Path) -> None:
    run(host, "begun", release=wired())
    assert run(host, "failed", release=wired(), task="gate", reason="nonsense")["open"]
    assert run(host, "read")["open"]["id"] == release_id(release("v1"))


def test_a_recorded_release_keeps_its_own_voicebot(host: Path) -> None:
    """As in a rollback, where the sources make another one."""
    run(host, "confirmed", release=wired())
    assert run(host, "read", release=release("v1"), service_id="v2")["same"]


def test_too_few_releases_to_keep_are_refused(host: Path) -> None:
    with pytest.raises(LedgerError, match=r"release_ledger_keep is 1. Rule: 2 or more"):
        run(host, "read", keep=1)


def test_the_entry_to_go_back_to(host: Path) -> None:
    run(host, "confirmed", release=wired())
    run(host, "confirmed", release=wired(model="c" * 40))
    found = run(host, "read", find=True)
    assert found["target"]["release"] == release("v1")
