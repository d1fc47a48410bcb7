"""Bad input: what is wrong, the rule, the remedy; a non-zero exit; the host unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.play import ROOT, Run, play

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
LAB = ROOT / "inventory/lab"

FINGERPRINT = """
find /etc /opt /srv -xdev -type f -not -path '*/.cache/*' -not -name '*.pyc' -print0 | sort -z | xargs -0 stat -c '%n %s %Y %a %U' | sha256sum
docker ps -a --no-trunc --format '{{.ID}} {{.State}}'
docker image ls --no-trunc -q
systemctl list-units --type=service --state=running --plain --no-legend | cut -d' ' -f1 | grep -v -E '^(session|user|ssh|systemd-)'
"""


@pytest.fixture(scope="module", autouse=True)
def host_stays_as_it_is(sh: Sh) -> Iterator[None]:
    before = sh(FINGERPRINT)
    yield
    assert sh(FINGERPRINT) == before, "refused input has changed the host"


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    copy = tmp_path / "inventory"
    shutil.copytree(LAB, copy)
    return copy


def edit_pins(inventory: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = inventory / "pins.yml"
    pins = yaml.safe_load(path.read_text(encoding="utf-8"))
    change(pins)
    path.write_text(yaml.safe_dump(pins), encoding="utf-8")


def refused(run: Run, *words: str) -> None:
    message = run.messages()
    assert run.code != 0, run.output[-3000:]
    assert run.changed() == []
    for word in (*words, "Rule", "Remedy"):
        assert word in message, f"{word!r} is not in: {message or run.output[-3000:]}"


EXTRA_VARS: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "unknown model": ({"vllm_model": "mistral-8b"}, ("vllm_model", "mistral-8b", "lab-smollm2")),
    "unknown preset": ({"vllm_preset": "sead"}, ("vllm_preset", "sead")),
    "misspelt top-level variable": ({"vllm_modle": "lab-smollm2"}, ("vllm_modle", "vllm_model")),
    "misspelt role variable": ({"voicebot_setings": {}}, ("voicebot_setings", "voicebot_settings")),
    "misspelt setting": ({"voicebot_settings": {"llm": {"max_token": 5}}}, ("max_token",)),
    "wrong type": ({"vllm_start_timeout": "soon"}, ("vllm_start_timeout",)),
    "architecture": ({"spark_host_architectures": ["aarch64"]}, ("x86_64", "aarch64")),
    "memory": ({"spark_host_min_memory_gib": 4000}, ("4000",)),
}


@pytest.mark.parametrize("name", EXTRA_VARS)
def test_variable(name: str) -> None:
    extra, words = EXTRA_VARS[name]
    refused(play("playbooks/preflight.yml", extra=extra), *words)


def test_site_refuses_too_before_anything_is_changed() -> None:
    refused(play("site.yml", extra={"vllm_model": "mistral-8b"}), "vllm_model")


def test_revision_that_is_not_40_hex(inventory: Path) -> None:
    edit_pins(inventory, lambda pins: pins["models"]["lab-smollm2"].update(revision="main"))
    refused(play("playbooks/preflight.yml", inventory=inventory), "lab-smollm2", "main", "40")


def test_empty_pin(inventory: Path) -> None:
    edit_pins(inventory, lambda pins: pins["images"]["lab-vllm"].update(digest=""))
    refused(play("playbooks/preflight.yml", inventory=inventory), "lab-vllm", "pin.yml")


def test_example_inventory_with_its_empty_pins(inventory: Path) -> None:
    shutil.copy(ROOT / "inventory/local/pins.yml", inventory / "pins.yml")
    refused(play("playbooks/preflight.yml", inventory=inventory), "pin")


def test_digest_that_the_registry_does_not_have(inventory: Path) -> None:
    edit_pins(inventory, lambda pins: pins["images"]["lab-vllm"].update(digest="sha256:" + "ab" * 32))
    refused(play("playbooks/preflight.yml", inventory=inventory), "ab" * 32, "digest")


def test_registry_unreachable(inventory: Path) -> None:
    def elsewhere(pins: dict[str, Any]) -> None:
        pins["images"]["elsewhere"] = {"digest": "sha256:" + "cd" * 32}

    edit_pins(inventory, elsewhere)
    catalog = yaml.safe_load((inventory / "group_vars/spark/catalog.yml").read_text(encoding="utf-8"))
    image = {**catalog["catalog_extra"]["images"]["lab-vllm"], "repository": "127.0.0.1:9/nvidia/vllm"}
    catalog["catalog_extra"]["images"]["elsewhere"] = image
    extra = {"vllm_image": "elsewhere", "catalog_extra": catalog["catalog_extra"]}
    refused(play("playbooks/preflight.yml", inventory=inventory, extra=extra), "127.0.0.1:9", "unreachable")


def test_disk_too_small(inventory: Path) -> None:
    """A model that needs more than the disk has is refused with what is needed and what is free."""
    catalog = yaml.safe_load((inventory / "group_vars/spark/catalog.yml").read_text(encoding="utf-8"))[
        "catalog_extra"
    ]
    catalog["models"]["huge"] = {**catalog["models"]["lab-smollm2"], "size_gb": 90_000}
    edit_pins(inventory, lambda pins: pins["models"].update(
        huge={**pins["models"]["lab-smollm2"], "revision": "f" * 40}))  # fmt: skip
    extra = {"vllm_model": "huge", "catalog_extra": catalog}
    refused(play("playbooks/preflight.yml", inventory=inventory, extra=extra), "huge", "/srv", "99")


def test_port_taken_by_a_stranger(sh: Sh) -> None:
    sh("systemctl stop vllm")
    try:
        sh("systemd-run -q --unit=stranger python3 -m http.server 8000 --bind 127.0.0.1; "
           "for i in $(seq 50); do curl -s -o /dev/null http://127.0.0.1:8000 && break; sleep 0.1; done")  # fmt: skip
        refused(play("playbooks/preflight.yml"), "8000", "python3")
    finally:
        sh("systemctl stop stranger; systemctl reset-failed vllm; systemctl start vllm", check=False)
