#!/usr/bin/python3
"""Read what the disks still need and who holds the ports; changes nothing."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: spark_host_survey
short_description: Read what the disks still need and who holds the ports
description:
  - Sums per filesystem what is not present yet, and tells its free space.
  - Tells for each port which units, processes or containers other than its owner hold it.
  - Reads only, and needs neither Docker nor any of the paths to exist.
options:
  disk_needs:
    description: List of V(what), V(path), V(gb), and V(image) or V(directory), which counts 0 when present.
    type: list
    elements: dict
    default: []
  ports:
    description: List of V(port) and V(owner), the unit or container that may hold it; empty, nobody is asked.
    type: list
    elements: dict
    default: []
author: spark-voicebot
"""

EXAMPLES = r"""
- name: Survey
  spark_host_survey:
    disk_needs: [{what: model mistral-7b, path: /srv/models, gb: 4.16, directory: /srv/models/mistral-7b/1}]
    ports: [{port: 8000, owner: vllm}]
"""

RETURN = r"""
disks:
  description: One entry a filesystem, with device, mount, free_gb, needed_gb and missing (names with sizes).
  type: list
  returned: always
ports:
  description: One entry a port, with port, owner and foreign (holders other than the owner).
  type: list
  returned: always
"""

MARGIN = 1.1


def nearest_existing(path: Path) -> Path:
    """The path itself, or its nearest ancestor that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


def listeners(ss: str, port: int) -> list[tuple[str, int]]:
    """Process name and pid of each listener on the port, from `ss -Hltnp` (pid 0: unknown to ss)."""
    found: list[tuple[str, int]] = []
    for line in ss.splitlines():
        columns = line.split(maxsplit=5)
        if len(columns) >= 5 and columns[3].rpartition(":")[2] == str(port):
            users = re.findall(r'\("([^"]*)",pid=(\d+)', columns[5] if len(columns) > 5 else "")
            found += [(name, int(pid)) for name, pid in users] or [("an unknown process", 0)]
    return found


def unit_of(cgroup: str) -> str:
    """Name of the innermost systemd service in the text of /proc/PID/cgroup, or an empty string."""
    units = re.findall(r"/([^/\n]+)\.service(?=/|$)", cgroup, flags=re.MULTILINE)
    return units[-1] if units else ""


class Survey:
    """The questions asked of this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.docker = shutil.which("docker")

    def present(self, need: dict[str, Any]) -> bool:
        """Is this part on the host already?"""
        if need.get("directory") and Path(need["directory"]).is_dir():
            return True
        if not need.get("image") or not self.docker:
            return False
        rc: int = self.module.run_command([self.docker, "image", "inspect", need["image"]])[0]
        return rc == 0

    def disks(self, needs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Free and needed space of each filesystem that something is missing on."""
        by_device: dict[int, dict[str, Any]] = {}
        for need in needs:
            if self.present(need):
                continue
            place = nearest_existing(Path(need["path"]))
            disk = by_device.setdefault(place.stat().st_dev, {"gb": 0.0, "missing": [], **self.space(place)})
            disk["gb"] += float(need["gb"])
            disk["missing"].append(f"{need['what']} {need['gb']} GB")
        for disk in by_device.values():
            disk["needed_gb"] = round(disk.pop("gb") * MARGIN, 1)
        return list(by_device.values())

    def space(self, place: Path) -> dict[str, Any]:
        """Device, mount point and free space of the filesystem that holds an existing path."""
        argv = ["df", "--block-size=1", "--output=source,avail,target", str(place)]
        device, free, mount = (
            self.module.run_command(argv, check_rc=True)[1].splitlines()[1].split(maxsplit=2)
        )
        return {"device": device, "free_gb": round(int(free) / 1e9, 1), "mount": mount}

    def holders(self, port: int, ss: str) -> set[tuple[str, str]]:
        """(unit or container, description) of each holder of the port."""
        found: set[tuple[str, str]] = set()
        if self.docker:
            argv = [self.docker, "container", "ls", "--filter", f"publish={port}", "--format", "{{.Names}}"]
            found = {(name, f"container {name}") for name in self.module.run_command(argv)[1].split()}
        for process, pid in listeners(ss, port):
            if process == "docker-proxy" and found:
                continue  # speaks for the container above
            cgroup = Path(f"/proc/{pid}/cgroup")
            unit = unit_of(cgroup.read_text(encoding="utf-8")) if pid and cgroup.exists() else ""
            found.add((unit, f"{process} (pid {pid}, unit {unit or 'none'})"))
        return found

    def ports(self, wanted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """For each port the holders other than its owner."""
        ss = self.module.run_command(["ss", "-Hltnp"], check_rc=True)[1] if wanted else ""
        return [
            {**entry, "foreign": self.foreign(int(entry["port"]), entry["owner"], ss)} for entry in wanted
        ]

    def foreign(self, port: int, owner: str, ss: str) -> list[str]:
        """Descriptions of the holders of a port other than its owner; none where its role looks itself."""
        if not owner:
            return []
        return sorted(text for name, text in self.holders(port, ss) if name != owner)


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "disk_needs": {"type": "list", "elements": "dict", "default": []},
            "ports": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    survey = Survey(module)
    module.exit_json(
        changed=False,
        disks=survey.disks(module.params["disk_needs"]),
        ports=survey.ports(module.params["ports"]),
    )


if __name__ == "__main__":
    main()
