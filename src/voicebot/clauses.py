"""Text deltas to speakable clauses: the first one short, so that speech begins early."""

from __future__ import annotations

import re
import unicodedata

SENTENCE_END = re.compile(r"""[.!?…]["'\u201d\u2019)\]]*$""")
_PAUSE = tuple(",;:\u2014\u2013")
_FIRST_PAUSE_AFTER = 12
_PAUSE_AFTER = 60
_LONGEST = 240
_ABBREVIATION = re.compile(
    r"""(?:^|[\s("'])(?:(?:Dr|Mr|Mrs|Ms|Prof|St|Mt|Gen|Col|Capt|Lt|Sgt|Rev|Fig|Vol|vs|e\.g|i\.e)"""
    r"|(?!I\.$)(?:[A-Z]\.)*[A-Z])\.$"
)
_LIST_NUMBER = re.compile(r"\W*\d+[.)]")
_MARKS = re.compile(r"^\s*(?:#+|>|[-•])\s+|`+|(?<!\s)[*~]+|[*~]+(?!\s)|(?<!\w)_+|_+(?!\w)")


class ClauseSplitter:
    """Cuts at sentences, lines, and pauses that come late enough."""

    def __init__(self) -> None:
        self._buffer = ""
        self._started = False
        self._sentence_done = False

    def feed(self, delta: str) -> list[str]:
        """Take what the model wrote; give what can be spoken, however the text is cut into deltas."""
        clauses = [self._take(char) for char in delta]
        return [clause for clause in clauses if clause]

    def finish(self, *, cut: bool = False) -> list[str]:
        """The rest; of an answer cut off without its unfinished sentence, or, if that is all, half word."""
        rest, self._buffer = self._buffer.strip(), ""
        if cut and not SENTENCE_END.search(rest):
            rest = "" if self._sentence_done else rest.rpartition(" ")[0]
        return [rest] if rest else []

    def _take(self, char: str) -> str:
        """Add one character; the clause that ends before it, or nothing."""
        before = self._buffer.rstrip()
        word_begins = self._buffer[-1:].isspace() and not char.isspace()
        if not before or not (char == "\n" or (word_begins and self._ends_clause(before, char))):
            self._buffer = self._buffer + char if before else char.strip()
            return ""
        self._buffer = char.strip()
        self._started = True
        self._sentence_done |= char == "\n" or bool(SENTENCE_END.search(before))
        return before.strip()

    def _ends_clause(self, text: str, following: str) -> bool:
        if len(text) >= _LONGEST:
            return True
        if SENTENCE_END.search(text):
            return not (following.islower() or _ABBREVIATION.search(text) or _LIST_NUMBER.fullmatch(text))
        return text.endswith(_PAUSE) and len(text) >= (_PAUSE_AFTER if self._started else _FIRST_PAUSE_AFTER)


def speakable(clause: str) -> str:
    """Without markup and pictures, which nobody wants to hear."""
    text = _MARKS.sub("", clause)
    kept = (char for char in text if unicodedata.category(char) not in ("So", "Sk", "Cs", "Co", "Cf", "Mn"))
    return " ".join("".join(kept).split())
