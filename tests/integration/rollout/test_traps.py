"""The traps of rollouts, each on the real playbooks/rollout_batches.yml with hosts that are directories.

What is done to a host comes from steps/, not from the roles; the rest is the real thing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.lab  # in `make test`, though it needs no lab: it is none of the quick ones
ROOT = Path(__file__).parents[3]
STEPS = Path(__file__).parent / "steps"
ENVIRONMENT = {
    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
    "ANSIBLE_NOCOLOR": "1",
    "ANSIBLE_FORCE_COLOR": "0",
    "ANSIBLE_ROLES_PATH": str(STEPS / "roles"),
    "ANSIBLE_TIMEOUT": "2",
}
NAMES = ("compare", "drain", "change", "undrain", "restore", "settle")


class Fleet:
    """Directories as hosts; spark1 is the canary."""

    def __init__(self, root: Path, size: int = 4) -> None:
        self.root = root
        self.names = [f"spark{i}" for i in range(1, size + 1)]
        for name in self.names:
            (root / name).mkdir()
            (root / name / "release").write_text("old")
            (root / name / "log").write_text("")

    def roll(self, *options: str, batches: list[Any] | None = None, **trouble: str) -> tuple[int, str]:
        """Run it; exit code and output. `trouble`: host -> what goes wrong there."""
        hosts: dict[str, dict[str, Any]] = {}
        for name in self.names:
            hosts[name] = {"ansible_connection": "local", "state": str(self.root / name)}
            if trouble.get(name) == "gone":
                hosts[name] |= {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
            elif name in trouble:
                hosts[name]["trouble"] = trouble[name]
        groups = {"canary": {"hosts": {"spark1": {}}}, "spark": {"hosts": hosts}}
        inventory = self.root / "hosts.yml"
        inventory.write_text(yaml.safe_dump(groups))
        given: dict[str, Any] = {
            "wanted": "new",
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "rollout_steps": {name: str(STEPS / f"{name}.yml") for name in NAMES},
        }
        if batches:
            given["rollout_batches"] = batches
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory),
                "playbooks/rollout_batches.yml", "-e", json.dumps(given), *options,
            ],
            cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
            env=os.environ | ENVIRONMENT | {"ANSIBLE_ROLLOUT_REPORT": str(self.root / "report.json")},
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def release(self, name: str) -> str:
        return (self.root / name / "release").read_text().strip()

    def log(self, name: str) -> list[str]:
        return (self.root / name / "log").read_text().split()

    def drained(self) -> set[str]:
        """Hosts that the rollout's mark keeps out of rotation."""
        return {name for name in self.names if (self.root / name / "drain.rollout").exists()}

    def verdicts(self) -> dict[str, str]:
        return {row["host"]: row["verdict"] for row in json.loads((self.root / "report.json").read_text())}


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


GOOD = ["drain", "change", "undrain"]


@pytest.mark.long
def test_a_good_release_goes_canary_first_and_everywhere(fleet: Fleet) -> None:
    code, text = fleet.roll()
    assert code == 0, text
    assert {fleet.release(name) for name in fleet.names} == {"new"}
    assert [fleet.log(name) for name in fleet.names] == [GOOD] * 4
    assert fleet.verdicts() == dict.fromkeys(fleet.names, "done")
    assert "out of rotation" in text and text.index("spark1") < text.index("spark2")


def test_rescue_with_a_failed_gate_stops_at_the_canary(fleet: Fleet) -> None:
    code, text = fleet.roll(spark1="gate")
    assert code == 2, text
    assert fleet.log("spark1") == ["drain", "change", "restore", "undrain"]
    assert {fleet.release(name) for name in fleet.names} == {"old"}
    assert [fleet.log(name) for name in fleet.names[1:]] == [[]] * 3
    assert fleet.drained() == set()
    assert fleet.verdicts() == {"spark1": "failed"} | dict.fromkeys(fleet.names[1:], "not begun")
    assert "It answers nonsense." in json.loads((fleet.root / "report.json").read_text())[0]["gate"]


@pytest.mark.long
def test_rescue_that_does_not_fail_by_itself_stops_it_too(fleet: Fleet) -> None:
    code, text = fleet.roll(spark1="silent")
    assert code == 2, text
    assert fleet.log("spark2") == [] and fleet.verdicts()["spark1"] == "failed"


