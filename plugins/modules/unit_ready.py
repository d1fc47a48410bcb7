#!/usr/bin/python3
"""Ansible module: waits until a service answers, and gives up as soon as it clearly never will."""

from __future__ import annotations

import subprocess
import time
import urllib.error
import urllib.request
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: unit_ready
short_description: Wait until a unit's service answers with 200
description:
  - Asks C(url) until it answers 200. Fails when C(timeout) is over, and at once when the unit has failed for
    good, or systemd has had to restart it C(restarts) times meanwhile. Asks nothing in check mode.
options:
  unit: {type: str, required: true, description: The systemd unit.}
  url: {type: str, required: true, description: Address on this host.}
  timeout: {type: int, required: true, description: Seconds.}
  restarts: {type: int, default: 2, description: Restarts by systemd that are put up with.}
  delay: {type: float, default: 1, description: Seconds between two looks.}
"""

RETURN = r"""
seconds: {type: float, returned: success, description: How long it took}
"""


def state(unit: str) -> dict[str, str]:
    """What systemd says of the unit; nothing while it does not answer."""
    argv = ["systemctl", "show", "--property=ActiveState,SubState,Result,NRestarts", unit]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def answer(url: str, timeout: float = 5) -> str:
    """What is wrong with the service's answer; empty for 200."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback has no proxy
    try:
        with opener.open(url, timeout=timeout) as reply:
            return "" if reply.status == 200 else f"{reply.status}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read(500).decode(errors='replace')}".strip()
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def wait(unit: str, url: str, timeout: float, restarts: int, delay: float) -> dict[str, Any]:
    """{seconds} when it answers; {failed, msg} when it does not, or never will."""
    began, first = time.monotonic(), None
    while True:
        wrong, now, seconds = answer(url), state(unit), time.monotonic() - began
        if not wrong:
            return {"seconds": round(seconds, 1)}
        count = int(now.get("NRestarts") or 0)
        first = count if first is None or count < first else first  # reset-failed begins anew
        why = ""
        if now.get("ActiveState") == "failed":
            why = f"{unit} has failed for good (Result={now.get('Result')})"
        elif count - first >= restarts:
            why = f"{unit} ended and was restarted {count - first} times"
        elif seconds >= timeout:
            why = f"{unit} is {now.get('ActiveState')} ({now.get('SubState')}), and time is up"
        if why:
            return {"failed": True, "msg": f"{why} after {seconds:.0f} s; last answer of {url}: {wrong}"}
        time.sleep(delay)


def main() -> None:
    """Runs as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "unit": {"type": "str", "required": True},
            "url": {"type": "str", "required": True},
            "timeout": {"type": "int", "required": True},
            "restarts": {"type": "int", "default": 2},
            "delay": {"type": "float", "default": 1},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, skipped=True)
    p = module.params
    result = wait(p["unit"], p["url"], p["timeout"], p["restarts"], p["delay"])
    if result.get("failed"):
        module.fail_json(msg=result["msg"])
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
