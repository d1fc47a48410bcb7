"""One client's sound: bytes in any cut to 16 kHz windows, turns, and recordings of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import soxr

from voicebot.audio import SAMPLE_RATE, Recording, Samples
from voicebot.turns import WINDOW, Endpointer, Signal, TurnRules
from voicebot.turns.vad import VoiceDetector

WIRE_RATE = 24_000
"""pcm16 of the OpenAI Realtime API."""


class Listener:
    """Holds no more sound than a turn may need."""

    def __init__(self, detector: VoiceDetector, rules: TurnRules | None, *, max_s: float) -> None:
        """`rules` None: the client says when a turn ends (push-to-talk)."""
        self._detector = detector
        self._max = round(max_s * SAMPLE_RATE)
        self._resampler = soxr.ResampleStream(WIRE_RATE, SAMPLE_RATE, 1, dtype="float32")
        self._odd = b""
        self._pending: Samples = np.zeros(0, np.float32)
        self._kept: list[Samples] = []
        self._first = 0
        self._received = 0
        self._endpointer = Endpointer(rules) if rules else None
        self._offset = 0
        self.overflowed = False

    @property
    def received_ms(self) -> int:
        """How much sound has come so far: the audio clock."""
        return self._received * 1000 // SAMPLE_RATE

    @property
    def sample(self) -> int:
        """Now, as signals count samples."""
        return self._received - self._offset

    @property
    def buffered_s(self) -> float:
        """Sound that is held."""
        return (self._received - self._first) / SAMPLE_RATE

    @property
    def speaking(self) -> bool:
        """Whether a turn is going on."""
        return self._endpointer is not None and self._endpointer.speaking

    def obey(self, rules: TurnRules | None) -> None:
        """New rules from here on; a turn that is going on begins anew under them."""
        self._endpointer = Endpointer(rules) if rules else None
        self._offset = self._received

    def words_seem_finished(self, finished: bool) -> None:
        """A hint for the pause that is going on."""
        if self._endpointer:
            self._endpointer.words_seem_finished(finished)

    def feed(self, pcm: bytes) -> Iterator[list[Signal]]:
        """Take 24 kHz pcm16, cut anywhere; signals of each finished window, one list a window."""
        pcm = self._odd + pcm
        whole = len(pcm) // 2 * 2
        self._odd = pcm[whole:]
        samples = np.frombuffer(pcm[:whole], "<i2").astype(np.float32) / 32768.0
        self._pending = np.concatenate([self._pending, self._resampler.resample_chunk(samples)])
        while len(self._pending) >= WINDOW:
            window, self._pending = self._pending[:WINDOW], self._pending[WINDOW:]
            yield self._take(window)

    def _take(self, window: Samples) -> list[Signal]:
        self._kept.append(window)
        self._received += WINDOW
        if self._endpointer is None:
            if self._received - self._first > self._max:
                self.overflowed = True
                self._forget_before(self._received - self._max)
            return []
        signals = self._endpointer.feed(self._detector.probability(window))
        if not signals:
            self._forget_before(self._offset + self._endpointer.oldest_needed)
        return signals

    def _forget_before(self, sample: int) -> None:
        while self._kept and self._first + WINDOW <= sample:
            self._kept.pop(0)
            self._first += WINDOW

    def cut(self, start: int, end: int) -> Recording:
        """The sound between two samples of a signal."""
        first = (self._offset + start - self._first) // WINDOW
        last = -(-(self._offset + end - self._first) // WINDOW)
        kept = self._kept[max(0, first) : last]
        samples = np.concatenate(kept) if kept else np.zeros(0, np.float32)
        return Recording(samples[max(0, self._offset + start - self._first) % WINDOW :])

    def to_ms(self, sample: int) -> int:
        """A signal's sample on the session's audio clock."""
        return (self._offset + sample) * 1000 // SAMPLE_RATE

    def finish(self) -> list[Signal]:
        """End the turn that is going on."""
        return self._endpointer.finish() if self._endpointer else []

    def take_all(self) -> Recording:
        """Everything held (push-to-talk), then nothing is."""
        recording = Recording(np.concatenate([*self._kept, self._pending]))
        self.clear()
        return recording

    def clear(self) -> None:
        """Forget what is held."""
        self._kept.clear()
        self._pending = np.zeros(0, np.float32)
        self._first = self._received
        self.overflowed = False
        if self._endpointer:
            self._endpointer.finish()
