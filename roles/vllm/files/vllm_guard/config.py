"""The guard's settings: one JSON file, every key optional but the model."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

UNIT = "vllm.service"
CONTAINER = "vllm"
MAY_BE_ZERO = {"restarts_per_day", "needed_bytes", "claimed_bytes", "wait_s"}


class ConfigError(ValueError):
    """The file cannot be used; the text says which key, which rule, and the remedy."""


@dataclass(frozen=True)
class Judgement:
    """Times (seconds) by which the guard judges. Worst case from freeze to verdict of an idle engine:
    2 * poll_s + quiet_s + 2 * probe_timeout_s; of one in the middle of a long step, probe_timeout_s more."""

    poll_s: float = 1.0  # between two looks at the metrics
    quiet_s: float = 5.0  # nothing moved for so long: probe
    probe_timeout_s: float = 8.0  # a one-token completion takes no longer on a live engine
    busy_cores: float = 0.3  # an engine that burns so much is at work, whatever its metrics say…
    stall_limit_s: float = 300.0  # …but not for so long without any of them moving
    start_limit_s: float = 900.0  # so long an engine may load
    dead_after_s: float = 60.0  # /health may refuse so long after the engine has been ready
    recheck_s: float = 30.0  # between probes after handing off, and between reminders in the journal
    restarts_per_day: int = 3


@dataclass(frozen=True)
class Gate:
    """What a start waits for (see gate.py): bytes, and seconds. 0 bytes ask for nothing."""

    needed_bytes: int = 0  # MemAvailable: less is too little
    claimed_bytes: int = 0  # MemFree: what the engine itself checks, blind to page cache that would yield
    wait_s: int = 300


@dataclass(frozen=True)
class Config:
    """Everything the guard is told. The commands are settings so that any engine can be watched."""

    model: str
    api_key: str = ""
    engine_port: int = 8000
    listen_port: int = 8001
    judgement: Judgement = field(default_factory=Judgement)
    gate: Gate = field(default_factory=Gate)
    incidents_kept: int = 20
    state_dir: Path = Path("/var/lib/vllm-guard")
    drain_file: Path = Path("/var/lib/vllm-guard/drain")  # outlives a reboot in the middle of maintenance
    status_command: tuple[str, ...] = (
        "systemctl", "show", UNIT, "--property=ActiveState,InvocationID,InactiveExitTimestampMonotonic",
    )  # fmt: skip
    # reset-failed frees the start limit. A wedged engine has nothing to finish: asked to stop, its server
    # waits seconds for the core. try-restart leaves a unit alone that somebody stopped meanwhile
    restart_commands: tuple[tuple[str, ...], ...] = (
        ("systemctl", "reset-failed", UNIT),
        ("docker", "stop", "--time", "0", CONTAINER),
        ("systemctl", "try-restart", UNIT),
    )
    restart_timeout_s: float = 180.0
    pid_command: tuple[str, ...] = ("docker", "inspect", "--format", "{{.State.Pid}}", CONTAINER)
    container_command: tuple[str, ...] = (
        "docker", "container", "inspect", "--format",
        "{{.Id}} {{.State.Running}} {{.State.StartedAt}} {{.State.FinishedAt}}", CONTAINER,
    )  # fmt: skip
    evidence_commands: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "container.log": ("docker", "logs", "--timestamps", "--tail", "2000", CONTAINER),
            "unit.log": ("journalctl", "--unit", UNIT, "--lines", "1000", "--no-pager"),
            "kernel.log": ("journalctl", "--dmesg", "--lines", "100", "--no-pager"),
        }
    )


def load(path: Path) -> Config:
    """Read and check the file."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: Rule: one JSON object.")
    values = _section(Config, raw, str(path))
    if not values.get("model"):
        raise ConfigError(f"{path}: model is missing. Rule: the name by which the engine serves it.")
    values["judgement"] = Judgement(**_section(Judgement, values.get("judgement", {}), f"{path}: judgement"))
    values["gate"] = Gate(**_section(Gate, values.get("gate", {}), f"{path}: gate"))
    for key in ("state_dir", "drain_file"):
        if key in values:
            values[key] = Path(values[key])
    for key in ("status_command", "pid_command", "container_command"):
        if key in values:
            values[key] = _argv(values[key], f"{path}: {key}")
    if "restart_commands" in values:
        commands, where = values["restart_commands"], f"{path}: restart_commands"
        if not isinstance(commands, list) or not commands:
            raise ConfigError(f"{where} is {commands!r}. Rule: a list of commands, not empty.")
        values["restart_commands"] = tuple(_argv(command, where) for command in commands)
    if "evidence_commands" in values:
        named, where = values["evidence_commands"], f"{path}: evidence_commands"
        if not isinstance(named, dict):
            raise ConfigError(f"{where} is {named!r}. Rule: a JSON object, file name to command.")
        values["evidence_commands"] = {name: _argv(c, f"{where}.{name}") for name, c in named.items()}
    return Config(**values)


def _section(kind: type, raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise ConfigError(f"{where} is {raw!r}. Rule: a JSON object.")
    known = {f.name: f.type for f in fields(kind)}
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(key, known, 1) or sorted(known)
            raise ConfigError(f"{where}: {key} is no setting. Remedy: use {' or '.join(near)}.")
        if known[key] in ("float", "int"):
            least = 0 if key in MAY_BE_ZERO else 0.001
            right = int if known[key] == "int" else (int, float)
            if isinstance(value, bool) or not isinstance(value, right) or value < least:
                raise ConfigError(f"{where}: {key} is {value!r}. Rule: a positive number ({known[key]}).")
        if known[key] in ("str", "Path") and not isinstance(value, str):
            raise ConfigError(f"{where}: {key} is {value!r}. Rule: a string.")
    return dict(raw)


def _argv(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        raise ConfigError(f"{where} is {value!r}. Rule: a list of strings, program first.")
    return tuple(value)
