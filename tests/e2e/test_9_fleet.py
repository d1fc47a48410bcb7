"""drift.yml finds what was altered, names it, and nothing else; it changes nothing."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.play import BIN, ROOT, Run, play
from tests.e2e.test_6_bad_input import FINGERPRINT
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
UNIT = "/etc/systemd/system/voicebot.service"
DECLARED = ("dgx_ota", "toolkit", "driver", "kernel", "gpu", "clock_synchronised")


class Drift:
    """A run of drift.yml, and its report."""

    def __init__(self, folder: Path, baseline: dict[str, Any] | None = None, **more: Any) -> None:
        file = folder / "drift.json"
        extra = {"drift_report": str(file), "spark_host_baseline": baseline or {}}
        self.run: Run = play("playbooks/drift.yml", extra=extra, timeout=1500, **more)
        assert file.exists(), self.run.output[-4000:]
        self.report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))

    def found(self) -> set[tuple[str, str]]:
        """Hosts and property of each finding."""
        return {(" ".join(f["hosts"]), f["property"]) for f in self.report["findings"]}

    def baseline(self, host: str = "spark1") -> dict[str, Any]:
        """What the host is, declared to be what hosts should be."""
        return {name: self.report["hosts"][host]["properties"][name] for name in DECLARED}

    def clean(self) -> bool:
        """No drift, by exit code, report and table."""
        by_report = self.report["drift"] is False and self.found() == set()
        return self.run.code == 0 and by_report and "No drift." in self.run.output


def test_two_alterations_are_found_and_no_others(sh: Sh, tmp_path: Path) -> None:
    before = sh(FINGERPRINT)
    sound = Drift(tmp_path)
    assert sound.clean(), sound.run.output[-4000:]
    assert sound.run.changed() == [] and sh(FINGERPRINT) == before
    facts = json.loads(sh("cat /etc/ansible/facts.d/spark.fact"))
    assert facts["dgx_ota"] == sound.baseline()["dgx_ota"] == "7.3.1"
    assert "SERIAL" not in json.dumps(facts) and sh("cat /etc/machine-id").strip() not in json.dumps(facts)
    sh(f"sed -i 's/7.3.1/7.2.9/' /etc/dgx-release; cp -a {UNIT} /root/unit; echo '# altered' >> {UNIT}")
    altered = sh(FINGERPRINT)
    try:
        drift = Drift(tmp_path, sound.baseline())
        assert sh(FINGERPRINT) == altered, "drift.yml has changed the host"
    finally:
        sh(f"sed -i 's/7.2.9/7.3.1/' /etc/dgx-release; mv /root/unit {UNIT}")
    assert drift.run.code == 2, drift.run.output[-4000:]
    assert drift.found() == {("spark1", "dgx_ota"), ("spark1", "site.yml")}
    assert "dgx_ota is 7.2.9, not 7.3.1" in drift.run.messages()
    changes = drift.report["hosts"]["spark1"]["site"]["changed"]
    assert changes and all(task.startswith("voicebot : ") for task in changes)


@pytest.fixture
def fleet(spark: str) -> Iterator[Lab]:
    """Three hosts as site.yml wants them; afterwards one again."""
    up = play("playbooks/lab.yml", extra={"lab_hosts": 3}, timeout=1500)
    try:
        assert up.code == 0, up.output[-4000:]
        run = play("site.yml", timeout=3000)
        assert run.code == 0, run.output[-4000:]
        yield Lab.load()
    finally:
        down = play("playbooks/lab.yml", extra={"lab_hosts": 1}, timeout=600)
        assert down.code == 0, down.output[-4000:]


PLANTED = {  # finding -> host, shell line that plants it, shell line that takes it back
    ("spark1", "site.yml"): [("spark1", f"cp -a {UNIT} /root/unit; echo '# x' >> {UNIT}", f"mv /root/unit {UNIT}")],
    ("spark1", "dgx_ota"): [
        ("spark1", "sed -i 's/7.3.1/7.2.9/' /etc/dgx-release", "sed -i 's/7.2.9/7.3.1/' /etc/dgx-release")
    ],
    ("spark2", "toolkit"): [
        ("spark2", "sed -i 's/1.18.0/1.17.4/' /usr/bin/nvidia-ctk", "sed -i 's/1.17.4/1.18.0/' /usr/bin/nvidia-ctk")
    ],
    ("spark3", "driver"): [
        ("spark3", "sed -i 's/580.95.05/580.65.06/' /usr/bin/nvidia-smi", "sed -i 's/580.65.06/580.95.05/' /usr/bin/nvidia-smi")
    ],
    ("spark2 spark3", "machine_id"): [
        (host, f"cp /etc/machine-id /root/id; printf '{'5' * 32}\\n' > /etc/machine-id", "cp /root/id /etc/machine-id; rm /root/id")
        for host in ("spark2", "spark3")
    ],
}  # fmt: skip


@pytest.mark.long
def test_five_alterations_on_three_hosts_are_found_and_no_others(fleet: Lab, tmp_path: Path) -> None:
    def on(host: str, line: str) -> str:
        return fleet.ssh(host, ["sh", "-c", line], timeout=300).stdout

    sound = Drift(tmp_path)
    assert sound.clean(), sound.run.output[-6000:]
    steps = [step for several in PLANTED.values() for step in several]
    for host, plant, _ in steps:
        on(host, plant)
    altered = {host: on(host, FINGERPRINT) for host in fleet.hosts}
    drift = Drift(tmp_path, sound.baseline())
    assert drift.run.code == 2, drift.run.output[-6000:]
    assert drift.found() == set(PLANTED)
    assert "CVE-2026-24218" in drift.run.output
    assert {host: on(host, FINGERPRINT) for host in fleet.hosts} == altered
    for host, _, undo in steps:
        on(host, undo)
    again = Drift(tmp_path, sound.baseline())
    assert again.clean(), again.run.output[-6000:]


@pytest.mark.long
def test_three_hosts_without_changes_take_little_longer_than_one(
    fleet: Lab, record_property: Callable[[str, object], None]
) -> None:
    def seconds(*limit: str) -> float:
        began = time.monotonic()
        run = play("site.yml", *limit, timeout=3000)
        assert run.code == 0 and not any(run.changed(host) for host in fleet.hosts), run.output[-4000:]
        return time.monotonic() - began

    for _ in range(2):  # once more before it counts: somebody else may have been at the processor
        pairs = [(seconds("--limit", "spark1"), seconds()) for _ in range(3)]
        one, three = (statistics.median(times) for times in zip(*pairs, strict=True))
        if three <= 2.2 * one:
            break
    record_property("site_no_change_three_hosts_ratio", round(three / one, 2))
    assert three <= 2.2 * one, pairs


def test_status_of_three_hosts_costs_little_more_than_asking_for_their_facts(
    fleet: Lab, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Medians of three runs each, in turn."""
    facts, status = [], []
    for turn in range(3):
        began = time.monotonic()
        argv = [str(BIN / "ansible"), "-i", "inventory/lab", "spark", "-m", "ansible.builtin.setup"]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=300)
        facts.append(time.monotonic() - began)
        report = tmp_path / f"status-{turn}.json"
        began = time.monotonic()
        run = play("playbooks/status.yml", extra={"status_report": str(report)})
        status.append(time.monotonic() - began)
        assert run.code == 0 and all(run.changed(host) == [] for host in fleet.hosts), run.output[-4000:]
        hosts = json.loads(report.read_text(encoding="utf-8"))["hosts"]
        assert {name: host["engine"] for name, host in hosts.items()} == dict.fromkeys(fleet.hosts, "healthy")
    record_property("status_over_setup", round(statistics.median(status) / statistics.median(facts), 2))
    assert statistics.median(status) <= 3 * statistics.median(facts)


@pytest.mark.long
def test_a_host_that_is_away_is_drift_and_hides_no_other(spark: str, tmp_path: Path) -> None:
    inventory = tmp_path / "inventory"
    for file in (ROOT / "inventory/lab").rglob("*.yml"):
        copy = inventory / file.relative_to(ROOT / "inventory/lab")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    away = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "root"}
    (inventory / "more.yml").write_text(json.dumps({"spark": {"hosts": {"away": away}}}), encoding="utf-8")
    drift = Drift(tmp_path, inventory=inventory)
    assert drift.run.code == 2, drift.run.output[-4000:]
    assert drift.found() == {("away", "reached")}
    assert drift.report["hosts"]["spark1"]["reached"] is True
