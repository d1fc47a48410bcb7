"""Nothing leaves the box: a whole conversation where there is no network but loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import speech
from tests.integration.voicebot.conftest import ROOT, configure, environment
from tests.scripted import free_port

pytestmark = pytest.mark.lab


def test_a_conversation_without_a_network(
    tmp_path: Path, whisper_tiny: Path, human_speech: list[speech.Utterance]
) -> None:
    port = free_port()
    config = configure(tmp_path, whisper_tiny, f"http://127.0.0.1:{port}")
    talk = [sys.executable, "-m", "tests.integration.voicebot.alone"]
    arguments = [str(config), str(human_speech[1].path), str(port)]
    done = subprocess.run(
        ["unshare", "--net", *talk, *arguments],
        capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["routes"] == ""
    assert speech.word_error_rate(human_speech[1].text, found["heard"][0]) <= 0.4
    assert found["turns"] == 2, "one of the conversation, one bare"
