"""HTTP: the turn as server-sent events, refusals, limits, disconnects, health."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.scripted import Engine, chunk, running
from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.live import VOICES
from voicebot import rest
from voicebot.ask import sample
from voicebot.config import Limits, Llm, Settings
from voicebot.errors import EngineError, SpeechError
from voicebot.llm import OpenAIChat, Piece
from voicebot.turn import Stages

QUESTION = sample()[0].read_bytes()


@pytest.fixture
def url(settings: Settings, fakes: Fakes) -> Iterator[str]:
    with running(rest.build(settings, fakes.stages(), VOICES)) as address:
        yield address


def post(url: str, body: Any = QUESTION) -> httpx.Response:
    return httpx.post(f"{url}/v1/turns", content=body, timeout=10)


def data(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n\n") if line]
    return [json.loads(line.removeprefix("data: ")) for line in lines]


def test_a_turn_in_the_names_of_the_realtime_api(url: str) -> None:
    heard, *written, done = data(post(url))
    assert heard == {
        "type": "conversation.item.input_audio_transcription.completed",
        "transcript": "what is a spark",
    }
    texts = [e["delta"] for e in written if e["type"] == "response.output_audio_transcript.delta"]
    assert "".join(texts) == "Hello there. How are you?"
    speech = [base64.b64decode(e["delta"]) for e in written if e["type"] == "response.output_audio.delta"]
    assert sum(map(len, speech)) == 2 * len("Hello there.How are you?")
    assert done["type"] == "response.done"
    assert done["response"] == {"status": "completed"}
    assert {"stt_s", "llm_first_token_s", "first_audio_s", "total_s"} < set(done["metrics"])


def test_a_failure_inside_the_turn(url: str, fakes: Fakes) -> None:
    fakes.llm.down = EngineError("engine_unreachable", "The engine is down.", remedy="Start it.")
    error, done = data(post(url))
    assert error == {
        "type": "error",
        "error": {
            "type": "server_error",
            "code": "engine_unreachable",
            "message": "The engine is down. Remedy: Start it.",
        },
    }
    assert done["response"] == {"status": "failed"}


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"", "audio_empty"), (b"some text\n" * 9, "audio_unreadable"), (QUESTION[:9000], "audio_truncated")],
)
def test_what_is_no_recording_is_refused(url: str, fakes: Fakes, body: bytes, code: str) -> None:
    response = post(url, body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == code
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert fakes.stt.calls == 0


def test_limits(settings: Settings, fakes: Fakes) -> None:
    tight = settings.model_copy(update={"limits": Limits(max_audio_seconds=1, max_body_mb=0.2)})
    with running(rest.build(tight, fakes.stages(), VOICES)) as url:
        assert post(url).json()["error"]["code"] == "audio_too_long"
        pieces = [bytes(50_000) for _ in range(10)]
        for body in (b"".join(pieces), iter(pieces), iter(pieces * 10)):
            response = post(url, body)
            assert response.status_code == 413
            assert "at most 0.2 MB (limits.max_body_mb)" in response.json()["error"]["message"]


def test_other_methods_and_paths(url: str) -> None:
    assert httpx.get(f"{url}/v1/turns").status_code == 405
    assert httpx.get(f"{url}/nothing").status_code == 404


@pytest.mark.parametrize("moment", ["listening", "answering"])
def test_a_client_that_goes_away_cancels_the_turn(
    url: str, settings: Settings, fakes: Fakes, moment: str
) -> None:
    fakes.stt.delay = 600 if moment == "listening" else 0
    fakes.llm = FakeLlm([Piece("First clause. And"), 600.0])
    with (
        running(rest.build(settings, fakes.stages(), VOICES)) as address,
        httpx.stream("POST", f"{address}/v1/turns", content=QUESTION, timeout=60) as r,
    ):
        if moment == "answering":
            next(line for line in r.iter_lines() if "output_audio.delta" in line)
        else:
            assert fakes.stt.begun.wait(60)
        r.close()
        assert (fakes.llm if moment == "answering" else fakes.stt).cancelled.wait(60)
    assert len(fakes.llm.windows) == (1 if moment == "answering" else 0)


def test_a_client_that_goes_away_cancels_the_request_to_the_engine(
    settings: Settings, fakes: Fakes, engine: Engine
) -> None:
    engine.script = [chunk("First clause. And"), *[step for _ in range(6000) for step in (0.1, chunk(" x"))]]
    stages = Stages(fakes.stt, OpenAIChat(Llm(base_url=f"{engine.url}/v1", model="m")), fakes.tts)
    with (
        running(rest.build(settings, stages, VOICES)) as url,
        httpx.stream("POST", f"{url}/v1/turns", content=QUESTION) as r,
    ):
        next(line for line in r.iter_lines() if "output_audio.delta" in line)
        r.close()
        assert engine.abandoned.wait(60)


def test_what_is_said_is_not_logged(url: str, fakes: Fakes, caplog: pytest.LogCaptureFixture) -> None:
    fakes.stt.text = "my password is swordfish"
    fakes.llm.pieces = [Piece("Your password is marlin.", "stop")]
    with caplog.at_level(logging.DEBUG):
        post(url)
        fakes.llm.pieces = [Piece("Your password is marlin."), EngineError("engine_cut", "cut")]
        post(url)
    assert "turn completed: audio_s=3.0" in caplog.text
    assert "turn failed: engine_cut" in caplog.text
    assert not any(word in caplog.text for word in ("swordfish", "marlin", "password"))


def test_health(url: str, fakes: Fakes) -> None:
    response = httpx.get(f"{url}/health")
    assert response.status_code == 200
    assert response.json() == {"status": "ok", "stt": "ok", "llm": "ok", "tts": "ok"}


def test_unfit(url: str, fakes: Fakes) -> None:
    fakes.stt.unfit, fakes.tts.unfit = SpeechError("stt", "no ears"), SpeechError("tts", "no voice")
    fakes.llm.down = EngineError("engine_unreachable", "The engine is down.")
    response = httpx.get(f"{url}/health")
    assert response.status_code == 503
    assert response.json() == {
        "status": "unavailable", "stt": "no ears", "llm": "The engine is down.", "tts": "no voice",
    }  # fmt: skip


def test_stages_are_closed_at_the_end(settings: Settings, fakes: Fakes) -> None:
    with running(rest.build(settings, fakes.stages(), VOICES)):
        assert not fakes.stt.closed
    assert fakes.stt.closed
