#!/usr/bin/python3
"""Read what a machine is, what its disks still need and who holds its ports; record and compare the first."""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
import shutil
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: spark_host_survey
short_description: Read what the machine is, what the disks still need and who holds the ports
description:
  - Reads what the machine is (never its serial number), and compares it with V(baseline).
  - Sums per filesystem what is not present yet, and tells its free space.
  - Tells for each port which units, processes or containers other than its owner hold it.
  - Needs neither Docker nor any of the paths to exist; reads only, but for V(record).
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
  baseline:
    description: For each property the wanted value, or a list of those that will do (C(*) is anything).
    type: dict
    default: {}
  on_deviation:
    description: Tell of a deviation in the result alone, warn as well, or fail.
    choices: [tell, warn, refuse]
    default: tell
  record:
    description: File that what was read is written to, as JSON; empty for none.
    type: str
    default: ""
author: spark-voicebot
"""

EXAMPLES = r"""
- name: Survey
  spark_host_survey:
    disk_needs: [{what: model mistral-7b, path: /srv/models, gb: 4.16, directory: /srv/models/mistral-7b/1}]
    ports: [{port: 8000, owner: vllm}]
    baseline: {dgx_ota: [7.3.1, 7.4.0], kernel: 6.14.*}
"""

RETURN = r"""
facts:
  description: What the machine is, by property; null for what it does not have or tell.
  type: dict
  returned: always
deviations:
  description: One entry a property that is not as wanted, with property, found and wanted (a list).
  type: list
  returned: always
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


def release(text: str) -> dict[str, str]:
    """Names and values of /etc/dgx-release (KEY="value"), without the serial number."""
    pairs = re.findall(r'^(DGX_\w+)="?([^"\n]*)"?\s*$', text, flags=re.MULTILINE)
    return {name: value for name, value in pairs if "SERIAL" not in name}


def fingerprint(secret: bytes) -> str:
    """As OpenSSH prints it: SHA256: and base64 without padding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(secret).digest()).decode().rstrip("=")


def host_keys(folder: Path) -> dict[str, str]:
    """Fingerprint of each of sshd's public keys, by kind: what `ssh-keygen -lf` shows."""
    files = sorted(folder.glob("ssh_host_*_key.pub"))
    keys = [file.read_text(encoding="utf-8").split() for file in files]
    return {
        key[0].removeprefix("ssh-"): fingerprint(base64.b64decode(key[1])) for key in keys if len(key) > 1
    }


def disks_of(blocks: Path) -> str:
    """Name and size of each disk in /sys/block; no loop, memory, optical or mapped device, no empty one."""
    found = []
    for block in sorted(blocks.glob("*")):
        size = int((block / "size").read_text()) * 512 / 1e9  # in sectors of 512 bytes, whatever the disk's
        if size >= 1 and not re.match(r"loop|ram|zram|sr|dm-|md|nbd", block.name):
            found.append(f"{block.name} {size:.0f} GB")
    return ", ".join(found)


