"""The knobs of turn taking, and the tutorial's presets of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

INCOMPLETE_CAP_S = 1.5
"""Nobody waits longer than this for somebody who only seems unfinished."""


@dataclass(frozen=True)
class TurnRules:
    """All lengths in seconds of audio."""

    silence_s: float = 1.0
    """A turn is over after so much silence."""
    min_speech_s: float = 1.0
    """Voice shorter than this must be clearly speech to count; a clear "yes" does."""
    threshold: float = 0.5
    """Probability from which a window counts as voice."""
    pre_roll_s: float = 0.3
    """Kept from before the first voiced window: soft consonants are found late."""
    speculate_s: float = 0.1
    """Silence after which the final transcript is begun, in the hope that nothing follows."""
    interrupt_s: float = 0.6
    """So much voice interrupts an answer; less does by its words, unless they only say "go on"."""
    unfinished_s: float | None = None
    """Silence to wait for when the words seem unfinished; None: silence_s decides alone."""
    max_turn_s: float = 60.0
    """A turn is ended after so long, even in the middle."""


PRESETS = MappingProxyType(
    {
        "commands": TurnRules(silence_s=0.6, min_speech_s=0.8),
        "conversation": TurnRules(silence_s=1.0, min_speech_s=1.0),
        "long_form": TurnRules(silence_s=2.0, min_speech_s=2.0),
    }
)

_EAGERNESS = {"high": (0.2, 0.8), "medium": (0.3, 1.2), "auto": (0.3, 1.2), "low": (0.5, INCOMPLETE_CAP_S)}


def semantic(base: TurnRules, eagerness: Literal["low", "medium", "high", "auto"]) -> TurnRules:
    """End early where the words seem finished, later where they don't."""
    silence, unfinished = _EAGERNESS[eagerness]
    return replace(base, silence_s=silence, unfinished_s=min(unfinished, INCOMPLETE_CAP_S))
