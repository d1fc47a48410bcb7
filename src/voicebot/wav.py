"""Speech into a WAV file. Apart from audio.py so that a client need not load a decoder."""

from __future__ import annotations

import wave
from pathlib import Path
from typing import BinaryIO


class WavWriter:
    """A 16-bit mono WAV that grows; valid after every write, created by the first one."""

    def __init__(self, path: Path, sample_rate: int) -> None:
        self.path = path
        self._rate = sample_rate
        self._file: BinaryIO | None = None
        self._wave: wave.Wave_write | None = None
        self._frames = 0

    @property
    def seconds(self) -> float:
        """How much has been written."""
        return self._frames / self._rate

    def write(self, pcm: bytes) -> None:
        """Append 16-bit samples."""
        if self._wave is None:
            self._file = self.path.open("wb")
            self._wave = wave.open(self._file, "wb")  # noqa: SIM115 (closed by close())
            self._wave.setnchannels(1)
            self._wave.setsampwidth(2)
            self._wave.setframerate(self._rate)
        self._wave.writeframes(pcm)
        self._frames += len(pcm) // 2

    def close(self) -> None:
        """Finish the file."""
        if self._wave is not None:
            self._wave.close()
            self._wave = None
        if self._file is not None:
            self._file.close()
            self._file = None
