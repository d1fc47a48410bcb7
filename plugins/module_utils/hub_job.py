"""A download that outlives the connection it was asked over: one process a model, its lock, its status.

Below the directory of a store in /run: NAME.lock, held as long as somebody works on the model, and NAME.json:
{pid, file, done, total, received: bytes, rate: bytes a second, left: seconds or null, note}, at the end
{pid, outcome: the module's result}.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import syslog
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.hub_pin import Refused

Result = dict[str, Any]
EVERY = 0.5  # seconds between two states
LOGGED = 10  # seconds between two lines in the journal
WINDOW = 20  # states that the rate is taken from


class Job:
    """The work on one model of one store."""

    def __init__(self, run: str, root: str, name: str) -> None:
        self.home = Path(run) / root.strip("/").replace("/", "-")
        self.name = name
        self.status = self.home / f"{name}.json"
        self._lock: int | None = None

    def take(self) -> bool:
        """Take the lock; false if somebody else has it. The end of the process gives it back."""
        self.home.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.home / f"{self.name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        return True

    def release(self) -> None:
        """Give the lock back, if this process has it. A child has its own hold on it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def read(self) -> Result:
        """The last state; empty if there is none."""
        try:
            state = json.loads(self.status.read_text())
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def write(self, state: Result) -> None:
        """Replace the state."""
        aside = self.status.with_suffix(".new")
        aside.write_text(json.dumps({"pid": os.getpid(), **state}) + "\n")
        aside.replace(self.status)

    def start(self, work: Callable[[], Result]) -> None:
        """With the lock taken: do the work in a process of its own, which takes the lock along.

        A token goes there in memory: through no argument, no environment, no file.
        """
        self.write({})
        sys.stdout.flush()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            self.release()
            return
        try:
            os.setsid()
            if not os.fork():
                self._alone(work)
        finally:
            os._exit(0)  # nothing of the caller's is cleaned up twice

    def _alone(self, work: Callable[[], Result]) -> None:
        """As a process of its own: no connection's end reaches it, and its outcome is written in any case."""
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        # Else the C library takes the descriptor of its connection, closed below, for its own still, and the
        # next line for the journal closes and reopens whatever file has that number by then.
        syslog.closelog()
        lock = self._lock or 2
        os.closerange(3, lock)  # whoever reads what the caller writes would wait for this process, too
        os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))
        try:
            outcome = work()
        except Refused as error:
            outcome = {"failed": True, "msg": str(error)}
        except Exception as error:  # noqa: BLE001 (nobody is left to see a traceback)
            outcome = {"failed": True, "msg": f"{self.name}: {type(error).__name__}: {error}"}
        self.write({"outcome": outcome})
        log(f"{self.name}: {outcome.get('msg') or 'complete, as pinned'}")

    def watch(self, seconds: float) -> Result:
        """The outcome, as soon as there is one within so many seconds; else {running, progress}."""
        deadline = time.monotonic() + seconds
        while not self.take():
            if time.monotonic() >= deadline:
                return {"running": True, "progress": self.read()}
            time.sleep(0.2)
        self.release()
        ended: Result = {
            "failed": True,
            "msg": f"{self.name}: the download ended without a word: its process was killed, or the host "
            "went down. Rule: it runs to its end. Remedy: run again; it goes on where it stopped.",
        }
        found = self.read().get("outcome", ended)
        return found if isinstance(found, dict) else ended


class Progress:
    """Tells a job's state, twice a second: bytes, bytes a second, seconds left; and, seldom, the journal."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.done = self.total = self.received = 0
        self.file, self.note = "", ""
        self._states: deque[tuple[float, int]] = deque([(time.monotonic(), 0)], maxlen=WINDOW)
        self._logged = time.monotonic()

    def begin(self, total: int) -> None:
        """So many bytes will be there in the end."""
        self.total = total
        self._write(time.monotonic())

    def tell(self, there: int, received: int = 0, note: str = "") -> None:
        """So many bytes more are there, so many of them out of the network; or what is waited for."""
        self.done += there
        self.received += received
        now = time.monotonic()
        if note or now - self._states[-1][0] >= EVERY:
            self.note = note
            self._states.append((now, self.received))
            self._write(now)

    def _write(self, now: float) -> None:
        (since, before), (until, after) = self._states[0], self._states[-1]
        rate = (after - before) / (until - since) if until > since else 0.0
        left = (self.total - self.done) / rate if rate > 0 else None
        counts = {"done": self.done, "total": self.total, "received": self.received}
        state = {"file": self.file, **counts, "rate": rate, "left": left, "note": self.note}
        self.job.write(state)
        if now - self._logged >= LOGGED:
            self._logged = now
            log(f"{self.job.name}: {self.done} of {self.total} bytes, {rate:.0f} a second. {self.note}")


def log(line: str) -> None:
    """A line for `journalctl -t model-store`."""
    syslog.openlog("model-store")
    syslog.syslog(line)
