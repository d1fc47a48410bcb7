"""State of a host after site.yml, and what the check, the converge and the idempotence run recorded."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

ROOT = Path(__file__).parents[3]
RECORDS = ROOT / "reports/molecule/default"
SEED_ARGV = ["vllm", "serve", "/models/mistral-7b", "--quantization", "gptq"]
SEED_ARGV += ["--gpu-memory-utilization", "0.9", "--dtype", "float16"]

# Changed by the real run, not foreseeable by --check on a bare host: each with its reason.
NOT_FORESEEN: dict[str, str] = {}


@pytest.fixture(scope="module")
def container(host: Host) -> dict[str, Any]:
    inspected: list[dict[str, Any]] = json.loads(host.check_output("docker inspect vllm"))
    return inspected[0]


@pytest.fixture(scope="module")
def pins() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "inventory/lab/pins.yml").read_text(encoding="utf-8"))
    return loaded


def test_container_has_the_seeds_argv_and_limits(container: dict[str, Any]) -> None:
    assert container["Config"]["Cmd"] == SEED_ARGV
    assert container["HostConfig"]["IpcMode"] == "host"
    limits = {u["Name"]: (u["Soft"], u["Hard"]) for u in container["HostConfig"]["Ulimits"]}
    assert limits == {"memlock": (-1, -1), "stack": (67108864, 67108864)}
    [gpu] = container["HostConfig"]["DeviceRequests"]
    assert gpu["Count"] == -1 and gpu["Capabilities"] == [["gpu"]]
    assert container["HostConfig"]["RestartPolicy"]["Name"] in ("no", "")
    assert container["HostConfig"]["PortBindings"] == {
        "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8000"}]
    }


def test_container_runs_the_pinned_image(host: Host, container: dict[str, Any], pins: dict[str, Any]) -> None:
    digests = {image["digest"] for image in pins["images"].values()}
    repo_digests = json.loads(
        host.check_output("docker image inspect -f '{{json .RepoDigests}}' %s", container["Image"])
    )
    assert any(reference.split("@")[1] in digests for reference in repo_digests)
    assert "@sha256:" in container["Config"]["Image"]


def test_models_are_mounted_read_only_at_the_pinned_revision(
    container: dict[str, Any], pins: dict[str, Any]
) -> None:
    mounts = {m["Destination"]: m for m in container["Mounts"]}
    model = mounts["/models/mistral-7b"]
    assert model["RW"] is False
    assert Path(model["Source"]).name in {m["revision"] for m in pins["models"].values()}
    assert mounts["/root/.cache/vllm"]["Type"] == "volume"


def test_engine_log_shows_vllm_0_11_and_gptq(host: Host) -> None:
    log = host.run("docker logs vllm").stdout + host.run("docker logs vllm").stderr
    assert re.search(r"vLLM API server version 0\.11\.0", log), log[:2000]
    assert re.search(r"non-default args: .*'quantization': 'gptq'", log), log[:2000]


@pytest.mark.parametrize("unit", ["docker", "vllm", "voicebot"])
def test_units_are_enabled_and_running(host: Host, unit: str) -> None:
    assert host.service(unit).is_enabled
    assert host.service(unit).is_running


def test_nothing_but_ssh_listens_beyond_loopback(host: Host) -> None:
    listeners = [line.split()[3] for line in host.check_output("ss -Hltn").splitlines()]
    beyond = {a for a in listeners if not a.startswith(("127.", "[::1]"))}
    assert {a.rsplit(":", 1)[1] for a in beyond} == {"22"}


def test_service_user_config_and_docker_group(host: Host) -> None:
    user = host.user("voicebot")
    assert user.exists and user.shell.endswith("nologin") and "docker" not in user.groups
    config = host.file("/etc/voicebot/config.yml")
    assert (config.mode, config.user, config.group) == (0o640, "root", "voicebot")
    assert host.group("docker").members == []


def test_nvidia_runtime_is_registered(host: Host) -> None:
    assert "nvidia" in json.loads(host.check_output("docker info -f '{{json .Runtimes}}'"))
    assert json.loads(host.file("/etc/docker/daemon.json").content_string)["runtimes"]["nvidia"]


def _records() -> list[dict[str, Any]]:
    records = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(RECORDS.glob("*.json"))]
    return [r for r in records if r["playbook"] == "converge.yml"][-3:]


def test_check_mode_foresaw_the_converge_run() -> None:
    check, run, _ = _records()
    assert check["check"] and not run["check"]
    for name, host in run["hosts"].items():
        foreseen, changed = set(check["hosts"][name]["changed"]), set(host["changed"])
        assert len(changed) >= 10, "a bare host needs work"
        assert foreseen - changed == set(), "announced by --check, and not done"
        assert changed - foreseen == set(NOT_FORESEEN), "done, and not announced by --check"


def test_second_run_changed_nothing() -> None:
    again = _records()[2]
    assert {name: host["changed"] for name, host in again["hosts"].items()} == {
        name: [] for name in again["hosts"]
    }
