"""The service as a process, with real models."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import wave
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests import speech
from tests.integration.voicebot.conftest import Service, Start, health_seconds, wait_for
from voicebot.ask import ask, sample
from voicebot.cli import main

DOWN = "http://127.0.0.1:9/v1"


@pytest.fixture(scope="module")
def deaf_engine(start: Start, whisper_base: Path) -> Service:
    """A service whose engine is down."""
    return start(whisper_base, DOWN)


@pytest.fixture(scope="module")
def service(start: Start, whisper_base: Path, engine_url: str) -> Service:
    return start(whisper_base, engine_url)


def test_it_is_ready_when_it_says_so(deaf_engine: Service) -> None:
    assert deaf_engine.notified == [b"READY=1"]
    state = httpx.get(f"{deaf_engine.url}/health")
    assert state.status_code == 503
    assert state.json()["stt"] == state.json()["tts"] == "ok"
    assert "can't be reached" in state.json()["llm"]


def test_an_engine_that_is_down_is_said_within_two_seconds(
    deaf_engine: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    code = main(["ask", "--sample", "--url", deaf_engine.url, "--out", str(tmp_path / "a.wav")])
    assert time.monotonic() - began < 2
    assert code == 4
    err = capsys.readouterr().err
    assert "can't be reached" in err
    assert "Your recording is kept" in err


def test_health_answers_while_the_recogniser_works(deaf_engine: Service) -> None:
    long = speech.librivox()[0].path
    turns = [
        threading.Thread(target=ask, args=(long,), kwargs={"url": deaf_engine.url, "out": Path(os.devnull)})
    ]
    for turn in turns:
        turn.start()
    times = [health_seconds(deaf_engine.url) for _ in range(5)]
    for turn in turns:
        turn.join()
    assert max(times) < 1


def test_transcribe_prints_the_words_alone(deaf_engine: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["transcribe", "--config", str(deaf_engine.config), str(sample()[0])]) == 0
    heard = capsys.readouterr().out
    assert heard.count("\n") == 1
    assert speech.word_error_rate([sample()[1]], [heard]) == 0


def test_sigterm_ends_it(start: Start, whisper_tiny: Path) -> None:
    service = start(whisper_tiny, DOWN)
    began = time.monotonic()
    assert service.stop() in (0, -signal.SIGTERM)
    assert time.monotonic() - began < 10
    assert "Traceback" not in service.log.read_text()


@pytest.mark.lab
def test_a_question_is_answered_in_speech(
    service: Service, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    out, report = tmp_path / "answer.wav", tmp_path / "answer.json"
    command = [sys.executable, "-m", "voicebot", "ask", "--sample", "--url", service.url]
    command += ["--out", str(out), "--json", str(report)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    result = json.loads(report.read_text())
    record_property("metrics", result["metrics"])
    assert result["status"] in ("completed", "incomplete")
    assert result["wer"] <= 0.1
    assert len(result["answer"].split()) >= 1
    assert f"Answer:  {result['answer'].split()[0]}" in shown
    stages = ["decode_s", "stt_s", "llm_first_token_s", "first_clause_s", "tts_first_audio_s"]
    assert sum(result["metrics"][s] for s in stages) == pytest.approx(
        result["metrics"]["first_audio_s"], abs=0.1
    )
    with wave.open(str(out)) as file:
        assert file.getnframes() / file.getframerate() == pytest.approx(result["audio_seconds"], abs=0.01)
    assert result["audio_seconds"] > 0.5


@pytest.mark.lab
def test_what_is_said_is_not_in_the_log(service: Service, tmp_path: Path) -> None:
    result = ask(sample()[0], url=service.url, out=tmp_path / "a.wav", show=False)
    log = service.log.read_text()
    assert "turn completed" in log or "turn incomplete" in log
    assert "disposed" not in log
    assert result.transcript not in log
    assert result.answer not in log


@pytest.mark.lab
def test_a_client_that_leaves_frees_the_engine(service: Service, engine_url: str, tmp_path: Path) -> None:
    metrics = engine_url.removesuffix("/v1") + "/metrics"

    def running() -> float:
        lines = httpx.get(metrics).text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("vllm:num_requests_running"))

    with httpx.stream(
        "POST", f"{service.url}/v1/turns", content=sample()[0].read_bytes(), timeout=60
    ) as answer:
        next(line for line in answer.iter_lines() if "output_audio_transcript" in line)
    wait_for(lambda: running() == 0, 5, "the engine stops writing")
    wait_for(lambda: "turn abandoned" in service.log.read_text(), 5, "the turn is abandoned")


@pytest.mark.lab
def test_doctor_finds_all_well(service: Service, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--config", str(service.config)]) == 0, capsys.readouterr().out
