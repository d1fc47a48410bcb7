"""Runs the module hub_snapshot without Ansible around it: here, or by `python -m` with JSON as argument."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[3]


def load(path: str, name: str) -> ModuleType:
    """Import a file of the repository that lies outside every package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


hub_pin = load("plugins/module_utils/hub_pin.py", "ansible.module_utils.hub_pin")
hub_snapshot = load("plugins/modules/hub_snapshot.py", "hub_snapshot")
DEFAULTS: dict[str, Any] = {
    "gated": False, "token": "", "tries": 3, "verify": "changed", "state": "present",
    "hf": str(Path(sys.executable).with_name("hf")),
}  # fmt: skip


def run(options: dict[str, Any], check: bool = False) -> dict[str, Any]:
    """Do what the module would, or raise hub_pin.Refused."""
    given = {**DEFAULTS, **options}
    hub_pin.check_pin(given["name"], given["revision"], given["files"])
    result: dict[str, Any] = hub_snapshot.Snapshot(given).run(check)
    return result


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
