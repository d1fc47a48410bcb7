"""Which containers are engines started by hand, and what else holds the port."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.deploy.snapshot import load

survey = load("roles/vllm/library/vllm_survey.py", "vllm_survey")
NVIDIA = "nvcr.io/nvidia/vllm:25.11-py3"
TUTORIAL = ["vllm", "serve", "/models/mistral-7b", "--quantization", "gptq"]


def container(
    name: str = "happy_tesla",
    image: str = NVIDIA,
    command: list[str] | None = None,
    port: int = 8000,
    **more: Any,
) -> dict[str, Any]:
    """As `docker inspect` shows one."""
    return {
        "Id": "1" * 64,
        "Name": f"/{name}",
        "State": {"Status": more.get("status", "running")},
        "Config": {
            "Image": image,
            "Entrypoint": ["/entrypoint.sh"],
            "Cmd": command,
            "Labels": more.get("labels"),
        },
        "HostConfig": {
            "PortBindings": {"8000/tcp": [{"HostIp": "", "HostPort": str(port)}]} if port else {},
            "RestartPolicy": {"Name": more.get("restart", "no")},
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        (container(command=TUTORIAL), "runs vllm serve on port 8000"),
        (container(command=TUTORIAL, port=9000), "runs vllm serve"),  # the memory is taken all the same
        (container(command=["bash", "-c", "cd / && vllm serve /m"]), "runs vllm serve on port 8000"),
        (container(image="x", command=["-m", "vllm.entrypoints.openai"], port=0), "runs vllm serve"),
        (container(command=["bash"]), "a vLLM image on port 8000"),  # served from a shell in it
        (container(command=["nvidia-smi"], port=0), ""),
        (container(image="nginx", command=["nginx"]), "holder"),
        (container(image="nginx", command=["nginx"], port=80), ""),
        (container(command=TUTORIAL, status="exited"), ""),
        (container(command=TUTORIAL, status="exited", restart="always"), "runs vllm serve on port 8000"),
        (container(command=TUTORIAL, status="restarting"), "runs vllm serve on port 8000"),
        (container("vllm", command=TUTORIAL, status="exited"), "bears the name vllm"),
        (container("vllm", command=TUTORIAL, labels={"ours.argv": "1"}), ""),
    ],
)  # fmt: skip
def test_who_is_an_engine_started_by_hand(seen: dict[str, Any], why: str) -> None:
    assert survey.judged(seen, "vllm", ["ours.argv", "ours.revision"], 8000) == why


def test_only_listeners_on_the_port_hold_it_and_dockers_proxy_does_not_count() -> None:
    ss = (
        'LISTEN 0 128 127.0.0.1:8000 0.0.0.0:* users:(("python3",pid=12,fd=3))\n'
        'LISTEN 0 128 0.0.0.0:8000 0.0.0.0:* users:(("docker-proxy",pid=13,fd=3))\n'
        'LISTEN 0 128 127.0.0.1:18000 0.0.0.0:* users:(("other",pid=14,fd=3))\n'
    )
    assert survey.others(ss, 8000) == ["python3 (pid 12)"]


def test_the_hosts_own_survey_leaves_a_port_without_owner_to_its_role(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = load("roles/spark_host/library/spark_host_survey.py", "spark_host_survey_of_ports")
    monkeypatch.setattr(host.Survey, "holders", lambda self, port, ss: {("by-hand", "container by-hand")})
    looked = host.Survey(None)
    assert looked.foreign(8000, "", "") == []
    assert looked.foreign(8001, "vllm-guard", "") == ["container by-hand"]
