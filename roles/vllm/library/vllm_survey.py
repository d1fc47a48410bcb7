#!/usr/bin/python3
"""Ansible module: what a host has of an engine, ours or one that somebody started by hand."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: vllm_survey
short_description: See units, image, model directories and engines started by hand; stop the latter on request
description:
  - Reads only, without Docker too, unless O(stop) asks for engines started by hand to be stopped. These are
    stopped, not removed; their restart policy is taken away, one that bears our container's name is renamed.
options:
  name: {description: The container's name., type: str, required: true}
  labels: {description: Labels of which our container has some., type: list, elements: str, default: []}
  port: {description: The port on the host., type: int, required: true}
  image: {description: The image to look for., type: str, required: true}
  directories: {description: Directories to look for., type: list, elements: str, default: []}
  units: {description: Units to look at., type: list, elements: str, default: []}
  stop: {description: Whether to stop engines started by hand., type: bool, default: false}
author: [spark-voicebot]
"""

EXAMPLES = r"""
- name: Look at the host
  vllm_survey:
    name: vllm
    labels: [com.example.argv]
    port: 8000
    image: nvcr.io/nvidia/vllm@sha256:…
    units: [vllm.service]
"""

RETURN = r"""
handmade: {description: "Engines started by hand: id, name, text.", type: list, returned: always}
holders: {description: What else holds the port., type: list, returned: always}
image: {description: "present, absent; unknown without a Docker that answers.", type: str, returned: always}
missing: {description: Directories that are not there., type: list, returned: always}
modules: {description: Whether the modules for Docker can work., type: bool, returned: always}
systemd: {description: systemd's version., type: int, returned: always}
units: {description: "ActiveState and LoadState by unit.", type: dict, returned: always}
"""

import importlib.util  # noqa: E402
import json  # noqa: E402
import re  # noqa: E402
import shutil  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

SERVES = re.compile(r"\bvllm\b.*\bserve\b|\bvllm\.entrypoints\b", re.DOTALL)
COMES_BACK = ("always", "unless-stopped")


def publishes(container: dict[str, Any], port: int) -> bool:
    """Whether it wants this port of the host; with the host's network, its command alone can tell."""
    bindings = (container["HostConfig"].get("PortBindings") or {}).values()
    return any(str(b.get("HostPort")) == str(port) for binding in bindings for b in binding or [])


def judged(container: dict[str, Any], name: str, labels: list[str], port: int) -> str:
    """Why a container (as `docker inspect` shows it) is an engine started by hand; `holder` if it is none
    but has the port; else empty."""
    config, called = container["Config"], container["Name"].lstrip("/")
    if called == name:
        ours = not labels or any(label in (config.get("Labels") or {}) for label in labels)
        return "" if ours else f"bears the name {name}"
    alive = container["State"]["Status"] in ("running", "restarting", "paused")
    if not alive and container["HostConfig"]["RestartPolicy"]["Name"] != "always":
        return ""
    takes = publishes(container, port)
    command = " ".join([*(config.get("Entrypoint") or []), *(config.get("Cmd") or [])])
    if SERVES.search(command):
        return f"runs vllm serve{f' on port {port}' if takes else ''}"
    if not takes:
        return ""
    return f"a vLLM image on port {port}" if "vllm" in config["Image"].lower() else "holder"


def others(ss: str, port: int) -> list[str]:
    """Processes that listen on the port, from `ss -Hltnp`; Docker's proxy speaks for a container."""
    found = []
    for line in ss.splitlines():
        columns = line.split(maxsplit=5)
        if len(columns) >= 5 and columns[3].rpartition(":")[2] == str(port):
            users = re.findall(r'\("([^"]*)",pid=(\d+)', columns[5] if len(columns) > 5 else "")
            found += [f"{process} (pid {pid})" for process, pid in users if process != "docker-proxy"]
    return found


class Survey:
    """The questions asked of this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module, self.asked = module, module.params
        self.docker = shutil.which("docker")

    def _docker(self, *words: str) -> tuple[int, str, str]:
        done: tuple[int, str, str] = (
            self.module.run_command([self.docker, *words]) if self.docker else (2, "", "")
        )
        return done

    def containers(self) -> list[dict[str, Any]]:
        """All of them, as `docker inspect` shows them."""
        ids = self._docker("container", "ls", "--all", "--quiet", "--no-trunc")[1].split()
        shown = self._docker("container", "inspect", *ids)[1] if ids else ""
        return list(json.loads(shown or "[]"))  # one that went meanwhile is left out

    def engines(self) -> tuple[list[dict[str, str]], list[str]]:
        """Engines started by hand, and what else holds the port."""
        handmade, holders, port = [], [], self.asked["port"]
        for container in self.containers():
            called = container["Name"].lstrip("/")
            why = judged(container, self.asked["name"], self.asked["labels"], port)
            if why == "holder":
                holders.append(f"container {called}")
            elif why:
                text = f"container {called} ({container['Config']['Image']}) {why}"
                handmade.append({"id": container["Id"], "name": called, "text": text})
        return handmade, holders + others(self.module.run_command(["ss", "-Hltnp"], check_rc=True)[1], port)

    def image(self) -> str:
        """Whether the image is there."""
        rc, _, said = self._docker("image", "inspect", "--format", "{{.Id}}", self.asked["image"])
        return "present" if rc == 0 else "absent" if "no such" in said.lower() else "unknown"

    def systemd(self) -> int:
        """Its version, from `systemd 255 (255.4-1ubuntu8)`."""
        return int(
            self.module.run_command(["systemctl", "--version"], check_rc=True)[1].split()[1].split(".")[0]
        )

    def units(self) -> dict[str, dict[str, str]]:
        """What systemd knows of the units."""
        found = {}
        for unit in self.asked["units"]:
            argv = ["systemctl", "show", "--property=LoadState,ActiveState", unit]
            lines = self.module.run_command(argv, check_rc=True)[1].splitlines()
            found[unit] = dict(line.split("=", 1) for line in lines)
        return found

    def stop(self, handmade: list[dict[str, str]]) -> None:
        """Stop them so that they stay down; whoever wants one back starts it again."""
        for engine in handmade:
            words = [("stop", engine["id"])]
            policy = self._docker("inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", engine["id"])[
                1
            ]
            if policy.strip() in COMES_BACK or policy.startswith("on-failure"):
                words.insert(0, ("update", "--restart=no", engine["id"]))
            if engine["name"] == self.asked["name"]:
                words.append(("rename", engine["id"], f"{engine['name']}-handmade-{engine['id'][:12]}"))
            for command in words:
                rc, _, said = self._docker(*command)
                if (
                    rc and "no such container" not in said.lower()
                ):  # started with --rm: it went when it stopped
                    self.module.fail_json(msg=f"docker {' '.join(command)}: {said.strip()}")


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "labels": {"type": "list", "elements": "str", "default": []},
            "port": {"type": "int", "required": True},
            "image": {"type": "str", "required": True},
            "directories": {"type": "list", "elements": "str", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
            "stop": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    survey = Survey(module)
    handmade, holders = survey.engines()
    if module.params["stop"] and not module.check_mode:
        survey.stop(handmade)
    module.exit_json(
        changed=module.params["stop"] and bool(handmade),
        handmade=handmade,
        holders=holders,
        image=survey.image(),
        missing=[d for d in module.params["directories"] if not Path(d).is_dir()],
        modules=importlib.util.find_spec("requests") is not None,
        systemd=survey.systemd(),
        units=survey.units(),
    )


if __name__ == "__main__":
    main()
