"""python3 -m vllm_guard.gate CONFIG, before a start of the engine. Exit 0: start; 1: not now, it counts.

A container that runs already passes at once. Else debris of its last run goes, and the start waits until the
memory that it needs is available. If only page cache is in the way of what the engine insists on finding
free, that is dropped, once.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from . import debris
from .config import Config, ConfigError, Gate, load
from .engine import run
from .journal import to_journal
from .notify import tell_systemd
from .procs import PROC, read

log = logging.getLogger("vllm_guard")
GIB = 1024**3
LOOK_EVERY_S = 2.0
DOCKER_TIMEOUT_S = 30.0
DROP = PROC / "sys/vm/drop_caches"


class Answer(Enum):
    """What to do about a start."""

    PASS = "pass"
    HOLD = "hold"
    DROP = "drop"


def memory() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = (line.split(":", 1) for line in read(PROC / "meminfo").splitlines())
    return {name: int(value.split()[0]) * 1024 for name, value in lines}


def answer(gate: Gate, seen: Mapping[str, int], dropped: bool) -> Answer:
    """Whether the start may go on with this memory."""
    available, free = seen["MemAvailable"], seen["MemFree"]
    if available < gate.needed_bytes:
        return Answer.HOLD
    wanted = max(gate.claimed_bytes, gate.needed_bytes)
    return Answer.DROP if free < wanted <= available and not dropped else Answer.PASS


def _gib(count: int) -> str:
    return f"{count / GIB:.2f} GiB"


def drop_page_cache() -> None:
    """Clean pages only: nothing that is not on disk goes."""
    try:
        DROP.write_text("1\n", encoding="ascii")
    except OSError as error:
        log.warning("the page cache cannot be dropped, the engine may find too little free: %s", error)


def wait(
    gate: Gate, look: Callable[[], Mapping[str, int]] = memory, drop: Callable[[], None] = drop_page_cache
) -> bool:
    """Whether the engine may start, once that is clear."""
    until, dropped, told = time.monotonic() + gate.wait_s, False, False
    while True:
        seen = look()
        said = answer(gate, seen, dropped)
        text = f"needs {_gib(gate.needed_bytes)}, available {_gib(seen['MemAvailable'])}"
        text += f", free {_gib(seen['MemFree'])}"
        if said is Answer.PASS:
            tell_systemd(f"STATUS=memory gate passed: {text}")
            log.info("memory gate passed: %s", text)
            return True
        if said is Answer.DROP:
            log.info(
                "page cache dropped once, the engine insists on %s free: %s", _gib(gate.claimed_bytes), text
            )
            drop()
            dropped = True
            continue
        left = until - time.monotonic()
        tell_systemd(f"STATUS=memory gate holds the start: {text}; gives up in {max(left, 0):.0f} s")
        if not told:
            log.warning("memory gate holds the start for up to %d s: %s", gate.wait_s, text)
            told = True
        if left <= 0:
            tell_systemd(f"STATUS=memory gate refused the start: {text}")
            remedy = "stop what takes the memory, or plan less for the engine"
            log.error("memory gate refused the start: %s. Remedy: %s", text, remedy)
            return False
        time.sleep(min(LOOK_EVERY_S, left))


def may_start(config: Config) -> bool:
    """The whole gate."""
    try:
        container = debris.parse_container(run(config.container_command, DOCKER_TIMEOUT_S))
    except (OSError, ValueError) as error:
        log.warning("the container's state cannot be had, memory alone is judged: %s", error)
    else:
        if container.running:
            tell_systemd("STATUS=the container runs already: attached")
            return True
        for removed in debris.clear(container):
            log.warning("debris: %s", removed)
    return wait(config.gate)


def main() -> int:
    """Exit code: 0 start, 1 not now, 2 no settings."""
    to_journal()
    try:
        config = load(Path(sys.argv[1]))
    except (ConfigError, IndexError) as error:
        log.error("memory gate: %s", error)
        return 2
    return 0 if may_start(config) else 1


if __name__ == "__main__":
    sys.exit(main())
