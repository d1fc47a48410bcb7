"""A disk that is too small for the engine's image: said before the pull; if it fills up within, nothing half-done stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.e2e.play import play
from tests.e2e.test_3_faults import wait_for_answer
from tests.lab.api import Lab

pytestmark = [pytest.mark.lab, pytest.mark.long]
Sh = Callable[..., str]
DATA = "/var/lib/docker"


@pytest.fixture
def small_disk(sh: Sh) -> Iterator[None]:
    """Docker on an empty disk that holds less than the image; the old one, untouched, afterwards."""
    sh("systemctl stop voicebot vllm docker.socket docker")
    sh(f"mount -t tmpfs -o size=300m tmpfs {DATA} && systemctl start docker")
    yield
    sh(f"systemctl stop docker.socket docker && umount --lazy {DATA} && systemctl start docker")


@pytest.mark.usefixtures("small_disk")
def test_image_that_does_not_fit(sh: Sh) -> None:
    early = play("site.yml")
    assert early.code != 0 and f"{DATA} (tmpfs)" in early.messages(), early.output[-4000:]
    assert "Remedy: free" in early.messages() and early.changed() == []
    late = play(
        "site.yml", extra={"spark_host_disk_needs": []}
    )  # as if somebody else had filled it meanwhile
    assert late.code != 0 and "no space left on device" in late.messages(), late.output[-4000:]
    assert sh("docker images --all --quiet") == "" == sh("docker ps --all --quiet")


def test_afterwards_site_makes_it_serve_again(lab: Lab, sh: Sh) -> None:
    run = play("site.yml")
    assert run.code == 0, run.output[-4000:]
    wait_for_answer(lab)
    assert sh("docker images --all --quiet") != ""
