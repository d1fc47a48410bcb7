"""What the other side has heard of an answer: an estimate until they tell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class _Clause:
    text: str
    seconds: float = 0.0


@dataclass
class Playback:
    """One answer's speech: pieces are played without a gap, from when the first was sent."""

    clock: Callable[[], float] = time.monotonic
    _clauses: list[_Clause] = field(default_factory=list)
    _pieces: list[tuple[float, float]] = field(default_factory=list)

    def clause(self, text: str) -> None:
        """The next pieces speak this."""
        self._clauses.append(_Clause(text))

    def sent(self, seconds: float) -> None:
        """A piece went out."""
        begins = max(self.clock(), self.ends)
        self._pieces.append((begins, seconds))
        self._clauses[-1].seconds += seconds

    @property
    def ends(self) -> float:
        """When the last piece will have been played, on the clock."""
        return sum(self._pieces[-1]) if self._pieces else 0.0

    @property
    def sent_s(self) -> float:
        """All speech that went out."""
        return sum(seconds for _, seconds in self._pieces)

    def heard_s(self) -> float:
        """Speech played until now, by estimate."""
        now = self.clock()
        return sum(min(max(0.0, now - begins), seconds) for begins, seconds in self._pieces)

    def text_until(self, seconds: float) -> str:
        """The words within the first seconds of speech: of a clause cut short, its share of whole words."""
        heard: list[str] = []
        for clause in self._clauses:
            if clause.seconds <= 0:
                continue
            if seconds < clause.seconds - 1e-3:
                words = clause.text.split()
                heard += words[: int(len(words) * max(0.0, seconds) / clause.seconds)]
                break
            heard.append(clause.text)
            seconds -= clause.seconds
        return " ".join(heard)
