"""The command: what it prints, what it keeps, its exit codes."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.scripted import free_port, running
from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.live import VOICES
from voicebot import rest
from voicebot.ask import sample
from voicebot.cli import main
from voicebot.config import Settings
from voicebot.errors import EngineError
from voicebot.llm import Piece


@pytest.fixture
def url(settings: Settings, fakes: Fakes) -> Iterator[str]:
    with running(rest.build(settings, fakes.stages(), VOICES)) as address:
        yield address


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_ask_shows_and_keeps_the_answer(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--sample", "--url", url]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "Heard:   what is a spark"
    assert lines[1] == "Answer:  Hello there. How are you?"
    assert lines[2].startswith("Spoken:  answer.wav, ")
    assert "question to first sound" in out
    with wave.open("answer.wav") as file:
        assert (file.getframerate(), file.getnchannels()) == (24_000, 1)
        assert file.getnframes() == len("Hello there.How are you?")


def test_ask_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--sample", "--url", url, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert result["transcript"] == "what is a spark"
    assert result["answer"] == "Hello there. How are you?"
    assert result["status"] == "completed"
    assert result["reference"] == "he was not an ill disposed young man"
    assert result["wer"] == 1.0
    assert result["audio"] == "answer.wav"
    assert result["client_first_audio_s"] >= result["metrics"]["first_audio_s"] - 0.01
    assert (
        main(["ask", str(sample()[0]), "--url", url, "--json", "a.json", "--reference", "what is a shark"])
        == 0
    )
    assert json.loads(Path("a.json").read_text())["wer"] == 0.25
    assert "Heard:" in capsys.readouterr().out


def test_a_recording_is_never_overwritten_by_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("q.wav").write_bytes(b"precious")
    assert main(["ask", "--sample", "--url", url, "--json", "q.wav"]) == 2
    assert Path("q.wav").read_bytes() == b"precious"


def test_a_failure_midway_keeps_what_came(url: str, fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.llm.pieces = [Piece("First clause. And"), 0.1, EngineError("engine_cut", "The engine broke off.")]
    assert main(["ask", "--sample", "--url", url]) == 5
    out, err = capsys.readouterr()
    assert "Answer:  First clause. And" in out
    assert "Spoken:  answer.wav, " in out
    assert "(what came of it)" in out
    assert "The engine broke off." in err
    assert f"Your recording is kept: {sample()[0]}" in err


def test_an_engine_that_is_down(url: str, fakes: Fakes, capsys: pytest.CaptureFixture[str]) -> None:
    fakes.llm.down = EngineError("engine_unreachable", "The engine is down.")
    assert main(["ask", "--sample", "--url", url]) == 4
    assert "The engine is down." in capsys.readouterr().err
    assert not Path("answer.wav").exists()


def test_a_service_that_is_down(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--sample", "--url", f"http://127.0.0.1:{free_port()}"]) == 4
    err = capsys.readouterr().err
    assert "No voicebot answers" in err
    assert "Rule: " in err
    assert "Remedy: systemctl status voicebot" in err
    assert "Your recording is kept: " in err


def test_a_url_of_something_else(settings: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--sample", "--url", "nonsense"]) == 4

    async def other(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"nothing here"})

    with running(other) as url:
        assert main(["ask", "--sample", "--url", url]) == 4
    assert "answered 404, not as a voicebot does" in capsys.readouterr().err


def test_a_service_that_dies_midway(capsys: pytest.CaptureFixture[str]) -> None:
    async def dying(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = b'data: {"type": "response.output_audio_transcript.delta", "delta": "Hi"}\n\n'
        await send({"type": "http.response.body", "body": body})

    with running(dying) as url:
        assert main(["ask", "--sample", "--url", url]) == 5
    out, err = capsys.readouterr()
    assert "Answer:  Hi" in out
    assert "broke off before the turn was done" in err


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "is empty"), (b"text\n" * 9, "not audio"), (None, "can't be read")]
)
def test_a_bad_recording(
    url: str, content: bytes | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("q.wav").write_bytes(content)
    assert main(["ask", "q.wav", "--url", url]) == 3
    assert words in capsys.readouterr().err
    assert not Path("answer.wav").exists()


def test_an_answer_that_cannot_be_written(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ask", "--sample", "--url", url, "--out", "no/such/folder.wav"]) == 3
    assert "can't be written to no/such/folder.wav" in capsys.readouterr().err


def test_the_model_cannot_command_the_terminal(
    url: str, fakes: Fakes, capsys: pytest.CaptureFixture[str]
) -> None:
    fakes.llm = FakeLlm([Piece("A\x1b[2J\x07B\u202e.", "stop")])
    fakes.llm.pieces = [Piece("A\x1b[2J\x07B.", "stop")]
    with running(
        rest.build(Settings.model_validate({"stt": {"model": "/m"}}), fakes.stages(), VOICES)
    ) as address:
        main(["ask", "--sample", "--url", address])
    out = capsys.readouterr().out
    assert "A[2JB." in out
    assert "\x1b" not in out


@pytest.mark.parametrize("verb", ["serve", "transcribe"])
def test_a_wrong_configuration(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yml").write_text("stt: {modle: /x}\n")
    arguments = [verb, "--config", "c.yml", *([str(sample()[0])] if verb == "transcribe" else [])]
    assert main(arguments) == 2
    assert "did you mean model?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "words"),
    [(None, "not a directory"), (["config.json"], "lacks model.bin, tokenizer.json, vocabulary")],
)
def test_a_wrong_speech_model(
    files: list[str] | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.yml").write_text("stt: {model: base}\n")  # a name on the hub must not be fetched
    for name in files or []:
        Path("base").mkdir(exist_ok=True)
        Path("base", name).touch()
    assert main(["transcribe", "--config", "c.yml", str(sample()[0])]) == 2
    assert words in capsys.readouterr().err


def test_transcribe_explains_a_bad_recording(capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.yml").write_text("stt: {model: base}\n")
    Path("q.wav").write_bytes(b"text\n" * 9)
    assert main(["transcribe", "--config", "c.yml", "q.wav"]) == 3
    assert "q.wav is not audio that can be read" in capsys.readouterr().err


def test_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["ask"], ["ask", "f.wav", "--sample"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("voicebot ")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "exit codes:" in capsys.readouterr().out
