"""A Spark that is its own gateway, under real systemd, before the real engine; asked from another host (the controller)."""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from websockets.exceptions import InvalidStatus

from tests.e2e.play import play
from tests.lab.api import Lab
from tests.websocket import Conversation

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
DRAIN = "/var/lib/vllm-guard/drain"
ASK = {
    "model": "/models/mistral-7b",
    "messages": [{"role": "user", "content": "Tell a story."}],
    "max_tokens": 200,
    "ignore_eos": True,
    "stream": True,
}


@dataclass(frozen=True)
class Gateway:
    """Where it is, what its clients trust, the key, and the inventory's part that makes it one."""

    address: str
    ca: Path
    key: str
    inventory: Path

    def client(self, key: str | None = None) -> httpx.Client:
        trust = ssl.create_default_context(cafile=str(self.ca))
        headers = {"Authorization": f"Bearer {key or self.key}"}
        return httpx.Client(base_url=f"https://{self.address}", verify=trust, headers=headers, timeout=60)

    def talk(self) -> Conversation:
        """Begin a conversation, as a browser does; raises InvalidStatus where it is refused."""
        return Conversation(
            f"wss://{self.address}/v1/realtime?model=voicebot",
            subprotocols=["realtime", f"openai-insecure-api-key.{self.key}"],
            ssl=ssl.create_default_context(cafile=str(self.ca)),
        )


@pytest.fixture(scope="module")
def gateway(lab: Lab, sh: Sh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    key = secrets.token_hex(32)
    told = {
        "gateway_keys": {"kitchen": hashlib.sha256(key.encode()).hexdigest()},
        "gateway_ca": str(folder / "ca"),
    }
    inventory = folder / "gateway.yml"
    inventory.write_text(yaml.safe_dump({"gateway": {"hosts": {"spark1": told}}}), encoding="utf-8")
    run = play("playbooks/gateway.yml", "-i", str(inventory))
    assert run.code == 0, run.output[-4000:]
    yield Gateway(lab.hosts["spark1"].address, folder / "ca/ca.crt", key, inventory)
    sh(f"rm -f {DRAIN}; DEBIAN_FRONTEND=noninteractive apt-get purge -y -q haproxy && rm -rf /etc/haproxy")


def test_a_second_run_changes_nothing(gateway: Gateway) -> None:
    again = play("playbooks/gateway.yml", "-i", str(gateway.inventory))
    assert again.code == 0 and again.changed() == [], (again.changed(), again.output[-3000:])


def test_only_ssh_edge_and_gateway_answer_from_another_host(gateway: Gateway, sh: Sh) -> None:
    ports = {int(line.split()[3].rsplit(":", 1)[1]) for line in sh("ss -Hltn").splitlines()}
    assert {22, 443, 8000, 8001, 8080, 8443} <= ports
    answering = set()
    for port in ports:
        with socket.socket() as probe:
            probe.settimeout(5)
            if probe.connect_ex((gateway.address, port)) == 0:
                answering.add(port)
    assert answering == {22, 443, 8443}


def test_strangers_are_refused_and_holders_of_a_key_get_the_allowed_routes(gateway: Gateway) -> None:
    trust = ssl.create_default_context(cafile=str(gateway.ca))
    with (
        httpx.Client(verify=trust) as bare,
        pytest.raises((httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError)),
    ):
        bare.get(f"https://{gateway.address}:8443/v1/models")  # an edge wants a gateway's certificate
    with gateway.client(key="0" * 64) as stranger:
        assert stranger.get("/v1/models").status_code == 401
    with gateway.client() as holder:
        assert holder.get("/v1/models").json()["data"][0]["id"] == "/models/mistral-7b"
        for route in ("/metrics", "/health", "/version", "/v1/models/../metrics"):
            assert holder.get(route).status_code == 404, route


def test_a_drain_lets_a_running_stream_end_and_takes_no_more(
    gateway: Gateway, sh: Sh, record_property: Callable[[str, object], None]
) -> None:
    with gateway.client() as client, client.stream("POST", "/v1/chat/completions", json=ASK) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines()
        first = next(line for line in lines if line.startswith("data: "))
        assert json.loads(first.removeprefix("data: "))["choices"]
        sh(f"touch {DRAIN}")
        began = time.monotonic()
        with gateway.client() as other:
            while other.get("/v1/models").status_code == 200:
                assert time.monotonic() - began < 20, "a drained Spark still gets requests"
                time.sleep(0.1)
            record_property("drained_to_no_new_request_s", round(time.monotonic() - began, 1))
            rest = [line for line in lines if line.startswith("data: ")]
            assert rest[-1] == "data: [DONE]" and not any('"error"' in line for line in rest)
            sh(f"rm {DRAIN}")
            while other.get("/v1/models").status_code != 200:
                assert time.monotonic() - began < 60, "undrained, and still out"
                time.sleep(0.2)


def answered(conversation: Conversation) -> str:
    """Ask something in writing; how the answer ended."""
    asked: dict[str, Any] = {
        "type": "message",
        "role": "user",
        "content": [{"type": "input_text", "text": "Hello."}],
    }
    how = {"output_modalities": ["text"], "max_output_tokens": 16}
    conversation.send(json.dumps({"type": "conversation.item.create", "item": asked}))
    conversation.send(json.dumps({"type": "response.create", "response": how}))
    while (event := json.loads(conversation.recv()))["type"] != "response.done":
        assert event["type"] != "error", event
    return str(event["response"]["status"])


def called(gateway: Gateway) -> int:
    """The status of an attempt to begin a conversation; 101 where it began."""
    try:
        with gateway.talk():
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.long
def test_a_conversation_goes_through_a_drain_and_none_begins(gateway: Gateway, sh: Sh) -> None:
    with gateway.talk() as conversation:
        assert conversation.subprotocol == "realtime"
        assert answered(conversation) in ("completed", "incomplete")
        sh(f"touch {DRAIN}")
        began = time.monotonic()
        while (status := called(gateway)) == 101:
            assert time.monotonic() - began < 60, "a drained Spark still gets conversations"
        assert status == 503
        assert answered(conversation) in ("completed", "incomplete")
        sh(f"rm {DRAIN}")
        while called(gateway) != 101:
            assert time.monotonic() - began < 180, "undrained, and still out"
            time.sleep(0.2)
