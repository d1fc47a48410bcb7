"""Rollouts of real engines behind a gateway, under streamed load: what is lost is counted."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.load import Load
from tests.e2e.play import BIN, ROOT, Run, play
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Record = Callable[[str, object], None]
# Whether a gate's latency grew says nothing on two cores that all hosts share.
UPGRADE = {"vllm_args": {"max-num-seqs": 4}, "rollout_latency_factor": 0}
BAD = {"vllm_args": {"no-such-flag": True}, "rollout_latency_factor": 0}
CORE = "pgrep -f '^VLLM::EngineCor'"


@dataclass(frozen=True)
class Fleet:
    """Virtual Sparks, of which the first is the gateway before them all, too."""

    lab: Lab
    folder: Path
    key: str

    @property
    def names(self) -> list[str]:
        return list(self.lab.hosts)

    def client(self) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.folder / "ca/ca.crt"))
        return httpx.Client(
            base_url=f"https://{self.lab.hosts['spark1'].address}",
            verify=trust,
            headers={"Authorization": f"Bearer {self.key}"},
            timeout=600,
        )

    def play(self, playbook: str, *flags: str, extra: dict[str, Any] | None = None) -> Run:
        report = {"ANSIBLE_ROLLOUT_REPORT": str(self.folder / "rollout.json")}
        (self.folder / "rollout.json").unlink(missing_ok=True)
        inventory = ("-i", str(self.folder / "gateway.yml"))
        return play(playbook, *inventory, *flags, extra=extra, timeout=3000, env=report)

    def verdicts(self) -> dict[str, str]:
        report = json.loads((self.folder / "rollout.json").read_text(encoding="utf-8"))
        return {row["host"]: row["verdict"] for row in report}

    def sh(self, host: str, line: str) -> str:
        return self.lab.ssh(host, ["sh", "-c", line], timeout=300).stdout

    def releases(self) -> dict[str, str]:
        """What each host's ledger confirms; no switch may be open, nobody drained, and the engine must run it."""
        found = {}
        for host in self.names:
            book = json.loads(self.sh(host, "cat /var/lib/spark-voicebot/ledger.json"))
            entry = next(e for e in book["releases"] if e["id"] == book["current"])
            argv = json.loads(self.sh(host, "docker inspect -f '{{json .Config.Cmd}}' vllm"))
            assert book["open"] == {} and argv == entry["release"]["engine"]["argv"]
            assert self.sh(host, "ls /var/lib/vllm-guard").count("drain") == 0
            found[host] = book["current"]
        return found


@pytest.fixture(scope="module")
def fleet(
    spark: str, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Fleet]:
    """Two hosts, three for the long tests; afterwards one, as it was."""
    long = any(
        item.path == request.path and item.get_closest_marker("long") for item in request.session.items
    )
    names = [f"spark{number + 1}" for number in range(3 if long else 2)]
    folder, key = tmp_path_factory.mktemp("rollout"), secrets.token_hex(32)
    hosts: dict[str, dict[str, Any]] = {name: {"gateway_ca": str(folder / "ca")} for name in names}
    gate = {"gateway_keys": {"load": hashlib.sha256(key.encode()).hexdigest()}}
    groups = {"spark": {"hosts": hosts}, "gateway": {"hosts": {"spark1": gate}}}
    (folder / "gateway.yml").write_text(yaml.safe_dump(groups), encoding="utf-8")
    up = play("playbooks/lab.yml", extra={"lab_hosts": len(names)}, timeout=1500)
    try:
        assert up.code == 0, up.output[-4000:]
        fleet = Fleet(Lab.load(), folder, key)
        others = play("site.yml", "--limit", ",".join(names[1:]), timeout=3000)
        assert others.code == 0, others.output[-4000:]
        edges = fleet.play("playbooks/gateway.yml")
        assert edges.code == 0, edges.output[-4000:]
        yield fleet
    finally:
        down = play("playbooks/lab.yml", extra={"lab_hosts": 1}, timeout=900)
        assert down.code == 0, down.output[-4000:]
        as_it_was = play("site.yml", timeout=1500)
        assert as_it_was.code == 0, as_it_was.output[-4000:]
        lines = "DEBIAN_FRONTEND=noninteractive apt-get purge -y -q haproxy && rm -rf /etc/haproxy"
        Lab.load().ssh("spark1", ["sh", "-c", lines], timeout=300)


def test_a_good_rollout_loses_no_request_and_cuts_no_stream(fleet: Fleet, record_property: Record) -> None:
    before = fleet.releases()
    with Load(fleet.client) as load:
        run = fleet.play("playbooks/rollout.yml", extra=UPGRADE)
    assert run.code == 0, run.output[-6000:]
    assert load.flawed() == []
    assert load.whole() >= 10, "the load was steady"
    assert fleet.verdicts() == dict.fromkeys(fleet.names, "done")
    after = fleet.releases()
    assert not set(after.values()) & set(before.values())
    record_property("rollout_requests", load.whole())


