"""Probabilities of voice to turns. Knows no clock but the count of windows: however late they are
processed, the same sound gives the same turns.

    voice       ····▁▇▇▇▇▇▁▁▇▇▇▇▇▁▁▁▁▁▁▁▁▁▁▁····
    signals         ^Started  ^Paused  ^Ended        (Paused after speculate_s, Ended after silence_s)
                         ^Insisted (interrupt_s of voice, pauses not counted)
"""

from __future__ import annotations

from dataclasses import dataclass

from voicebot.audio import SAMPLE_RATE
from voicebot.turns.rules import TurnRules
from voicebot.turns.vad import WINDOW

_WINDOW_S = WINDOW / SAMPLE_RATE
_START_WINDOWS = 3
"""About 0.1 s of voice in a row opens a turn: clicks don't."""
_SURE = 0.8
_HYSTERESIS = 0.15
_LEAST = 0.01
"""Silence stays silence under a low threshold, as in Silero itself."""


@dataclass(frozen=True)
class Started:
    """Somebody speaks, since this sample (pre-roll included)."""

    sample: int


@dataclass(frozen=True)
class Insisted:
    """They have spoken long enough to interrupt."""


@dataclass(frozen=True)
class Paused:
    """Silence that may be the end; begin the final transcript of what lies between these samples."""

    start: int
    end: int


@dataclass(frozen=True)
class Resumed:
    """It was not the end."""


@dataclass(frozen=True)
class Ended:
    """The turn is over: its samples, and where its last voiced window ended."""

    start: int
    end: int
    last_voiced: int


Signal = Started | Insisted | Paused | Resumed | Ended


class Endpointer:
    """One stream's turns, window by window."""

    def __init__(self, rules: TurnRules) -> None:
        self.rules = rules
        self._windows = 0
        self._free_from = 0
        self._rest()

    def _rest(self) -> None:
        self._run = self._silent = self._voiced = self._sure = 0
        self._start: int | None = None
        self._last_voiced = 0
        self._believed = self._insisted = self._paused = self._finished = False

    @property
    def oldest_needed(self) -> int:
        """Samples before this one can be forgotten."""
        now = self._windows * WINDOW
        first = now - self._run * WINDOW if self._start is None else self._start
        return max(0, min(first, now) - round(self.rules.pre_roll_s * SAMPLE_RATE))

    @property
    def speaking(self) -> bool:
        """Between Started and Ended."""
        return self._believed

    def words_seem_finished(self, finished: bool) -> None:
        """A hint for this pause; it shortens or lengthens the wait, within the rules."""
        self._finished = finished

    def feed(self, probability: float) -> list[Signal]:
        """What the next window of 512 samples brings."""
        self._windows += 1
        threshold = self.rules.threshold
        if self._start is None:
            return self._wait(probability, probability >= threshold)
        still = threshold if self._paused else max(threshold - _HYSTERESIS, _LEAST)
        return self._follow(probability, probability >= still)

    def _wait(self, probability: float, voice: bool) -> list[Signal]:
        self._run = self._run + 1 if voice else 0
        self._sure = self._sure + (probability >= _SURE) if voice else 0
        if self._run < _START_WINDOWS:
            return []
        first = (self._windows - self._run) * WINDOW
        self._start = max(self._free_from, first - round(self.rules.pre_roll_s * SAMPLE_RATE))
        self._voiced = self._run
        self._last_voiced = self._windows * WINDOW
        return self._believe()

    def _follow(self, probability: float, voice: bool) -> list[Signal]:
        signals: list[Signal] = []
        now = self._windows * WINDOW
        if voice:
            if self._paused and self._believed:
                signals.append(Resumed())
            self._paused = self._finished = False
            self._silent = 0
            self._voiced += 1
            self._sure += probability >= _SURE
            self._last_voiced = now
            signals += self._believe()
        else:
            self._silent += 1
        return signals + self._end(now)

    def _believe(self) -> list[Signal]:
        signals: list[Signal] = []
        long_enough = self._voiced * _WINDOW_S >= self.rules.min_speech_s
        assert self._start is not None
        if not self._believed and (self._sure >= _START_WINDOWS or long_enough):
            self._believed = True
            signals.append(Started(self._start))
        if self._believed and not self._insisted and self._voiced * _WINDOW_S >= self.rules.interrupt_s:
            self._insisted = True
            signals.append(Insisted())
        return signals

    def _end(self, now: int) -> list[Signal]:
        assert self._start is not None
        silent_s = self._silent * _WINDOW_S
        signals: list[Signal] = []
        if not self._paused and silent_s >= min(self.rules.speculate_s, self.rules.silence_s):
            self._paused = True
            if self._believed:
                signals.append(Paused(self._start, now))
        wait = self.rules.silence_s
        if self.rules.unfinished_s is not None and not self._finished:
            wait = self.rules.unfinished_s
        if silent_s >= wait or (now - self._start) / SAMPLE_RATE >= self.rules.max_turn_s:
            signals += self.finish()
        return signals

    def finish(self) -> list[Signal]:
        """End what is going on, as if silence had lasted."""
        now = self._windows * WINDOW
        signals: list[Signal] = []
        if self._believed and self._start is not None:
            signals = [Ended(self._start, now, self._last_voiced)]
        self._free_from = now  # no sample belongs to two turns
        self._rest()
        return signals
