"""Run a real playbook, and tell what it changed and said."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
BIN = ROOT / ".venv/bin"


@dataclass(frozen=True)
class Run:
    """One finished playbook run: exit code, terminal output, record of plugins/callback/run_log.py."""

    code: int
    output: str
    record: dict[str, Any]

    def changed(self, host: str = "spark1") -> list[str]:
        return list(self.record["hosts"].get(host, {}).get("changed", []))

    def messages(self) -> str:
        """All failure messages, with white space folded so that a wrapped line can be searched."""
        failed = [f["msg"] for host in self.record["hosts"].values() for f in host["failed"]]
        return " ".join(" ".join(failed).split())


def play(
    playbook: str,
    *flags: str,
    inventory: Path = ROOT / "inventory/lab",
    extra: dict[str, Any] | None = None,
    timeout: float = 900,
    env: dict[str, str] | None = None,
) -> Run:
    """Run ``playbook`` (path below the project's root) with extra variables ``extra``."""
    with tempfile.TemporaryDirectory() as log:
        argv = [str(BIN / "ansible-playbook"), "-i", str(inventory), playbook, *flags]
        if extra:
            argv += ["-e", json.dumps(extra)]
        environment = {
            **os.environ,
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "ANSIBLE_RUN_LOG_DIR": log,
            "ANSIBLE_FORCE_COLOR": "false",
            "ANSIBLE_NOCOLOR": "true",
            **(env or {}),
        }
        done = subprocess.run(
            argv, cwd=ROOT, env=environment, text=True, timeout=timeout, check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        records = sorted(Path(log).glob("*.json"))
        record = json.loads(records[-1].read_text(encoding="utf-8")) if records else {"hosts": {}}
    return Run(done.returncode, done.stdout, record)
