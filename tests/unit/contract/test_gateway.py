"""The real gateway.yml: its groups, its wiring, and that refusals come before the first change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.contract.conftest import ROOT, write
from tests.unit.contract.test_preflight import Play, inventory, sound_pins

LOCAL = {"ansible_connection": "local", "ansible_become": False}
REFUSALS: list[tuple[dict[str, Any], list[str]]] = [
    ({"gateway_kyes": {}}, ["gateway_kyes is not known", "did you mean gateway_keys?"]),
    (
        {"gateway_keys": {"kitchen": "hunter2"}, "gateway_port": 8443, "gateway_edge_port": 8443},
        ["gate: 1 refused, nothing was changed.", "gateway_keys.kitchen is no hash"],
    ),
]


def fleet(folder: Path, gate: dict[str, Any] | None) -> Path:
    """One Spark, and a gateway with these variables."""
    inventory(folder, {"spark-a": LOCAL}, sound_pins())
    hosts = json.loads((folder / "hosts.yml").read_text(encoding="utf-8"))
    if gate is not None:
        hosts["gateway"] = {"hosts": {"gate": LOCAL | gate}}
    write(folder / "hosts.yml", json.dumps(hosts))
    return folder


@pytest.mark.parametrize(("gate", "said"), REFUSALS)
def test_bad_input_is_refused_before_anything_is_changed(
    play: Play, tmp_path: Path, gate: dict[str, Any], said: list[str]
) -> None:
    run = play("playbooks/gateway.yml", fleet(tmp_path, gate))
    assert run.code == 2, run.text
    for text in said:
        assert text in run.messages("gate")
    assert "hunter2" not in run.text
    assert run.changed() == 0


def test_certificates_of_two_cas_are_refused(play: Play, tmp_path: Path) -> None:
    run = play("playbooks/gateway.yml", fleet(tmp_path, {"gateway_ca": "/elsewhere"}))
    assert run.code == 2, run.text
    assert "gateway_ca differs" in run.text and "/elsewhere" in run.text and "Remedy:" in run.text
    assert run.changed() == 0


def test_without_a_gateway_it_does_nothing(play: Play, tmp_path: Path) -> None:
    run = play("playbooks/gateway.yml", fleet(tmp_path, None))
    assert run.code == 0, run.text
    tasks = [task["task"]["name"] for plays in run.report["plays"] for task in plays["tasks"]]
    assert tasks == [
        "Refuse what the project does not know, and what is not pinned",
        "Refuse an inventory without hosts",
    ]


def test_gateways_know_every_spark_and_each_host_its_part(play: Play, tmp_path: Path) -> None:
    """A Spark that is a gateway, too, is both; a host's own port and address are those that count."""
    folder = fleet(tmp_path / "inventory", {})
    hosts = json.loads((folder / "hosts.yml").read_text(encoding="utf-8"))
    hosts["spark"]["hosts"]["spark-b"] = LOCAL | {"ansible_host": "192.0.2.2"}
    hosts["gateway"]["hosts"]["spark-b"] = {}
    write(folder / "hosts.yml", json.dumps(hosts))
    write(folder / "host_vars/spark-b/gateway.yml", json.dumps({"gateway_edge_port": 9443}))
    show = "{{ gateway_parts }} {{ gateway_sparks }} {{ gateway_engine_port }} {{ gateway_ready_port }}"
    tasks = [{"ansible.builtin.debug": {"msg": show}}]
    write(tmp_path / "show/show.yml", json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    (tmp_path / "show/group_vars").symlink_to(ROOT / "playbooks/group_vars")
    run = play(tmp_path / "show/show.yml", folder)
    (task,) = run.report["plays"][0]["tasks"]
    sparks = "[{'name': 'spark-a', 'address': 'spark-a', 'port': 8443}, "
    sparks += "{'name': 'spark-b', 'address': '192.0.2.2', 'port': 9443}] 8000 8001"
    assert {host: result["msg"] for host, result in task["hosts"].items()} == {
        "spark-a": f"['edge'] {sparks}",
        "spark-b": f"['edge', 'gateway'] {sparks}",
        "gate": f"['gateway'] {sparks}",
    }
