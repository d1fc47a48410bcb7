"""Word error rate: how many words a recogniser got wrong."""

from __future__ import annotations

import re

_TITLES = {"mr": "mister", "mrs": "missus", "dr": "doctor", "st": "saint"}


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; hyphens part words, titles are written out."""
    found = re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("\u2019", "'"))
    return [_TITLES.get(word, word) for word in found]


def word_error_rate(reference: str, heard: str) -> float:
    """Substitutions, deletions and insertions per word of the reference."""
    wanted, got = words(reference), words(heard)
    row = list(range(len(got) + 1))
    for i, expected in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, actual in enumerate(got, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (expected != actual))
    return row[-1] / max(1, len(wanted))
