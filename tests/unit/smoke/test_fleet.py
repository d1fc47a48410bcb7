"""The real smoke.yml where nothing runs: no host passes that fails, or that nobody reached."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.contract.conftest import Run, play  # noqa: F401 (a fixture)
from tests.unit.contract.test_preflight import Play, inventory, sound_pins

BARE = {"model_store_root": "/nonexistent", "vllm_port": 9, "smoke_voicebot": "/nonexistent/voicebot"}
BARE |= {"voicebot_settings": {"server": {"port": 7}}}
GONE = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bare host and one that is away; an earlier run's report says that all is well."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent.sock")
    (tmp_path / "smoke.json").write_text(json.dumps({"ok": True, "hosts": {"bare": {"ok": True}}}))
    return inventory(tmp_path / "fleet", {"bare": BARE, "gone": BARE | GONE}, sound_pins())


@pytest.fixture
def smoke(play: Play, tmp_path: Path) -> Any:  # noqa: F811
    """Run it; what the run came to, and the report that is there afterwards."""

    def run(fleet: Path, *options: str) -> tuple[Run, dict[str, Any]]:
        report = tmp_path / "smoke.json"
        given = json.dumps({"smoke_report": str(report), "ansible_become": False})
        done = play("playbooks/smoke.yml", fleet, "-e", given, *options)
        return done, json.loads(report.read_text(encoding="utf-8"))

    return run


def failed(report: dict[str, Any], host: str) -> set[str]:
    return {check["name"] for check in report["hosts"][host]["checks"] if not check["ok"]}


def test_every_host_has_a_verdict(smoke: Any, fleet: Path) -> None:
    run, report = smoke(fleet)
    assert run.code == 4, run.text
    assert report["ok"] is False and set(report["hosts"]) == {"bare", "gone"}
    assert failed(report, "gone") == {"reached"}
    assert {"model mistral-7b", "engine /health", "completion", "spoken question"} <= failed(report, "bare")
    assert "Remedy: see each" in run.messages("bare")
    assert run.changed() == 0


@pytest.mark.parametrize("mode", [[], ["--check"]])
def test_a_failed_check_fails_the_run_with_a_limit_too(smoke: Any, fleet: Path, mode: list[str]) -> None:
    run, report = smoke(fleet, "--limit", "bare", *mode)
    assert run.code == 2, run.text
    assert report["ok"] is False and set(report["hosts"]) == {"bare"}
    assert "completion" in failed(report, "bare")


def test_an_old_report_does_not_speak_for_hosts_out_of_reach(smoke: Any, fleet: Path) -> None:
    run, report = smoke(fleet, "--limit", "gone")
    assert run.code == 4, run.text
    assert report["ok"] is False and failed(report, "gone") == {"reached"}


def test_an_inventory_without_hosts_is_refused(smoke: Any, fleet: Path) -> None:
    run, _ = smoke(inventory(fleet.parent / "empty", {}, sound_pins()))
    assert run.code == 2, run.text
    assert "Group spark" in run.text and "is empty" in run.text
