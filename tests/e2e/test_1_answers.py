"""The main job: a human is heard, a real vLLM answers, the answer is spoken."""

from __future__ import annotations

import json
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.play import BIN, ROOT
from tests.speech import librivox, word_error_rate

pytestmark = pytest.mark.lab


def ask(service: str, file: Path, tmp: Path) -> dict[str, Any]:
    done = subprocess.run(
        [BIN / "voicebot", "ask", file, "--url", service, "--out", tmp / "answer.wav", "--json", tmp / "turn.json"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    turn: dict[str, Any] = json.loads((tmp / "turn.json").read_text(encoding="utf-8"))
    return turn


def test_human_speech_is_heard_answered_and_spoken(
    service: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    errors, words = 0.0, 0
    for utterance in librivox():
        turn = ask(service, utterance.path, tmp_path)
        count = len(utterance.text.split())
        errors += word_error_rate(utterance.text, turn["transcript"]) * count
        words += count
        assert len(turn["answer"].split()) >= 3, turn
        with wave.open(str(tmp_path / "answer.wav")) as spoken:
            seconds = spoken.getnframes() / spoken.getframerate()
        assert seconds > 0.2 * len(turn["answer"].split()), "speech takes time"
    record_property("wer_librivox_base", round(errors / words, 3))
    assert words > 60
    assert errors / words <= 0.10


def test_the_spoken_answer_says_what_the_text_says(service: str, tmp_path: Path) -> None:
    """Listen by transcribing back: the answer's WAV is itself put through the service's STT."""
    turn = ask(service, librivox()[1].path, tmp_path)
    (tmp_path / "answer.wav").rename(tmp_path / "spoken.wav")
    back = ask(service, tmp_path / "spoken.wav", tmp_path)
    assert word_error_rate(turn["answer"], back["transcript"]) <= 0.25, (turn["answer"], back["transcript"])


def test_the_answer_is_the_models_own(engine: str) -> None:
    """Greedy decoding repeats itself, and follows the prompt."""

    def complete(prompt: str) -> dict[str, Any]:
        body = {"model": "/models/mistral-7b", "messages": [{"role": "user", "content": prompt}],
                "max_tokens": 24, "temperature": 0}  # fmt: skip
        answer: dict[str, Any] = httpx.post(f"{engine}/v1/chat/completions", json=body, timeout=60).json()
        return answer

    one, two, other = (
        complete("What is the capital of France?"),
        complete("What is the capital of France?"),
        complete("Count to five."),
    )
    text = one["choices"][0]["message"]["content"]
    assert one["model"] == "/models/mistral-7b" and one["usage"]["completion_tokens"] > 3
    assert text == two["choices"][0]["message"]["content"] != other["choices"][0]["message"]["content"]
    assert "paris" in text.lower()


def test_system_prompt_reaches_a_template_without_system_role(engine: str, service: str) -> None:
    refused = httpx.post(f"{engine}/v1/chat/completions", timeout=60, json={
        "model": "/models/mistral-7b", "max_tokens": 1,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]})  # fmt: skip
    assert refused.status_code == 400, "the lab's template must refuse a system role, as Mistral's does"
    health = httpx.get(f"{service}/health", timeout=10).json()
    assert health["status"] == "ok", health


def test_ask_from_the_readme_needs_no_flags(sh: Callable[..., str]) -> None:
    """On the Spark itself: `voicebot ask` with the recorded sentence of the package."""
    out = sh(
        "cd /tmp && /opt/voicebot/current/bin/voicebot ask --sample --out /tmp/answer.wav && file -b /tmp/answer.wav 2>/dev/null; ls -s /tmp/answer.wav"
    )
    assert "young man" in out.lower()


def test_root_of_the_project_is_not_needed_at_run_time(sh: Callable[..., str]) -> None:
    assert str(ROOT) not in sh(
        "cat /etc/voicebot/config.yml /etc/systemd/system/vllm.service /etc/systemd/system/voicebot.service"
    )
