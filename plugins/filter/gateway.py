"""Edges and gateways: what is wrong with settings, which edges there are, what HAProxy says of them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_HASH = re.compile(r"[0-9a-f]{64}")
_SPARK = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_STATUS = re.compile(r'^haproxy_server_status\{proxy="(\w+)",server="([^"]+)",state="([A-Z]+)"\} 1$', re.M)
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # SHA-256 of nothing
_PORTS = {
    "edge": ("gateway_edge_port", "gateway_engine_port", "gateway_ready_port", "gateway_voice_port"),
    "gateway": ("gateway_port",),
}
_LEAST = {
    "gateway_max_running": 1,
    "gateway_queue_timeout": 1,
    "gateway_idle_timeout": 10,
    "gateway_reload_timeout": 1,
    "gateway_certificate_days": 2,
    "gateway_renew_days": 1,
}


def gateway_findings(given: Mapping[str, Any]) -> list[str]:
    """Refusals (input, rule, remedy), empty if there is none. No key's hash is shown.

    given: the role's variables by their names.
    """
    parts = given["gateway_parts"]
    found = list(_parts(parts))
    if found:
        return found
    found += _numbers(given)
    found += _ports(given, [name for part in parts for name in _PORTS[part]])
    found += _address("gateway_address", given["gateway_address"], wildcard=True)
    if "gateway" in parts:
        found += _keys(given["gateway_keys"])
        found += _sparks(given["gateway_sparks"])
        found += _rate(given["gateway_rate"])
        if not isinstance(given["gateway_names"], list) or not all(given["gateway_names"] or [""]):
            found.append(
                _refusal("gateway_names", given["gateway_names"], "at least one name or address", "name one")
            )
    return found


def _refusal(name: str, value: Any, rule: str, remedy: str) -> str:
    return f"{name} is {value!r}. Rule: {rule}. Remedy: {remedy}."


def _whole(value: Any) -> int | None:
    """The whole number that it is, or that it is the text of."""
    if isinstance(value, bool) or not re.fullmatch(r"\d{1,9}", str(value)):
        return None
    return int(value)


def _parts(parts: Any) -> Iterator[str]:
    if not isinstance(parts, list) or not parts or not set(parts) <= set(_PORTS):
        yield _refusal(
            "gateway_parts",
            parts,
            "edge, gateway, or both",
            "put the host into the group of Sparks or gateways",
        )


def _numbers(given: Mapping[str, Any]) -> Iterator[str]:
    for name, least in _LEAST.items():
        if (number := _whole(given[name])) is None or number < least:
            yield _refusal(name, given[name], f"a whole number from {least} on", "correct it")
    days, renew = _whole(given["gateway_certificate_days"]), _whole(given["gateway_renew_days"])
    if days and renew and renew >= days:
        rule = f"less than gateway_certificate_days ({days}), or every run renews"
        yield _refusal("gateway_renew_days", renew, rule, "lower it")


def _ports(given: Mapping[str, Any], names: Iterable[str]) -> Iterator[str]:
    taken: dict[int, str] = {}
    for name in [*names, "gateway_metrics_port"]:
        port = _whole(given[name])
        if port is None or not 1 <= port <= 65535:
            yield _refusal(name, given[name], "a port from 1 to 65535", "correct it")
        elif port in taken:
            yield _refusal(name, port, f"each port once, and {taken[port]} has it", "choose another")
        else:
            taken[port] = name


def _address(name: str, value: Any, wildcard: bool = False) -> Iterator[str]:
    try:
        if not (wildcard and value == "*"):
            ipaddress.ip_address(str(value))
    except ValueError:
        yield _refusal(name, value, 'an IP address, or "*" for all', "correct it")


def _keys(keys: Any) -> Iterator[str]:
    remedy = 'printf %s "$KEY" | sha256sum prints it; openssl rand -hex 32 makes a key'
    if not isinstance(keys, Mapping) or not keys:
        shown = "empty" if not keys else f"a {type(keys).__name__}"
        yield f"gateway_keys is {shown}. Rule: a name with the SHA-256 of its key, or more. Remedy: {remedy}."
        return
    owners: dict[str, str] = {}
    for owner, value in keys.items():
        if not isinstance(owner, str) or not _ID.fullmatch(owner):
            yield _refusal(
                "A name in gateway_keys", owner, "letters, digits, . _ -; at most 63 characters", "rename it"
            )
        elif not isinstance(value, str) or not _HASH.fullmatch(value):
            rule = "the SHA-256 of the key, 64 lower-case hex digits; never the key itself"
            yield f"gateway_keys.{owner} is no hash (its value is not shown). Rule: {rule}. Remedy: {remedy}."
        elif value == _EMPTY:
            yield f"gateway_keys.{owner} is the hash of nothing. Rule: the hash of a key. Remedy: {remedy}."
        elif value in owners:
            rule = f"a key of its own for each name, and {owners[value]} has this one"
            yield f"gateway_keys.{owner} is a key given twice. Rule: {rule}. Remedy: make another key."
        else:
            owners[value] = owner


def _sparks(sparks: Any) -> Iterator[str]:
    if not isinstance(sparks, list) or not sparks:
        yield _refusal("gateway_sparks", sparks, "at least one edge {name, address, port}", "add a Spark")
        return
    seen: set[str] = set()
    for number, spark in enumerate(sparks):
        where = f"gateway_sparks[{number}]"
        if not isinstance(spark, Mapping) or set(spark) != {"name", "address", "port"}:
            yield _refusal(where, spark, "name, address and port", "correct it")
            continue
        name, port = str(spark["name"]), _whole(spark["port"])
        if not _SPARK.fullmatch(name):
            yield _refusal(f"{where}.name", name, "a host's name: letters, digits, . _ -", "rename the host")
        if name in seen:
            yield _refusal(f"{where}.name", name, "each Spark once", "remove one")
        seen.add(name)
        if not re.fullmatch(r"[A-Za-z0-9_.:-]+", str(spark["address"])):
            yield _refusal(f"{where}.address", spark["address"], "a name or an IP address", "correct it")
        if port is None or not 1 <= port <= 65535:
            yield _refusal(f"{where}.port", spark["port"], "a port from 1 to 65535", "correct it")


def _rate(rate: Any) -> Iterator[str]:
    if (
        not isinstance(rate, Mapping)
        or set(rate) != {"requests", "seconds"}
        or not all(map(_whole, rate.values()))
    ):
        yield _refusal("gateway_rate", rate, "{requests: N, seconds: M}, both from 1 on", "correct it")


def gateway_edges(hosts: Iterable[str], hostvars: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The edges of these hosts: [{name, address, port}]; the address is where Ansible finds the host."""
    return [
        {
            "name": host,
            "address": hostvars[host].get("ansible_host", host),
            "port": hostvars[host]["gateway_edge_port"],
        }
        for host in hosts
    ]


def gateway_server_states(metrics: str, backend: str = "sparks") -> dict[str, str]:
    """What HAProxy's metrics say of each Spark: UP, DOWN, MAINT, DRAIN or NOLB (drained by its /ready).

    backend: sparks (engines) or voices (engine and voicebot).
    """
    return {server: state for proxy, server, state in _STATUS.findall(metrics) if proxy == backend}


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "gateway_edges": gateway_edges,
            "gateway_findings": gateway_findings,
            "gateway_server_states": gateway_server_states,
        }
