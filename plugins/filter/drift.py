"""A fleet against what it should be: the report, and a table of hosts and properties."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

# Two hosts that share one of these are one and the same for SSH, DHCP and logs.
_IDENTITY = ("machine_id", "ssh_host_keys")
_ADVISORY = "CVE-2026-24218"
_COLUMNS = 4  # hosts beside each other

Finding = dict[str, Any]


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "none" if value is None else str(value)


def _flat(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Properties of several parts become one a part: ssh_host_keys.ed25519."""
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= (
            {f"{name}.{part}": v for part, v in value.items()}
            if isinstance(value, Mapping)
            else {name: value}
        )
    return flat


def _host(variables: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of a host, out of its variables drift_site and spark_host_found."""
    site = (variables.get("drift_site") or {}).get("would") or {"unreachable": True}
    survey = variables.get("spark_host_found") or {}
    return {
        "reached": not site.get("unreachable"),
        "properties": _flat(survey.get("facts") or {}),
        "deviations": list(survey.get("deviations") or []),
        "site": {"changed": list(site.get("changed", [])), "failed": list(site.get("failed", []))},
        "survey_error": str(survey.get("msg", "no result")) if "facts" not in survey else "",
    }


def _own_findings(name: str, host: Mapping[str, Any]) -> list[Finding]:
    def finding(what: str, text: str) -> Finding:
        return {"hosts": [name], "property": what, "text": text}

    if not host["reached"]:
        return [finding("reached", "is not reached; see to network, ssh and sudo: ansible -m ping")]
    found = [
        finding(d["property"], f"is {_plain(d['found'])}, not {' or '.join(map(_plain, d['wanted']))}")
        for d in host["deviations"]
    ]
    if host["survey_error"]:
        found.append(finding("survey", f"cannot be read: {host['survey_error']}"))
    said = [f"would change {len(host['site']['changed'])}: {'; '.join(host['site']['changed'])}"]
    said = said if host["site"]["changed"] else []
    said += [f"fails at {f['task']}: {f['msg']}" for f in host["site"]["failed"]]
    return [*found, finding("site.yml", ". It ".join(said))] if said else found


def _shared(hosts: Mapping[str, Mapping[str, Any]]) -> list[Finding]:
    """One finding an identity that several hosts have."""
    owners: dict[tuple[str, str], list[str]] = {}
    for name, host in hosts.items():
        for what, value in host["properties"].items():
            if value and what.startswith(_IDENTITY):
                owners.setdefault((what, value), []).append(name)
    text = f"is the same ({{}}) on {{}}: {_ADVISORY}; make it anew on all but one (docs/drift.md)"
    return [
        {"hosts": names, "property": what, "text": text.format(value, " and ".join(names))}
        for (what, value), names in owners.items()
        if len(names) > 1
    ]


def drift_report(variables: Mapping[str, Mapping[str, Any]], names: Iterable[str]) -> dict[str, Any]:
    """The fleet's report, for machines: drift, findings (hosts, property, text), and what is known by host.

    `variables` are hostvars, `names` the hosts that were asked; one that nothing is known of was not reached.
    """
    hosts = {name: _host(variables[name]) for name in names}
    findings = [f for name, host in hosts.items() for f in _own_findings(name, host)] + _shared(hosts)
    return {"drift": bool(findings), "findings": findings, "hosts": hosts}


def drift_findings(report: Mapping[str, Any], host: str) -> list[str]:
    """What is wrong with one host, in words."""
    return [f"{f['property']} {f['text']}" for f in report["findings"] if host in f["hosts"]]


def _cell(report: Mapping[str, Any], host: str, what: str) -> str:
    known = report["hosts"][host]
    marked = any(f["property"] == what and host in f["hosts"] for f in report["findings"])
    if what == "site.yml":
        text = f"{len(known['site']['changed'])} changes" if known["site"]["changed"] else "no change"
        text = "fails" if known["site"]["failed"] else text
    else:
        text = _plain(known["properties"].get(what))
    if not known["reached"]:
        text, marked = ("not reached", True) if what == "site.yml" else ("-", False)
    text = text if len(text) <= 28 or not what.startswith(_IDENTITY) else text[:27] + "…"
    return f"! {text}" if marked else f"  {text}"


def drift_table(report: Mapping[str, Any]) -> str:
    """A row a property, a column a host, deviations marked with `!`; below them in words."""
    rows = list(dict.fromkeys(p for host in report["hosts"].values() for p in host["properties"]))
    rows.append("site.yml")
    lines: list[str] = []
    hosts = iter(report["hosts"])
    while batch := list(islice(hosts, _COLUMNS)):
        cells = [["property", *(f"  {host}" for host in batch)]]
        cells += [[row, *(_cell(report, host, row) for host in batch)] for row in rows]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in cells]
        lines.append("")
    lines += [f"! {' and '.join(f['hosts'])}: {f['property']} {f['text']}" for f in report["findings"]]
    return "\n".join(lines if report["drift"] else [*lines, "No drift."])


class FilterModule:
    """Filters of playbooks/drift.yml."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {"drift_findings": drift_findings, "drift_report": drift_report, "drift_table": drift_table}
