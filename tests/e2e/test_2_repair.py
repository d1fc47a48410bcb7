"""What was altered by hand is reported and repaired, and nothing else is touched."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.play import play

pytestmark = pytest.mark.lab
Sh = Callable[..., str]

# shell line that alters -> words of which every changed task's name holds one
ALTERATIONS = {
    "daemon.json": (
        "echo '{}' > /etc/docker/daemon.json",
        ("daemon.json", "docker"),
    ),
    "vllm.service": (
        "sed -i 's/^Description=.*/Description=altered/' /etc/systemd/system/vllm.service",
        ("vllm", "unit", "systemd"),
    ),
    "container": (
        "systemctl stop vllm && docker rm -f vllm",
        ("container", "vllm"),
    ),
    "config.yml": (
        "sed -i 's/^/# /' /etc/voicebot/config.yml",
        ("config", "voicebot"),
    ),
    "config mode": (
        "chmod 0644 /etc/voicebot/config.yml",
        ("config", "voicebot"),
    ),
    "voicebot.service": (
        "echo '# altered' >> /etc/systemd/system/voicebot.service",
        ("voicebot", "unit", "systemd"),
    ),
    "stopped service": (
        "systemctl disable --now voicebot",
        ("voicebot",),
    ),
}


def reported_and_repaired_alone(sh: Sh, name: str, *flags: str) -> None:
    line, words = ALTERATIONS[name]
    sh(line)
    told = play("site.yml", "--check", *flags)
    assert told.code == 0, f"{name}: {told.output[-4000:]}"
    assert told.changed(), f"{name}: --check does not report it"
    repaired = play("site.yml", *flags)
    assert repaired.code == 0, f"{name}: {repaired.output[-4000:]}"
    assert repaired.changed(), f"{name}: not repaired"
    strange = [t for t in repaired.changed() if not any(w in t.lower() for w in words)]
    assert strange == [], f"{name}: also changed {strange}"


def test_an_altered_unit_is_repaired_and_the_engine_goes_on(sh: Sh) -> None:
    before = sh("docker inspect -f '{{.Id}} {{.State.StartedAt}}' vllm")
    reported_and_repaired_alone(sh, "vllm.service", "--tags", "vllm")
    assert "Description=vLLM engine" in sh("systemctl cat vllm; systemctl show -p Description vllm")
    assert sh("docker inspect -f '{{.Id}} {{.State.StartedAt}}' vllm") == before


@pytest.mark.long
@pytest.mark.parametrize("name", ALTERATIONS)
def test_each_alteration_is_reported_and_repaired_alone(sh: Sh, name: str) -> None:
    reported_and_repaired_alone(sh, name)


@pytest.mark.long
def test_nothing_altered_before_is_left(sh: Sh) -> None:
    assert play("site.yml").changed() == []
    assert "nvidia" in sh("cat /etc/docker/daemon.json")
    assert "altered" not in sh("cat /etc/systemd/system/vllm.service /etc/systemd/system/voicebot.service")
    assert sh("stat -c %a /etc/voicebot/config.yml").strip() == "640"
