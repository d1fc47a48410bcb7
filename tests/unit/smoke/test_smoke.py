"""Smoke tests: what their checks say of answers and of silence, and the verdict on a fleet."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from plugins.filter.smoke import smoke_model_checks, smoke_report, smoke_table
from plugins.modules import smoke_probe

ANSWERS: dict[str, Any] = {
    "/health": {"status": "ok", "stt": "ok", "llm": "ok", "tts": "ok"},
    "/v1/models": {"data": [{"id": "/models/mistral-7b"}]},
    "/v1/chat/completions": {
        "choices": [{"message": {"content": "Few instructions,  each fast."}}],
        "usage": {"completion_tokens": 7},
    },
}


class Handler(BaseHTTPRequestHandler):
    """Answers as the table says; what is not in it is an error 500."""

    answers: dict[str, Any]

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        known = self.answers.get(self.path)
        data = json.dumps(known if known is not None else {"error": "core is dead"}).encode()
        self.send_response(200 if known is not None else 500)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_POST = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def answers() -> dict[str, Any]:
    return dict(ANSWERS)


@pytest.fixture
def params(answers: dict[str, Any]) -> Iterator[dict[str, Any]]:
    handler = type("Answering", (Handler,), {"answers": answers})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        yield {
            "container": "no-such-container", "image": "r/i@sha256:0", "argv": [], "labels": {},
            "min_cuda": "13.0",
            "engine_url": url, "served_name": "/models/mistral-7b", "prompt": "Explain", "max_tokens": 8,
            "service_url": url, "service": "/no/voicebot", "max_word_error_rate": 0.1, "timeout": 10,
        }  # fmt: skip
        server.shutdown()


def results(params: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in smoke_probe.probe(params)}


def test_answers_pass_and_give_figures(params: dict[str, Any]) -> None:
    found = results(params)
    for name in ("engine /health", "engine /v1/models", "completion", "voicebot /health"):
        assert found[name]["ok"], found[name]
    assert found["completion"]["figures"]["tokens"] == 7
    assert found["completion"]["detail"].endswith("Few instructions, each fast.")


def test_a_failed_check_hides_no_later_one(params: dict[str, Any]) -> None:
    found = results(params)
    assert list(found) == list(smoke_probe.CHECKS)
    assert not found["spoken question"]["ok"], "there is no such command"
    assert not found["container as pinned"]["ok"], "there is no such container"
    assert found["voicebot /health"]["ok"]


@pytest.mark.parametrize(
    ("path", "answer", "check", "said"),
    [
        ("/v1/models", {"data": [{"id": "/models/other"}]}, "engine /v1/models", "/models/other"),
        ("/v1/models", {"unknown": 1}, "engine /v1/models", "KeyError"),
        ("/v1/chat/completions", None, "completion", "answers 500"),
        (
            "/v1/chat/completions",
            {"choices": [{"message": {"content": " "}}], "usage": {"completion_tokens": 1}},
            "completion",
            "' '",
        ),
        ("/health", None, "engine /health", "core is dead"),
        ("/health", [], "voicebot /health", "AttributeError"),
        ("/health", None, "voicebot /health", "core is dead"),
    ],
)
def test_wrong_answers_fail_with_rule_and_remedy(
    params: dict[str, Any], answers: dict[str, Any], path: str, answer: Any, check: str, said: str
) -> None:
    answers[path] = answer
    found = results(params)[check]
    assert not found["ok"]
    for word in (said, "Rule:", "Remedy:"):
        assert word in found["detail"], found["detail"]


def test_nobody_listening(params: dict[str, Any]) -> None:
    params |= {"engine_url": "http://127.0.0.1:9", "service_url": "http://127.0.0.1:9"}
    found = results(params)
    assert not any(check["ok"] for name, check in found.items() if name.startswith(("engine", "voicebot")))
    assert "systemctl status vllm" in found["engine /health"]["detail"]


@pytest.mark.parametrize(("turn", "said"), [
    ({"wer": 0.5, "transcript": "he was a pill", "answer": "x", "audio_seconds": 1.0}, "he was a pill"),
    ({"wer": 0.0, "transcript": "he", "answer": "", "audio_seconds": 0.0}, "0.0 s"),
])  # fmt: skip
def test_a_turn_that_is_misheard_or_mute(
    params: dict[str, Any], tmp_path: Path, turn: dict[str, Any], said: str
) -> None:
    """A command in the service's place that reports such a turn."""
    command = tmp_path / "voicebot"
    told = json.dumps(turn | {"metrics": {}})
    command.write_text(f"#!/bin/sh\nfor last; do :; done\nprintf %s '{told}' > \"$last\"\n")
    command.chmod(0o755)
    found = results(params | {"service": str(command)})["spoken question"]
    assert not found["ok"] and said in found["detail"]


def test_models_table_and_report() -> None:
    files: dict[str, Any] = {"a": {}, "b": {}, "model.bin": {}}
    checks = smoke_model_checks(
        [
            {"__smoke_model": {"name": "good", "files": files}, "wrong": [], "hashed": ["a", "b"]},
            {"__smoke_model": {"name": "bad", "files": files}, "wrong": ["model.bin"], "hashed": []},
            {"__smoke_model": {"name": "gone", "files": files}, "failed": True, "msg": "No such store."},
        ]
    )
    assert [check["ok"] for check in checks] == [True, False, False]
    assert checks[0]["detail"] == "3 files as pinned, 2 read"
    assert checks[0]["figures"] == {"files": 3, "hashed": 2}
    assert "model.bin" in checks[1]["detail"] and checks[2]["detail"] == "No such store."
    table = smoke_table(checks, "spark-a").splitlines()
    assert table[0] == "spark-a: 1 of 3 checks passed"
    assert [line[:4] for line in table[1:]] == ["ok  ", "FAIL", "FAIL"]
    assert smoke_report({"a": checks[:1]}, ["a"])["ok"]
    fleet = smoke_report({"a": checks[:1]}, ["a", "b"])
    assert not fleet["ok"] and fleet["hosts"]["a"]["ok"] and not fleet["hosts"]["b"]["ok"]
    assert not smoke_report({}, [])["ok"], "a fleet of nobody has not passed"


@pytest.mark.parametrize(
    ("golden", "ok", "said"),
    [
        ({"prompt": "What is RISC?", "pattern": "(?i)few +instructions"}, True, "Few instructions"),
        ({"prompt": "Capital of France?", "pattern": "(?i)paris"}, False, "the answer matches '(?i)paris'"),
        ({}, True, "none in the catalogue"),
    ],
)
def test_the_golden_question(params: dict[str, Any], golden: dict[str, str], ok: bool, said: str) -> None:
    found = results({**params, "golden": golden, "only": ["golden question"]})
    assert list(found) == ["golden question"]
    assert found["golden question"]["ok"] is ok
    assert said in found["golden question"]["detail"]
