"""What the words of an utterance say about the turn: only "go on", or unfinished."""

from __future__ import annotations

import re

_LISTENING = (
    "mm mmm mhm mmhm hm hmm hmmm mmhmm uh um huh uhhuh aha ah oh okay ok yeah yep yes right sure i see"
)
_OPEN = """a an the and or but so because if when that which who to of in on at for with from by as than my
your his her our their is are was were i'm um uh er like"""
_GO_ON = frozenset(_LISTENING.split())
_UNFINISHED = frozenset(_OPEN.split())


def only_go_on(text: str) -> bool:
    """Whether a listener merely signals that they listen ("mm-hm", "yeah, right"), or says nothing."""
    words = re.findall(r"[^\W\d_]+", text.lower().replace("-", ""))
    return len(words) <= 3 and all(word in _GO_ON for word in words)


def seem_finished(text: str) -> bool:
    """Whether the words could be the whole turn: a sentence's end, and no last word that wants another."""
    stripped = text.strip()
    if not stripped or stripped.endswith(("...", "\u2026", ",", "-", "\u2014")):
        return False
    last = re.findall(r"[\w']+", stripped.lower())[-1:]
    return bool(last) and last[0] not in _UNFINISHED and stripped.endswith((".", "?", "!"))
