"""What the engine needs, claims and may take of the host's memory: for its start gate and its container."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

GIB = 1024**3
DEFAULT_SHARE = 0.9  # vLLM's own
HOST_SIDE = 4 * GIB  # server, tokenizer, pinned buffers, compiler: beside the share
SYSTEM_LEAST = 4 * GIB  # never the container's: sshd, journald, Docker


def engine_memory(plan: Mapping[str, Any], flags: Mapping[str, Any], total: int) -> dict[str, int]:
    """Bytes: {needed, claimed, cap}; needed and claimed are 0 without a plan.

    needed: what the plan gives the engine, or less if its flags ask for less; a start waits for so much.
    claimed: the share of all memory that vLLM, when it starts, wants to find free (page cache is not free).
    cap: the container's limit: the larger of both, graphs and host side; the system keeps 4 GiB in any case.
    """
    most = total - SYSTEM_LEAST
    if "unknown" in plan:
        return {"needed": 0, "claimed": 0, "cap": most}
    share = flags.get("gpu-memory-utilization", DEFAULT_SHARE)
    share = plan["gpu_memory_utilization"] if share == "planned" else float(share)
    claimed = int(total * share)
    taken = max(claimed, plan["engine_bytes"]) + plan["graph_bytes"] + HOST_SIDE
    return {"needed": min(plan["engine_bytes"], claimed), "claimed": claimed, "cap": min(taken, most)}


class FilterModule:
    """Filters on the engine's memory."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {"engine_memory": engine_memory}
