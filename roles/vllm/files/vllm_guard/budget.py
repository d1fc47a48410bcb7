"""How many restarts the day still has. Survives restarts of the guard."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

DAY_S = 86400.0


class Budget:
    """Restarts within any 24 hours, by the wall clock (the monotonic one begins anew with the host)."""

    def __init__(self, path: Path, per_day: int, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._per_day = per_day
        self._clock = clock
        self._times: list[float] = []
        self.problem = ""
        try:
            self._times = [float(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return
        except (OSError, TypeError, ValueError) as error:
            self.problem = f"{path} cannot be read ({error}): no restart is allowed. Remedy: remove it."

    @property
    def left(self) -> int:
        """Restarts still allowed now; none when nobody knows how many there were."""
        if self.problem:
            return 0
        return max(0, self._per_day - len(self._recent()))

    def spend(self) -> None:
        """Count one restart, on disk before it happens."""
        self._times = [*self._recent(), self._clock()]
        aside = self._path.with_suffix(".new")
        with aside.open("w", encoding="utf-8") as file:
            json.dump(self._times, file)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self._path)

    def _recent(self) -> list[float]:
        # a clock set back leaves times in the future: they count
        return [t for t in self._times if self._clock() - t < DAY_S]
