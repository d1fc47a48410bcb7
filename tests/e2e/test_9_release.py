"""Upgrades that fail, are killed, or go forward and back: one consistent release serves afterwards.

A release is made different by a flag of the engine and a setting of the voicebot; kinds and phases in full are `long`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.play import BIN, ROOT, play
from tests.e2e.test_3_faults import wait_for_answer
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
Record = Callable[[str, object], None]
LEDGER = "/var/lib/spark-voicebot/ledger.json"
NEXT = "lab-smollm2-next"
UPGRADE = {"vllm_args": {"max-num-seqs": 4}, "voicebot_settings": {"llm": {"max_tokens": 24}}}


def ledger(sh: Sh) -> dict[str, Any]:
    book: dict[str, Any] = json.loads(sh(f"cat {LEDGER}"))
    return book


def current(sh: Sh) -> dict[str, Any]:
    """The entry of the release that is confirmed, which must be the one that serves in every part."""
    book = ledger(sh)
    entry: dict[str, Any] = next(e for e in book["releases"] if e["id"] == book["current"])
    engine, voicebot = entry["release"]["engine"], entry["release"]["voicebot"]
    [seen] = json.loads(sh("docker inspect vllm"))
    assert seen["State"]["Status"] == "running"
    assert seen["Config"]["Image"] == engine["image"] and seen["Config"]["Cmd"] == engine["argv"]
    assert {k: seen["Config"]["Labels"].get(k) for k in engine["labels"]} == engine["labels"]
    mounts = {m["Destination"]: m["Source"] for m in seen["Mounts"]}
    assert all(mounts[m["target"]] == m["source"] for m in engine["mounts"])
    assert sh("basename $(readlink /opt/voicebot/current)").strip() == voicebot["id"]
    assert yaml.safe_load(sh("cat /etc/voicebot/config.yml")) == voicebot["settings"]
    started = sh(
        "systemctl show --timestamp=us+utc --property=ExecMainStartTimestamp --value voicebot"
    ).strip()
    files = "/etc/voicebot/config.yml /opt/voicebot/current /etc/systemd/system/voicebot.service"
    assert sh(f"find {files} -maxdepth 0 -newermt '{started}'") == "", "the process knows its files"
    assert entry["wheels"] and all(check["ok"] for check in entry["gate"])
    return entry


def serves(lab: Lab, sh: Sh) -> dict[str, Any]:
    wait_for_answer(lab)
    sh("curl -sSf -m 20 --retry 30 --retry-delay 1 --retry-all-errors http://127.0.0.1:8080/health")
    return current(sh)


@pytest.fixture(scope="module", autouse=True)
def as_it_was(sh: Sh) -> Iterator[None]:
    """Leave the host with what the inventory says."""
    before = ledger(sh)["current"]
    yield
    if ledger(sh)["current"] != before:
        run = play("site.yml")
        assert run.code == 0, run.output[-4000:]


def test_status_is_one_screen_and_changes_nothing(lab: Lab, sh: Sh) -> None:
    entry = serves(lab, sh)
    run = play("playbooks/status.yml")
    assert run.code == 0 and run.changed() == [], run.output[-4000:]
    [line] = [line for line in run.output.splitlines() if re.search(r"\bspark1 +[0-9a-f]{12}\b", line)]
    assert (
        entry["id"] in line and "healthy" in line and f"active {entry['release']['voicebot']['id']}" in line
    )
    assert len(run.output.split("Show the fleet")[1].split("PLAY RECAP")[0].splitlines()) < 40
    assert sh(f"stat -c '%a %U' {LEDGER} $(dirname {LEDGER})").split() == ["600", "root", "700", "root"]


def altered_inventory(tmp_path: Path, golden: dict[str, str]) -> Path:
    """The lab's inventory, where the tiny model of random weights is asked this golden question."""
    folder = tmp_path / "inventory"
    shutil.copytree(ROOT / "inventory/lab", folder)
    file = folder / "group_vars/spark/catalog.yml"
    catalog = yaml.safe_load(file.read_text(encoding="utf-8"))
    catalog["catalog_extra"]["models"]["lab-tiny"]["golden"] = golden
    file.write_text(yaml.safe_dump(catalog), encoding="utf-8")
    return folder


PARIS = {"prompt": "What is the capital of France? Answer with one word.", "pattern": "(?i)\\bparis\\b"}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "exits": ({"vllm_args": {"no-such-flag": True}}, "unrecognized arguments: --no-such-flag"),
    "nonsense": ({"vllm_model": "lab-tiny"}, "golden question: "),
    "hangs": ({"vllm_args": {"headless": True}, "vllm_start_timeout": 150}, "vllm.service"),
}


