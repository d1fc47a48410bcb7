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


def test_each_alteration_is_reported_and_repaired_alone(
    sh: Sh, record_property: Callable[[str, object], None]
) -> None:
    assert play("site.yml").code == 0
    clean = play("site.yml")
    assert clean.code == 0 and clean.changed() == [], (clean.changed(), clean.output[-4000:])
    record_property("site_no_change_tasks", clean.record["hosts"]["spark1"]["tasks"])
    for name, (line, words) in ALTERATIONS.items():
        sh(line)
        told = play("site.yml", "--check")
        assert told.code == 0, f"{name}: {told.output[-4000:]}"
        assert told.changed(), f"{name}: --check does not report it"
        repaired = play("site.yml")
        assert repaired.code == 0, f"{name}: {repaired.output[-4000:]}"
        assert repaired.changed(), f"{name}: not repaired"
        strange = [t for t in repaired.changed() if not any(w in t.lower() for w in words)]
        assert strange == [], f"{name}: also changed {strange}"
    assert play("site.yml").changed() == []


def test_nothing_altered_before_is_left(sh: Sh) -> None:
    assert "nvidia" in sh("cat /etc/docker/daemon.json")
    assert "altered" not in sh("cat /etc/systemd/system/vllm.service /etc/systemd/system/voicebot.service")
    assert sh("stat -c %a /etc/voicebot/config.yml").strip() == "640"
