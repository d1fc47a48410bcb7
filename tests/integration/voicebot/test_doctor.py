"""`voicebot doctor` names each fault and what to do about it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration.voicebot.conftest import Service, command, configure
from tests.scripted import Engine, free_port

pytestmark = pytest.mark.lab


def examine(config: Path) -> tuple[int, dict[str, str]]:
    """The exit code, and each line's verdict and finding by its name."""
    done = command("doctor", "--config", config, folder=config.parent)
    assert done.stderr == ""
    # A finding may go on over further lines.
    lines = re.findall(r"^(ok|FAIL) +(.{15}) (.*(?:\n(?!ok|FAIL).*)*)", done.stdout, re.M)
    return done.returncode, {name.strip(): f"{verdict} {finding}" for verdict, name, finding in lines}


def faults(found: dict[str, str]) -> set[str]:
    return {name for name, finding in found.items() if finding.startswith("FAIL")}


def test_all_is_well(service: Service) -> None:
    code, found = examine(service.config)
    assert faults(found) == set()
    assert code == 0
    assert len(found) == 9
    assert "word error rate 0.00" in found["speech to text"]
    assert "has no system role" in found["template"]


def test_engine_and_service_down(whisper_tiny: Path, tmp_path: Path) -> None:
    code, found = examine(configure(tmp_path, whisper_tiny, f"http://127.0.0.1:{free_port()}"))
    assert code == 1
    assert faults(found) == {"engine", "model", "template", "answer", "service"}
    assert "can't be reached" in found["engine"]
    assert "Remedy: systemctl status vllm" in found["engine"]
    assert "Remedy: systemctl status voicebot" in found["service"]


def test_wrong_model_name(service: Service, whisper_tiny: Path, engine: Engine, tmp_path: Path) -> None:
    port = int(service.url.rpartition(":")[2])
    config = configure(tmp_path, whisper_tiny, engine.url, server={"port": port}, llm={"model": "mistral"})
    code, found = examine(config)
    assert code == 1
    assert faults(found) == {"model", "answer"}
    assert "llm.model is 'mistral'" in found["model"]
    assert "Rule: one of m. Remedy: set llm.model" in found["model"]


def test_missing_speech_model_and_voice(service: Service, engine: Engine, tmp_path: Path) -> None:
    port = int(service.url.rpartition(":")[2])
    config = configure(
        tmp_path, tmp_path / "none", engine.url, server={"port": port}, tts={"voice": "nobody"}
    )
    code, found = examine(config)
    assert code == 1
    assert faults(found) == {"speech to text", "text to speech"}
    assert f"stt.model is {tmp_path / 'none'}, not a directory" in found["speech to text"]
    assert "Remedy: set stt.model" in found["speech to text"]
    assert "Remedy: set tts.voice to heart" in found["text to speech"]


def test_bad_configuration(tmp_path: Path) -> None:
    config = tmp_path / "config.yml"
    config.write_text("stt: {modle: /srv/models/whisper-base}\n")
    code, found = examine(config)
    assert code == 1
    assert "stt.modle is not a setting. Rule: " in found["config"]
    assert "Remedy: did you mean model?" in found["config"]
    assert faults(found) == set(found) - {"packages"}
