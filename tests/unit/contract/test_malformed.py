"""Each malformed inventory, catalogue or pin is refused with input, rule and remedy; a sound one is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.unit.contract.inprocess import contract
from tests.unit.contract.malformed import CASES, Case
from tests.unit.contract.test_preflight import inventory, sound_pins

NAMES = {"llm": "mistral-7b", "stt": "whisper-base", "image": "vllm-25.11"}
SOUND = {
    "spark_host_baseline": {
        "dgx_ota": ["7.3.1", "7.4.0"],
        "kernel": "6.14.*",
        "ssh_host_keys": {"ed25519": "SHA256:x"},
    },
    "docker_engine_daemon": {"default-address-pools": [{"base": "10.201.0.0/16", "size": 24}]},
    "model_store_endpoint": "http://127.0.0.1:8090",
    "vllm_port": "8000",
    "memory_system_gib": 16.5,
    "pin_update": "true",
}


def test_a_sound_inventory_passes(tmp_path: Path) -> None:
    assert contract(inventory(tmp_path, {"one": SOUND}, sound_pins())) == ""


def test_there_are_enough_of_them_and_no_two_are_one() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_malformed_one_is_refused(case: Case, tmp_path: Path) -> None:
    folder = inventory(tmp_path, {"one": {}}, sound_pins())
    case.spoil(folder, NAMES)
    refusal = contract(folder)
    for said in case.expected(NAMES):
        assert said in refusal, f"{said!r} is not in: {refusal}"
    assert refusal.startswith("one: ") and "nothing was changed" in refusal
    assert "sesame" not in refusal


def test_keys_given_twice_are_refused_in_variables_too(tmp_path: Path) -> None:
    """By Ansible itself, as ansible.cfg says; it names file, line and key."""
    assert "duplicate_dict_key = error" in (Path(__file__).parents[3] / "ansible.cfg").read_text()
    assert yaml.safe_load("a: 1\na: 2") == {"a": 2}, "YAML alone would not tell"
