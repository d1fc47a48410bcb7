"""G.711 on the wire, against FFmpeg's codecs, and through a whole session."""

from __future__ import annotations

import base64
from typing import Any

import av
import numpy as np
import pytest

from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.live import sound
from tests.unit.voicebot.test_realtime import append, connected, until
from voicebot.config import Settings
from voicebot.realtime.formats import A_LAW, LEVELS, MU_LAW, PCM, Heard, Voiced, nearest

CODECS = {MU_LAW: "pcm_mulaw", A_LAW: "pcm_alaw"}
EVERY_BYTE = bytes(range(256))


@pytest.mark.parametrize("kind", CODECS)
def test_every_byte_means_what_ffmpeg_says(kind: str) -> None:
    decoder: Any = av.CodecContext.create(CODECS[kind], "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    (frame,) = decoder.decode(av.Packet(EVERY_BYTE))
    assert LEVELS[kind].tolist() == frame.to_ndarray().ravel().tolist()


@pytest.mark.parametrize("kind", CODECS)
def test_what_is_encoded_is_the_nearest_there_is(kind: str) -> None:
    samples = np.arange(-32768, 32768, 7).astype(np.int16)
    levels = LEVELS[kind].astype(int)
    found = levels[np.frombuffer(nearest(LEVELS[kind], samples), np.uint8)]
    best = np.abs(levels[None, :] - samples.astype(int)[:, None]).min(axis=1)
    assert (np.abs(found - samples) == best).all()
    assert nearest(LEVELS[kind], LEVELS[kind]) == EVERY_BYTE or kind == MU_LAW, "two zeros in the latter"


@pytest.mark.parametrize("kind", CODECS)
def test_there_and_back(kind: str) -> None:
    """A tone keeps its length, its pitch and most of its loudness, in pieces of any size."""
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(24_000) / 24_000)).astype("<i2").tobytes()
    voiced, heard = Voiced(kind, 24_000), Heard(kind)
    coded = b"".join(voiced.encoded(tone[i : i + 1234]) for i in range(0, len(tone), 1234))
    coded += voiced.encoded(b"", last=True)
    assert len(coded) == pytest.approx(8000, abs=2)
    back = b"".join(heard.pcm(coded[i : i + 77]) for i in range(0, len(coded), 77)) + heard.pcm(
        b"", last=True
    )
    samples = np.frombuffer(back, "<i2").astype(float)
    assert len(samples) == pytest.approx(24_000, abs=6)
    assert np.abs(np.fft.rfft(samples)).argmax() == pytest.approx(440, abs=1)
    assert samples.std() == pytest.approx(8000 / np.sqrt(2), rel=0.05)


def test_pcm_is_left_alone() -> None:
    assert Heard(PCM).pcm(b"\1\2\3") == Voiced(PCM, 24_000).encoded(b"\1\2\3") == b"\1\2\3"
    assert Voiced(PCM, 24_000).encoded(b"", last=True) == b""


@pytest.mark.parametrize("kind", CODECS)
async def test_a_telephone_is_heard_and_answered(fakes: Fakes, settings: Settings, kind: str) -> None:
    fakes.tts.samples_a_character = 240
    telephone: Any = {
        "type": "realtime",
        "audio": {way: {"format": {"type": kind}} for way in ("input", "output")},
    }
    async with connected(fakes, settings, telephone) as connection:
        coder = Voiced(kind, 24_000)
        await append(connection, coder.encoded(sound(0.9) + sound(1.3, 0)), size=160)
        events = await until(connection, "response.done")
    assert fakes.stt.heard[-1].seconds == pytest.approx(0.9 + 0.1, abs=0.2)
    audio = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
    assert len(audio) == pytest.approx(80 * len("Hello there.How are you?"), abs=3), "to its end"


async def test_others_are_refused(fakes: Fakes, settings: Settings) -> None:
    async with connected(fakes, settings) as connection:
        other: Any = {"type": "realtime", "audio": {"input": {"format": {"type": "audio/opus"}}}}
        await connection.session.update(session=other)
        (error,) = await until(connection, "error")
    assert "audio" in error.error.message
