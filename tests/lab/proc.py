"""Processes: run one and wait, keep one alive behind a pid file, take a lock."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.settings import LabError

_START = time.monotonic()


def say(text: str) -> None:
    """Progress, for people: the standard output is for the result."""
    print(f"[lab {time.monotonic() - _START:4.0f} s] {text}", file=sys.stderr, flush=True)


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    text: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end; a failure carries the command and the end of its output."""
    done = subprocess.run(
        [str(a) for a in argv],
        env={**os.environ, **(env or {})},
        input=text,
        stdin=None if text is not None else subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if check and done.returncode:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise LabError(f"`{' '.join(map(str, argv))}` ended with {done.returncode}:\n{tail}")
    return done


def wait_for(what: str, ready: Callable[[], bool], seconds: float, evidence: Path | None = None) -> None:
    """Polls until `ready`, or fails with the end of the log that explains it."""
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            tail = "\n".join(evidence.read_text(errors="replace").splitlines()[-15:]) if evidence else ""
            raise LabError(
                f"{what} not ready after {seconds:.0f} s. {tail and f'End of {evidence}:'}\n{tail}"
            )
        time.sleep(0.1)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keeps a second process out; the kernel drops the lock of a killed one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that holds {path}")
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def remove_tree(place: Path) -> None:
    """Removes a folder for good: first what is mounted below it, lest that be emptied too."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in sorted((p for p in points if p.startswith(f"{place}/")), reverse=True):
        run(["umount", "--lazy", point])
    # a process of a killed build may still write there; then the next removal gets it
    shutil.rmtree(place, ignore_errors=True)


@dataclass(frozen=True)
class Service:
    """A detached process, found again by its pid file."""

    pid_file: Path
    marker: str  # part of its command line: after a reboot the pid may be someone else's

    @property
    def pid(self) -> int | None:
        """The running process, or None if there is none or the pid file is stale."""
        try:
            pid = int(self.pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (OSError, ValueError):
            return None
        return pid if self.marker in command else None

    def start(self, argv: Sequence[str | Path], log: Path, cwd: Path | None = None) -> None:
        """Starts it in a session of its own, so that it outlives this process."""
        self.pid_file.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            process = subprocess.Popen(
                [str(a) for a in argv],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=cwd,
                start_new_session=True,
            )
        self.pid_file.write_text(str(process.pid))
        time.sleep(0.2)
        if process.poll() is not None:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-10:])
            raise LabError(f"{argv[0]} ended at once with {process.returncode}. End of {log}:\n{tail}")

    def stop(self, seconds: float = 60) -> bool:
        """Ends it, politely first. True if it was running."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGTERM)
            deadline = time.monotonic() + seconds
            while self.pid == pid:
                if time.monotonic() > deadline:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)
        self.pid_file.unlink(missing_ok=True)
        return pid is not None