def test_no_way_back_stops_it_and_leaves_the_host_drained(fleet: Fleet) -> None:
    code, text = fleet.roll(spark1="no way back")
    assert code == 2, text
    assert fleet.log("spark1") == ["drain", "change", "restore"] and fleet.log("spark2") == []
    assert fleet.drained() == {"spark1"}
    assert fleet.verdicts()["spark1"] == "failed, no way back"


@pytest.mark.long
def test_no_host_is_drained_while_the_one_before_gets_no_requests(fleet: Fleet) -> None:
    code, text = fleet.roll(spark1="shunned")
    assert code == 2, text
    assert fleet.release("spark1") == "new" and fleet.log("spark1") == GOOD, "good, so it stays"
    assert fleet.log("spark2") == [] and "No gateway sends anything." in text


def test_healthy_peers_of_a_failing_host_finish_and_are_undrained(fleet: Fleet) -> None:
    """`always` and any_errors_fatal would be wrong here: peers end up in rescue, or the next batch begins."""
    code, text = fleet.roll(batches=[3, 1], spark2="gate")
    assert code == 2, text
    assert fleet.log("spark1") == fleet.log("spark3") == GOOD
    assert fleet.log("spark2") == ["drain", "change", "restore", "undrain"]
    assert fleet.log("spark4") == [] and fleet.drained() == set()


@pytest.mark.long
def test_a_host_out_of_reach_stops_the_next_batch(fleet: Fleet) -> None:
    code, text = fleet.roll(batches=[1, 2, 1], spark2="gone")
    assert code != 0, text
    assert fleet.log("spark1") == GOOD and fleet.log("spark3") == fleet.log("spark4") == []
    assert fleet.verdicts() == {
        "spark1": "done", "spark2": "out of reach", "spark3": "not begun", "spark4": "not begun"
    }  # fmt: skip
    assert "--limit '!spark2'" in " ".join(text.split())


def test_a_host_lost_in_the_middle_stops_it_and_stays_drained(fleet: Fleet) -> None:
    code, text = fleet.roll(batches=[1, 2, 1], spark2="lost")
    assert code != 0, text
    assert fleet.log("spark3") == GOOD and fleet.log("spark4") == []
    assert fleet.drained() == {"spark2"}, "nobody may send to a host whose state is not known"
    assert fleet.verdicts()["spark2"] == "out of reach"


@pytest.mark.long
def test_a_host_left_out_by_name_does_not_stop_it(fleet: Fleet) -> None:
    code, text = fleet.roll("--limit", "!spark2", spark2="gone")
    assert code == 0, text
    assert fleet.release("spark2") == "old" and set(fleet.verdicts()) == {"spark1", "spark3", "spark4"}


def test_a_failing_handler_goes_back_and_stops_it(fleet: Fleet) -> None:
    code, text = fleet.roll(spark1="handler")
    assert code == 2, text
    assert fleet.log("spark1") == ["drain", "change", "restore", "undrain"]
    assert fleet.log("spark2") == []


def test_a_resumed_rollout_passes_by_what_is_done(fleet: Fleet) -> None:
    assert fleet.roll(batches=[1, 1, 2], spark2="gate")[0] == 2
    (fleet.root / "spark1" / "drain.rollout").touch()  # as if the first run had been cut off before undrain
    code, text = fleet.roll(batches=[1, 1, 2])
    assert code == 0, text
    assert fleet.log("spark1") == [*GOOD, "undrain"], "not changed again"
    assert fleet.drained() == set()
    assert fleet.verdicts() == {"spark1": "there already"} | dict.fromkeys(fleet.names[1:], "done")


def test_a_host_that_bears_the_release_and_does_not_serve_is_not_passed_by(fleet: Fleet) -> None:
    assert fleet.roll()[0] == 0
    code, text = fleet.roll(spark2="silent engine")
    assert code == 0, text
    assert fleet.log("spark1") == [*GOOD, "undrain"] and fleet.log("spark2") == GOOD * 2
    assert fleet.verdicts()["spark1"] == "there already" and fleet.verdicts()["spark2"] == "done"


def test_what_somebody_else_drains_stays_drained(fleet: Fleet) -> None:
    mark = fleet.root / "spark2" / "drain.operator"
    mark.touch()
    code, text = fleet.roll()
    assert code == 0, text
    assert fleet.release("spark2") == "new" and mark.exists() and fleet.drained() == set()
