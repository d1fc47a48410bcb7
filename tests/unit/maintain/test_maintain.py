"""playbooks/maintain.yml, host after host; what is done to one comes from steps/, the rest is real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.filter.maintain import apt_upgrades

ROOT = Path(__file__).parents[3]
STEPS = Path(__file__).parent / "steps"
NAMES = ("look", "drain", "upgrade", "reboot", "gate", "undrain")
KERNEL: dict[str, Any] = {"packages": ["kernel", "libc6"]}


class Fleet:
    """Three hosts that are files in a directory: NAME.drained, NAME.broken, and one log for all."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def maintain(self, *options: str, gone: str = "", **todo: dict[str, Any]) -> tuple[int, str]:
        """Run it; exit code and output with white space folded. `todo`: host -> packages and reboot."""
        hosts: dict[str, dict[str, Any]] = {}
        for name in ("spark1", "spark2", "spark3"):
            hosts[name] = {"ansible_connection": "local", "todo": todo.get(name, {})}
            if name == gone:
                hosts[name] |= {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}
        (self.root / "hosts.yml").write_text(yaml.safe_dump({"spark": {"hosts": hosts}}))
        (self.root / "log").write_text("")
        given = {
            "fleet": str(self.root),
            "ansible_become": False,
            "ansible_python_interpreter": sys.executable,
            "maintain_steps": {name: str(STEPS / f"{name}.yml") for name in NAMES},
        }
        argv = [str(Path(sys.executable).with_name("ansible-playbook")), "playbooks/maintain.yml"]
        done = subprocess.run(
            [*argv, "-i", str(self.root / "hosts.yml"), "-e", json.dumps(given), *options],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
            env=os.environ | {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_TIMEOUT": "2",
            },
        )  # fmt: skip
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    def log(self) -> list[str]:
        return (self.root / "log").read_text().splitlines()

    def drained(self) -> set[str]:
        return {path.stem for path in self.root.glob("*.drained")}


def steps(host: str, *names: str) -> list[str]:
    return [f"{host} {name}" for name in names]


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path)


def test_one_host_after_the_other_and_only_what_has_to_be(fleet: Fleet) -> None:
    """spark1's updates want a reboot, spark2 has nothing to do and an old mark, spark3 wants no reboot."""
    (fleet.root / "spark2.drained").touch()
    code, text = fleet.maintain(spark1=KERNEL, spark3={"packages": ["libc6"]})
    assert code == 0, text
    assert fleet.log() == [
        *steps("spark1", "drain", "upgrade", "reboot", "gate", "undrain"),
        *steps("spark2", "gate", "undrain"),
        *steps("spark3", "drain", "upgrade", "gate", "undrain"),
    ]
    assert fleet.drained() == set()
    assert "spark1: 2 package(s) updated" in text


def test_a_host_that_fails_its_gate_stays_drained_and_stops_it_until_mended(fleet: Fleet) -> None:
    (fleet.root / "spark1.broken").touch()
    code, text = fleet.maintain("-e", "maintain_reboot=never", spark1=KERNEL, spark2=KERNEL)
    assert code == 2, text
    assert fleet.log() == steps("spark1", "drain", "upgrade", "gate")
    assert fleet.drained() == {"spark1"} and "spark1 stays out of rotation" in text
    (fleet.root / "spark1.broken").unlink()
    code, text = fleet.maintain("-e", "maintain_reboot=never", spark2=KERNEL)
    assert code == 0, text
    assert fleet.log() == [
        *steps("spark1", "gate", "undrain"),
        *steps("spark2", "drain", "upgrade", "gate", "undrain"),
        *steps("spark3", "gate", "undrain"),
    ]
    assert fleet.drained() == set() and "It wants a reboot: -e maintain_reboot=when_needed" in text


def test_a_host_out_of_reach_stops_it(fleet: Fleet) -> None:
    code, text = fleet.maintain(gone="spark1", spark2=KERNEL)
    assert code != 0, text
    assert fleet.log() == [] and fleet.drained() == set()
    code, text = fleet.maintain("--limit", "!spark1", "-e", "maintain_reboot=always", gone="spark1")
    assert code == 0, text
    wanted = ("drain", "reboot", "gate", "undrain")
    assert fleet.log() == [*steps("spark2", *wanted), *steps("spark3", *wanted)]


def test_a_choice_that_is_not_known_is_refused_before_anything(fleet: Fleet) -> None:
    code, text = fleet.maintain("-e", "maintain_update=all", spark1=KERNEL)
    assert code == 2 and fleet.log() == []
    assert "maintain_update is 'all'" in text and "Rule: none, security or full" in text


SIMULATED = """\
NOTE: This is only a simulation!
Inst libssl3t64 [3.0.13-0ubuntu3.4] (3.0.13-0ubuntu3.5 Ubuntu:24.04/u, Ubuntu:24.04/noble-security [arm64])
Inst linux-image-6.14.0-1015-nvidia (6.14.0-1015.15 Ubuntu:24.04/noble-security [arm64])
Inst docker-ce [5:28.3.3] (5:28.5.1 Docker CE:noble [arm64]) []
Inst openssl [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
Inst tzdata [2025a] (2025b Debian:13/stable-updates [all])
Remv old-one [1.0]
Conf libssl3t64 (3.0.13-0ubuntu3.5 Ubuntu:24.04/noble-updates [arm64])
"""


def test_what_an_upgrade_would_install() -> None:
    assert apt_upgrades(SIMULATED, "none") == []
    assert apt_upgrades(SIMULATED, "security") == ["libssl3t64", "openssl"]
    assert apt_upgrades(SIMULATED, "full") == ["docker-ce", "libssl3t64", "openssl", "tzdata"]
    assert apt_upgrades("", "full") == []
