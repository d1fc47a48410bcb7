"""The fleet's report and table, out of what was found on each host."""

from __future__ import annotations

from typing import Any

from plugins.action.would_change import outcome, passed_on
from plugins.filter.drift import drift_findings, drift_report, drift_table

CLEAN = {"tasks": 80, "changed": [], "failed": [], "unreachable": False}


def host(number: int, *, deviations: Any = (), **site: Any) -> dict[str, Any]:
    """A host's variables after drift.yml has asked it."""
    facts = {
        "dgx_ota": "7.3.1",
        "kernel": "6.14.0-1013-nvidia",
        "clock_synchronised": True,
        "ssh_host_keys": {"ed25519": f"SHA256:{number}{'k' * 42}"},
        "machine_id": f"SHA256:{number}{'m' * 42}",
    }
    found = {"facts": facts, "deviations": list(deviations)}
    return {"drift_site": {"would": CLEAN | site}, "spark_host_found": found}


def fleet() -> dict[str, dict[str, Any]]:
    return {f"spark{n}": host(n) for n in (1, 2, 3)}


def words(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(" ".join(f["hosts"]), f["property"]) for f in report["findings"]}


def test_a_fleet_as_wanted_does_not_drift() -> None:
    report = drift_report(fleet(), fleet())
    assert report["drift"] is False and report["findings"] == []
    table = drift_table(report)
    assert "!" not in table and table.endswith("No drift.")
    assert [line.split()[0] for line in table.splitlines() if line] == [
        "property", "dgx_ota", "kernel", "clock_synchronised",
        "ssh_host_keys.ed25519", "machine_id", "site.yml", "No",
    ]  # fmt: skip


def test_each_kind_of_drift_is_listed_once_and_nothing_else() -> None:
    hosts = fleet()
    hosts["spark1"] = host(
        1,
        deviations=[{"property": "dgx_ota", "found": "7.2.9", "wanted": ["7.3.1", "7.4.0"]}],
        changed=["voicebot : unit | Write the unit"],
    )
    hosts["spark2"]["spark_host_found"]["facts"]["machine_id"] = "SHA256:same"
    hosts["spark3"]["spark_host_found"]["facts"]["machine_id"] = "SHA256:same"
    hosts["spark3"]["spark_host_found"]["facts"]["ssh_host_keys"]["ed25519"] = f"SHA256:2{'k' * 42}"
    hosts["spark4"] = {"drift_site": {"would": CLEAN | {"unreachable": True}}}
    report = drift_report(hosts, hosts)
    assert report["drift"] is True
    assert words(report) == {
        ("spark1", "dgx_ota"),
        ("spark1", "site.yml"),
        ("spark2 spark3", "machine_id"),
        ("spark2 spark3", "ssh_host_keys.ed25519"),
        ("spark4", "reached"),
    }
    assert drift_findings(report, "spark1") == [
        "dgx_ota is 7.2.9, not 7.3.1 or 7.4.0",
        "site.yml would change 1: voicebot : unit | Write the unit",
    ]
    shared = drift_findings(report, "spark3")
    assert len(shared) == 2 and all("spark2 and spark3: CVE-2026-24218" in text for text in shared)
    table = drift_table(report).splitlines()
    [ota] = [line for line in table if line.startswith("dgx_ota")]
    assert ota.count("!") == 1
    [site] = [line for line in table if line.startswith("site.yml")]
    assert "! 1 changes" in site and site.count("no change") == 2 and "! not reached" in site
    assert len([line for line in table if line.startswith("! ")]) == 5


def test_a_host_that_site_yml_refuses_drifts() -> None:
    failed = [{"task": "spark_host : preflight | Check the memory", "msg": "too little. Rule: more"}]
    report = drift_report({"a": host(1, failed=failed, changed=["x"])}, ["a"])
    [text] = drift_findings(report, "a")
    assert text.startswith(
        "site.yml would change 1: x. It fails at spark_host : preflight | Check the memory: too"
    )


def test_a_host_that_cannot_be_surveyed_drifts() -> None:
    found = {"drift_site": {"would": CLEAN}, "spark_host_found": {"failed": True, "msg": "no python"}}
    report = drift_report({"a": found, "b": {}}, ["a", "b"])
    assert drift_findings(report, "a") == ["survey cannot be read: no python"]
    assert drift_findings(report, "b")[0].startswith("reached is not reached")
    assert "not reached" in drift_table(report)


def test_a_large_fleet_stays_readable() -> None:
    hosts = {f"spark{n}": host(n) for n in range(9)}
    lines = drift_table(drift_report(hosts, hosts)).splitlines()
    assert len([line for line in lines if line.startswith("property")]) == 3
    assert max(map(len, lines)) <= 160


def test_the_other_run_gets_this_ones_options() -> None:
    given = {
        "inventory": ("a", "b"),
        "extra_vars": ['{"x": 1}', "@f.yml"],
        "remote_user": "me",
        "become_user": None,
    }
    assert list(passed_on(given)) == [
        "--inventory=a", "--inventory=b", '--extra-vars={"x": 1}', "--extra-vars=@f.yml", "--user=me",
    ]  # fmt: skip


def test_a_run_without_a_record_has_failed() -> None:
    sound = {"hosts": {"a": CLEAN}}
    assert outcome(sound, "a", "") == CLEAN
    for record in (None, {"hosts": dict[str, Any]()}, sound):
        told = outcome(record, "b", "ERROR! the inventory is broken\n")
        assert told["changed"] == [] and "the inventory is broken" in told["failed"][0]["msg"]