def deviations(facts: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is not as wanted. A property of several parts (ssh_host_keys) is compared part by part."""
    found: list[dict[str, Any]] = []
    for name, want in baseline.items():
        if isinstance(want, Mapping):
            parts = facts.get(name) if isinstance(facts.get(name), Mapping) else {}
            inner = deviations(parts or {}, want)
            found += [{**entry, "property": f"{name}.{entry['property']}"} for entry in inner]
            continue
        wanted = want if isinstance(want, list) else [want]
        if not any(fnmatchcase(plain(facts.get(name)), plain(value)) for value in wanted):
            found.append({"property": name, "found": facts.get(name), "wanted": wanted})
    return found


def plain(value: Any) -> str:
    """A value as text: a boolean as YAML writes it, nothing as `none`."""
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def deviation_text(entry: Mapping[str, Any]) -> str:
    """A deviation in words."""
    return f"{entry['property']} is {plain(entry['found'])}, not {' or '.join(map(plain, entry['wanted']))}"


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

    def ask(self, *argv: str) -> str | None:
        """What a program prints, or None if it is not there or fails."""
        rc, out, _ = (
            self.module.run_command(list(argv), handle_exceptions=False)
            if shutil.which(argv[0])
            else (1, "", "")
        )
        return out.strip() if rc == 0 else None

    def facts(self) -> dict[str, Any]:
        """What this machine is. Only what stays: no load, no free space, no temperature."""
        dgx = release(text_of("/etc/dgx-release"))
        gpus = (
            self.ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or ""
        ).splitlines()
        gpu, _, driver = gpus[0].partition(", ") if gpus else ("", "", "")
        toolkit = re.search(r"version (\S+)", self.ask("nvidia-ctk", "--version") or "")
        cdi = self.ask("nvidia-ctk", "cdi", "list")
        memory = re.search(r"MemTotal:\s+(\d+)", text_of("/proc/meminfo"))
        clock = self.ask("timedatectl", "show", "--property=NTPSynchronized", "--value")
        machine = text_of("/etc/machine-id").strip()
        return {
            "dgx_name": dgx.get("DGX_NAME"),
            "dgx_release": dgx.get("DGX_SWBUILD_VERSION"),
            "dgx_ota": dgx.get("DGX_OTA_VERSION"),
            "kernel": platform.release(),
            "gpu": gpu or None,
            "driver": driver or None,
            "toolkit": toolkit.group(1) if toolkit else None,
            "cdi_devices": len(re.findall(r"^\S+/\S+=\S+$", cdi, flags=re.MULTILINE))
            if cdi is not None
            else None,
            "memory_gib": round(int(memory.group(1)) / 2**20) if memory else None,
            "disks": disks_of(Path("/sys/block")) or None,
            "clock_synchronised": {"yes": True, "no": False}.get(clock or ""),
            "ssh_host_keys": host_keys(Path("/etc/ssh")),
            "machine_id": fingerprint(machine.encode())
            if machine
            else None,  # machine-id(5): not to be exposed
        }

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

    def record(self, path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write facts in one step if the file holds others; changed and diff for Ansible."""
        before, after = text_of(str(path)), json.dumps(facts, indent=2) + "\n"
        if before == after:
            return {"changed": False}
        if not self.module.check_mode:
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            candidate = Path(self.module.tmpdir, path.name)
            candidate.write_text(after, encoding="utf-8")
            candidate.chmod(0o644)
            self.module.atomic_move(str(candidate), str(path))
        return {"changed": True, "diff": {"before": before, "after": after}}


def text_of(path: str) -> str:
    """A file's text; empty without the file."""
    return Path(path).read_text(encoding="utf-8", errors="replace") if Path(path).is_file() else ""


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "disk_needs": {"type": "list", "elements": "dict", "default": []},
            "ports": {"type": "list", "elements": "dict", "default": []},
            "baseline": {"type": "dict", "default": {}},
            "on_deviation": {"choices": ["tell", "warn", "refuse"], "default": "tell"},
            "record": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    survey, given = Survey(module), module.params
    facts = survey.facts()
    found = deviations(facts, given["baseline"])
    if found and given["on_deviation"] == "refuse":
        module.fail_json(
            msg=f"{'; '.join(map(deviation_text, found))}. Rule: spark_host_baseline. Remedy: bring the "
            "machine to its baseline, or change that, or set spark_host_on_deviation to warn."
        )
    for entry in found if given["on_deviation"] == "warn" else []:
        module.warn(f"{deviation_text(entry)} (spark_host_baseline)")
    module.exit_json(
        **{"changed": False, **(survey.record(Path(given["record"]), facts) if given["record"] else {})},
        facts=facts,
        deviations=found,
        disks=survey.disks(given["disk_needs"]),
        ports=survey.ports(given["ports"]),
    )


if __name__ == "__main__":
    main()