@pytest.mark.long
def test_a_rollback_goes_host_by_host_and_loses_nothing_either(fleet: Fleet) -> None:
    old = fleet.releases()
    there = fleet.play("playbooks/rollout.yml", extra={**UPGRADE, "vllm_args": {"max-num-seqs": 5}})
    assert there.code == 0, there.output[-6000:]
    with Load(fleet.client) as load:
        run = fleet.play("playbooks/rollback.yml")
    assert run.code == 0, run.output[-6000:]
    assert load.flawed() == [] and fleet.releases() == old
    one = fleet.play("playbooks/rollback.yml", "--limit", "spark2")
    assert one.code == 0, one.output[-4000:]
    crossed = fleet.play("playbooks/rollback.yml")
    assert crossed.code == 2 and crossed.changed("spark2") == [], crossed.output[-4000:]
    assert "would go to" in crossed.messages() and "rollback_to" in crossed.messages()
    named = fleet.play("playbooks/rollback.yml", extra={"rollback_to": old["spark1"]})
    assert named.code == 0, named.output[-6000:]
    assert fleet.releases() == old
    others = {name: "there already" for name in fleet.names if name != "spark2"}
    assert fleet.verdicts() == others | {"spark2": "done"}


@pytest.mark.long
def test_a_bad_release_stops_at_the_canary_and_loses_nothing(fleet: Fleet) -> None:
    before = fleet.releases()
    with Load(fleet.client) as load:
        run = fleet.play("playbooks/rollout.yml", extra=BAD)
    assert run.code == 2, run.output[-6000:]
    assert "unrecognized arguments: --no-such-flag" in run.messages()
    assert fleet.verdicts() == dict.fromkeys(fleet.names, "not begun") | {"spark1": "failed"}
    assert load.flawed() == [] and fleet.releases() == before


def until_task(process: subprocess.Popen[str], host: str, task: str) -> None:
    """Read a playbook's output until the task has run on the host."""
    assert process.stdout
    seen, there = [], False
    for line in process.stdout:
        seen.append(line)
        there = line.startswith(f"TASK [{task}") or (there and not line.startswith("TASK ["))
        if there and f"[{host}]" in line:
            return
    pytest.fail(f"{task} on {host} was never reached\n{''.join(seen)[-4000:]}")


@pytest.mark.long
def test_a_host_that_loses_power_stops_it_while_the_rest_serve_and_then_it_goes_on(fleet: Fleet) -> None:
    extra = {**UPGRADE, "vllm_args": {"max-num-seqs": 6}, "rollout_batches": [1, 1, 1]}
    before = fleet.releases()
    argv = [str(BIN / "ansible-playbook"), "-i", "inventory/lab", "-i", str(fleet.folder / "gateway.yml")]
    argv += ["playbooks/rollout.yml", "-e", json.dumps(extra)]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "true"}
    environment["ANSIBLE_ROLLOUT_REPORT"] = str(fleet.folder / "rollout.json")
    container = fleet.lab.hosts["spark2"].container
    with Load(fleet.client) as load:
        with subprocess.Popen(
            argv, cwd=ROOT, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        ) as process:  # fmt: skip
            until_task(process, "spark2", "vllm : container | Create the container")
            fleet.lab.docker("kill", container)
            output, _ = process.communicate(timeout=1200)
        answered = len(load.answers)
        deadline = time.monotonic() + 120
        while len(load.answers) < answered + 4 and time.monotonic() < deadline:
            time.sleep(0.5)
    assert process.returncode != 0, output[-4000:]
    assert fleet.verdicts() == {"spark1": "done", "spark2": "out of reach", "spark3": "not begun"}
    assert load.flawed() == [] and len(load.answers) >= answered + 4, "the rest serve"
    fleet.lab.docker("start", container)
    fleet.lab.wait("spark2")
    assert "has not passed its gate" in fleet.play("playbooks/status.yml").output
    again = fleet.play("playbooks/rollout.yml", extra=extra)
    assert again.code == 0, again.output[-6000:]
    assert fleet.verdicts() == {"spark1": "there already", "spark2": "done", "spark3": "done"}
    assert not set(fleet.releases().values()) & set(before.values())


@pytest.mark.long
def test_a_stopped_core_costs_what_was_in_flight_there(fleet: Fleet, record_property: Record) -> None:
    askers = 4
    with Load(fleet.client, askers=askers, pause_s=3) as load:
        time.sleep(10)  # requests are under way on every host before one core stops
        fleet.sh("spark2", f"kill -STOP $({CORE})")
        ready = "curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:8001/ready"
        deadline = time.monotonic() + 120
        while fleet.sh("spark2", ready) != "503":
            assert time.monotonic() < deadline, "no verdict"
            time.sleep(0.2)
        verdict = time.monotonic()
        while fleet.sh("spark2", ready) != "200":
            assert time.monotonic() < verdict + 600, "never back"
            time.sleep(1)
    late = [answer for answer in load.flawed() if answer.began > verdict + 5]
    assert late == [] and len(load.flawed()) <= askers
    record_property("stopped_core_requests_lost", len(load.flawed()))
