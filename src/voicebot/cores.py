"""The fast cores of a machine that has slow ones, too, as Linux tells them in sysfs."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("voicebot")

_SYSFS = Path("/sys/devices/system/cpu")
_SOURCES = ("cpu_capacity", "cpufreq/cpuinfo_max_freq")
_AS_FAST = 0.9  # cores of one kind differ a little: GB10's ten X925 have 3.9 and 4.0 GHz, its A725 2.8


def fast(sysfs: Path = _SYSFS) -> frozenset[int]:
    """Numbers of the fast cores; none on a machine whose cores are all alike, or that does not say."""
    for source in _SOURCES:
        speeds = _speeds(sysfs, source)
        if not speeds:
            continue
        fastest = max(speeds.values())
        chosen = frozenset(core for core, speed in speeds.items() if speed >= _AS_FAST * fastest)
        if len(chosen) < len(speeds):
            return chosen
    return frozenset()


def _speeds(sysfs: Path, source: str) -> dict[int, int]:
    found = {}
    for core in sysfs.glob("cpu[0-9]*"):
        try:
            found[int(core.name[3:])] = int((core / source).read_text())
        except (OSError, ValueError):
            continue  # offline, or a kernel that does not tell
    return found


@contextmanager
def pinned(cores: frozenset[int]) -> Iterator[None]:
    """Threads that are begun inside stay on these cores; the calling thread gets its own back."""
    before = os.sched_getaffinity(0)
    wanted = cores & before
    if not wanted:
        yield
        return
    try:
        os.sched_setaffinity(0, wanted)
    except OSError as error:
        log.warning("speech recognition is not pinned to cores %s: %s", sorted(wanted), error.strerror)
        yield
        return
    log.info("speech recognition runs on cores %s", ",".join(map(str, sorted(wanted))))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
