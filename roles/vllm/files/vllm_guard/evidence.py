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
from .procs import PROC, describe_process, process_tree, read

FILE_LIMIT = 96 * 1024
LINE_LIMIT = 400
COMMAND_TIMEOUT_S = 5.0
OWN_LOOKS = re.compile(r'"GET /(?:metrics|health) HTTP')  # the guard's, one or two a second
# vLLM logs requests as `prompt: '…', … prompt_token_ids: […]` and answers as `output: '…'`, one line each
PRIVATE = re.compile(
    r"\b(prompt\w*|messages|content|input\w*|output\w*|text)(['\"]?\s*[:=]).*", re.IGNORECASE
)


def redact(text: str) -> str:
    """Without what people said or were told, without the guard's own requests and endless lines."""
    lines = (line for line in text.splitlines() if not OWN_LOOKS.search(line))
    return "\n".join(PRIVATE.sub(r"\1\2 [not kept]", line)[:LINE_LIMIT] for line in lines)


def _processes(config: Config) -> str:
    root = Engine(config).root()
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
        "meminfo.txt": lambda: read(PROC / "meminfo"),
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
