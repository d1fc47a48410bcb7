"""Runs the module hub_snapshot without Ansible around it: here, or by `python -m`, with JSON on stdin."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.lab.hub import HubServer, sums

ROOT = Path(__file__).parents[3]
REVISION, OTHER = "a" * 40, "b" * 40
Options = dict[str, Any]


def load(path: str, name: str) -> ModuleType:
    """Import a file of the repository that lies outside every package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


hub_pin, hub_fetch, hub_job, hub_store = (
    load(f"plugins/module_utils/{name}.py", f"ansible.module_utils.{name}")
    for name in ("hub_pin", "hub_fetch", "hub_job", "hub_store")
)
hub_snapshot = load("plugins/modules/hub_snapshot.py", "hub_snapshot")
DEFAULTS = {name: argument.get("default") for name, argument in hub_snapshot.ARGUMENTS.items()}


def run(options: dict[str, Any], check: bool = False) -> dict[str, Any]:
    """Do what the module would, or raise hub_pin.Refused; locks lie beside the store."""
    given = {**DEFAULTS, "run": f"{options['root']}.run", "pause": 0.01, **options}
    result: dict[str, Any] = hub_snapshot.run(given, check)
    return result


def pins(hub: HubServer) -> Options:
    """What a pin says of the hub's model as it is now."""
    files: Options = {}
    for path in (hub.hub.root / "owner/model" / REVISION).iterdir():
        known = sums(path)
        kind = {"sha256": known.sha256} if known.lfs else {"git_oid": known.git_oid}
        files[path.name] = {"size": known.size, **kind}
    return files


def fetched_from(hub: HubServer) -> list[str]:
    """Names of the files that the hub was asked for, in order."""
    asked = [r["path"] for r in hub.requests if r["method"] == "GET" and "/resolve/" in r["path"]]
    return [path.rsplit("/", 1)[1] for path in asked]


def ranges(hub: HubServer, name: str = "model.safetensors") -> list[str | None]:
    """The Range of each request for a file."""
    return [r["range"] for r in hub.requests if r["method"] == "GET" and r["path"].endswith(name)]


def refusal(options: Options, check: bool = False, **changes: Any) -> str:
    """The message with which the options are refused."""
    with pytest.raises(hub_pin.Refused) as caught:
        run({**options, **changes}, check)
    message = str(caught.value)
    assert "Rule: " in message and "Remedy: " in message
    return message


def wait_for(condition: Callable[[], bool], limit: float = 30) -> None:
    """Until it holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


if __name__ == "__main__":
    print(json.dumps(run(json.load(sys.stdin))))
