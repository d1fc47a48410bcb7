"""daemon.json on a real host: what Docker is told, what is refused before it is written, and what never restarts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.e2e.play import Run, play
from tests.e2e.test_3_faults import wait_for_answer
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
FILE = "/etc/docker/daemon.json"
DROP_IN = "/etc/systemd/system/docker.service.d/docker-override.conf"
# As DGX OS ships it, with flags of its own.
OVERRIDE = "[Service]\nExecStart=\nExecStart=/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock {}\n"


def docker_role(**extra: Any) -> Run:
    """Contract and role docker_engine alone."""
    return play("site.yml", "--tags", "docker_engine", extra=extra)


def plain(run: Run) -> str:
    """The output with white space folded: a wrapped line can be searched."""
    return " ".join(run.output.split())


@pytest.fixture
def alive(lab: Lab, sh: Sh) -> Iterator[Callable[[], str]]:
    """What changes if Docker or the engine restarts. Afterwards daemon.json and drop-in are as they were."""
    sh(f"cp -a {FILE} /root/daemon.json.kept")
    yield lambda: sh("systemctl show docker -P MainPID; docker inspect -f '{{.State.StartedAt}}' vllm")
    sh(f"rm -f {DROP_IN}; systemctl daemon-reload")
    sh(
        f"cmp -s /root/daemon.json.kept {FILE} || {{ cp -a /root/daemon.json.kept {FILE}; systemctl reload docker; }}"
    )
    sh("rm /root/daemon.json.kept")


def test_what_docker_reloads_disturbs_no_container(sh: Sh, alive: Callable[[], str]) -> None:
    before = alive()
    run = docker_role(docker_engine_daemon={"labels": ["rack=1"]}, docker_engine_restart="when_idle")
    assert run.code == 0, run.output[-3000:]
    assert run.changed() == ["docker_engine : configure | Write daemon.json, and let Docker take it"]
    assert "labels to apply; Docker reloads, no container stops; containers that run: vllm" in plain(run)
    assert json.loads(sh("docker info -f '{{json .Labels}}'")) == ["rack=1"]
    assert alive() == before
    # nobody publishes the key any more: it is foreign, and kept
    assert docker_role().changed() == []
    assert json.loads(sh(f"cat {FILE}"))["labels"] == ["rack=1"]


def test_what_must_not_be_written_is_refused_before(sh: Sh, alive: Callable[[], str]) -> None:
    before = alive(), sh(f"sha256sum {FILE}")

    def refused(run: Run, *words: str) -> None:
        assert run.code == 2 and run.changed() == [], run.output[-3000:]
        for word in (*words, "Rule: ", "Remedy: "):
            assert word in run.messages(), f"{word!r} is not in: {run.messages()}"
        assert (alive(), sh(f"sha256sum {FILE}")) == before

    size = {"default-shm-size": "128M"}
    run = play(
        "playbooks/preflight.yml", extra={"docker_engine_daemon": size, "docker_engine_restart": "when_idle"}
    )
    refused(run, "default-shm-size", "containers run: vllm", "docker_engine_restart is when_idle")
    refused(docker_role(docker_engine_daemon={"log-level": "loud"}), "log-level", "dockerd --validate")

    sh(f"mkdir -p {DROP_IN.rpartition('/')[0]}; printf '{OVERRIDE}' > {DROP_IN}; systemctl daemon-reload".format(
        "--default-shm-size=1G"))  # fmt: skip
    adopted = docker_role()
    assert (adopted.code, adopted.changed()) == (0, []), "a drop-in without a conflict is adopted"
    sh(
        f"sed -i 's/$/ --log-driver=journald/; s/^\\(.Service.\\|ExecStart=\\) .*/\\1/' {DROP_IN}; systemctl daemon-reload"
    )
    refused(docker_role(), "--log-driver=journald", DROP_IN, "log-driver", "docker_engine_fragments")
    sh(f"rm {DROP_IN}; systemctl daemon-reload")

    sh(
        f"""python3 -c "import json; d = json.load(open('{FILE}')); d['shutdown-timeout'] = 20; json.dump(d, open('{FILE}', 'w'))" """
    )
    before = alive(), sh(f"sha256sum {FILE}")
    refused(docker_role(docker_engine_foreign_keys="refuse"), "shutdown-timeout", '- "shutdown-timeout": 20')
    sh(f"echo '{{\"debug\": true,' > {FILE}")
    before = alive(), sh(f"sha256sum {FILE}")
    refused(docker_role(), f"{FILE} is broken", "line 2 column 1", "a JSON object")


@pytest.mark.long
def test_a_configuration_that_docker_does_not_start_with_is_taken_back(lab: Lab, sh: Sh) -> None:
    """It is valid, and the place it names cannot be: the old file is back, Docker and engine run."""
    before = sh(f"sha256sum {FILE}")
    run = docker_role(docker_engine_daemon={"data-root": "/proc/docker"}, docker_engine_restart="allowed")
    assert run.code == 2, run.output[-3000:]
    assert "the old file is back, and Docker runs with it" in run.messages()
    assert sh(f"sha256sum {FILE}") == before
    sh("systemctl is-active docker; test ! -e /run/docker-engine-pending")
    assert play("site.yml").code == 0
    wait_for_answer(lab)


@pytest.mark.long
def test_a_restart_that_is_allowed_happens_once(lab: Lab, sh: Sh) -> None:
    extra = {"docker_engine_daemon": {"default-shm-size": "128M"}, "docker_engine_restart": "allowed"}
    before = sh("systemctl show docker -P MainPID")
    try:
        run = play("site.yml", extra=extra)
        assert run.code == 0, run.output[-3000:]
        assert "default-shm-size to apply; Docker restarts; containers that run: vllm" in plain(run)
        assert sh("systemctl show docker -P MainPID") != before
        wait_for_answer(lab)
        assert play("site.yml", extra=extra).changed() == []
        # killed between file and restart: the next run finishes it
        after = sh("systemctl show docker -P MainPID")
        sh("echo restart > /run/docker-engine-pending")
        assert "an earlier change to apply; Docker restarts" in plain(play("site.yml", extra=extra))
        assert sh("systemctl show docker -P MainPID") != after
    finally:
        sh(f"sed -i '/default-shm-size/d' {FILE}; systemctl restart docker")
        assert play("site.yml").code == 0
        wait_for_answer(lab)
