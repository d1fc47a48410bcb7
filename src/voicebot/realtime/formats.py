"""Sound on the wire: pcm16 at 24 kHz as it is, or G.711 (telephony, 8 kHz, a byte a sample)."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from voicebot.listening import WIRE_RATE

PCM, MU_LAW, A_LAW = "audio/pcm", "audio/pcmu", "audio/pcma"
G711_RATE = 8_000
_Levels = npt.NDArray[np.int16]


def _mu_law() -> _Levels:
    """What each byte stands for (ITU-T G.711)."""
    code = ~np.arange(256) & 0xFF
    level = (((code & 0x0F) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    signed: _Levels = np.where(code & 0x80, -level, level).astype(np.int16)
    return signed


def _a_law() -> _Levels:
    """What each byte stands for (ITU-T G.711)."""
    code = np.arange(256) ^ 0x55
    segment = (code & 0x70) >> 4
    level = ((code & 0x0F) << 4) + np.where(segment, 0x108, 8) << np.maximum(segment - 1, 0)
    signed: _Levels = np.where(code & 0x80, level, -level).astype(np.int16)
    return signed


LEVELS = MappingProxyType({MU_LAW: _mu_law(), A_LAW: _a_law()})
FORMATS = (PCM, *LEVELS)


class Heard:
    """A client's sound as pcm16 at 24 kHz, packet by packet."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._levels = LEVELS.get(kind)
        self._resampler: Any = soxr.ResampleStream(G711_RATE, WIRE_RATE, 1, dtype="int16")

    def pcm(self, data: bytes, *, last: bool = False) -> bytes:
        """`last` brings what the resampler still holds."""
        if self._levels is None:
            return data
        samples = self._levels[np.frombuffer(data, np.uint8)]
        return bytes(self._resampler.resample_chunk(samples, last=last).astype("<i2").tobytes())


class Voiced:
    """One answer's pcm16 in a client's format, piece by piece."""

    def __init__(self, kind: str, rate: int) -> None:
        """`rate` is the voice's."""
        self._levels = LEVELS.get(kind)
        self._resampler: Any = soxr.ResampleStream(rate, G711_RATE, 1, dtype="int16")

    def encoded(self, pcm: bytes, *, last: bool = False) -> bytes:
        """`last` brings what the resampler still holds."""
        if self._levels is None:
            return pcm
        samples = self._resampler.resample_chunk(np.frombuffer(pcm, "<i2").astype(np.int16), last=last)
        return nearest(self._levels, samples)


def nearest(levels: _Levels, samples: _Levels) -> bytes:
    """The byte whose level is nearest to each sample."""
    order = np.argsort(levels, kind="stable")
    rising = levels[order].astype(np.int32)
    return order[np.searchsorted((rising[1:] + rising[:-1]) / 2, samples)].astype(np.uint8).tobytes()
