"""Any recording to 16 kHz mono; clear errors for what is no recording."""

from __future__ import annotations

import io
import math
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from voicebot.errors import AudioError

SAMPLE_RATE = 16_000
"""What the speech recogniser hears."""

Samples = NDArray[np.float32]

# A recording may not open other files or addresses (playlists could), so only its own bytes are allowed.
_OPTIONS = {"protocol_whitelist": "pipe"}
# Lengths in these headers are guesses from a bit rate.
_GUESSED_LENGTH = {"mp3", "aac"}
# Recorders that write to a pipe leave 0 or a size near 2 or 4 GiB in a WAV header.
_WAV_SIZE_UNKNOWN = 0x7FFF_0000
_READABLE = "a complete WAV, FLAC, MP3, Ogg, Opus, AAC/M4A or WebM recording."


@dataclass(frozen=True)
class Recording:
    """Decoded speech."""

    samples: Samples

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return len(self.samples) / SAMPLE_RATE


def decode(
    source: BinaryIO, *, name: str = "The recording", max_seconds: float, within_s: float = math.inf
) -> Recording:
    """Decode to 16 kHz mono float32. Stops as soon as a limit is known to be exceeded."""
    deadline = time.monotonic() + within_s
    size = source.seek(0, io.SEEK_END)
    source.seek(0)
    if size == 0:
        raise _error("audio_empty", f"{name} is empty (0 bytes).", "record it again.")
    _refuse_cut_wav(source, size, name)
    source.seek(0)
    try:
        with av.open(source, mode="r", options=_OPTIONS) as container:
            return _decode_container(container, name, max_seconds, deadline)
    except av.FFmpegError as error:
        raise _error(
            "audio_unreadable",
            f"{name} is not audio that can be read ({error.strerror}).",
            "check with a player, or convert it: ffmpeg -i FILE -ar 16000 -ac 1 question.wav",
        ) from error


def _decode_container(
    container: av.container.InputContainer, name: str, max_seconds: float, deadline: float
) -> Recording:
    if not container.streams.audio:
        raise _error(
            "audio_unreadable", f"{name} holds no audio ({container.format.name}).", "record it again."
        )
    trusted = container.format.name not in _GUESSED_LENGTH
    announced = container.duration / av.time_base if container.duration and trusted else 0.0
    if announced > max_seconds:
        raise _too_long(name, f"lasts {announced:.0f} s", max_seconds)
    pieces: list[Samples] = []
    total = 0
    for piece in _resampled(container):
        pieces.append(piece)
        total += len(piece)
        if total > max_seconds * SAMPLE_RATE:
            raise _too_long(name, f"lasts longer than {max_seconds:.0f} s", max_seconds)
        if time.monotonic() > deadline:
            raise AudioError(
                "audio_too_costly", f"{name} takes too long to decode.",
                rule="limits.max_decode_seconds.", remedy="send plain WAV or FLAC with few channels.",
            )  # fmt: skip
    seconds = total / SAMPLE_RATE
    if announced - seconds > max(0.5, 0.05 * announced):
        raise _truncated(name, announced, seconds)
    if not total:
        raise _error("audio_empty", f"{name} holds no samples.", "record it again.")
    return Recording(np.concatenate(pieces))


def _resampled(container: av.container.InputContainer) -> Iterator[Samples]:
    resampler = av.AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE)
    for frame in container.decode(audio=0):
        for part in resampler.resample(frame):
            yield part.to_ndarray().reshape(-1).astype(np.float32, copy=False)
    for part in resampler.resample(None):
        yield part.to_ndarray().reshape(-1).astype(np.float32, copy=False)


def _refuse_cut_wav(source: BinaryIO, size: int, name: str) -> None:
    """FFmpeg plays a cut WAV without a word; its header tells."""
    header = source.read(12)
    if len(header) < 12 or header[:4] != b"RIFF" or header[8:] != b"WAVE":
        return
    bytes_per_second = 0
    while len(chunk := source.read(8)) == 8:
        kind, length = struct.unpack("<4sI", chunk)
        if kind == b"data":
            present = size - source.tell()
            if present < length < _WAV_SIZE_UNKNOWN and bytes_per_second:
                raise _truncated(name, length / bytes_per_second, present / bytes_per_second)
            return
        if kind == b"fmt ":
            fields = source.read(min(length, 16))
            bytes_per_second = struct.unpack("<I", fields[8:12])[0] if len(fields) >= 12 else 0
            length -= len(fields)
        source.seek(length + length % 2, io.SEEK_CUR)


def _error(code: str, what: str, remedy: str) -> AudioError:
    return AudioError(code, what, rule=_READABLE, remedy=remedy)


def _truncated(name: str, announced: float, present: float) -> AudioError:
    return _error(
        "audio_truncated",
        f"{name} is truncated: its header says {announced:.1f} s, {present:.1f} s are there.",
        "copy or record it again.",
    )


def _too_long(name: str, what: str, max_seconds: float) -> AudioError:
    return AudioError(
        "audio_too_long",
        f"{name} {what}.",
        rule=f"at most {max_seconds:.0f} s (limits.max_audio_seconds).",
        remedy="cut it, or raise limits.max_audio_seconds.",
    )


def pcm16(samples: Samples) -> bytes:
    """Float samples as little-endian 16-bit PCM."""
    return (np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
