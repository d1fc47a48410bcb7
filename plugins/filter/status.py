"""A fleet on one screen."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

HEADINGS = (
    "host", "release", "confirmed", "model", "engine", "guard", "voicebot", "gate",
    "tokens/s", "queue", "memory", "GPU",
)  # fmt: skip


def _row(host: str, status: Mapping[str, Any]) -> tuple[str, ...]:
    units = status["units"]
    now: Mapping[str, Any] = next((r for r in status["releases"] if r["id"] == status["current"]), {})
    model = f"{now['model']}@{now['revision'][:7]}" if now else "-"
    engine = units["vllm"] if units["vllm"] != "active" else status["engine"]
    guard = units["vllm-guard"] if units["vllm-guard"] != "active" else status["guard"] or "silent"
    guard += f", drained by {' and '.join(status['drained'])}" if status["drained"] else ""
    voicebot = f"{units['voicebot']} {status['service']}".strip()
    free, total = (status[f"memory_{which}_mib"] / 1024 for which in ("available", "total"))
    confirmed = now.get("confirmed", "-").removesuffix("Z").replace("T", " ")
    memory = f"{free:.1f} of {total:.1f} GiB free"
    load, celsius = status["load"], status["gpu_celsius"]
    rate = f"{load['tokens_per_second']:.1f}" if load else "-"
    queue = f"{load['running']:.0f}+{load['waiting']:.0f}" if load else "-"  # running and waiting
    seen = (engine, guard, voicebot, now.get("gate", "-"))
    warmth = "-" if celsius is None else f"{celsius} °C"
    return host, now.get("id", "-"), confirmed, model, *seen, rate, queue, memory, warmth


def _notes(host: str, status: Mapping[str, Any]) -> list[str]:
    notes = [f"{host}: {status['ledger']}"] if status["ledger"] else []
    now: Mapping[str, Any] = next((r for r in status["releases"] if r["id"] == status["current"]), {})
    if now and now["voicebot"] != status["service"]:
        notes.append(
            f"{host}: the voicebot in use is {status['service'] or 'none'}, confirmed is {now['voicebot']}: "
            "a switch was not finished. Remedy: run site.yml"
        )
    if switch := status["open"]:
        notes.append(
            f"{host}: a switch to {switch['id']}, begun {switch['at']}, has not passed its gate. Remedy: run "
            "rollout.yml or site.yml"
        )
    if back := [f"{r['id']} ({r['confirmed']})" for r in status["releases"] if r["id"] != status["current"]]:
        notes.append(f"{host}: can go back to {', '.join(back)}; previous: {status['previous'] or 'none'}")
    if incident := status["incident"]:
        notes.append(
            f"{host}: last incident {incident['at']}, {incident['state']}: {incident['reason'][:160]}"
        )
    if failure := status["failure"]:
        said = next(iter(failure["reason"].strip().splitlines()), "no reason given")
        back_to = f", {failure['restored']} restored" if failure["restored"] else ""
        down = "" if failure["downtime_s"] is None else f", down for {failure['downtime_s']} s"
        notes.append(
            f"{host}: last failure {failure['at']}, {failure['id']} in {failure['task']!r}{back_to}{down}: "
            f"{said[:160]}"
        )
    return notes


def status_table(fleet: Mapping[str, Mapping[str, Any]]) -> str:
    """Text for a terminal. fleet: host -> result of host_status, empty for a host that was not reached."""
    rows: list[tuple[str, ...]] = [HEADINGS]
    notes: list[str] = []
    for host, result in fleet.items():
        if status := result.get("status"):
            rows.append(_row(host, status))
            notes += _notes(host, status)
        else:
            rows.append((host, "not reached", *[""] * (len(HEADINGS) - 2)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines + notes)


def status_report(fleet: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """For a machine: {hosts: {name: {reached, and what host_status says}}}."""
    return {
        "hosts": {
            host: {"reached": "status" in result, **result.get("status", {})}
            for host, result in fleet.items()
        }
    }


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {"status_report": status_report, "status_table": status_table}
