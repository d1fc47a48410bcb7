"""`voicebot serve` and `voicebot ask`, as processes, with real hearing and a real voice."""

from __future__ import annotations

import json
import signal
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import speech
from tests.integration.voicebot.conftest import ANSWER, Service, Start, command, wait_for
from tests.scripted import Engine, chunk
from voicebot.ask import sample
from voicebot.config import SYSTEM_PROMPT

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def turn(
    service: Service, human_speech: list[speech.Utterance], tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path, str]:
    """One turn with a human's sentence: its result, the spoken answer, what was on the screen."""
    folder = tmp_path_factory.mktemp("turn")
    asked = command(
        "ask", human_speech[0].path, "--url", service.url, "--reference", human_speech[0].text,
        "--out", "answer.wav", "--json", "turn.json", folder=folder,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    return json.loads((folder / "turn.json").read_text()), folder / "answer.wav", asked.stdout


def test_it_is_ready_when_it_says_so(service: Service) -> None:
    assert service.notified == [b"READY=1"]
    state = httpx.get(f"{service.url}/health", timeout=60)
    assert state.status_code == 200
    assert state.json() == {"status": "ok", "stt": "ok", "llm": "ok", "tts": "ok"}


def test_a_question_is_answered_in_speech(
    turn: tuple[dict[str, Any], Path, str], record_property: Callable[[str, object], None]
) -> None:
    result, out, shown = turn
    for name, seconds in result["metrics"].items():
        record_property(name, seconds)
    assert result["status"] == "completed"
    assert result["wer"] <= 0.1
    assert result["answer"] == ANSWER
    assert f"Answer:  {ANSWER}" in shown
    assert "question to first sound" in shown
    stages = ["decode_s", "stt_s", "llm_first_token_s", "first_clause_s", "tts_first_audio_s"]
    assert sum(result["metrics"][s] for s in stages) == pytest.approx(
        result["metrics"]["first_audio_s"], abs=0.1
    )
    with wave.open(str(out)) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(result["audio_seconds"], abs=0.01)


def test_the_spoken_answer_is_understood(
    turn: tuple[dict[str, Any], Path, str], service: Service, record_property: Callable[[str, object], None]
) -> None:
    heard = command("transcribe", "--config", service.config, turn[1], folder=turn[1].parent)
    assert heard.returncode == 0, heard.stderr
    assert heard.stdout.count("\n") == 1, "the words alone"
    rate = speech.word_error_rate(ANSWER, heard.stdout)
    record_property("wer_answer_spoken_and_heard", rate)
    assert rate <= 0.1, heard.stdout


def test_the_system_prompt_is_folded_into_the_users_turn(
    turn: tuple[dict[str, Any], Path, str], engine: Engine
) -> None:
    transcript = turn[0]["transcript"]
    [asked] = [body for body in engine.asked if transcript in body["messages"][-1]["content"]]
    assert asked["messages"] == [{"role": "user", "content": f"{SYSTEM_PROMPT}\n\n{transcript}"}]


def test_what_is_said_is_not_in_the_log(turn: tuple[dict[str, Any], Path, str], service: Service) -> None:
    log = service.log.read_text()
    assert "turn completed" in log
    assert turn[0]["transcript"] not in log
    assert ANSWER.split(".")[0] not in log


def test_health_answers_while_the_recogniser_works(
    service: Service, human_speech: list[speech.Utterance], record_property: Callable[[str, object], None]
) -> None:
    recording = human_speech[0].path.read_bytes()
    turn = threading.Thread(
        target=httpx.post, args=(f"{service.url}/v1/turns",), kwargs={"content": recording, "timeout": 180}
    )
    turn.start()
    times = []
    while turn.is_alive():
        began = time.monotonic()
        assert httpx.get(f"{service.url}/health", timeout=60).status_code == 200
        times.append(time.monotonic() - began)
        time.sleep(0.05)
    turn.join()
    record_property("health_while_hearing_max_s", round(max(times), 3))
    assert len(times) >= 3, "a loop that the recogniser blocks answers once, at its end"


def test_a_client_that_leaves_frees_the_engine(start: Start, whisper_tiny: Path, engine: Engine) -> None:
    service = start(whisper_tiny, engine.url)
    script, engine.script = engine.script, [step for _ in range(6000) for step in (chunk("word "), 0.1)]
    try:
        body = sample()[0].read_bytes()
        with httpx.stream("POST", f"{service.url}/v1/turns", content=body, timeout=180) as answer:
            next(line for line in answer.iter_lines() if "output_audio_transcript" in line)
        assert engine.abandoned.wait(60), "the engine stops writing"
        wait_for(lambda: "turn abandoned" in service.log.read_text(), 60, "the turn is abandoned")
    finally:
        engine.script = script
    began = time.monotonic()
    assert service.stop() in (0, -signal.SIGTERM)
    assert time.monotonic() - began < 30
    assert "Traceback" not in service.log.read_text()
