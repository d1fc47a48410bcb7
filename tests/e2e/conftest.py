"""The lab with one host on which site.yml has run; brought up here when it is not there yet."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from tests.e2e.play import play
from tests.e2e.tunnel import Tunnel
from tests.lab.api import Lab

Sh = Callable[..., str]


@pytest.fixture(scope="session")
def lab() -> Lab:
    up = play("playbooks/lab.yml", timeout=1500)
    assert up.code == 0, up.output[-4000:]
    return Lab.load()


@pytest.fixture(scope="session")
def spark(lab: Lab) -> str:
    """Name of a host that is as this tree and its pins want it: site.yml says so, or makes it so."""
    run = play("site.yml", timeout=1500)
    assert run.code == 0, run.output[-4000:]
    return "spark1"


@pytest.fixture(scope="session")
def sh(lab: Lab, spark: str) -> Sh:
    """Run a shell line on the host; its standard output. Fails on a non-zero exit."""

    def run(line: str, check: bool = True) -> str:
        done: subprocess.CompletedProcess[str] = lab.ssh(spark, ["sh", "-c", line], check=False, timeout=300)
        assert not check or done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    return run


@pytest.fixture
def service(lab: Lab, spark: str) -> Iterator[str]:
    """URL of the host's voicebot through an ssh tunnel, as from a laptop."""
    with Tunnel(lab, spark, 8080) as url:
        yield url


@pytest.fixture
def engine(lab: Lab, spark: str) -> Iterator[str]:
    """URL of the host's vLLM through an ssh tunnel."""
    with Tunnel(lab, spark, 8000) as url:
        yield url
