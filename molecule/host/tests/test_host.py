"""State of a host after the roles of the host: Docker, its NVIDIA runtime, nothing open beyond ssh."""

from __future__ import annotations

import json

from testinfra.host import Host


def test_docker_is_enabled_and_running(host: Host) -> None:
    assert host.service("docker").is_enabled
    assert host.service("docker").is_running
    assert host.group("docker").members == []


def test_nvidia_runtime_is_registered(host: Host) -> None:
    assert "nvidia" in json.loads(host.check_output("docker info -f '{{json .Runtimes}}'"))
    assert json.loads(host.file("/etc/docker/daemon.json").content_string)["runtimes"]["nvidia"]


def test_nothing_but_ssh_listens_beyond_loopback(host: Host) -> None:
    listeners = [line.split()[3] for line in host.check_output("ss -Hltn").splitlines()]
    beyond = {a for a in listeners if not a.startswith(("127.", "[::1]"))}
    assert {a.rsplit(":", 1)[1] for a in beyond} == {"22"}
