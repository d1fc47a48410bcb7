"""What belongs to one lab and to one host: keys, certificates, mirrors; the inventory that playbooks read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml

from plugins.filter.memory_plan import memory_traits
from tests.lab import packages, registry
from tests.lab.daemon import CLAMP, needs_clamp
from tests.lab.proc import run
from tests.lab.settings import (
    ENGINE_REPOSITORY,
    ENGINE_TAG,
    REGISTRY_NAME,
    LabError,
    Settings,
    write_atomically,
)

ENGINE_KEY = "lab-vllm"  # of the catalogue's images
MOST_HOSTS = 99
HEADER = "# Written by playbooks/lab.yml for the lab of this clone; not committed.\n---\n"


def up(settings: Settings, count: int | None = None) -> bool:
    """Keys, files for the hosts, hosts.yml and pins.yml are as they should be. True if anything changed."""
    known = settings.facts().get("hosts", [])
    count = count if count is not None else len(known) or 1
    if not 1 <= count <= MOST_HOSTS:
        raise LabError(f"hosts is {count}. Rule: 1 to {MOST_HOSTS}. Remedy: -e lab_hosts=1")
    changed = _key(settings.ssh_key)
    hosts = [_host(settings, number) for number in range(1, count + 1)]
    for host in hosts:
        changed |= _key(_host_key(settings, host["name"]))
        _furnish(settings, host)
    lines = [
        f"{h['address']} {_host_key(settings, h['name']).with_suffix('.pub').read_text()}" for h in hosts
    ]
    changed |= _write(settings.known_hosts, "".join(lines))
    settings.learn(hosts=hosts, ssh_key=str(settings.ssh_key), known_hosts=str(settings.known_hosts))
    folder = settings.root / "inventory" / "lab"
    changed |= _write(folder / "hosts.yml", HEADER + _yaml(hosts_yml(settings, hosts)))
    return _write(folder / "pins.yml", HEADER + _yaml(pins_yml(settings))) or changed


def _host(settings: Settings, number: int) -> dict[str, str]:
    name = f"spark{number}"
    files = settings.state / "hosts" / name
    address = f"{settings.subnet}.{10 + number}"
    return {"name": name, "container": settings.prefix + name, "address": address, "files": str(files)}


def _host_key(settings: Settings, name: str) -> Path:
    return settings.state / "keys" / name


def hosts_yml(settings: Settings, hosts: list[dict[str, str]]) -> dict[str, Any]:
    """The inventory: how Ansible reaches each virtual Spark."""
    strict = f"-o UserKnownHostsFile={settings.known_hosts} -o StrictHostKeyChecking=yes"
    shared = {
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(settings.ssh_key),
        "ansible_ssh_common_args": f"{strict} -o IdentitiesOnly=yes",
        "model_store_endpoint": settings.facts()["hub_url"],
    }
    return {"spark": {"hosts": {h["name"]: {"ansible_host": h["address"], **shared} for h in hosts}}}


def pins_yml(settings: Settings) -> dict[str, Any]:
    """The pins: the image as the registry has it, the models as the hub has them."""
    digest = registry.digest_of(settings, ENGINE_REPOSITORY, ENGINE_TAG)
    models = settings.facts().get("models", {})
    pinned = {key: _pin(settings, pin) for key, pin in models.items()}
    return {"images": {ENGINE_KEY: {"digest": digest}}, "models": pinned}


def _pin(settings: Settings, known: dict[str, Any]) -> dict[str, Any]:
    pin = {name: known[name] for name in ("revision", "files")}
    if "model.safetensors" in pin["files"]:  # an LLM: the memory plan reads its shape
        published = settings.hub_root / known["repository"] / pin["revision"]
        pin["config"] = memory_traits(json.loads((published / "config.json").read_text()))
    return pin


def remove(settings: Settings) -> None:
    """Deletes what `up` wrote outside of the lab's folder."""
    for name in ("hosts.yml", "pins.yml"):
        (settings.root / "inventory" / "lab" / name).unlink(missing_ok=True)


def _furnish(settings: Settings, host: dict[str, str]) -> None:
    """Lays out the files that are copied into a new host."""
    key = _host_key(settings, host["name"])
    shutil.rmtree(root := Path(host["files"]), ignore_errors=True)
    machine = Path("/etc/ssl/certs/ca-certificates.crt")
    texts: dict[str, tuple[str, int]] = {
        "etc/apt/sources.list": ("".join(f"{line}\n" for line in packages.apt_lines("trixie")), 0o644),
        "etc/apt/apt.conf.d/90lab": ("".join(f"{line};\n" for line in packages.APT_CLOCK), 0o644),
        "etc/ssl/certs/ca-certificates.crt": (machine.read_text(), 0o644),
        f"etc/docker/certs.d/{REGISTRY_NAME}/ca.crt": (settings.registry_ca.read_text(), 0o644),
        "etc/ssh/ssh_host_ed25519_key": (key.read_text(), 0o600),
        "etc/ssh/ssh_host_ed25519_key.pub": (key.with_suffix(".pub").read_text(), 0o644),
        "root/.ssh/authorized_keys": (settings.ssh_key.with_suffix(".pub").read_text(), 0o600),
    }
    if needs_clamp():
        texts["usr/local/sbin/runc"] = (CLAMP.read_text(), 0o755)
    for name, (text, mode) in texts.items():
        write_atomically(root / name, text, mode)
    for private in ("root", "root/.ssh"):
        (root / private).chmod(0o700)


def _key(path: Path) -> bool:
    if path.exists():
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "spark-voicebot lab", "-f", path])
    return True


def _write(path: Path, text: str) -> bool:
    if path.exists() and path.read_text() == text:
        return False
    write_atomically(path, text)
    return True


def _yaml(document: dict[str, Any]) -> str:
    """YAML whose strings stay strings (a revision of digits alone, say)."""
    return yaml.safe_dump(json.loads(json.dumps(document)), sort_keys=True, width=120)
