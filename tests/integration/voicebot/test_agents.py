"""OpenAI's Agents SDK for JavaScript, unmodified: asks, interrupts, and sees what was heard."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import speech
from tests.integration.voicebot.conftest import ANSWER, Service
from tests.integration.voicebot.test_live import pcm
from tests.lab import packages

pytestmark = [pytest.mark.lab, pytest.mark.long]
HERE = Path(__file__).parent / "js"


def test_talking(service: Service, human_speech: list[speech.Utterance], tmp_path: Path) -> None:
    if not shutil.which("npm"):
        packages.install_missing("nodejs", "npm")
    shutil.copytree(HERE, tmp_path, dirs_exist_ok=True)
    install = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    subprocess.run(install, cwd=tmp_path, check=True, capture_output=True, timeout=300)
    recording = tmp_path / "question.raw"
    recording.write_bytes(pcm(human_speech[1]))
    url = f"{service.url.replace('http', 'ws')}/v1/realtime"
    talk = ["node", "talk.mjs", url, str(recording)]
    done = subprocess.run(talk, cwd=tmp_path, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + service.log.read_text()
    found = json.loads(done.stdout)
    assert found["errors"] == []
    assert found["interrupted"] == 1
    assert found["audio"] > 24_000
    roles, texts = zip(*found["history"], strict=True)
    assert roles == ("user", "assistant", "user", "assistant")
    assert speech.word_error_rate(human_speech[1].text, texts[0]) <= 0.4
    assert texts[1] != ANSWER and ANSWER.startswith(texts[1].strip())
    assert texts[3] == ANSWER
