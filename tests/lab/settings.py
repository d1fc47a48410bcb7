"""Names, places and addresses of a lab. All derive from the clone's path: two clones never collide."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
ENGINE_REPOSITORY = "nvidia/vllm"
ENGINE_TAG = "25.11-py3"
REGISTRY_NAME = "nvcr.io"
HUB_PORT = 8090
_learning = threading.Lock()


class LabError(Exception):
    """Something the person at the keyboard has to know; printed without a traceback."""


@dataclass(frozen=True)
class Settings:
    """Where the lab of the clone at `root` keeps its things."""

    root: Path = PROJECT
    run_base: Path = Path("/run")

    @cached_property
    def id(self) -> str:
        """Six hex digits that tell this clone's lab from any other on the machine."""
        return hashlib.sha256(str(self.root.resolve()).encode()).hexdigest()[:6]

    @property
    def state(self) -> Path:
        """What must survive a reboot of the machine: docker's data, keys, registry, models."""
        return self.root / ".lab"

    @property
    def run(self) -> Path:
        """Sockets and pid files: a short path, because a unix socket's is limited to 108 bytes."""
        return self.run_base / f"spark-voicebot-{self.id}"

    @property
    def lock(self) -> Path:
        """Held while a verb changes the lab; outside `run`, which `down` removes."""
        return self.run_base / "lock" / f"spark-voicebot-{self.id}.lock"

    @property
    def bridge(self) -> str:
        """The network's bridge, and docker's name for the network."""
        return f"sv{self.id}"

    @property
    def prefix(self) -> str:
        """Begins the name of every container and volume."""
        return f"sv-{self.id}-"

    @property
    def docker_host(self) -> str:
        """Address of the lab's own Docker engine."""
        return f"unix://{self.run}/docker.sock"

    @property
    def file(self) -> Path:
        """The facts of the running lab, for playbooks, inventory and tests."""
        return self.state / "lab.json"

    @property
    def ssh_key(self) -> Path:
        """Private key that opens every virtual Spark of this lab."""
        return self.state / "id_ed25519"

    @property
    def known_hosts(self) -> Path:
        """Host keys of the virtual Sparks."""
        return self.state / "known_hosts"

    @property
    def hub_root(self) -> Path:
        """Repositories that the Hub stand-in serves."""
        return self.state / "hub"

    @property
    def registry_ca(self) -> Path:
        """Certificate of the registry, its own authority."""
        return self.state / "registry.crt"

    def facts(self) -> dict[str, Any]:
        """What is known of the running lab, empty if there is none."""
        if not self.file.exists():
            return {}
        facts: dict[str, Any] = json.loads(self.file.read_text())
        return facts

    def learn(self, **facts: Any) -> None:
        """Adds to the lab's facts, in one step that a kill can't halve."""
        with _learning:
            write_atomically(self.file, json.dumps(self.facts() | facts, indent=2, sort_keys=True) + "\n")

    @property
    def subnet(self) -> str:
        """First three numbers of the lab's addresses."""
        if "subnet" not in (facts := self.facts()):
            raise LabError(f"no lab at {self.state}. Remedy: python -m tests.lab up")
        return str(facts["subnet"]).removesuffix(".0/24")

    @property
    def gateway(self) -> str:
        """This machine as the virtual Sparks see it."""
        return f"{self.subnet}.1"


def cache_root() -> Path:
    """Where slow builds are kept, outside of any clone."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spark-voicebot"


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replaces a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as stream:
        stream.write(text)
    Path(name).chmod(mode)
    Path(name).replace(path)
