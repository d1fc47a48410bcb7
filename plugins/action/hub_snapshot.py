"""The module hub_snapshot, with a download's progress on the controller's terminal.

A download is done by a process of its own on the host: a connection that drops does not end it, and a
second run attaches to it. What is shown (and, with log_path, logged): bytes, bytes a second, time left.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

display = Display()
FIRST, EVERY = 2.0, 10.0  # seconds until the first line, and between two
PATIENCE = 300.0  # seconds that the host may be out of reach


def progress_line(host: str, name: str, progress: dict[str, Any]) -> str:
    """One line: host, model, share and bytes, rate, time left; or what the download waits for."""
    done, total = progress.get("done", 0), progress.get("total", 0)
    if not total:
        return f"{host}: {name}: begins"
    unit, digits, of = ("GB", 2, 1e9) if total >= 1e9 else ("MB", 0, 1e6)
    line = (
        f"{host}: {name}: {100 * done // total} %, {done / of:.{digits}f} of {total / of:.{digits}f} {unit}"
    )
    if progress.get("note"):
        return f"{line}, waiting: {progress['note']}"
    line += f", {progress.get('rate', 0) / 1e6:.1f} MB/s"
    left = progress.get("left")
    return line if left is None else f"{line}, {timedelta(seconds=round(left))} left"


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the module's docstring."""

    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Compare at once; leave a download to its process, and watch that to its end."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        if self._task.check_mode or self._task.args.get("state") == "verified":
            return result | self._module(task_vars, job="here")
        while True:
            started = self._module(task_vars, job="start")
            outcome = self._watch(task_vars) if started.get("running") else started
            if not started.get("attached"):
                return result | self._told(outcome, task_vars)
            # what another run fetched is compared with what this one wants

    def _told(self, outcome: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        where = f"{task_vars['inventory_hostname']}: {self._task.args['name']}"
        if adopted := outcome.get("adopted"):
            display.display(f"{where}: {len(adopted)} files adopted, {len(outcome['fetched'])} fetched")
        for place in outcome.get("differs", []):
            display.warning(f"{where}: {place} differs from the pin; the pinned file was fetched instead.")
        return outcome

    def _module(self, task_vars: dict[str, Any], **more: Any) -> dict[str, Any]:
        done: dict[str, Any] = self._execute_module(
            module_name="hub_snapshot", module_args={**self._task.args, **more}, task_vars=task_vars
        )
        return done

    def _watch(self, task_vars: dict[str, Any]) -> dict[str, Any]:
        host, name = task_vars["inventory_hostname"], self._task.args["name"]
        seconds, seen = FIRST, time.monotonic()
        while True:
            try:
                state = self._module(task_vars, job="watch", seconds=seconds)
            except AnsibleConnectionFailure as error:
                if time.monotonic() - seen > PATIENCE:
                    raise
                display.warning(
                    f"{host} is out of reach ({error.message}); {name} is still being fetched there."
                )
                self._connection.reset()
                time.sleep(FIRST)
                continue
            if not state.get("running"):
                return state
            display.display(progress_line(host, name, state["progress"]))
            seconds, seen = EVERY, time.monotonic()
