"""Record what each playbook run changed, one JSON file a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: run_log
type: notification
short_description: write the changed and failed tasks of a run as JSON
description:
  - "Writes NNN-check.json or NNN-run.json into run_log_dir when a playbook ends; silent without it."
  - "Content: playbook, check, and for each host tasks, changed, failed and unreachable."
options:
  run_log_dir:
    description: directory of the records, made when missing
    env: [{name: ANSIBLE_RUN_LOG_DIR}]
    ini: [{section: callback_run_log, key: run_log_dir}]
"""


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """One record a run; a task that loops counts once."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "run_log"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._playbook = ""
        self._check = False
        self._hosts: dict[str, dict[str, Any]] = {}

    def _host(self, result: Any) -> dict[str, Any]:
        empty: dict[str, Any] = {"tasks": 0, "changed": [], "failed": [], "unreachable": False}
        return self._hosts.setdefault(result._host.get_name(), empty)

    def v2_playbook_on_start(self, playbook: Any) -> None:
        self._playbook = Path(playbook._file_name).name

    def v2_playbook_on_play_start(self, play: Any) -> None:
        self._check = bool(play.check_mode)

    def v2_runner_on_ok(self, result: Any) -> None:
        host = self._host(result)
        host["tasks"] += 1
        if result._result.get("changed"):
            host["changed"].append(result._task.get_name())

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            self._fail(result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        """What went wrong is said by the items; the loop itself only says that something did."""
        self._fail(result)

    def _fail(self, result: Any) -> None:
        message = result._result.get("msg", "")
        if result._result.get("_ansible_no_log"):
            message = "(hidden by no_log)"
        self._host(result)["failed"].append({"task": result._task.get_name(), "msg": str(message)})

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._host(result)["unreachable"] = True

    def v2_playbook_on_stats(self, stats: Any) -> None:
        directory = self.get_option("run_log_dir")
        if not directory:
            return
        target = Path(directory)
        target.mkdir(parents=True, exist_ok=True)
        number = len(list(target.glob("*.json"))) + 1
        record = {"playbook": self._playbook, "check": self._check, "hosts": self._hosts}
        name = f"{number:03d}-{'check' if self._check else 'run'}.json"
        (target / name).write_text(json.dumps(record, indent=1), encoding="utf-8")
