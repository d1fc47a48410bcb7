"""The running lab, for tests: its hosts, commands on them, reboots, bare hosts, a hub that fails on order."""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import daemon, up
from tests.lab.hub import order_faults
from tests.lab.proc import wait_for
from tests.lab.settings import LabError, Settings


@dataclass(frozen=True)
class Host:
    """A virtual Spark."""

    name: str
    container: str
    address: str


@dataclass(frozen=True)
class Lab:
    """The lab of this clone; `Lab.load()` finds it, and says so if there is none."""

    settings: Settings
    facts: dict[str, Any]
    hosts: dict[str, Host]

    @classmethod
    def load(cls, settings: Settings | None = None) -> Lab:
        """The running lab."""
        settings = settings or Settings()
        facts = settings.facts()
        if not facts.get("hosts") or not daemon.service(settings).pid:
            raise LabError(f"no lab runs for {settings.root}. Remedy: python -m tests.lab up")
        hosts = {h["name"]: Host(h["name"], h["container"], h["address"]) for h in facts["hosts"]}
        return cls(settings, facts, hosts)

    def _host(self, name: str) -> Host:
        if name not in self.hosts:
            raise LabError(
                f"host is {name!r}. Rule: a host of this lab. Remedy: one of {', '.join(self.hosts)}"
            )
        return self.hosts[name]

    def ssh_argv(self, host: str) -> list[str]:
        """The ssh command up to the remote command."""
        options = ("BatchMode=yes", "ConnectTimeout=5", "IdentitiesOnly=yes", "LogLevel=ERROR")
        argv = [
            "ssh",
            "-i",
            str(self.settings.ssh_key),
            "-o",
            f"UserKnownHostsFile={self.settings.known_hosts}",
        ]
        return [*argv, *(word for o in options for word in ("-o", o)), f"root@{self._host(host).address}"]

    def ssh(
        self, host: str, argv: Sequence[str], *, check: bool = True, text: str = "", timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command on a host; `text` is its standard input. A failure shows what it printed."""
        command = [*self.ssh_argv(host), shlex.join(argv)]
        done = subprocess.run(  # a journal may hold bytes that are no text
            command, input=text, capture_output=True, encoding="utf-8", errors="replace", timeout=timeout
        )
        if check and done.returncode:
            raise LabError(
                f"{host}: `{shlex.join(argv)}` ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def docker(self, *argv: str) -> str:
        """Asks the lab's own engine, the one that runs the hosts."""
        return daemon.docker(self.settings, *argv)

    def recreate(self, *hosts: str) -> None:
        """Makes hosts bare again: new containers, new volumes, the same address and keys."""
        names = [self._host(host).name for host in hosts]
        up.make_hosts(self.settings, lab_hosts=len(self.hosts), lab_recreate=names)

    def reboot(self, host: str, seconds: float = 120) -> None:
        """Reboots a host from the inside and waits until it is up again."""
        before = self._started(host)
        self.ssh(host, ["systemctl", "reboot"], check=False)
        wait_for(f"reboot of {host}", lambda: self._started(host) != before, seconds)
        self.wait(host, seconds)

    def wait(self, host: str, seconds: float = 120) -> None:
        """Waits until a host answers and all its units have started."""
        argv = ["systemctl", "is-system-running", "--wait"]
        wait_for(
            host, lambda: self.ssh(host, argv, check=False).stdout.strip() in ("running", "degraded"), seconds
        )

    def _started(self, host: str) -> str:
        return self.docker("inspect", "--format", "{{.State.StartedAt}}", self._host(host).container)

    @contextmanager
    def hub_faults(self, **faults: Any) -> Iterator[None]:
        """Within the block the hub fails so: fields of tests.lab.hub.Faults, e.g. rate (bytes/s)."""
        order_faults(self.settings.hub_root, faults)
        try:
            yield
        finally:
            order_faults(self.settings.hub_root, {})

    def hub_requests(self) -> list[dict[str, Any]]:
        """All that the hub was asked, oldest first: method, path, status, range, what came of a token.

        An answer's end is told by a second entry: method SENT, with the bytes `sent`.
        """
        log = Path(self.facts["hub_log"]).read_text().splitlines()
        return [json.loads(line) for line in log if line.startswith("{")]

    def env(self, *, as_json: bool = False) -> str:
        """Addresses and keys for a shell."""
        values = {
            "LAB_DOCKER_HOST": self.settings.docker_host,
            "LAB_SSH_KEY": str(self.settings.ssh_key),
            "LAB_KNOWN_HOSTS": str(self.settings.known_hosts),
            "LAB_HUB_URL": str(self.facts["hub_url"]),
            "LAB_REGISTRY": str(self.facts["registry"]["address"]),
            "LAB_REGISTRY_CA": str(self.settings.registry_ca),
            "LAB_HOSTS": " ".join(h.address for h in self.hosts.values()),
        }
        if as_json:
            return json.dumps(values, indent=2)
        return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in values.items())
