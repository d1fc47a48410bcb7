"""Real recogniser, real voice, human speech."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import speech
from voicebot.audio import SAMPLE_RATE, Recording, decode
from voicebot.config import Stt, Tts
from voicebot.errors import ConfigError, SpeechError
from voicebot.stt import FasterWhisper
from voicebot.tts import HibariVoice

pytestmark = pytest.mark.lab

SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "A reduced instruction set computer uses few and simple instructions,",
    "Please call me at half past seven tomorrow morning.",
]


@pytest.fixture(scope="module")
def base(whisper_base: Path) -> FasterWhisper:
    return FasterWhisper(Stt(model=whisper_base))


@pytest.fixture(scope="module")
def voice() -> HibariVoice:
    return HibariVoice(Tts())


async def hear(recogniser: FasterWhisper, utterances: list[speech.Utterance]) -> list[str]:
    heard = []
    for utterance in utterances:
        with utterance.path.open("rb") as file:
            heard.append(await recogniser.transcribe(decode(file, max_seconds=60)))
    return heard


async def test_human_sentences(
    base: FasterWhisper,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    rate = speech.corpus_error_rate([u.text for u in human_speech], await hear(base, human_speech))
    record_property("wer_librivox_base", round(rate, 4))
    assert len(human_speech) == 5
    assert rate <= 0.10


@pytest.mark.usefixtures("human_speech")
async def test_other_voices(
    base: FasterWhisper, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    utterances = [*speech.cards(), speech.go_forward(tmp_path)]
    rate = speech.corpus_error_rate([u.text for u in utterances], await hear(base, utterances))
    record_property("wer_cards_base", round(rate, 4))
    assert rate <= 0.25


async def test_the_small_model_hears_too(
    whisper_tiny: Path,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    tiny = FasterWhisper(Stt(model=whisper_tiny))
    rate = speech.corpus_error_rate([u.text for u in human_speech], await hear(tiny, human_speech))
    tiny.close()
    record_property("wer_librivox_tiny", round(rate, 4))
    assert rate <= 0.15


def test_a_language_that_the_model_lacks(whisper_tiny: Path) -> None:
    with pytest.raises(ConfigError, match=r"stt\.language is 'de'.*en"):
        FasterWhisper(Stt(model=whisper_tiny, language="de"))


async def test_a_failure_is_not_for_ever(base: FasterWhisper, monkeypatch: pytest.MonkeyPatch) -> None:
    """/health tries again: nobody else would, once a gateway takes the host out."""
    second = Recording(np.zeros(SAMPLE_RATE, np.float32))
    with monkeypatch.context() as broken:
        broken.setattr(base, "_steps", _fails)
        for call in (lambda: base.transcribe(second), base.check):
            with pytest.raises(SpeechError, match="out of memory"):
                await call()
    await base.check()
    await base.check()


def _fails(*_: Any, **__: Any) -> Generator[None, None, None]:
    yield
    raise RuntimeError("out of memory")


@pytest.mark.parametrize("kind", ["silence", "noise"])
async def test_no_words_are_invented(base: FasterWhisper, kind: str) -> None:
    level = 0.0 if kind == "silence" else 0.02
    samples = np.random.default_rng(1).normal(0, level, 3 * SAMPLE_RATE).astype(np.float32)
    assert await base.transcribe(Recording(samples)) == ""


@pytest.mark.parametrize("text", SENTENCES)
async def test_what_is_spoken_is_understood(base: FasterWhisper, voice: HibariVoice, text: str) -> None:
    pieces = [piece async for piece in voice.speak(text)]
    assert all(len(piece) <= voice.sample_rate for piece in pieces), "half a second at a time"
    assert np.abs(np.frombuffer(pieces[0], "<i2")[: voice.sample_rate // 20]).max() > 100, "no silence first"
    container = io.BytesIO()
    with wave.open(container, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(voice.sample_rate)
        file.writeframes(b"".join(pieces))
    heard = await base.transcribe(decode(container, max_seconds=60))
    assert speech.word_error_rate(text, heard) <= 0.1


async def test_what_cannot_be_said_is_silence(voice: HibariVoice) -> None:
    for nothing in ("", "***", "😀"):
        assert [piece async for piece in voice.speak(nothing)] == []
