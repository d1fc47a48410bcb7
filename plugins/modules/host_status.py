#!/usr/bin/python3
"""Ansible module: what a host runs, in a few words. Read-only."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.release import Ledger, LedgerError

DOCUMENTATION = r"""
module: host_status
short_description: What a host runs
description:
  - Reads ledger, units, health pages, the engine's figures, memory, temperature and the guard's evidence.
    What is missing or broken is told as such, and is no failure.
options:
  ledger: {type: path, required: true, description: The ledger.}
  engine: {type: str, required: true, description: Address of vLLM.}
  guard: {type: str, required: true, description: Address of its guard.}
  service_root: {type: path, default: /opt/voicebot, description: Holds the voicebot's link current.}
  incidents: {type: path, default: /var/lib/vllm-guard/incidents, description: The guard's evidence.}
"""

RETURN = r"""
status:
  description: >-
    releases, newest first, each {id, confirmed, model, revision, image, voicebot, gate}; current, previous
    (ids); ledger (what is wrong with it); open (a switch not finished: {id, at}); failure (the last one);
    units {name: state}; engine, guard (what they say); drained (by whom); service (the voicebot in use); load
    {tokens_per_second, running, waiting} (empty without an engine); gpu_celsius (null where nobody tells);
    incident {at, state, reason} of the guard's newest one; memory_available_mib, memory_total_mib.
  type: dict
  returned: always
"""

UNITS = ("vllm.service", "vllm-guard.service", "voicebot.service")


PAUSE = 1.0  # seconds between two looks at what the engine has written
_FIGURE = re.compile(
    r"^vllm:(generation_tokens_total|num_requests_running|num_requests_waiting)(?:\{[^}]*\})? (\S+)$", re.M
)


def figures(url: str) -> dict[str, float]:
    """The engine's counters, each summed over its labels; empty without an answer."""
    found: dict[str, float] = {}
    for name, value in _FIGURE.findall(fetch(url)[1]):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def load(before: dict[str, float], after: dict[str, float], seconds: float) -> dict[str, float]:
    """What the engine does, out of two looks; empty where one of them saw nothing."""
    if not before or not after:
        return {}
    key = "generation_tokens_total"
    written = max(0.0, after.get(key, 0.0) - before.get(key, 0.0))
    return {
        "tokens_per_second": round(written / seconds, 1),
        "running": after.get("num_requests_running", 0.0),
        "waiting": after.get("num_requests_waiting", 0.0),
    }


def celsius() -> int | None:
    """The first GPU's temperature."""
    argv = ["nvidia-smi", "--query-gpu=temperature.gpu", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10).stdout.split()
    except (OSError, subprocess.TimeoutExpired):
        return None
    return int(said[0]) if said and said[0].isdigit() else None


def incident(folder: Path) -> dict[str, str]:
    """The guard's newest verdict that left evidence; empty for none."""
    for place in sorted(folder.glob("*/verdict.json"), reverse=True):
        try:
            told = json.loads(place.read_text(encoding="utf-8"))
            return {"at": told["time"], "state": told["state"], "reason": told["reason"]}
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return {}


def units() -> dict[str, str]:
    """Each unit's state; `absent` for one that systemd does not know."""
    found = {}
    for unit in UNITS:
        argv = ["systemctl", "show", "--property=LoadState,ActiveState,SubState", unit]
        said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
        state = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        loaded = state.get("LoadState") == "loaded"
        found[unit.removesuffix(".service")] = state.get("ActiveState", "unknown") if loaded else "absent"
    return found


def fetch(url: str) -> tuple[int, str]:
    """HTTP status and text; 0 for no answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback has no proxy
    try:
        with opener.open(url, timeout=5) as reply:
            return reply.status, reply.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read(2000).decode(errors="replace")
    except (OSError, ValueError):
        return 0, ""


def answer(url: str) -> tuple[int, Any]:
    """HTTP status and JSON (None if there is none); 0 for no answer."""
    status, text = fetch(url)
    try:
        return status, json.loads(text)
    except ValueError:
        return status, None


def memory() -> dict[str, int]:
    """MemTotal and MemAvailable in MiB."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    kib = {words[0].rstrip(":"): int(words[1]) for words in lines}
    return {"memory_total_mib": kib["MemTotal"] // 1024, "memory_available_mib": kib["MemAvailable"] // 1024}


def summary(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the ledger in a few words."""
    release, gate = entry["release"], entry.get("gate", [])
    labels = release["engine"].get("labels", {})
    return {
        "id": entry["id"],
        "confirmed": entry["confirmed"],
        "model": release["engine"].get("model", ""),
        "revision": labels.get("spark-voicebot.revision", ""),
        "image": release["engine"]["image"],
        "voicebot": release["voicebot"].get("id", ""),
        "gate": f"{sum(bool(check['ok']) for check in gate)}/{len(gate)}",
    }


def remembered(path: Path) -> dict[str, Any]:
    """What the ledger says."""
    try:
        ledger = Ledger(path)
    except LedgerError as error:
        nothing = {"releases": [], "current": "", "previous": "", "open": {}, "failure": {}}
        return {"ledger": str(error)} | nothing
    data = ledger.data
    failure = data["failures"][-1] if data["failures"] else {}
    return {
        "ledger": "",
        "releases": [summary(entry) for entry in reversed(data["releases"])],
        "current": data["current"],
        "previous": data["previous"],
        "open": data["open"],
        "failure": {
            key: failure[key]
            for key in ("id", "at", "task", "reason", "downtime_s", "restored")
            if key in failure
        },
    }


def main() -> None:
    """Runs as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "ledger": {"type": "path", "required": True},
            "engine": {"type": "str", "required": True},
            "guard": {"type": "str", "required": True},
            "service_root": {"type": "path", "default": "/opt/voicebot"},
            "incidents": {"type": "path", "default": "/var/lib/vllm-guard/incidents"},
        },
        supports_check_mode=True,
    )
    p = module.params
    metrics, began = f"{p['engine']}/metrics", time.monotonic()
    before = figures(metrics)
    state, link = units(), Path(p["service_root"]) / "current"
    health, guard = answer(f"{p['engine']}/health")[0], answer(f"{p['guard']}/state")[1]
    status = remembered(Path(p["ledger"])) | memory() | {"units": state}
    status["engine"] = {200: "healthy", 0: "silent"}.get(health, f"answers {health}")
    said = guard if isinstance(guard, dict) else {}
    status |= {"guard": said.get("state", ""), "drained": said.get("drained_by", [])}
    status["service"] = link.readlink().name if link.is_symlink() else ""
    status["gpu_celsius"] = celsius()
    status["incident"] = incident(Path(p["incidents"]))
    if before:
        time.sleep(max(0.0, PAUSE - (time.monotonic() - began)))
    status["load"] = load(before, figures(metrics) if before else {}, time.monotonic() - began)
    module.exit_json(changed=False, status=status)


if __name__ == "__main__":
    main()
