"""What a lab writes for its hosts: an inventory and pins that the project accepts, keys, files."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader

from plugins.filter.pins import parse_pins, pin_findings
from tests.lab import inventory, models, packages, registry
from tests.lab.settings import LabError, Settings

DIGEST = "sha256:" + "1" * 64
CA = "/etc/ssl/certs/ca-certificates.crt"
pytestmark = pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="no ssh-keygen on this machine")


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """A lab whose services run, by its facts. Registry and apt are another's part."""
    settings = Settings(tmp_path / "clone")
    revisions = ["1" * 40, "12" + "e" + "3" * 37, "a" * 40, "b" * 40, "0" * 40]  # YAML takes some for numbers
    files = {"config.json": {"size": 1, "git_oid": "7" * 40}, "model.bin": {"size": 9, "sha256": "5" * 64}}
    pins = {
        model.key: {"repository": model.repository, "source": "/s", "revision": revision, "files": files}
        for model, revision in zip(models.MODELS, revisions, strict=True)
    }
    settings.learn(subnet="172.31.9.0/24", hub_url="http://172.31.9.1:8090", models=pins)
    settings.registry_ca.write_text("the registry's certificate\n")
    monkeypatch.setattr(registry, "digest_of", lambda *_: DIGEST)
    monkeypatch.setattr(
        packages, "apt_lines", lambda suite: [f"deb http://mirror.example/debian {suite} main"]
    )
    return settings


def written(lab: Settings, name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((lab.root / "inventory/lab" / name).read_text())
    return document


def test_the_pins_pass_the_contract(lab: Settings) -> None:
    inventory.up(lab)
    pins = parse_pins((lab.root / "inventory/lab/pins.yml").read_text(), "inventory/lab")
    assert pins["images"] == {inventory.ENGINE_KEY: {"digest": DIGEST}}
    facts = lab.facts()["models"]
    expected = {key: {"revision": pin["revision"], "files": pin["files"]} for key, pin in facts.items()}
    assert pins["models"] == expected
    entry = {"files": ["config.json", "model.bin"]}
    catalog = {"images": {inventory.ENGINE_KEY: {}}, "models": dict.fromkeys(pins["models"], entry)}
    chosen = {"images": [inventory.ENGINE_KEY], "models": list(facts)}
    assert pin_findings(pins, catalog, chosen, "inventory/lab") == []


def test_an_llm_is_pinned_with_its_shape(lab: Settings) -> None:
    key, pin = next(iter((known := lab.facts()["models"]).items()))
    pin["files"] = {"model.safetensors": {"size": 9, "sha256": "5" * 64}}
    lab.learn(models=known)
    shape = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 3,
        "max_position_embeddings": 64,
    }
    (folder := lab.hub_root / pin["repository"] / pin["revision"]).mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**shape, "vocab_size": 5}))
    inventory.up(lab)
    pinned = written(lab, "pins.yml")["models"]
    assert pinned[key]["config"] == shape
    assert [name for name in pinned if "config" in pinned[name]] == [key]


def test_an_image_that_is_not_in_the_registry_is_an_empty_pin(
    lab: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "digest_of", lambda *_: "")
    inventory.up(lab)
    assert written(lab, "pins.yml")["images"] == {inventory.ENGINE_KEY: {"digest": ""}}


def test_ansible_reads_the_hosts(lab: Settings) -> None:
    inventory.up(lab, 2)
    manager = InventoryManager(DataLoader(), [str(lab.root / "inventory/lab/hosts.yml")])
    hosts = {host.name: host.vars for host in manager.get_hosts("spark")}
    assert {name: v["ansible_host"] for name, v in hosts.items()} == {
        "spark1": "172.31.9.11",
        "spark2": "172.31.9.12",
    }
    assert hosts["spark1"]["ansible_ssh_private_key_file"] == str(lab.ssh_key)
    assert "StrictHostKeyChecking=yes" in hosts["spark1"]["ansible_ssh_common_args"]
    assert str(lab.known_hosts) in hosts["spark1"]["ansible_ssh_common_args"]
    assert [h["container"] for h in lab.facts()["hosts"]] == [f"{lab.prefix}spark1", f"{lab.prefix}spark2"]


def test_a_second_run_changes_nothing_and_keeps_the_keys(lab: Settings) -> None:
    assert inventory.up(lab, 2) is True
    keys = {p.name: p.read_text() for p in (lab.state / "keys").iterdir()}
    assert inventory.up(lab, 2) is False
    assert inventory.up(lab) is False  # as many as there are
    assert {p.name: p.read_text() for p in (lab.state / "keys").iterdir()} == keys
    assert inventory.up(lab, 1) is True
    assert list(written(lab, "hosts.yml")["spark"]["hosts"]) == ["spark1"]


def test_a_host_is_known_by_the_key_it_gets(lab: Settings) -> None:
    inventory.up(lab)
    address, kind, known = lab.known_hosts.read_text().split()[:3]
    files = Path(lab.facts()["hosts"][0]["files"])
    private = files / "etc/ssh/ssh_host_ed25519_key"
    derived = subprocess.run(
        ["ssh-keygen", "-y", "-f", private], capture_output=True, text=True, check=True, timeout=20
    ).stdout  # fmt: skip
    assert (address, kind, known) == ("172.31.9.11", *derived.split()[:2])
    allowed = (files / "root/.ssh/authorized_keys").read_text()
    assert allowed == lab.ssh_key.with_suffix(".pub").read_text()


@pytest.mark.skipif(not Path(CA).exists(), reason="no certificates on this machine")
def test_a_hosts_files_are_complete_and_private_where_they_must_be(
    lab: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inventory, "needs_clamp", lambda: True)
    inventory.up(lab)
    root = Path(lab.facts()["hosts"][0]["files"])
    modes = {str(p.relative_to(root)): p.stat().st_mode & 0o777 for p in root.rglob("*") if p.is_file()}
    assert modes == {
        "etc/apt/apt.conf.d/90lab": 0o644,
        "etc/apt/sources.list": 0o644,
        "etc/docker/certs.d/nvcr.io/ca.crt": 0o644,
        "etc/ssh/ssh_host_ed25519_key": 0o600,
        "etc/ssh/ssh_host_ed25519_key.pub": 0o644,
        "etc/ssl/certs/ca-certificates.crt": 0o644,
        "root/.ssh/authorized_keys": 0o600,
        "usr/local/sbin/runc": 0o755,
    }
    assert (root / "root/.ssh").stat().st_mode & 0o777 == 0o700
    assert (root / "etc/apt/sources.list").read_text() == "deb http://mirror.example/debian trixie main\n"
    monkeypatch.setattr(inventory, "needs_clamp", lambda: False)
    inventory.up(lab)
    assert not (root / "usr/local/sbin/runc").exists()


@pytest.mark.parametrize("count", [0, 100, -1])
def test_too_few_and_too_many_hosts_are_refused(lab: Settings, count: int) -> None:
    with pytest.raises(LabError, match=rf"hosts is {count}\. Rule: 1 to 99\. Remedy: "):
        inventory.up(lab, count)
    assert not (lab.root / "inventory").exists() and not lab.ssh_key.exists()


def test_removal_takes_what_was_written_and_leaves_the_rest(lab: Settings) -> None:
    inventory.up(lab)
    (lab.root / "inventory/lab/groups.yml").write_text("spark: {}\n")
    inventory.remove(lab)
    inventory.remove(lab)
    assert [p.name for p in (lab.root / "inventory/lab").iterdir()] == ["groups.yml"]
