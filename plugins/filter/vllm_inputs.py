"""What is wrong with the inputs of role vllm, or with a host for it: finding, rule, remedy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

IMAGE = re.compile(r"[a-z0-9][a-z0-9.:/_-]*@sha256:[0-9a-f]{64}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
PLACE = re.compile(r"/[^:]+")
MOST_GATE_S = 420  # six held starts and the delays between them fall within the hour that counts them
JUDGEMENT = (
    "poll_s",
    "quiet_s",
    "probe_timeout_s",
    "busy_cores",
    "stall_limit_s",
    "dead_after_s",
    "recheck_s",
    "restarts_per_day",
)
SYSTEMD = 254  # RestartSteps, by which the delays between restarts grow; an older one would ignore it


def _finding(given: str, rule: str, remedy: str) -> str:
    return f"{given}. Rule: {rule}. Remedy: {remedy}."


def _whole(value: Any) -> int | None:
    """A whole number, also as the text that `-e` gives."""
    if isinstance(value, bool) or not re.fullmatch(r"-?\d+", str(value)):
        return None
    return int(value)


def _engine(given: Mapping[str, Any]) -> Iterator[str]:
    image, argv = given["vllm_image_ref"], given["vllm_argv"]
    if not isinstance(image, str) or not IMAGE.fullmatch(image):
        rule = "repository@sha256: and 64 hex digits"
        yield _finding(
            f"vllm_image_ref is {image!r}", rule, "pin the image's digest in the inventory's pins.yml"
        )
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        remedy = "quote numbers, and choose a model of the catalogue"
        yield _finding(f"vllm_argv is {argv!r}", "a list of strings, not empty", remedy)
    if not given["vllm_served_name"]:
        rule = "the name under which the engine serves the model"
        yield _finding("vllm_served_name is empty", rule, "choose a model of the catalogue")
    for mount in given["vllm_mounts"]:
        if not all(PLACE.fullmatch(str(mount.get(end, ""))) for end in ("source", "target")):
            rule = "source and target are absolute paths without a colon"
            yield _finding(f"vllm_mounts has {dict(mount)}", rule, "correct them")


def _environment(given: Any) -> Iterator[str]:
    for name, value in given.items() if isinstance(given, Mapping) else ():
        if name == "VLLM_API_KEY":  # its value is nobody's business
            rule = "the engine has no key: guard, gateway and voicebot speak to it on loopback without one"
            remedy = "remove it; keys for clients are the gateway's (gateway_keys)"
            yield _finding("vllm_environment has VLLM_API_KEY", rule, remedy)
        elif not VARIABLE.fullmatch(str(name)):
            rule = "letters, digits and _, none of the digits first"
            yield _finding(f"vllm_environment has {name!r}", rule, "correct the name")
        elif not isinstance(value, str):
            yield _finding(f"vllm_environment.{name} is {value!r}", "a text", f'quote it: {name}: "{value}"')


def _numbers(given: Mapping[str, Any]) -> Iterator[str]:
    ports = {name: _whole(given[name]) for name in ("vllm_port", "vllm_guard_port")}
    for name, port in ports.items():
        if port is None or not 0 < port < 65536:
            yield _finding(f"{name} is {given[name]!r}", "a port from 1 to 65535", "correct it")
    if len(set(ports.values())) == 1:
        rule = "two different ports"
        yield _finding(f"vllm_port and vllm_guard_port are both {given['vllm_port']!r}", rule, "change one")
    for name in ("vllm_start_timeout", "vllm_stop_timeout", "vllm_gate_timeout"):
        seconds = _whole(given[name])
        if seconds is None or seconds < 1 or (name == "vllm_gate_timeout" and seconds > MOST_GATE_S):
            most = f", at most {MOST_GATE_S}" if name == "vllm_gate_timeout" else ""
            yield _finding(f"{name} is {given[name]!r}", f"whole seconds, 1 or more{most}", "correct it")


def _judgement(times: Any) -> Iterator[str]:
    where = f"vllm_guard_judgement is {times!r}"
    if not isinstance(times, Mapping):
        yield _finding(where, f"a dict of {', '.join(JUDGEMENT)}", "correct it")
        return
    for name, value in times.items():
        if name not in JUDGEMENT:
            yield _finding(where, f"its keys are {', '.join(JUDGEMENT)}", f"correct or remove {name}")
        elif name == "restarts_per_day":
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1000:
                yield _finding(where, f"{name} is whole, from 0 to 999", "correct it")
        elif isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            yield _finding(where, f"{name} is a number above 0", "correct it")


def vllm_input_findings(given: Mapping[str, Any]) -> list[str]:
    """What is wrong with the role's variables (name: value); empty if nothing is."""
    return [
        *_engine(given),
        *_environment(given["vllm_environment"]),
        *_numbers(given),
        *_judgement(given["vllm_guard_judgement"]),
    ]


def vllm_host_findings(survey: Mapping[str, Any], host: str, port: int, replace: bool) -> list[str]:
    """What on a host (the result of module vllm_survey) stands in the engine's way; empty if nothing does."""
    found = []
    if survey["systemd"] < SYSTEMD:
        rule = f"{SYSTEMD} or newer (DGX OS 7 has 255)"
        found.append(
            _finding(f"{host} has systemd {survey['systemd']}", rule, "upgrade the operating system")
        )
    if survey["holders"]:
        held = f"Port {port} on {host} is held by {', '.join(survey['holders'])}"
        rule = "vllm_port is free, or held by the role's own container"
        found.append(_finding(held, rule, "stop what holds it, or choose another port"))
    if survey["handmade"] and not replace:
        texts = "; ".join(engine["text"] for engine in survey["handmade"])
        names = " ".join(engine["name"] for engine in survey["handmade"])
        rule = "one engine a host, for its port and its memory, and it is the role's own"
        remedy = (
            f"docker stop {names}; or set vllm_replace_handmade: true, and the role stops it when its own "
            "takes over (it is kept: docker start has it back)"
        )
        found.append(_finding(f"{host} has an engine that was started by hand: {texts}", rule, remedy))
    return found


def environment_findings(given: Any) -> list[str]:
    """What is wrong with vllm_environment, a dict; empty if nothing is."""
    return list(_environment(given))


class FilterModule:
    """Filters on the inputs of role vllm."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {
            "environment_findings": environment_findings,
            "vllm_host_findings": vllm_host_findings,
            "vllm_input_findings": vllm_input_findings,
        }
