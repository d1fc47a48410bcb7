"""What the start gate asks and the container may take, from the plan and the flags."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.filter.engine_memory import GIB, engine_memory

PLAN = {"engine_bytes": 18 * GIB, "graph_bytes": 2 * GIB, "gpu_memory_utilization": 0.15}
TOTAL = 120 * GIB


@pytest.mark.parametrize(
    ("flags", "needed", "claimed", "cap"),
    [
        ({"gpu-memory-utilization": 0.9}, 18, 108, 114),
        ({}, 18, 108, 114),
        ({"gpu-memory-utilization": "planned", "kv-cache-memory-bytes": "planned"}, 18, 18, 24),
        ({"gpu-memory-utilization": "0.5"}, 18, 60, 66),
        ({"gpu-memory-utilization": 0.1}, 12, 12, 24),  # told less than planned: the start needs no more
        ({"gpu-memory-utilization": 0.99}, 18, 118.8, 116),  # the system keeps its own
    ],
)
def test_needed_claimed_and_cap(flags: dict[str, Any], needed: float, claimed: float, cap: float) -> None:
    figures = engine_memory(PLAN, flags, TOTAL)
    assert figures == {"needed": needed * GIB, "claimed": int(claimed * GIB), "cap": cap * GIB}


def test_without_a_plan_the_system_keeps_its_own_all_the_same() -> None:
    assert engine_memory({"unknown": "why"}, {}, TOTAL) == {"needed": 0, "claimed": 0, "cap": 116 * GIB}
