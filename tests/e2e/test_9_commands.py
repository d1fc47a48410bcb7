"""The commands of the documents that are typed on a Spark, on a Spark (tests/documented.py lists them)."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from tests.documented import DONE_ON_A_SPARK, ON_A_SPARK, ON_A_SPARK_OR_NOTHING
from tests.e2e.play import BIN, ROOT, play
from tests.e2e.test_3_faults import wait_for_answer
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]


def test_what_the_documents_look_at_on_a_spark(lab: Lab, sh: Sh) -> None:
    wait_for_answer(lab)
    sh("curl -sSf -m 20 --retry 60 --retry-delay 1 --retry-all-errors http://127.0.0.1:8080/health")
    for command in ON_A_SPARK:
        done = lab.ssh("spark1", ["sh", "-c", command], check=False, timeout=120)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    for command in ON_A_SPARK_OR_NOTHING:
        done = lab.ssh("spark1", ["sh", "-c", command], check=False, timeout=120)
        assert done.returncode in (0, 1, 2), f"{command}\n{done.stdout}{done.stderr}"  # 2: ls finds nothing
        assert "not found" not in done.stderr and "nvalid" not in done.stderr, done.stderr


def test_ansible_reaches_every_host(lab: Lab) -> None:
    argv = [str(BIN / "ansible"), "-i", "inventory/lab", "spark", "-m", "ping"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0 and "pong" in done.stdout, done.stdout + done.stderr


@pytest.mark.long
def test_what_the_documents_do_on_a_spark(lab: Lab, sh: Sh) -> None:
    wait_for_answer(lab)
    for command in DONE_ON_A_SPARK:
        sh(command)
    wait_for_answer(lab)
    sh("curl -sSf -m 20 --retry 60 --retry-delay 1 --retry-all-errors http://127.0.0.1:8080/health")


@pytest.mark.long
def test_every_model_file_is_read_again(sh: Sh) -> None:
    run = play("site.yml", "--tags", "model_store", extra={"model_store_verify": "full"})
    assert run.code == 0 and run.changed() == [], run.output[-4000:]
