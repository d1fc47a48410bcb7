"""State of a host after the engine's roles: container, models, unit, guard."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from testinfra.host import Host

ROOT = Path(__file__).parents[3]
SEED_ARGV = ["vllm", "serve", "/models/mistral-7b", "--quantization", "gptq"]
SEED_ARGV += ["--gpu-memory-utilization", "0.9", "--dtype", "float16"]


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


def test_unit_is_enabled_and_running(host: Host) -> None:
    assert host.service("vllm").is_enabled
    assert host.service("vllm").is_running
