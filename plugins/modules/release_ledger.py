#!/usr/bin/python3
"""Ansible module: the host's ledger of releases: what serves, what served before, what failed and why."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.release import Ledger, LedgerError, release_id

DOCUMENTATION = r"""
module: release_ledger
short_description: Read and write the host's ledger of releases
description:
  - C(read) tells what the ledger holds, and whether it confirms C(release) as the current one already.
  - C(begun) notes that a switch to C(release) is open, until it is confirmed; one to the current release
    is none, unless another one is open.
  - C(confirmed) makes C(release) the current one; a release that is current already is not written again.
  - C(failed) notes an attempt at C(release), with its reason; C(restored) that the current release serves
    again after it, with the seconds since a unit of C(units) was first stopped after C(since).
  - A malformed ledger is refused, with a remedy. The file is replaced as a whole, and readable by root alone.
options:
  path: {type: path, required: true, description: The ledger.}
  state:
    type: str
    choices: [read, begun, confirmed, failed, restored]
    default: read
    description: What to do.
  release: {type: dict, default: {}, description: "engine, models, voicebot; no secret."}
  service_root: {type: path, default: /opt/voicebot, description: Holds releases/ID and the link current.}
  service_id: {type: str, default: "", description: The voicebot's release; empty for the one in service.}
  gate: {type: list, elements: dict, default: [], description: The checks that the release has passed.}
  target: {type: str, default: "", description: "With find: an id, or empty for the previous release."}
  find: {type: bool, default: false, description: Return the entry of C(target); refuse if there is none.}
  keep: {type: int, default: 2, description: "How many releases will be kept; refused below 2."}
  task: {type: str, default: "", description: What failed.}
  reason: {type: str, default: "", description: Why it failed.}
  since: {type: int, default: 0, description: "Seconds since the epoch, on this host: before the switch."}
  units:
    type: list
    elements: str
    default: [vllm.service, voicebot.service]
    description: Units whose stop is downtime.
"""

RETURN = r"""
id: {type: str, returned: when a release is given, description: Its name}
same: {type: bool, returned: always, description: It is the current release}
open: {type: dict, returned: always, description: "A switch without its gate: {id, at}; empty for none"}
current: {type: dict, returned: always, description: Entry of the current release; empty for none}
target: {type: dict, returned: with find, description: Entry of the release to go back to}
attempt: {type: dict, returned: failed and restored, description: Entry of the failed attempt}
"""

STOPPING = "de5b426a63be47a7b6ac3eaac82e2f6f"  # systemd's message "Stopping UNIT"


def first_stop(units: list[str], since: int) -> float | None:
    """When a unit was first stopped after `since`, both in seconds since the epoch; None if none was."""
    argv = ["journalctl", "--quiet", "--output=json", f"--since=@{since}", f"MESSAGE_ID={STOPPING}"]
    argv += [f"UNIT={unit}" for unit in units]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # a host without a journal cannot tell
        return None
    for line in done.stdout.splitlines():
        return int(json.loads(line)["__REALTIME_TIMESTAMP"]) / 1e6
    return None


def complete(p: dict[str, Any], check: bool) -> dict[str, Any]:
    """The release with the voicebot that goes with it; refuses another one in service than is meant."""
    release = {**p["release"], "voicebot": dict(p["release"]["voicebot"])}
    link = Path(p["service_root"]) / "current"
    serves = link.readlink().name if link.is_symlink() else ""
    wanted = release["voicebot"].get("id") or p["service_id"] or serves
    if p["state"] == "confirmed" and not check and wanted != serves:
        raise LedgerError(
            f"{link} names {serves or 'nothing'}, and the release has {wanted or 'none'}. Rule: only what "
            "serves is confirmed. Remedy: run site.yml as a whole."
        )
    release["voicebot"]["id"] = wanted
    return release


def wheels(p: dict[str, Any], name: str) -> dict[str, str]:
    """Every wheel of a voicebot's release, with its sha256: what its installer has left there."""
    marker = Path(p["service_root"]) / "releases" / name / ".complete"
    try:
        found: dict[str, str] = json.loads(marker.read_text(encoding="utf-8"))["wheels"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise LedgerError(
            f"{marker} does not tell the wheels: {error}. Rule: a release's installer has written it. "
            f"Remedy: remove {marker.parent}, and run site.yml."
        ) from error
    return found


def run(p: dict[str, Any], check: bool) -> dict[str, Any]:
    """What the module returns."""
    if p["keep"] < 2:
        raise LedgerError(
            f"release_ledger_keep is {p['keep']}. Rule: 2 or more, the current release and the previous one. "
            "Remedy: set it to 2 or more."
        )
    ledger = Ledger(Path(p["path"]))
    result: dict[str, Any] = {"changed": False, "current": ledger.current or {}, "same": False}
    release = complete(p, check) if p["release"] else {}
    if release:
        result["id"] = release_id(release)
        result["same"] = ledger.data["current"] == result["id"]
    if p["find"]:
        result["target"] = ledger.target(p["target"])
    if p["state"] == "begun":
        result["changed"] = ledger.begin(release)
        if result["changed"] and not check:
            ledger.write()
    elif p["state"] == "confirmed" and not (result["same"] and not ledger.data["open"]):
        result["changed"] = True
        if not check:
            ledger.confirm(release, wheels(p, release["voicebot"]["id"]), p["gate"])
            ledger.write()
            result["current"] = ledger.current
    elif p["state"] == "failed":
        result |= {"changed": True, "attempt": ledger.fail(release, p["task"], p["reason"])}
        if not check:
            ledger.write()
    elif p["state"] == "restored":
        if not ledger.data["failures"]:
            raise LedgerError(
                "The ledger has no failed attempt. Rule: `failed` comes before `restored`. Remedy: run "
                "site.yml."
            )
        stopped = first_stop(p["units"], p["since"])
        attempt = ledger.data["failures"][-1]
        attempt["restored"] = ledger.data["current"]
        attempt["downtime_s"] = round(time.time() - stopped, 1) if stopped else 0.0
        result |= {"changed": True, "attempt": attempt}
        if not check:
            ledger.write()
    result["open"] = ledger.data["open"]
    return result


def main() -> None:
    """Runs as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "state": {
                "type": "str",
                "choices": ["read", "begun", "confirmed", "failed", "restored"],
                "default": "read",
            },
            "release": {"type": "dict", "default": {}},
            "service_root": {"type": "path", "default": "/opt/voicebot"},
            "service_id": {"type": "str", "default": ""},
            "gate": {"type": "list", "elements": "dict", "default": []},
            "target": {"type": "str", "default": ""},
            "find": {"type": "bool", "default": False},
            "keep": {"type": "int", "default": 2},
            "task": {"type": "str", "default": ""},
            "reason": {"type": "str", "default": ""},
            "since": {"type": "int", "default": 0},
            "units": {"type": "list", "elements": "str", "default": ["vllm.service", "voicebot.service"]},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except LedgerError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
