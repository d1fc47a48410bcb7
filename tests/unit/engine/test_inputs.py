"""What is wrong with the role's inputs, or with a host, is said with rule and remedy."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.filter.vllm_inputs import vllm_host_findings, vllm_input_findings

GOOD: dict[str, Any] = {
    "vllm_image_ref": "nvcr.io/nvidia/vllm@sha256:" + "1" * 64,
    "vllm_argv": ["vllm", "serve", "/models/m"],
    "vllm_served_name": "/models/m",
    "vllm_mounts": [{"source": "/srv/models/m", "target": "/models/m"}],
    "vllm_environment": {"VLLM_LOGGING_LEVEL": "DEBUG"},
    "vllm_port": 8000,
    "vllm_guard_port": "8001",  # as -e gives it
    "vllm_start_timeout": 900,
    "vllm_stop_timeout": 30,
    "vllm_gate_timeout": 300,
    "vllm_guard_judgement": {"poll_s": 0.5, "restarts_per_day": 0},
}
SURVEY: dict[str, Any] = {"systemd": 255, "holders": [], "handmade": []}


def test_good_inputs_and_a_good_host_pass() -> None:
    assert vllm_input_findings(GOOD) == []
    assert vllm_host_findings(SURVEY, "spark-1", 8000, False) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("vllm_image_ref", "nvcr.io/nvidia/vllm:25.11-py3", "64 hex digits"),
        ("vllm_image_ref", "", "64 hex digits"),
        ("vllm_argv", [], "not empty"),
        ("vllm_argv", ["vllm", 8], "a list of strings"),
        ("vllm_served_name", "", "under which the engine serves"),
        ("vllm_environment", {"VLLM_API_KEY": "sesame"}, "has VLLM_API_KEY. Rule: the engine has no key"),
        ("vllm_mounts", [{"source": "models", "target": "/m"}], "absolute paths"),
        ("vllm_mounts", [{"source": "/a:b", "target": "/m"}], "without a colon"),
        ("vllm_port", 0, "from 1 to 65535"),
        ("vllm_port", "http", "from 1 to 65535"),
        ("vllm_guard_port", 8000, "two different ports"),
        ("vllm_start_timeout", "soon", "whole seconds"),
        ("vllm_stop_timeout", 0, "1 or more"),
        ("vllm_gate_timeout", 421, "at most 420"),
        ("vllm_guard_judgement", [], "a dict of poll_s"),
        ("vllm_guard_judgement", {"pol_s": 1}, "correct or remove pol_s"),
        ("vllm_guard_judgement", {"poll_s": 0}, "above 0"),
        ("vllm_guard_judgement", {"restarts_per_day": 1.5}, "whole"),
    ],
)
def test_a_wrong_input_is_named(name: str, value: Any, said: str) -> None:
    [finding] = vllm_input_findings({**GOOD, name: value})
    assert name in finding and said in finding and "Rule: " in finding and "Remedy: " in finding


def test_what_stands_in_the_way_on_a_host_is_named() -> None:
    by_hand = [
        {"id": "1", "name": "by-hand", "text": "container by-hand (vllm:x) runs vllm serve on port 8000"}
    ]
    seen = {"systemd": 249, "holders": ["python3 (pid 1)"], "handmade": by_hand}
    systemd, port, engine = vllm_host_findings(seen, "spark-1", 8000, False)
    assert "249" in systemd and "254" in systemd
    assert "Port 8000 on spark-1 is held by python3 (pid 1)" in port
    assert "container by-hand" in engine and "docker stop by-hand" in engine
    assert "vllm_replace_handmade: true" in engine
    assert len(vllm_host_findings(seen, "spark-1", 8000, True)) == 2, "it may be replaced"
