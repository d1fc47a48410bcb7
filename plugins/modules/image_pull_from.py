#!/usr/bin/python3
"""Ansible module: Docker pulls an image by digest, under its own name, from a depot behind a local port."""

from __future__ import annotations

import fcntl
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: image_pull_from
short_description: Have Docker pull an image by digest, from a depot instead of its registry
description:
  - An image is found by digest only under the name that it was pulled by, and loading an archive loses the
    digest. So for the time of the pull this host finds the registry's name at an address of its own loopback,
    from where packets go to the depot. Docker compares every part with its digest, as ever; being loopback,
    the registry may answer without TLS.
  - Changes, and takes back whatever the outcome, lines of C(/etc/hosts) and two rules of the host's firewall
    (table nat, chain OUTPUT). What a killed run has left is taken back by the next one, or by O(port=0).
options:
  image: {type: str, required: true, description: "REGISTRY/REPOSITORY@sha256:DIGEST"}
  port: {type: int, required: true, description: Where the depot answers; 0 only cleans up.}
  hosts: {type: path, default: /etc/hosts, description: The file of names.}
"""

EXAMPLES = r"""
- name: Pull from the depot
  image_pull_from:
    image: nvcr.io/nvidia/vllm@sha256:…
    port: 40123
"""

RETURN = r"""
output: {description: What Docker said last., type: str, returned: success}
"""

ADDRESS = "127.83.0.1"
CLOSED = f"{ADDRESS}:1"  # nothing listens there: so Docker goes on from https to http at once
MARK = "spark-voicebot-depot"
ASIDE = f"#{MARK}# "  # before a line that says something else of the name


class Detour:
    """The way from a registry's name to a port of this host."""

    def __init__(self, server: str, port: int, hosts: Path) -> None:
        self.server, self.port, self.hosts = server, port, hosts

    def open(self) -> None:
        """From now on the name leads to the port."""
        for target, wanted in (("443", CLOSED), ("80", f"127.0.0.1:{self.port}")):
            rule = ["-d", f"{ADDRESS}/32", "-p", "tcp", "--dport", target]
            note = ["-m", "comment", "--comment", MARK, "-j", "DNAT", "--to-destination", wanted]
            iptables("-I", "OUTPUT", *rule, *note)
        name = self.server.partition(":")[0]
        lines = [
            ASIDE + line if name in line.partition("#")[0].split()[1:] else line
            for line in self.hosts.read_text().splitlines()
        ]
        self._write([f"{ADDRESS} {name} # {MARK}", *lines])

    def close(self) -> bool:
        """Have everything as it was; true if it was not."""
        lines = self.hosts.read_text().splitlines()
        before = [line.removeprefix(ASIDE) for line in lines if not line.endswith(f"# {MARK}")]
        if before != lines:
            self._write(before)
        rules = [line for line in iptables("-S", "OUTPUT").splitlines() if re.search(rf"\b{MARK}\b", line)]
        for rule in rules:
            iptables("-D", *rule.replace('"', "").split()[1:])
        return before != lines or bool(rules)

    def _write(self, lines: list[str]) -> None:
        """In place: in a container the file is a mount, which no other can take the place of."""
        self.hosts.write_text("".join(f"{line}\n" for line in lines))


def iptables(*argv: str) -> str:
    """Ask the firewall's table nat."""
    done = subprocess.run(["iptables", "-w", "-t", "nat", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"iptables {' '.join(argv[:2])} failed: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def alone(place: str = "/run/spark-voicebot-depot.lock") -> Iterator[None]:
    """One at a time, and no signal ends it before its end."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: (_ for _ in ()).throw(SystemExit(1)))
    with Path(place).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pull(image: str, port: int, hosts: Path) -> dict[str, Any]:
    """Pull; the way back to the registry is there afterwards in any case."""
    server = image.partition("/")[0]
    if not re.fullmatch(r"[^/@]+\.[^/@]+(/[^/@]+)+@sha256:[0-9a-f]{64}", image):
        raise OSError(f"{image} is no REGISTRY/REPOSITORY@sha256:DIGEST")
    detour = Detour(server, port, hosts)
    with alone():
        left = detour.close()
        if not port:
            return {"changed": left, "output": ""}
        try:
            detour.open()
            done = subprocess.run(
                ["docker", "pull", "--quiet", image], capture_output=True, text=True, check=False
            )
        finally:
            detour.close()
    if done.returncode:
        raise OSError(f"docker pull {image}: {done.stderr.strip()[-600:]}")
    return {"changed": True, "output": done.stdout.strip()}


def main() -> None:
    """Run as an Ansible module."""
    arguments = {
        "image": {"type": "str", "required": True},
        "port": {"type": "int", "required": True},
        "hosts": {"type": "path", "default": "/etc/hosts"},
    }
    module = AnsibleModule(argument_spec=arguments)
    try:
        module.exit_json(**pull(module.params["image"], module.params["port"], Path(module.params["hosts"])))
    except OSError as error:
        module.fail_json(
            msg=f"The image cannot be pulled from the depot: {error}. Rule: the depot has the pinned image, "
            "and Docker "
            "on this host asks it (no proxy of its own in between). Remedy: "
            "playbooks/bundle.yml -e bundle_action=verify "
            "tells whether parts are damaged; run again, or without depot_path."
        )


if __name__ == "__main__":
    main()
