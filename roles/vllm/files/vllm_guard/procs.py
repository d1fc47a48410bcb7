"""Processes as /proc shows them: who descends from whom, what they consumed, where they wait."""

from __future__ import annotations

import os
from pathlib import Path

PROC = Path("/proc")
THREAD_LIMIT = 64
STATUS_KEYS = ("State", "PPid", "Threads", "VmRSS", "VmSwap", "SigPnd", "SigBlk", "voluntary_ctxt_switches")
TICKS = os.sysconf("SC_CLK_TCK")


def read(path: Path) -> str:
    """Text of a file of the system, whatever its bytes."""
    return path.read_text(encoding="utf-8", errors="replace")


def _stats() -> dict[int, list[str]]:
    """pid -> fields of /proc/PID/stat from the third on (state, parent, …)."""
    found: dict[int, list[str]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            try:
                found[int(entry.name)] = read(entry / "stat").rpartition(")")[2].split()
            except OSError:  # gone meanwhile
                continue
    return found


def _tree(root: int, stats: dict[int, list[str]]) -> list[int]:
    tree = [root]
    for pid in tree:
        tree += sorted(child for child, fields in stats.items() if int(fields[1]) == pid)
    return tree


def process_tree(root: int) -> list[int]:
    """The process and all that descend from it."""
    return _tree(root, _stats())


def consumed_below(root: int) -> float:
    """Processor seconds that the living descendants have consumed; the process itself does not count."""
    stats = _stats()
    if root not in stats:
        raise ProcessLookupError(f"process {root} is gone")
    ticks = sum(int(stats[pid][11]) + int(stats[pid][12]) for pid in _tree(root, stats)[1:])
    return ticks / TICKS


def describe_process(pid: int) -> str:
    """Name, states and wait channels of a process and its threads."""
    try:
        status = dict(line.split(":", 1) for line in read(PROC / f"{pid}/status").splitlines() if ":" in line)
        kept = ", ".join(f"{key} {' '.join(status[key].split())}" for key in STATUS_KEYS if key in status)
        lines = [f"{pid} {status.get('Name', '?').strip()}: {kept}"]
        tasks = sorted((PROC / f"{pid}/task").iterdir(), key=lambda task: int(task.name))
        for task in tasks[:THREAD_LIMIT]:
            name, _, rest = read(task / "stat").partition("(")[2].rpartition(")")
            lines.append(f"  {task.name} {name} {rest.split()[0]} {read(task / 'wchan').strip() or '?'}")
        if len(tasks) > THREAD_LIMIT:
            lines.append(f"  and {len(tasks) - THREAD_LIMIT} more threads")
    except OSError as error:
        return f"{pid}: {error}"
    return "\n".join(lines)
