"""What is kept of an incident before the restart wipes it out.

No prompt, no answer, no command line, no environment.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from .config import Config
from .engine import Engine, run

FILE_LIMIT = 96 * 1024
LINE_LIMIT = 400
THREAD_LIMIT = 64
COMMAND_TIMEOUT_S = 5.0
STATUS_KEYS = ("State", "PPid", "Threads", "VmRSS", "VmSwap", "SigPnd", "SigBlk", "voluntary_ctxt_switches")
# vLLM logs requests as `prompt: '…', … prompt_token_ids: […]` and answers as `output: '…'`, one line each
PRIVATE = re.compile(
    r"\b(prompt\w*|messages|content|input\w*|output\w*|text)(['\"]?\s*[:=]).*", re.IGNORECASE
)


def redact(text: str) -> str:
    """Without what people said or were told, and without endless lines."""
    return "\n".join(PRIVATE.sub(r"\1\2 [not kept]", line)[:LINE_LIMIT] for line in text.splitlines())


def process_tree(root: int, proc: Path = Path("/proc")) -> list[int]:
    """The process and all that descend from it."""
    parents: dict[int, int] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:  # gone meanwhile
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    tree = [root]
    for pid in tree:
        tree += sorted(child for child, parent in parents.items() if parent == pid)
    return tree


def describe_process(pid: int, proc: Path = Path("/proc")) -> str:
    """Name, states and wait channels of a process and its threads."""
    try:
        status = dict(
            line.split(":", 1) for line in _read(proc / f"{pid}/status").splitlines() if ":" in line
        )
        kept = ", ".join(f"{key} {' '.join(status[key].split())}" for key in STATUS_KEYS if key in status)
        lines = [f"{pid} {status.get('Name', '?').strip()}: {kept}"]
        tasks = sorted((proc / f"{pid}/task").iterdir(), key=lambda task: int(task.name))
        for task in tasks[:THREAD_LIMIT]:
            name, _, rest = _read(task / "stat").partition("(")[2].rpartition(")")
            lines.append(f"  {task.name} {name} {rest.split()[0]} {_read(task / 'wchan').strip() or '?'}")
        if len(tasks) > THREAD_LIMIT:
            lines.append(f"  and {len(tasks) - THREAD_LIMIT} more threads")
    except OSError as error:
        return f"{pid}: {error}"
    return "\n".join(lines)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _processes(config: Config) -> str:
    root = int(run(config.pid_command, COMMAND_TIMEOUT_S).strip())
    if root <= 0:
        return "the container has no process"
    return "\n".join(describe_process(pid) for pid in process_tree(root))


def _said_by(argv: Sequence[str]) -> str:
    return redact(run(argv, COMMAND_TIMEOUT_S))


def collect(config: Config, engine: Engine, verdict: Mapping[str, Any]) -> Path:
    """Write one incident's folder and prune the oldest. What cannot be had is noted in its file."""
    root = config.state_dir / "incidents"
    stamp = time.strftime("%Y-%m-%dT%H-%M-%SZ", time.gmtime())
    folder = root / stamp
    folder.mkdir(parents=True, mode=0o700)
    sources: dict[str, Callable[[], str]] = {
        "metrics.txt": engine.metrics_text,
        "processes.txt": lambda: _processes(config),
        "meminfo.txt": lambda: _read(Path("/proc/meminfo")),
    }
    for name, argv in config.evidence_commands.items():
        sources[name] = partial(_said_by, argv)
    (folder / "verdict.json").write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")
    for name, source in sources.items():
        try:
            text = source()
        except (OSError, ValueError) as error:
            text = f"could not be had: {error}"
        kept = text.encode()[-FILE_LIMIT:]
        (folder / name).write_bytes(kept + b"\n")
    for old in sorted(p for p in root.iterdir() if p.is_dir())[: -config.incidents_kept]:
        shutil.rmtree(old)
    return folder
