"""Three hosts fetch as much as one; a bundle makes a controller and two hosts speak that no route leads away from."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.play import ROOT, play
from tests.e2e.test_9_carry import registries
from tests.lab.api import Lab
from tests.unit.carry.parts import flip

pytestmark = [pytest.mark.lab, pytest.mark.long]
PACKAGES = ("python3-venv", "python3-requests")  # what a virtual Spark lacks, and no bundle carries


def sudo(*argv: str | Path) -> str:
    return subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def bare() -> Iterator[Lab]:
    """Three bare hosts; afterwards one, that site.yml makes serve again."""
    up = play(
        "playbooks/lab.yml",
        extra={"lab_hosts": 3, "lab_recreate": ["spark1", "spark2", "spark3"]},
        timeout=1500,
    )
    try:
        assert up.code == 0, up.output[-4000:]
        yield Lab.load()
    finally:
        down = play("playbooks/lab.yml", extra={"lab_hosts": 1, "lab_recreate": ["spark1"]}, timeout=600)
        assert down.code == 0, down.output[-4000:]


@contextmanager
def rules(*wanted: list[str]) -> Iterator[None]:
    """Rules of this machine's firewall, each [chain, rule...], for the time of the block."""
    with ExitStack() as stack:
        for chain, *rule in wanted:
            sudo("iptables", "-w", "-I", chain, *rule)
            stack.callback(sudo, "iptables", "-w", "-D", chain, *rule)
        yield


def counted(address: str, port: int) -> int:
    """Bytes that a counting rule has seen."""
    for line in sudo("iptables", "-w", "-nvxL", "OUTPUT").splitlines():
        words = line.split()
        if address in words and f"spt:{port}" in words:
            return int(words[1])
    raise AssertionError("no such rule")


def test_three_hosts_fetch_as_much_as_one(bare: Lab, tmp_path: Path, record_property: Any) -> None:
    gateway, hub = bare.settings.gateway, int(bare.facts["hub_url"].rsplit(":", 1)[1])
    subnet = f"{bare.settings.subnet}.0/24"
    depot = tmp_path / "depot"
    extra = {"depot_path": str(depot), "depot_registries": registries(bare)}
    deaf = [
        ["INPUT", "-s", subnet, "!", "-i", "lo", "-p", "tcp", "--dport", str(p), "-j", "REJECT"]
        for p in (443, hub)
    ]
    counting = [["OUTPUT", "-s", gateway, "-p", "tcp", "--sport", str(port)] for port in (443, hub)]
    with rules(*deaf, *counting):  # what the hosts themselves ask of registry and hub is refused
        run = play("site.yml", extra=extra, timeout=3600)
        crossed = counted(gateway, 443) + counted(gateway, hub)
    assert run.code == 0, run.output[-6000:]
    blobs = (depot / "images/blobs/sha256").iterdir()
    models = (place for place in (depot / "models").glob("*/*/**/*") if place.is_file())
    one = sum(place.stat().st_size for place in (*blobs, *models))  # what a host runs, and so must fetch
    carried = json.loads((ROOT / "reports/depot.json").read_text())
    record_property("bytes", {"one host": one, "crossed": crossed, **carried})
    assert one <= crossed <= 1.05 * one
    assert carried["wan"]["total"] <= 1.05 * one
    assert all(0.95 * one <= host["total"] <= 1.05 * one for host in carried["lan"].values())
    assert set(carried["lan"]) == set(bare.hosts)


