"""Every variable of the inventories in this repository is known; the wiring knows the roles' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from plugins.action.inventory_contract import unknown_names
from tests.unit.contract.conftest import ROOT

VARIABLES = sorted(p for g in ("group_vars", "host_vars") for p in ROOT.glob(f"inventory/*/{g}/**/*.yml"))


def options() -> set[str]:
    known: set[str] = set()
    for file in ROOT.glob("roles/*/meta/argument_specs.yml"):
        specs = yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"]
        for entry_point in specs.values():
            known |= set(entry_point.get("options") or {})
    return known


def own(name: str = "*") -> set[str]:
    known: set[str] = set()
    for file in ROOT.glob(f"playbooks/group_vars/all/{name}.yml"):
        known |= set(yaml.safe_load(file.read_text(encoding="utf-8")))
    return known


@pytest.mark.parametrize("file", VARIABLES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_variable_of_an_inventory_is_known(file: Path) -> None:
    given = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    assert unknown_names(given, own() | options()) == []


def test_what_is_wired_is_an_option_of_its_role() -> None:
    roles = {folder.name for folder in (ROOT / "roles").iterdir() if folder.is_dir()}
    wired = {name for name in own("wiring") if any(name.startswith(f"{role}_") for role in roles)}
    assert wired <= options()
