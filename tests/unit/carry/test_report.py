"""What was carried, as figures and as a table."""

from __future__ import annotations

from typing import Any

from plugins.filter.depot import depot_bytes, depot_table


def test_bytes_are_summed_by_kind_and_host() -> None:
    filled: dict[str, list[dict[str, Any]]] = {
        "images": [{"received": 5_000_000}],
        "models": [{"received": 1_000_000}, {"changed": False}],
    }
    closed: dict[str, dict[str, Any]] = {
        "a": {"sent": {"images": 5_000_000, "models": 1_000_000}},
        "long-name": {"skipped": True},
    }
    carried = depot_bytes(filled, closed)
    assert carried == {
        "wan": {"images": 5_000_000, "models": 1_000_000, "total": 6_000_000},
        "lan": {
            "a": {"images": 5_000_000, "models": 1_000_000, "total": 6_000_000},
            "long-name": {"images": 0, "models": 0, "total": 0},
        },
    }
    head, wan, a, idle = (line.split() for line in depot_table(carried))
    assert head == ["MB", "images", "models", "total"]
    assert wan[-3:] == a[-3:] == ["5.0", "1.0", "6.0"] and idle[-3:] == ["0.0"] * 3