@contextmanager
def island(lab: Lab) -> Iterator[list[str]]:
    """The command that runs another inside a network where only the hosts are; they have no route out either."""
    name, address = f"island{lab.settings.id}", f"{lab.settings.subnet}.200"
    outer = f"is{lab.settings.id}"
    inside = ["ip", "netns", "exec", name]
    lonely = [["INPUT", "-i", lab.settings.bridge, "-j", "DROP"]]
    lonely += [["FORWARD", "-i", lab.settings.bridge, "!", "-o", lab.settings.bridge, "-j", "DROP"]]
    with ExitStack() as stack:
        sudo("ip", "netns", "add", name)
        stack.callback(sudo, "ip", "netns", "delete", name)
        sudo("ip", "link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", name)
        sudo("ip", "link", "set", outer, "master", lab.settings.bridge, "up")
        for words in (
            ["link", "set", "lo", "up"],
            ["addr", "add", f"{address}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
        ):
            sudo(*inside, "ip", *words)
        for host in lab.hosts:
            lab.ssh(host, ["ip", "route", "del", "default"])
        stack.enter_context(rules(*lonely))
        yield inside


def test_bundle_makes_hosts_speak_that_no_route_leads_away_from(bare: Lab, tmp_path: Path) -> None:
    two = ("spark1", "spark2")
    python = bare.ssh(
        "spark1", ["python3", "-c", "import platform as p; print(p.python_version(), p.machine())"]
    ).stdout.split()
    sudo("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key")
    (tmp_path / "signers").write_text(f"me@example {(tmp_path / 'key.pub').read_text()}")
    bundle = tmp_path / "bundle"
    targets = [dict(zip(("python", "arch"), python, strict=True))]
    common = {"bundle_path": str(bundle), "bundle_signers": str(tmp_path / "signers")}
    sealing = {"bundle_action": "export", "bundle_key": str(tmp_path / "key"), "bundle_targets": targets}
    export = play(
        "playbooks/bundle.yml",
        extra={**common, **sealing, "depot_registries": registries(bare)},
        timeout=3000,
    )
    assert export.code == 0, export.output[-6000:]
    for host in two:
        bare.ssh(
            host,
            ["sh", "-c", f"apt-get update -q && apt-get install -y -q {' '.join(PACKAGES)}"],
            timeout=600,
        )
    tree = tmp_path / "spark-voicebot"
    sudo("tar", "-C", tmp_path, "-xf", bundle / "controller/project.tar")
    (wheels := tmp_path / "wheels").mkdir()
    [archive] = (bundle / "controller").glob("wheelhouse-*.tar")
    sudo("tar", "-C", wheels, "-xf", archive)
    for name in ("hosts.yml", "pins.yml"):  # the lab's are in no clone
        shutil.copy(ROOT / "inventory/lab" / name, tree / "inventory/lab" / name)
    with island(bare) as inside:
        environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
        environment |= {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
        environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}

        def there(*argv: str) -> tuple[int, str]:
            done = subprocess.run([*inside, *argv], cwd=tree, env=environment, stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3000)  # fmt: skip
            return done.returncode, done.stdout

        def playbook(name: str, extra: dict[str, Any]) -> tuple[int, str]:
            limit = [] if name.endswith("bundle.yml") else ["--limit", ",".join(two)]
            return there(
                ".venv/bin/ansible-playbook", "-i", "inventory/lab", name, *limit, "-e", json.dumps(extra)
            )

        assert there("ip", "route", "get", "192.0.2.1")[0] != 0, "a route leads away"
        assert there("curl", "-sm", "5", bare.facts["hub_url"])[0] != 0, "the hub is within reach"
        code, said = there("requirements/install.sh")
        assert code == 0, said[-4000:]
        blob = max((bundle / "images/blobs/sha256").iterdir(), key=lambda place: place.stat().st_size)
        importing = {**common, "bundle_action": "import", "depot_path": str(tmp_path / "depot")}
        flip(blob, 12345)
        code, said = playbook("playbooks/bundle.yml", importing)
        assert code != 0 and f"{blob.name} is altered" in " ".join(said.split()), said[-4000:]
        assert not (tmp_path / "depot").exists()
        flip(blob, 12345)
        code, said = playbook("playbooks/bundle.yml", importing)
        assert code == 0, said[-4000:]
        code, said = playbook("site.yml", {"depot_path": str(tmp_path / "depot")})
        assert code == 0, said[-6000:]
        code, said = playbook("playbooks/smoke.yml", {})
        assert code == 0, said[-6000:]  # a recorded sentence was heard, answered and spoken
