"""What smoke tests found: model checks, a table a host, the report of a fleet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Check = dict[str, Any]


def smoke_model_checks(results: Iterable[Mapping[str, Any]]) -> list[Check]:
    """One check a model, out of the loop's results of hub_snapshot (state verified); figures are counts."""
    checks = []
    for result in results:
        name = result["__smoke_model"]["name"]
        wrong = result.get("wrong", [])
        ok = not (result.get("failed") or wrong)
        figures = {"files": len(result["__smoke_model"]["files"]), "hashed": len(result.get("hashed", []))}
        files = ", ".join(wrong)
        broken = f"Not as pinned: {files}. Rule: each file is what the pin says. Remedy: run site.yml."
        detail = f"{figures['files']} files as pinned, {figures['hashed']} read" if ok else broken
        if result.get("failed"):
            detail = str(result.get("msg", ""))
        checks.append({"name": f"model {name}", "ok": ok, "detail": detail, "figures": figures})
    return checks


def smoke_table(checks: Iterable[Mapping[str, Any]], host: str) -> str:
    """A host's table."""
    rows = list(checks)
    width = max(len(row["name"]) for row in rows)
    passed = sum(bool(row["ok"]) for row in rows)
    lines = [f"{host}: {passed} of {len(rows)} checks passed"]
    lines += [f"{'ok' if r['ok'] else 'FAIL':<4}  {r['name']:<{width}}  {r['detail']}" for r in rows]
    return "\n".join(lines)


def smoke_report(checks: Mapping[str, list[Check]], hosts: Iterable[str]) -> dict[str, Any]:
    """The verdict on a fleet. A host without checks was not reached, and has failed."""
    unreached = {"name": "reached", "ok": False, "figures": {}}
    unreached["detail"] = "No result. Rule: the host is reached. Remedy: see above; ansible -m ping."
    found = {host: checks.get(host) or [unreached] for host in hosts}
    told = {host: {"ok": all(c["ok"] for c in rows), "checks": rows} for host, rows in found.items()}
    return {"ok": bool(told) and all(host["ok"] for host in told.values()), "hosts": told}


# check: the figure whose rise a listener notices, in seconds
_FELT = {"completion": "seconds", "spoken question": "first_audio_s"}


def slower_checks(
    now: Iterable[Mapping[str, Any]], before: Iterable[Mapping[str, Any]], factor: float
) -> list[str]:
    """Checks of a gate that took over `factor` times what they took at the gate `before`; [] without one."""
    earlier = {check["name"]: check.get("figures", {}) for check in before}
    found = []
    for check in now:
        name, figures = check["name"], check.get("figures", {})
        figure = _FELT.get(name, "")
        took, once = figures.get(figure), earlier.get(name, {}).get(figure)
        if took and once and took > once * float(factor):
            found.append(f"{name} {took:.2f} s, before {once:.2f} s")
    return found


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "slower_checks": slower_checks,
            "smoke_model_checks": smoke_model_checks,
            "smoke_report": smoke_report,
            "smoke_table": smoke_table,
        }
