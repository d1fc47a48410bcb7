"""The fleet on one screen, out of what the module finds on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plugins.filter.status import status_report, status_table
from plugins.module_utils.release import Ledger, release_id
from plugins.modules import host_status
from tests.unit.release.conftest import GATE, release


def found(path: Path, **more: Any) -> dict[str, Any]:
    units = {"vllm": "active", "vllm-guard": "active", "voicebot": "active"}
    status = host_status.remembered(path) | host_status.memory() | {"units": units}
    status |= {"engine": "healthy", "guard": "serving", "service": "v2", "drained": []}
    status |= {"gpu_celsius": 41, "incident": {}}
    status["load"] = {"tokens_per_second": 12.3, "running": 2.0, "waiting": 1.0}
    return {"status": status | more}


def ledger(path: Path) -> Ledger:
    book = Ledger(path)
    for name in ("v1", "v2"):
        book.confirm(release(name), {}, GATE)
    book.write()
    return book


def test_a_healthy_host_is_one_line_and_where_it_can_go_back_to(tmp_path: Path) -> None:
    ledger(tmp_path / "ledger.json")
    heading, row, note = status_table({"spark-a": found(tmp_path / "ledger.json")}).splitlines()
    assert heading.split()[:2] == ["host", "release"]
    for word in (
        "spark-a",
        release_id(release("v2")),
        "mistral-7b@aaaaaaa",
        "healthy",
        "serving",
        "active v2",
        "1/1",
        "GiB free",
        "12.3",
        "2+1",
        "41 °C",
    ):
        assert word in row
    assert f"can go back to {release_id(release('v1'))}" in note
    assert f"previous: {release_id(release('v1'))}" in note


def test_a_bare_host_and_one_out_of_reach(tmp_path: Path) -> None:
    absent = dict.fromkeys(("vllm", "vllm-guard", "voicebot"), "absent")
    bare = found(tmp_path / "none.json", units=absent, engine="silent", guard="", service="", load={})
    table = status_table({"bare": bare, "gone": {}}).splitlines()
    assert table[1].split()[:5] == ["bare", "-", "-", "-", "absent"]
    assert table[2].split() == ["gone", "not", "reached"]
    assert len(table) == 3


def test_states_that_need_a_hand_are_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    book = ledger(path)
    book.fail(release("bad"), "ready | Fail", "exits\nlog").update(
        downtime_s=41.5, restored=book.data["current"]
    )
    book.write()
    units = {"vllm": "failed", "vllm-guard": "active", "voicebot": "inactive"}
    text = status_table({"a": found(path, units=units, guard="", service="v9")})
    assert "failed" in text and "silent" in text and "inactive v9" in text
    assert "confirmed is v2: a switch was not finished" in text
    assert "down for 41.5 s: exits" in text and f"{book.data['current']} restored" in text


def test_an_open_switch_and_who_drains_are_told(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    book = ledger(path)
    book.begin(release("v3"))
    book.write()
    text = status_table({"a": found(path, drained=["operator", "rollout"])})
    assert "serving, drained by operator and rollout" in text
    switch = book.data["open"]
    assert f"a: a switch to {release_id(release('v3'))}, begun {switch['at']}, has not passed" in text


def test_a_broken_ledger_is_told_and_hides_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "ledger.json"
    path.write_text("{")
    table = status_table({"a": found(path)}).splitlines()
    assert "healthy" in table[1]
    assert f"The ledger {path} is no JSON" in table[2]


def test_memory_and_units_are_this_machines() -> None:
    memory = host_status.memory()
    assert 0 < memory["memory_available_mib"] <= memory["memory_total_mib"]
    assert host_status.answer("http://127.0.0.1:9/health") == (0, None)


def test_an_open_switch_a_drained_engine_and_an_incident_are_told(tmp_path: Path) -> None:
    book = ledger(tmp_path / "ledger.json")
    book.data["open"] = {"id": "abcdef012345", "at": "2026-11-27T03:00:00Z"}
    book.write()
    folder = tmp_path / "incidents"
    for stamp, told in (("2026-11-26", '{"time": "old", "state": "x", "reason": "y"}'), ("2026-11-27", "{")):
        (folder / stamp).mkdir(parents=True)
        (folder / stamp / "verdict.json").write_text(told)
    seen = host_status.incident(folder)
    assert seen == {"at": "old", "state": "x", "reason": "y"}, "what cannot be read is passed by"
    text = status_table(
        {"a": found(tmp_path / "ledger.json", incident=seen, drained=["operator"], gpu_celsius=None)}
    )
    assert "serving, drained" in text and "a: last incident old, x: y" in text
    assert "a switch to abcdef012345, begun 2026-11-27T03:00:00Z, has not passed its gate" in text
    assert host_status.incident(tmp_path / "none") == {}


def test_the_engines_load_comes_from_two_looks() -> None:
    before = {"generation_tokens_total": 100.0}
    after = {"generation_tokens_total": 150.0, "num_requests_running": 3.0, "num_requests_waiting": 1.0}
    told = {"tokens_per_second": 25.0, "running": 3.0, "waiting": 1.0}
    assert host_status.load(before, after, 2.0) == told
    assert host_status.load(after, before, 2.0)["tokens_per_second"] == 0, "it was restarted meanwhile"
    assert host_status.load({}, after, 2.0) == host_status.load(before, {}, 2.0) == {}
    assert host_status.figures("http://127.0.0.1:9/metrics") == {}
    page = 'vllm:generation_tokens_total{engine="0"} 5.0\nvllm:generation_tokens_total{engine="1"} 7.0\n'
    assert dict(host_status._FIGURE.findall(page)) == {"generation_tokens_total": "7.0"}


def test_the_report_is_for_machines(tmp_path: Path) -> None:
    ledger(tmp_path / "ledger.json")
    report = status_report({"a": found(tmp_path / "ledger.json"), "gone": {}})
    assert report["hosts"]["gone"] == {"reached": False}
    assert report["hosts"]["a"]["reached"] and report["hosts"]["a"]["load"]["running"] == 2.0
