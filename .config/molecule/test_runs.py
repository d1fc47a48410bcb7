"""What the scenario's check, converge and idempotence run recorded (plugins/callback/run_log.py)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).parents[2] / "reports/molecule" / os.environ["MOLECULE_SCENARIO_NAME"]

# Changed by the real run, not foreseeable by --check on a bare host: each with its reason.
NOT_FORESEEN: dict[str, str] = {}


def _records() -> list[dict[str, Any]]:
    records = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(RECORDS.glob("*.json"))]
    return [r for r in records if r["playbook"] == "converge.yml"][-3:]


def test_check_mode_foresaw_the_converge_run() -> None:
    check, run, _ = _records()
    assert check["check"] and not run["check"]
    sparks = {name: host for name, host in run["hosts"].items() if name != "localhost"}
    assert sparks
    for name, host in sparks.items():
        foreseen, changed = set(check["hosts"][name]["changed"]), set(host["changed"])
        assert len(changed) >= 3, "there was work to do"
        assert foreseen - changed == set(), "announced by --check, and not done"
        assert changed - foreseen == set(NOT_FORESEEN), "done, and not announced by --check"


def test_second_run_changed_nothing() -> None:
    again = _records()[2]
    assert {name: host["changed"] for name, host in again["hosts"].items()} == {
        name: [] for name in again["hosts"]
    }
