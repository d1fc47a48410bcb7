"""The `openai` client, unmodified, against the audio API."""

from __future__ import annotations

import io
import json
import wave
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from tests.scripted import running
from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.live import VOICES
from voicebot import rest
from voicebot.ask import sample
from voicebot.config import Settings
from voicebot.errors import SpeechError

QUESTION = sample()[0]


@pytest.fixture
def url(settings: Settings, fakes: Fakes) -> Iterator[str]:
    with running(rest.build(settings, fakes.stages(), VOICES)) as address:
        yield f"{address}/v1"


@pytest.fixture
def client(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=url, api_key="none", max_retries=0)


def transcribe(client: openai.OpenAI, **options: Any) -> Any:
    return client.audio.transcriptions.create(file=QUESTION, model="whisper-1", **options)


def test_json_and_text(client: openai.OpenAI, fakes: Fakes) -> None:
    assert transcribe(client).text == "what is a spark"
    assert transcribe(client, response_format="text", language="de") == "what is a spark\n"
    assert fakes.stt.languages == [None, "de"]
    assert fakes.stt.heard[0].seconds == pytest.approx(3.0, abs=0.1)


def test_formats_with_times(client: openai.OpenAI) -> None:
    found = transcribe(client, response_format="verbose_json")
    assert (found.language, found.text) == ("en", "what is a spark")
    assert found.segments[0].end == pytest.approx(3.0, abs=0.1)
    srt = transcribe(client, response_format="srt")
    assert srt.splitlines()[0] == "1"
    assert srt.splitlines()[1].startswith("00:00:00,000 --> 00:00:0")
    assert srt.splitlines()[2] == "what is a spark"
    vtt = transcribe(client, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:0")


def test_streamed(client: openai.OpenAI) -> None:
    events = list(transcribe(client, stream=True))
    assert [event.type for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[-1].text == "what is a spark"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"response_format": "docx"}, "one of json, text, srt, vtt, verbose_json"),
        ({"language": "tlh"}, "stt.language is 'tlh'"),
    ],
)
def test_what_cannot_be_had(client: openai.OpenAI, fakes: Fakes, options: Any, words: str) -> None:
    with pytest.raises(openai.BadRequestError, match=words):
        transcribe(client, **options)
    assert fakes.stt.calls == 0


def test_bad_bodies(url: str) -> None:
    for body, code in (
        ({"content": b"x"}, "no_form"),
        ({"files": {"other": b"x"}}, "missing_file"),
        ({"files": {"file": b"no sound"}}, "audio_unreadable"),
    ):
        answer = httpx.post(f"{url}/audio/transcriptions", **body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == code
    for text in (b"{", b"[]", b"{}", b'{"input": ""}', json.dumps({"input": "x" * 5000}).encode()):
        assert httpx.post(f"{url}/audio/speech", content=text).status_code == 400
    refused = httpx.post(f"{url}/audio/speech", json={"input": "Hi.", "response_format": "mp3"})
    assert "wav or pcm" in refused.json()["error"]["message"]


def test_any_bytes_survive_the_form(url: str, fakes: Fakes) -> None:
    """A WAV of all 16-bit patterns that look like line ends."""
    container = io.BytesIO()
    with wave.open(container, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(b"\r\n\r\n--\r\n\n\r" * 1600)
    files = {"file": ("a.wav", container.getvalue())}
    assert httpx.post(f"{url}/audio/transcriptions", files=files).status_code == 200
    assert fakes.stt.heard[0].seconds == pytest.approx(0.5, abs=0.001)


def test_speech(client: openai.OpenAI, fakes: Fakes) -> None:
    common: Any = {"model": "hibari", "voice": "heart", "input": "Hello there. How are you?"}
    pcm = client.audio.speech.create(response_format="pcm", **common).read()
    assert len(pcm) == 2 * len("Hello there.How are you?")
    heard = client.audio.speech.create(response_format="wav", **common).read()
    assert heard[:4] == b"RIFF" and heard[44:] == pcm
    assert fakes.tts.spoken[:2] == ["Hello there.", "How are you?"]


def test_a_voice_that_fails(client: openai.OpenAI, fakes: Fakes) -> None:
    fakes.tts.error = SpeechError("tts_failed", "no voice")
    with pytest.raises(openai.InternalServerError, match="no voice"):
        client.audio.speech.create(model="hibari", voice="heart", input="Hi.", response_format="wav")


def test_models(client: openai.OpenAI) -> None:
    assert "voicebot" in [model.id for model in client.models.list()]
