"""Ends a rollout with one table of the fleet, and the same as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: rollout_report
type: notification
short_description: what a rollout did to each host
description:
  - After a play named C(Roll out), prints host, releases, seconds out of rotation, gate and verdict, from
    what the hosts left by C(set_stats); a host of the play that left nothing was not reached.
options:
  report_path:
    description: file of the JSON report; its directory is made when missing
    default: reports/rollout.json
    env: [{name: ANSIBLE_ROLLOUT_REPORT}]
    ini: [{section: callback_rollout_report, key: report_path}]
"""

PLAY = "Roll out"
COLUMNS = ("host", "from", "to", "out of rotation s", "verdict", "gate")
WIDEST = 60  # characters of a cell; the JSON holds all


def rows(hosts: list[str], records: dict[str, Any], unreachable: set[str]) -> list[dict[str, Any]]:
    """One record a host, in the play's order; `records`: host -> {rollout: {...}} as the hosts left it."""
    table = []
    for host in hosts:
        left = records.get(host, {}).get("rollout")
        verdict = "out of reach" if host in unreachable else "not begun"
        empty = {"from": "", "to": "", "out_of_rotation_s": 0, "gate": "", "verdict": verdict}
        record = {**empty, **(left or {})}
        record["out_of_rotation_s"] = float(record["out_of_rotation_s"] or 0)
        table.append({"host": host, **record})
    return table


def _cell(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= WIDEST else text[: WIDEST - 1] + "…"


def table(report: list[dict[str, Any]]) -> str:
    """The report as aligned text."""
    keys = ("host", "from", "to", "out_of_rotation_s", "verdict", "gate")
    lines = [COLUMNS, *(tuple(_cell(row[key]) for key in keys) for row in report)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(COLUMNS))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Silent in every playbook but a rollout."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "rollout_report"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._hosts: list[str] = []

    def v2_playbook_on_play_start(self, play: Any) -> None:
        if play.get_name() == PLAY:
            seen = play.get_variable_manager().get_vars(play=play)["ansible_play_hosts_all"]
            self._hosts += [host for host in seen if host not in self._hosts]

    def v2_playbook_on_stats(self, stats: Any) -> None:
        if not self._hosts:
            return
        report = rows(self._hosts, stats.custom, set(stats.dark))
        path = Path(self.get_option("report_path"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        self._display.banner("ROLLOUT")
        self._display.display(table(report))
        self._display.display(f"written to {path}")
