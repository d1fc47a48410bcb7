"""Around the service: systemd, the port, doctor, the voice's edges."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest

from tests.scripted import Engine, free_port
from voicebot import app, systemd
from voicebot.config import Settings, Tts
from voicebot.doctor import examine
from voicebot.errors import ConfigError
from voicebot.tts import HibariVoice, trim


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"@voicebot-test-{free_port()}" if abstract else str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name[1:] if abstract else name)
        systemd.tell("READY=1")
        assert listener.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.tell("READY=1")


def test_a_port_that_is_taken_is_said_before_models_load(settings: Settings) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = settings.server.model_copy(update={"port": port})
        with pytest.raises(ConfigError, match=rf"can't listen on 127.0.0.1:{port}.*Rule.*Remedy.*ss -ltnp"):
            app.serve(settings.model_copy(update={"server": server}))


def test_doctor_without_configuration(tmp_path: Path) -> None:
    findings = {name: (text, well) for name, text, well in examine(tmp_path / "none.yml")}
    assert findings["packages"][1]
    assert "can't be read" in findings["config"][0]
    assert all(not well for name, (_, well) in findings.items() if name != "packages")


def test_doctor_finds_each_fault(tmp_path: Path) -> None:
    path = tmp_path / "config.yml"
    path.write_text(
        f"stt: {{model: {tmp_path}/none}}\ntts: {{voice: emma}}\nserver: {{port: {free_port()}}}\n"
        f"llm: {{base_url: 'http://127.0.0.1:{free_port()}/v1'}}\n"
    )
    findings = {name: (text, well) for name, text, well in examine(path)}
    assert findings["config"][1]
    for name, words in {
        "engine": "can't be reached",
        "model": "can't be reached",
        "answer": "can't be reached",
        "speech to text": "not a directory",
        "text to speech": "'emma', which is not on this host",
        "service": "No voicebot answers",
    }.items():
        text, well = findings[name]
        assert not well
        assert words in text
        assert "Remedy: " in text


def test_doctor_on_the_engine(tmp_path: Path, engine: Engine) -> None:
    engine.system_role = "refused"
    path = tmp_path / "config.yml"
    path.write_text(f"stt: {{model: /none}}\nllm: {{base_url: '{engine.url}/v1', model: m}}\n")
    findings = {name: (text, well) for name, text, well in examine(path)}
    assert findings["engine"][1] and findings["model"][1] and findings["answer"][1]
    assert findings["template"][0].startswith("has no system role")
    assert engine.asked[0]["max_tokens"] == 8
    path.write_text(f"stt: {{model: /none}}\nllm: {{base_url: '{engine.url}/v1', model: x}}\n")
    findings = {name: (text, well) for name, text, well in examine(path)}
    assert "Rule: one of m. Remedy: set llm.model" in findings["model"][0]


def test_an_unknown_voice() -> None:
    with pytest.raises(ConfigError, match=r"set tts\.voice to heart"):
        HibariVoice(Tts(voice="nobody"))
    with pytest.raises(ConfigError, match=r"a persona's voice\) is 'emma'"):
        HibariVoice(Tts(), ["emma"])


def test_silence_is_trimmed() -> None:
    rate = 1000
    sound = np.concatenate([np.full(300, 1e-4), np.full(500, 0.5), np.full(400, 1e-4)]).astype(np.float32)
    assert len(trim(sound, rate, keep_tail=True)) == 20 + 500 + 400
    assert len(trim(sound, rate, keep_tail=False)) == pytest.approx(20 + 500 + 120, abs=1)
    silence = np.zeros(100, np.float32)
    assert len(trim(silence, rate, keep_tail=False)) == 100
