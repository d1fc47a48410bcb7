"""Two edges and a gateway: configured by the role itself, run as haproxy.service runs them."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from plugins.filter.gateway import gateway_server_states
from tests.integration.gateway.spark import Spark
from tests.integration.gateway.waiting import until
from tests.scripted import free_port

__all__ = ["CHAT", "RATE", "ROOT", "House", "Proxy", "until"]

ROOT = Path(__file__).parents[3]
PLAY = """
- name: The role's phases that need no systemd
  hosts: all
  gather_facts: false
  tasks:
    - name: Make its directory
      ansible.builtin.file: {path: "{{ __gateway_etc }}", state: directory, mode: "0755"}
    - {name: Check, ansible.builtin.import_role: {name: gateway, tasks_from: preflight}}
    - {name: Issue, ansible.builtin.import_role: {name: gateway, tasks_from: certificates}}
    - {name: Write, ansible.builtin.import_role: {name: gateway, tasks_from: configure}}
    - {name: Verify, ansible.builtin.import_role: {name: gateway, tasks_from: verify}, tags: [never, after]}
"""
RATE = {"requests": 60, "seconds": 5}
CHAT = "/v1/chat/completions"


class Proxy:
    """One HAProxy, as its unit starts and reloads it."""

    def __init__(self, config: Path) -> None:
        self.config, self.log = config, config.parent.with_suffix(".log")
        self.start()

    def start(self) -> None:
        argv = ["haproxy", "-Ws", "-f", str(self.config), "-p", str(self.config.parent.with_suffix(".pid"))]
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(argv, stdout=log, stderr=log)
        until(lambda: self.loaded() == 1, "HAProxy serves")

    def loaded(self) -> int:
        """How often a configuration has been put to work."""
        return self.log.read_text(encoding="utf-8").count("Loading success")

    def workers(self) -> set[int]:
        """The processes that serve, old ones with streams left among them."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in path.read_text(encoding="utf-8").split()}

    def reload(self) -> None:
        """As ExecReload does; returns when the new process serves."""
        before = self.loaded()
        subprocess.run(["haproxy", "-Ws", "-f", str(self.config), "-c", "-q"], check=True)
        self.process.send_signal(signal.SIGUSR2)
        until(lambda: self.loaded() > before, "reload")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Its workers are stopped meanwhile."""
        workers = self.workers()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in workers:
                os.kill(pid, signal.SIGCONT)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=30)


class House:
    """The fleet on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sparks = [Spark(name, folder) for name in ("spark-a", "spark-b")]
        self.ports = {"gateway": free_port(), "metrics": free_port()}
        self.keys = {f"user-{number}": os.urandom(16).hex() for number in range(40)}
        self.free_keys = itertools.cycle(self.keys.values())
        inventory = {"all": {"hosts": self._hosts(), "vars": {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "gateway_address": "127.0.0.1",
            "gateway_ca": str(folder / "ca"),
        }}}  # fmt: skip
        (folder / "hosts.yml").write_text(yaml.safe_dump(inventory), encoding="utf-8")
        (folder / "play.yml").write_text(PLAY, encoding="utf-8")
        self.configured = self.configure()
        assert self.configured.returncode == 0, self.configured.stdout
        self.proxies = [Proxy(folder / name / "haproxy.cfg") for name in (*self._edges(), "gate")]
        self.edge_a, self.edge_b, self.gateway = self.proxies

    def _edges(self) -> list[str]:
        return [spark.name for spark in self.sparks]

    def _hosts(self) -> dict[str, Any]:
        def host(metrics: int, **more: Any) -> dict[str, Any]:
            return {"gateway_metrics_port": metrics} | more

        edges = {
            spark.name: host(
                free_port(), gateway_parts=["edge"], gateway_edge_port=spark.edge_port,
                gateway_engine_port=spark.engine_port, gateway_ready_port=spark.ready_port,
                gateway_voice_port=spark.voice.port,
            )
            for spark in self.sparks
        }  # fmt: skip
        gate = host(
            self.ports["metrics"], gateway_parts=["gateway"], gateway_port=self.ports["gateway"],
            gateway_names=["localhost", "127.0.0.1"], gateway_max_running=2, gateway_queue_timeout=3,
            gateway_rate=RATE,
            gateway_keys={name: hashlib.sha256(key.encode()).hexdigest() for name, key in self.keys.items()},
            gateway_sparks=[
                {"name": spark.name, "address": "127.0.0.1", "port": spark.edge_port} for spark in self.sparks
            ],
        )  # fmt: skip
        return edges | {"gate": gate}

    def configure(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the role below the folder; nothing is started or reloaded."""
        place = f"{self.folder}/{{{{ inventory_hostname }}}}"
        beats_the_role = {
            "__gateway_etc": place,
            "__gateway_run": place,
            "__gateway_pid": f"{place}.pid",
        }
        return subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", self.folder / "hosts.yml",
             self.folder / "play.yml", "-e", json.dumps(beats_the_role), *options],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            env=os.environ | {"ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_FORCE_COLOR": "false"},
        )  # fmt: skip

    def trust(self, certificate: str = "") -> ssl.SSLContext:
        """A client that trusts the own CA, with one of the issued certificates if it is named."""
        context = ssl.create_default_context(cafile=self.folder / "ca/ca.crt")
        if certificate:
            context.load_cert_chain(self.folder / "ca" / certificate)
        return context

    @contextmanager
    def client(self, key: str | None) -> Iterator[httpx.Client]:
        """A client of the gateway."""
        headers = {"Authorization": f"Bearer {key}"} if key is not None else {}
        url = f"https://localhost:{self.ports['gateway']}"
        with httpx.Client(base_url=url, headers=headers, verify=self.trust(), timeout=30) as client:
            yield client

    def states(self, backend: str = "sparks") -> dict[str, str]:
        """How the gateway sees the Sparks' engines, or voices."""
        metrics = httpx.get(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=30).text
        return gateway_server_states(metrics, backend)

    def conversations(self) -> int:
        """How many the gateway counts just now."""
        metrics = httpx.get(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=30).text
        found = re.findall(r'(?m)^haproxy_server_current_sessions\{proxy="voices",.*\} (\d+)$', metrics)
        return sum(map(int, found))

    def calm(self) -> None:
        """Both Sparks are up, nothing runs, nothing is remembered."""
        for spark in self.sparks:
            spark.heal()
            spark.step.release(20)
        for backend in ("sparks", "voices"):
            until(lambda: list(self.states(backend).values()) == ["UP", "UP"], f"both {backend} up")  # noqa: B023
        until(lambda: self.conversations() == 0, "no conversation")
        for spark in self.sparks:
            spark.step = type(spark.step)(0)
            spark.asked.clear()

    def asked(self) -> list[int]:
        """How many requests each Spark has seen."""
        return [len(spark.asked) for spark in self.sparks]

    def end(self) -> None:
        for proxy in self.proxies:
            proxy.end()
        for spark in self.sparks:
            spark.end()
