"""A client's sound, of any rate, collected until it ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import soxr

from voicebot.audio import SAMPLE_RATE, Recording, Samples
from voicebot.errors import AudioError
from voicebot.wyoming.wire import bad_event

_FORMAT = {"rate": (8_000, 48_000), "width": (2, 2), "channels": (1, 2)}


class Ear:
    """One recording, from audio-start to audio-stop."""

    def __init__(self, data: Mapping[str, Any], max_seconds: float) -> None:
        """`data` of audio-start: rate (Hz), width (bytes), channels. Raises AudioError."""
        for name, (least, most) in _FORMAT.items():
            value = data.get(name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                rule = f"{least} to {most}" if least < most else f"{least}"
                raise bad_event(f"audio-start has no {name}, or one that is not taken.", f"{rule}.")
        self._rate: int = data["rate"]
        self._channels: int = data["channels"]
        self._max_seconds = max_seconds
        self._odd = b""
        self._seconds = 0.0
        self._resampler = soxr.ResampleStream(data["rate"], SAMPLE_RATE, 1, dtype="float32")
        self._sound = bytearray()  # 16 kHz mono: what is held does not depend on the client's format

    def feed(self, pcm: bytes) -> None:
        """Some more, cut anywhere. Raises AudioError when it gets too long."""
        frame = 2 * self._channels
        pcm = self._odd + pcm
        whole = len(pcm) // frame * frame
        pcm, self._odd = pcm[:whole], pcm[whole:]
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768.0
        self._keep(samples.reshape(-1, self._channels).mean(axis=1))
        self._seconds += whole / frame / self._rate
        if self._seconds > self._max_seconds:
            raise AudioError(
                "audio_too_long",
                f"The recording lasts longer than {self._max_seconds:g} s.",
                rule=f"at most {self._max_seconds:g} s (limits.max_audio_seconds).",
                remedy="speak shorter, or raise limits.max_audio_seconds.",
            )

    def recording(self) -> Recording:
        """All of it, as the recogniser hears it."""
        self._keep(np.zeros(0, np.float32), last=True)
        return Recording(np.frombuffer(self._sound, "<i2").astype(np.float32) / 32768.0)

    def _keep(self, mono: Samples, *, last: bool = False) -> None:
        if self._rate != SAMPLE_RATE:
            mono = self._resampler.resample_chunk(mono, last=last)
        self._sound += (np.clip(mono, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
