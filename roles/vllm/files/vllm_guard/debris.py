"""What a run of the container left behind: processes still in its cgroup, shared memory that nobody holds.

With --ipc=host a killed engine's segments stay in the host's /dev/shm, and on unified memory they are lost to
the next start. A segment is taken for the container's only if root made it under one of the names that
Python, torch, NCCL and OpenMP use, it was last resized or written while the container ran, and no living
process maps or opens it.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .procs import PROC, read

SHM = Path("/dev/shm")
NAMES = re.compile(r"(psm_|sem\.mp-|torch_|nccl-|vllm|__KMP_REGISTERED_LIB_)")


@dataclass(frozen=True)
class Container:
    """The engine's container: id, whether it runs, and when (seconds since 1970) it last began and ended."""

    identity: str
    running: bool
    began: float
    ended: float


def parse_container(text: str) -> Container:
    """From what the settings' container_command prints."""
    identity, running, began, ended = text.split()
    return Container(identity, running == "true", _seconds(began), _seconds(ended) + 1)


def _seconds(stamp: str) -> float:
    return datetime.fromisoformat(stamp[:19]).replace(tzinfo=UTC).timestamp()


def _pids() -> Iterator[Path]:
    yield from (entry for entry in PROC.iterdir() if entry.name.isdigit())


def orphans(identity: str) -> list[int]:
    """Processes in the cgroup of a container that does not run."""
    found = []
    for process in _pids():
        try:
            if identity in read(process / "cgroup"):
                found.append(int(process.name))
        except OSError:  # gone meanwhile
            continue
    return found


def held(paths: dict[tuple[int, int], Path]) -> set[tuple[int, int]]:
    """Of the files (by device and inode) those that a living process maps or has open."""
    found: set[tuple[int, int]] = set()
    for process in _pids():
        try:
            for line in read(process / "maps").splitlines():
                if len(fields := line.split(maxsplit=5)) == 6:
                    major, minor = (int(part, 16) for part in fields[3].split(":"))
                    found.add((os.makedev(major, minor), int(fields[4])))
            for handle in (process / "fd").iterdir():
                state = handle.stat()
                found.add((state.st_dev, state.st_ino))
        except OSError:  # gone meanwhile
            continue
    return found & paths.keys()


def segments(began: float, ended: float, folder: Path = SHM, owner: int = 0) -> list[Path]:
    """Shared memory that a container which ran from `began` to `ended` left, held by nobody."""
    paths: dict[tuple[int, int], Path] = {}
    for path in folder.iterdir():
        try:
            state = path.lstat()
        except OSError:
            continue
        ours = NAMES.match(path.name) and path.is_file() and not path.is_symlink() and state.st_uid == owner
        if ours and began <= state.st_mtime <= ended:
            paths[state.st_dev, state.st_ino] = path
    busy = held(paths) if paths else set()
    return sorted(path for key, path in paths.items() if key not in busy)


def clear(container: Container) -> list[str]:
    """Remove what a container that does not run left behind; what was removed, in words."""
    said = []
    for pid in orphans(container.identity):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        said.append(f"process {pid} of the ended container killed")
    for path in segments(container.began, container.ended):
        size = path.stat().st_size
        path.unlink(missing_ok=True)
        said.append(f"{path} ({size} bytes) of the ended container removed")
    return said
