"""A release is held back when it is much slower than the one before at its own gate."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.filter.smoke import slower_checks


def gate(completion: float, sound: float) -> list[dict[str, Any]]:
    return [
        {"name": "completion", "ok": True, "figures": {"seconds": completion, "tokens": 16}},
        {"name": "spoken question", "ok": True, "figures": {"first_audio_s": sound, "total_s": 9.0}},
        {"name": "voicebot /health", "ok": True, "figures": {}},
    ]


@pytest.mark.parametrize(
    ("now", "slower"),
    [
        (gate(1.0, 2.0), []),
        (gate(3.0, 6.0), []),  # the factor itself is allowed
        (gate(3.1, 2.0), ["completion 3.10 s, before 1.00 s"]),
        (gate(1.0, 6.5), ["spoken question 6.50 s, before 2.00 s"]),
    ],
)
def test_the_factor_holds_for_each_felt_figure(now: list[dict[str, Any]], slower: list[str]) -> None:
    assert slower_checks(now, gate(1.0, 2.0), 3) == slower


def test_the_first_release_has_nothing_to_be_compared_with() -> None:
    assert slower_checks(gate(99.0, 99.0), [], 3) == []
