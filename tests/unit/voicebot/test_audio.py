"""Recordings: every common format is heard; what is none is explained."""

from __future__ import annotations

import io
import struct
import time
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest

from tests import speech
from voicebot.ask import sample
from voicebot.audio import SAMPLE_RATE, decode, pcm16
from voicebot.errors import AudioError
from voicebot.wav import WavWriter

QUESTION = sample()[0].read_bytes()
SECONDS = 2.99


def heard(data: bytes, max_seconds: float = 120) -> float:
    return decode(io.BytesIO(data), max_seconds=max_seconds).seconds


def refusal(data: bytes, max_seconds: float = 120) -> AudioError:
    with pytest.raises(AudioError) as caught:
        heard(data, max_seconds)
    assert "Rule: " in str(caught.value)
    assert "Remedy: " in str(caught.value)
    return caught.value


def encoded(container: str, codec: str, rate: int, layout: str = "mono") -> bytes:
    """The sample question in another format."""
    target = io.BytesIO()
    with (
        av.open(target, mode="w", format=container) as out,
        av.open(io.BytesIO(QUESTION), mode="r") as source,
    ):
        stream = out.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = layout
        context = stream.codec_context
        resampler = av.AudioResampler(context.format, layout, rate, frame_size=context.frame_size or None)
        for frame in [*source.decode(audio=0), None]:
            for part in resampler.resample(frame):
                out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return target.getvalue()


@pytest.mark.parametrize(
    ("container", "codec", "rate", "layout"),
    [
        ("wav", "pcm_s16le", 44_100, "stereo"),
        ("wav", "pcm_f32le", 8_000, "mono"),
        ("flac", "flac", 16_000, "mono"),
        ("mp3", "mp3", 44_100, "stereo"),
        ("ogg", "libopus", 48_000, "mono"),
        ("webm", "libopus", 48_000, "mono"),
        ("mp4", "aac", 44_100, "mono"),
        ("adts", "aac", 44_100, "mono"),
    ],
)
def test_common_formats_are_heard(container: str, codec: str, rate: int, layout: str) -> None:
    assert heard(encoded(container, codec, rate, layout)) == pytest.approx(SECONDS, abs=0.15)


def test_samples_are_16_khz_mono_floats() -> None:
    recording = decode(io.BytesIO(QUESTION), max_seconds=5)
    assert recording.samples.dtype == np.float32
    assert recording.samples.shape == (int(SECONDS * SAMPLE_RATE),)
    again = np.frombuffer(pcm16(recording.samples), "<i2")
    assert np.abs(again - np.frombuffer(QUESTION[44:], "<i2")).max() <= 1


@pytest.mark.parametrize("size", [0, 0x7FFF_F000, 0xFFFF_FFFF])
def test_a_recorder_that_wrote_to_a_pipe_left_no_size(size: int) -> None:
    assert heard(QUESTION[:40] + struct.pack("<I", size) + QUESTION[44:]) == pytest.approx(SECONDS)


def test_empty() -> None:
    assert refusal(b"").code == "audio_empty"
    assert refusal(QUESTION[:40] + struct.pack("<I", 0)).code == "audio_empty"


@pytest.mark.parametrize(
    "data",
    [
        b"The quick brown fox jumps over the lazy dog.\n" * 50,
        b'{"audio": true}',
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        bytes(5000),
        QUESTION[:20],
    ],
)
def test_text_in_disguise(data: bytes, tmp_path: Path) -> None:
    assert refusal(data).code == "audio_unreadable"
    disguised = tmp_path / "question.wav"
    disguised.write_bytes(data)
    with disguised.open("rb") as file, pytest.raises(AudioError, match="question"):
        decode(file, name=str(disguised), max_seconds=120)


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    other = sample()[0]
    for text in (
        f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\nfile://{other}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile {other}\n",
    ):
        for name in ("list.m3u8", "list.ffconcat", "list.wav"):
            path = tmp_path / name
            path.write_text(text)
            with path.open("rb") as file, pytest.raises(AudioError):
                decode(file, max_seconds=120)


@pytest.mark.parametrize("kept", [45, 1000, 40_000, len(QUESTION) - 2])
def test_a_truncated_wav_says_what_is_there(kept: int) -> None:
    error = refusal(QUESTION[:kept])
    assert error.code == "audio_truncated"
    assert "its header says 3.0 s" in str(error)


def test_a_truncated_flac() -> None:
    data = encoded("flac", "flac", 16_000)
    assert refusal(data[: len(data) // 2]).code in ("audio_truncated", "audio_unreadable")


def test_an_hour_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "hour.wav"
    size = 3600 * SAMPLE_RATE * 2
    with path.open("wb") as file:  # sparse: no block on disk but the header's
        file.write(QUESTION[:4] + struct.pack("<I", 36 + size) + QUESTION[8:40] + struct.pack("<I", size))
        file.truncate(44 + size)
    tracemalloc.start()
    began = time.monotonic()
    with path.open("rb") as file, pytest.raises(AudioError, match=r"lasts 3600 s.*at most 120 s") as caught:
        decode(file, max_seconds=120)
    assert caught.value.code == "audio_too_long"
    assert time.monotonic() - began < 10
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(("container", "codec"), [("mp3", "mp3"), ("adts", "aac"), ("wav", "pcm_s16le")])
def test_too_long_by_header_or_while_decoding(container: str, codec: str) -> None:
    assert refusal(encoded(container, codec, 16_000), max_seconds=1).code == "audio_too_long"


def test_the_limit_itself_is_allowed() -> None:
    assert heard(QUESTION, max_seconds=SECONDS) == pytest.approx(SECONDS)


def test_a_wav_is_valid_after_every_write(tmp_path: Path) -> None:
    path = tmp_path / "answer.wav"
    writer = WavWriter(path, 24_000)
    assert not path.exists()
    for seconds in (1, 2):
        writer.write(bytes(48_000))
        assert writer.seconds == seconds
        with path.open("rb") as file:
            assert decode(file, max_seconds=5).seconds == pytest.approx(seconds, abs=0.01)
    writer.close()


def test_the_sample_is_the_recording_that_its_text_belongs_to() -> None:
    [original] = [utterance for utterance in speech.librivox() if utterance.name.endswith("0880")]
    assert sample()[1] == original.text
    assert original.path.read_bytes() == QUESTION
