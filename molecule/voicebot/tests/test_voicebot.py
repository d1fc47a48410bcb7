"""State of a host after the voicebot's role: its user, its configuration, its unit."""

from __future__ import annotations

from testinfra.host import Host


def test_unit_is_enabled_and_running(host: Host) -> None:
    assert host.service("voicebot").is_enabled
    assert host.service("voicebot").is_running


def test_service_user_and_config(host: Host) -> None:
    user = host.user("voicebot")
    assert user.exists and user.shell.endswith("nologin") and "docker" not in user.groups
    config = host.file("/etc/voicebot/config.yml")
    assert (config.mode, config.user, config.group) == (0o640, "root", "voicebot")


def test_nothing_but_ssh_listens_beyond_loopback(host: Host) -> None:
    listeners = [line.split()[3] for line in host.check_output("ss -Hltn").splitlines()]
    beyond = {a for a in listeners if not a.startswith(("127.", "[::1]"))}
    assert {a.rsplit(":", 1)[1] for a in beyond} == {"22"}
