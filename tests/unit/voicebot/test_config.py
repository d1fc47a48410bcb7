"""Settings: what is accepted, and how a mistake is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from voicebot import config
from voicebot.errors import ConfigError

STT = {"stt": {"model": "/srv/models/whisper-base/1"}}


def test_defaults_need_only_a_speech_model() -> None:
    settings = config.parse(STT, "x")
    assert settings.server.host == "127.0.0.1"
    assert settings.llm.base_url == "http://127.0.0.1:8000/v1"
    assert settings.llm.connect_timeout_s == 1.0
    assert settings.limits.max_audio_seconds == 120


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({**STT, "servr": {}}, ["servr", "top level", "server", "did you mean server?"]),
        ({"stt": {"modle": "/x", "model": "/y"}}, ["stt.modle", "stt knows model", "did you mean model?"]),
        ({**STT, "beam_size": 2}, ["beam_size", "did you mean stt.beam_size?"]),
        ({**STT, "zzz": 2}, ["zzz is not a setting", "remove it"]),
        ({}, ["stt is missing", "set stt"]),
        ({"stt": {}}, ["stt.model is missing"]),
        ({"stt": {"model": "/x", "device": "gpu"}}, ["stt.device is 'gpu'", "'cpu', 'cuda' or 'auto'"]),
        ({"stt": {"model": "/x", "compute_type": "int4"}}, ["stt.compute_type is 'int4'", "'int8'"]),
        ({**STT, "server": {"port": 0}}, ["server.port is 0", "greater than or equal to 1"]),
        ({**STT, "llm": {"base_url": "localhost"}}, ["llm.base_url is 'localhost'", "http"]),
        ({**STT, "llm": None}, ["llm is None"]),
        ([1], ["holds a list", "a mapping of sections"]),
    ],
)
def test_a_mistake_names_key_rule_and_remedy(data: Any, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse(data, "/etc/voicebot/config.yml")
    message = str(caught.value)
    assert "/etc/voicebot/config.yml" in message
    assert "Rule: " in message
    assert "Remedy: " in message
    for part in parts:
        assert part in message


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"(?s)llm\.max_token .*tts\.voices "):
        config.parse({**STT, "llm": {"max_token": 1}, "tts": {"voices": "x"}}, "x")


@pytest.mark.parametrize(
    ("text", "code"),
    [(b"a: [", "config_syntax"), (b"\xff\xfe", "config_syntax"), (None, "config_unreadable")],
)
def test_unreadable_files(tmp_path: Path, text: bytes | None, code: str) -> None:
    path = tmp_path / "config.yml"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=r"config\.yml") as caught:
        config.load(path)
    assert caught.value.code == code


def test_the_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yml"
    path.write_text("stt: {model: /m}\nllm: {max_tokens: 64}\n")
    monkeypatch.setenv("VOICEBOT_CONFIG", str(path))
    assert config.load(config.default_path()).llm.max_tokens == 64
    monkeypatch.delenv("VOICEBOT_CONFIG")
    assert config.default_path() == Path("/etc/voicebot/config.yml")
