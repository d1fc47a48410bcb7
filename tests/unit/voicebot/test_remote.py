"""Ears and voice behind an OpenAI-compatible URL: another voicebot."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from tests.scripted import free_port, running
from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.live import VOICES
from voicebot import rest
from voicebot.audio import Recording
from voicebot.config import Settings, Stt, Tts, parse
from voicebot.errors import ConfigError, SpeechError
from voicebot.remote import RemoteSpeech, RemoteVoice

SECOND = Recording(np.zeros(16_000, np.float32))


@pytest.fixture
def url(settings: Settings, fakes: Fakes) -> Iterator[str]:
    with running(rest.build(settings, fakes.stages(), VOICES)) as address:
        yield f"{address}/v1"


@asynccontextmanager
async def ears(url: str) -> AsyncIterator[RemoteSpeech]:
    speech = RemoteSpeech(Stt.model_validate({"model": "whisper-1", "url": url}))
    yield speech
    speech.close()


async def test_ears(url: str, fakes: Fakes) -> None:
    async with ears(url) as remote:
        assert await remote.transcribe(SECOND) == "what is a spark"
        (segment,) = await remote.segments(SECOND, language="de")
        assert (segment.start, segment.end, segment.text) == (0.0, 1.0, "what is a spark")
    assert [round(r.seconds, 3) for r in fakes.stt.heard] == [1.0, 1.0]
    assert fakes.stt.languages == ["en", "de"]


async def test_voice(url: str, fakes: Fakes) -> None:
    voice = RemoteVoice(Tts.model_validate({"voice": "heart", "url": url, "model": "hibari"}))
    pcm = b"".join([piece async for piece in voice.speak("**Hello** there.")])
    assert len(pcm) == 2 * len("Hello there.")
    assert [piece async for piece in voice.speak("***")] == []
    assert fakes.tts.spoken == ["Hello there."]
    fakes.tts.error = SpeechError("tts_failed", "no voice")
    with pytest.raises(SpeechError, match=r"answered 500: no voice"):
        [piece async for piece in voice.speak("Hello.")]
    with pytest.raises(SpeechError, match="no voice"):
        await voice.check()
    fakes.tts.error = None
    await voice.check()
    voice.close()


async def test_nobody_there() -> None:
    async with ears(f"http://127.0.0.1:{free_port()}/v1") as remote:
        with pytest.raises(SpeechError, match="can't be reached"):
            await remote.transcribe(SECOND)
        with pytest.raises(SpeechError, match="can't be reached"):
            await remote.check()


def test_what_the_configuration_must_say() -> None:
    with pytest.raises(ConfigError, match=r"tts.*model"):
        parse({"stt": {"model": "/m"}, "tts": {"url": "http://x/v1"}}, "config")
