"""Malformed inventories, catalogues and pins on a host that runs: each refused by preflight, the host as before."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.play import ROOT, play
from tests.e2e.test_6_bad_input import FINGERPRINT
from tests.unit.contract.malformed import CASES, Case

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
STATE = FINGERPRINT + "dpkg-query -W | sha256sum\n"
LAB = ROOT / "inventory/lab"
SHORT = {"vllm_port=99999", "one port for two", "key given twice", "pins cannot be read"}


@pytest.fixture(scope="module", autouse=True)
def host_stays_as_it_is(sh: Sh) -> Iterator[None]:
    before = sh(STATE)
    yield
    assert sh(STATE) == before, "refused input has changed the host"


@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[] if c.name in SHORT else [pytest.mark.long], id=c.name) for c in CASES],
)
def test_it_is_refused_by_preflight(case: Case, spark: str, tmp_path: Path) -> None:
    folder = tmp_path / "inventory"
    shutil.copytree(LAB, folder)
    choices = yaml.safe_load((LAB / "group_vars/spark/choices.yml").read_text(encoding="utf-8"))
    names = {"llm": choices["vllm_model"], "stt": choices["stt_model"], "image": choices["vllm_image"]}
    case.spoil(folder, names)
    run = play("playbooks/preflight.yml", inventory=folder)
    assert run.code == 2, run.output[-3000:]
    assert run.changed() == []
    for said in case.expected(names):
        assert " ".join(said.split()) in run.messages(), f"{said!r} is not in: {run.messages()}"


def test_the_short_ones_are_cases() -> None:
    assert {case.name for case in CASES} >= SHORT