@pytest.mark.parametrize(
    "kind", ["exits", *(pytest.param(kind, marks=pytest.mark.long) for kind in ("nonsense", "hangs"))]
)
def test_a_bad_release_gives_way_to_the_one_before_it(
    lab: Lab, sh: Sh, tmp_path: Path, record_property: Record, kind: str
) -> None:
    before, (choice, said) = serves(lab, sh), BAD[kind]
    began = time.monotonic()
    run = play("site.yml", extra=choice, inventory=altered_inventory(tmp_path, PARIS))
    seconds = time.monotonic() - began
    assert run.code == 2, run.output[-4000:]
    assert current(sh)["id"] == before["id"], "the previous release serves, and is current"
    assert sh("curl -sSf -m 5 http://127.0.0.1:8080/health")
    failure = ledger(sh)["failures"][-1]
    assert said in failure["reason"] and failure["restored"] == before["id"]
    assert failure["id"] != before["id"]
    assert 0 < failure["downtime_s"] < seconds
    assert (
        f"Release {before['id']} serves again; out of service for {failure['downtime_s']} s" in run.messages()
    )
    record_property(f"bad_release_{kind}_downtime_s", failure["downtime_s"])


PHASES = {  # killed as this task begins, in this play
    "image fetched": ("Fetch image", "model_store : "),
    "models fetched": ("Fetch image", "prefetch | Install the release"),
    "voicebot installed": ("Fetch image", "nvidia_runtime : "),
    "old container stopped": ("Switch", "vllm : container | Create the container"),
    "new container made": ("Switch", "vllm : unit | Forget earlier failures"),
    "new container started": ("Switch", "vllm : ready | Wait for /health"),
    "in its gate, before the ledger": ("Switch", "smoke : gate | Try the release"),
}


def kill_at(lab: Lab, phase: str, extra: dict[str, Any] | None) -> None:
    """Run site.yml until it begins the phase's task; then SIGKILL it, and cut the host's power."""
    argv = [str(BIN / "ansible-playbook"), "-i", "inventory/lab", "site.yml", "-e", json.dumps(extra or {})]
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "true"}
    play_name, task = PHASES[phase]
    with subprocess.Popen(
        argv, cwd=ROOT, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        assert process.stdout
        seen, there = [], False
        for line in process.stdout:
            seen.append(line)
            there = line.startswith(f"PLAY [{play_name}") or (there and not line.startswith("PLAY ["))
            if there and line.startswith(f"TASK [{task}"):
                break
        else:
            pytest.fail(f"{phase} was never reached\n{''.join(seen)[-4000:]}")
        os.killpg(process.pid, signal.SIGKILL)
    container = lab.hosts["spark1"].container
    lab.docker("kill", container)
    lab.docker("start", container)
    lab.wait("spark1")


def healed(lab: Lab, sh: Sh, extra: dict[str, Any] | None) -> None:
    run = play("site.yml", extra=extra)
    assert run.code == 0, run.output[-4000:]
    serves(lab, sh)


def test_the_host_killed_in_an_upgrade(lab: Lab, sh: Sh) -> None:
    before = serves(lab, sh)["id"]
    kill_at(lab, "old container stopped", UPGRADE)
    assert ledger(sh)["current"] == before, "nothing is confirmed that did not pass"
    healed(lab, sh, None)
    assert current(sh)["id"] == before


@pytest.mark.long
@pytest.mark.parametrize("phase", PHASES)
def test_the_host_killed_at_each_phase_of_an_upgrade(lab: Lab, sh: Sh, phase: str) -> None:
    """There and back again, so that each is an upgrade; what was not finished is finished by the next run."""
    before = serves(lab, sh)
    there: dict[str, Any] | None = None
    if before["release"]["engine"]["model"] != NEXT:
        there = {"vllm_model": NEXT, **UPGRADE}
        sh(f"rm -rf /srv/models/{NEXT}")  # to be fetched
    kill_at(lab, phase, there)
    assert ledger(sh)["current"] == before["id"]
    healed(lab, sh, there)
    assert current(sh)["id"] != before["id"]
    assert play("site.yml", extra=there).changed() == []


@pytest.mark.long
def test_forward_and_back(lab: Lab, sh: Sh, tmp_path: Path) -> None:
    """Another model, flag and setting: prefetched while the old one serves, then rolled back, twice."""
    old = serves(lab, sh)
    new = {"vllm_model": NEXT, **UPGRADE}
    started = sh("docker inspect -f '{{.State.StartedAt}} {{.Id}}' vllm; systemctl show -p MainPID voicebot")
    fetched = play("playbooks/prefetch.yml", extra=new)
    assert fetched.code == 0, fetched.output[-4000:]
    assert (
        sh("docker inspect -f '{{.State.StartedAt}} {{.Id}}' vllm; systemctl show -p MainPID voicebot")
        == started
    )
    with lab.hub_faults(status=503):  # all of it is there: the switch needs no hub
        assert play("site.yml", extra=new).code == 0
    upgraded = serves(lab, sh)
    assert upgraded["release"]["engine"]["model"] == NEXT and upgraded["id"] != old["id"]
    assert upgraded["release"]["voicebot"]["settings"]["llm"]["max_tokens"] == 24

    for target, expected in (("", old), (upgraded["id"][:8], upgraded), ("", old)):
        run = play("playbooks/rollback.yml", extra={"rollback_to": target} if target else None)
        assert run.code == 0, run.output[-4000:]
        assert serves(lab, sh)["id"] == expected["id"]
    assert ledger(sh)["previous"] == upgraded["id"]
    refused = play("playbooks/rollback.yml", extra={"rollback_to": "nosuch"})
    assert refused.code == 2 and refused.changed() == []
    assert old["id"] in refused.messages() and "Remedy: " in refused.messages()
    assert play("site.yml").changed() == [], "what the inventory says serves again"
