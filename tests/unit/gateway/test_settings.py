"""What is wrong with settings is said by name, rule and remedy; what the metrics say of the Sparks."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from plugins.filter.gateway import gateway_edges, gateway_findings, gateway_server_states

HASH = hashlib.sha256(b"key").hexdigest()
SPARK = {"name": "spark-a", "address": "192.0.2.1", "port": 8443}
SOUND: dict[str, Any] = {
    "gateway_parts": ["edge", "gateway"], "gateway_address": "*", "gateway_edge_port": 8443,
    "gateway_port": 443, "gateway_metrics_port": 8405,
    "gateway_engine_port": 8000, "gateway_ready_port": 8001, "gateway_voice_port": 8080,
    "gateway_sparks": [SPARK], "gateway_max_running": 32, "gateway_queue_timeout": "10",
    "gateway_keys": {"kitchen": HASH}, "gateway_rate": {"requests": 1, "seconds": 1},
    "gateway_idle_timeout": 600, "gateway_reload_timeout": 3600, "gateway_names": ["gate"],
    "gateway_certificate_days": 397, "gateway_renew_days": 30,
}  # fmt: skip


def test_sound_settings_have_no_findings() -> None:
    assert gateway_findings(SOUND) == []
    assert gateway_findings(SOUND | {"gateway_address": "::1", "gateway_parts": ["gateway"]}) == []


def test_an_edge_needs_neither_keys_nor_sparks() -> None:
    assert (
        gateway_findings(SOUND | {"gateway_parts": ["edge"], "gateway_keys": {}, "gateway_sparks": []}) == []
    )


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"gateway_parts": []}, "gateway_parts is []. Rule: edge, gateway, or both"),
        ({"gateway_parts": ["edg"]}, "gateway_parts is ['edg']"),
        ({"gateway_address": "eth0"}, "gateway_address is 'eth0'. Rule: an IP address"),
        ({"gateway_port": 0}, "gateway_port is 0. Rule: a port"),
        ({"gateway_port": "https"}, "gateway_port is 'https'"),
        ({"gateway_port": 8443}, "gateway_port is 8443. Rule: each port once, and gateway_edge_port has it"),
        ({"gateway_metrics_port": True}, "gateway_metrics_port is True"),
        ({"gateway_max_running": 0}, "gateway_max_running is 0. Rule: a whole number from 1 on"),
        ({"gateway_idle_timeout": 1.5}, "gateway_idle_timeout is 1.5"),
        ({"gateway_renew_days": 397}, "gateway_renew_days is 397. Rule: less than gateway_certificate_days"),
        ({"gateway_keys": {}}, "gateway_keys is empty"),
        ({"gateway_keys": ["a"]}, "gateway_keys is a list"),
        ({"gateway_keys": {"a b": HASH}}, "A name in gateway_keys is 'a b'"),
        ({"gateway_keys": {"a\n": HASH}}, "A name in gateway_keys is 'a\\n'"),
        ({"gateway_keys": {"a": "hunter2"}}, "gateway_keys.a is no hash (its value is not shown)"),
        ({"gateway_keys": {"a": HASH.upper()}}, "gateway_keys.a is no hash"),
        ({"gateway_keys": {"a": HASH + "\n"}}, "gateway_keys.a is no hash"),
        ({"gateway_keys": {"a": hashlib.sha256().hexdigest()}}, "gateway_keys.a is the hash of nothing"),
        ({"gateway_keys": {"a": HASH, "b": HASH}}, "gateway_keys.b is a key given twice. Rule: a key"),
        ({"gateway_sparks": []}, "gateway_sparks is []"),
        ({"gateway_sparks": [{"name": "a"}]}, "gateway_sparks[0] is {'name': 'a'}. Rule: name, address"),
        ({"gateway_sparks": [SPARK, SPARK]}, "gateway_sparks[1].name is 'spark-a'. Rule: each Spark once"),
        ({"gateway_sparks": [SPARK | {"name": "a b"}]}, "gateway_sparks[0].name is 'a b'"),
        ({"gateway_sparks": [SPARK | {"address": "a b"}]}, "gateway_sparks[0].address is 'a b'"),
        ({"gateway_sparks": [SPARK | {"port": 70000}]}, "gateway_sparks[0].port is 70000"),
        ({"gateway_rate": {"requests": 0, "seconds": 1}}, "gateway_rate is {'requests': 0"),
        ({"gateway_rate": {"requests": 5}}, "gateway_rate is {'requests': 5}"),
        ({"gateway_names": []}, "gateway_names is []"),
    ],
)  # fmt: skip
def test_each_mistake_is_one_finding(bad: dict[str, Any], said: str) -> None:
    (found,) = gateway_findings(SOUND | bad)
    assert found.startswith(said)
    assert "Rule: " in found and "Remedy: " in found
    assert "hunter2" not in found and HASH not in found


def test_edges_are_where_ansible_finds_the_hosts() -> None:
    hostvars = {
        "a": {"ansible_host": "192.0.2.1", "gateway_edge_port": 8443},
        "b": {"gateway_edge_port": 9443},
    }
    assert gateway_edges(["a", "b"], hostvars) == [
        {"name": "a", "address": "192.0.2.1", "port": 8443},
        {"name": "b", "address": "b", "port": 9443},
    ]


def test_states_are_those_that_hold() -> None:
    page = """# TYPE haproxy_server_status gauge
haproxy_server_status{proxy="engine",server="engine",state="UP"} 1
haproxy_server_status{proxy="sparks",server="a",state="DOWN"} 0
haproxy_server_status{proxy="sparks",server="a",state="UP"} 1
haproxy_server_status{proxy="sparks",server="b",state="DOWN"} 1
"""
    assert gateway_server_states(page) == {"a": "UP", "b": "DOWN"}
    assert gateway_server_states("") == {}
