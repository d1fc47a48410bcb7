"""The `openai` client's audio API on real Whisper and a real voice."""

from __future__ import annotations

import itertools
import re

import openai
import pytest
from openai.types.audio import TranscriptionVerbose

from tests import speech
from tests.integration.voicebot.conftest import Service

pytestmark = pytest.mark.lab


@pytest.fixture
def client(service: Service) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=180)


def test_words_and_segments_with_their_times(
    client: openai.OpenAI, human_speech: list[speech.Utterance]
) -> None:
    utterance = human_speech[0]
    told = client.audio.transcriptions.create(
        file=utterance.path, model="any", response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )  # fmt: skip
    found = TranscriptionVerbose.model_validate(told.model_dump(exclude_unset=True), strict=True)
    assert found.words and found.segments
    assert speech.word_error_rate(utterance.text, found.text) <= 0.2
    assert " ".join(word.word for word in found.words) == found.text
    for pieces in (found.words, found.segments):
        starts = [piece.start for piece in pieces]
        assert starts == sorted(starts)
        assert all(0 <= piece.start <= piece.end <= found.duration + 0.5 for piece in pieces)
    assert all(segment.tokens and segment.avg_logprob < 0 for segment in found.segments)


def test_subtitles_and_a_stream(client: openai.OpenAI, human_speech: list[speech.Utterance]) -> None:
    utterance = human_speech[1]
    common = {"file": utterance.path, "model": "any"}
    vtt = str(client.audio.transcriptions.create(response_format="vtt", **common))  # type: ignore[call-overload]
    assert re.match(r"WEBVTT\n\n00:00:0\d\.\d{3} --> 00:00:0\d\.\d{3}\n\w", vtt)
    *deltas, done = client.audio.transcriptions.create(stream=True, **common)  # type: ignore[call-overload]
    assert "".join(event.delta for event in deltas) == done.text
    assert speech.word_error_rate(utterance.text, done.text) <= 0.4


def test_what_is_spoken_is_understood(client: openai.OpenAI) -> None:
    text = "Please call me at half past seven tomorrow morning."
    wav = client.audio.speech.create(model="any", voice="heart", input=text, response_format="wav").read()
    heard = client.audio.transcriptions.create(file=("speech.wav", wav), model="any").text
    assert speech.word_error_rate(text, heard) <= 0.2
    assert list(itertools.islice(client.models.list(), 1))
