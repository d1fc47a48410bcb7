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
from openai.types.audio import (
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)

from tests.scripted import running
from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.live import VOICES
from voicebot import rest
from voicebot.ask import sample
from voicebot.config import Settings
from voicebot.errors import BusyError, SpeechError

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
    found = transcribe(client)
    assert found.text == "what is a spark"
    assert found.usage.seconds == pytest.approx(3.0, abs=0.1)
    assert transcribe(client, response_format="text", language="de") == "what is a spark\n"
    assert fakes.stt.languages == ["en", "de"]
    assert fakes.stt.heard[0].seconds == pytest.approx(3.0, abs=0.1)


def test_verbose(client: openai.OpenAI, url: str, fakes: Fakes) -> None:
    """Every field that the client's types require is there, and of their kind."""
    fakes.stt.text = "what is\na spark"
    found = transcribe(client, response_format="verbose_json")
    strict = TranscriptionVerbose.model_validate(found.model_dump(exclude_unset=True), strict=True)
    assert (strict.language, strict.text) == ("en", "what is a spark")
    assert strict.duration == pytest.approx(3.0, abs=0.1)
    assert strict.segments and strict.words is None
    assert [(s.id, s.start, s.end, s.text) for s in strict.segments] == [
        (0, 0.0, 1.0, "what is"), (1, 1.0, 2.0, "a spark"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "segments", "words"),
    [
        (["word"], None, ["what", "is", "a", "spark"]),
        (["segment"], ["what is", "a spark"], None),
        (["word", "segment"], ["what is", "a spark"], ["what", "is", "a", "spark"]),
    ],
)
def test_granularities(client: openai.OpenAI, fakes: Fakes, asked: Any, segments: Any, words: Any) -> None:
    fakes.stt.text = "what is\na spark"
    found = transcribe(client, response_format="verbose_json", timestamp_granularities=asked)
    strict = TranscriptionVerbose.model_validate(found.model_dump(exclude_unset=True), strict=True)
    told = None if strict.segments is None else [segment.text for segment in strict.segments]
    assert told == segments
    told = None if strict.words is None else [word.word for word in strict.words]
    assert told == words
    if strict.words:
        assert [(w.start, w.end) for w in strict.words] == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.0)]


def test_subtitles(client: openai.OpenAI, fakes: Fakes) -> None:
    fakes.stt.text = "what is\na spark"
    assert transcribe(client, response_format="srt") == (
        "1\n00:00:00,000 --> 00:00:01,000\nwhat is\n\n2\n00:00:01,000 --> 00:00:02,000\na spark\n"
    )
    assert transcribe(client, response_format="vtt") == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\nwhat is\n\n00:00:01.000 --> 00:00:02.000\na spark\n"
    )


def test_streamed(client: openai.OpenAI, fakes: Fakes) -> None:
    fakes.stt.text = "what is\na spark"
    *deltas, done = list(transcribe(client, stream=True))
    assert [type(event) for event in deltas] == 2 * [TranscriptionTextDeltaEvent]
    assert isinstance(done, TranscriptionTextDoneEvent)
    assert "".join(event.delta for event in deltas) == done.text == "what is a spark"


def test_a_stream_that_fails_says_so(client: openai.OpenAI, fakes: Fakes) -> None:
    fakes.stt.error = SpeechError("stt_failed", "no ears")
    with pytest.raises(openai.APIError, match="no ears"):
        list(transcribe(client, stream=True))


def test_too_much_at_once(client: openai.OpenAI, fakes: Fakes) -> None:
    fakes.stt.error = BusyError("busy", "16 calls wait already.", remedy="try again later.")
    with pytest.raises(openai.InternalServerError, match="16 calls wait already") as refused:
        transcribe(client)
    assert refused.value.status_code == 503
    assert refused.value.response.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"response_format": "docx"}, "one of json, text, srt, vtt, verbose_json"),
        ({"language": "tlh"}, "stt.language is 'tlh'"),
        ({"stream": True, "response_format": "srt"}, "events carry text"),
        ({"timestamp_granularities": ["word"]}, r"granularities\[\] is 'word' with response_format 'json'"),
        (
            {"timestamp_granularities": ["syllable"], "response_format": "verbose_json"},
            "segment or word, with verbose_json",
        ),
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
