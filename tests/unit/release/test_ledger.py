"""The ledger: what it confirms, finds and refuses, and that it is never half-written."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from plugins.module_utils.release import FAILURES, REASON, Ledger, LedgerError, named, release_id, shortened
from tests.unit.release.conftest import GATE, release


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.json"


def confirmed(path: Path, *releases: dict[str, Any]) -> Ledger:
    ledger = Ledger(path)
    for one in releases:
        ledger.confirm(one, {"x.whl": "0" * 64}, GATE)
    ledger.write()
    return Ledger(path)


def test_an_absent_ledger_is_empty_and_leaves_nothing_behind(path: Path) -> None:
    ledger = Ledger(path)
    assert ledger.current is None and ledger.previous is None
    assert not path.parent.exists()


def test_what_is_written_is_read_and_root_alone_may_read_it(path: Path) -> None:
    ledger = confirmed(path, release("v1"), release("v2"))
    assert ledger.current and ledger.previous
    assert ledger.current["release"] == release("v2")
    assert ledger.current["wheels"] == {"x.whl": "0" * 64} and ledger.current["gate"] == GATE
    assert ledger.previous["id"] == release_id(release("v1"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [file.name for file in path.parent.iterdir()] == ["ledger.json"]


def test_going_back_exchanges_current_and_previous(path: Path) -> None:
    ledger = confirmed(path, release("v1"), release("v2"), release("v1"))
    assert ledger.data["current"] == release_id(release("v1"))
    assert ledger.data["previous"] == release_id(release("v2"))
    assert len(ledger.entries) == 2


def test_confirming_again_keeps_the_previous_one(path: Path) -> None:
    ledger = confirmed(path, release("v1"), release("v2"), release("v2"))
    assert ledger.data["previous"] == release_id(release("v1"))


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("engine", "argv"), ["vllm", "serve", "x", "--dtype", "half"]),
        (("engine", "image"), "nvcr.io/nvidia/vllm@sha256:" + "9" * 64),
        (("engine", "mounts"), []),
        (("engine", "environment"), {"OMP_NUM_THREADS": "8"}),
        (("voicebot", "id"), "other"),
        (("voicebot", "settings"), {"llm": {"temperature": 0.2}}),
    ],
)
def test_what_changes_behaviour_makes_another_release(place: tuple[str, str], value: Any) -> None:
    other = release()
    other[place[0]][place[1]] = value
    assert release_id(other) != release_id(release())


def test_what_does_not_change_behaviour_makes_the_same_release() -> None:
    other = release()
    other["engine"]["golden"] = {"prompt": "2 + 2?", "pattern": "4"}
    other["engine"]["memory"] = {"needed": 1}
    other["models"].reverse()
    assert release_id(other) == release_id(release())


def test_a_rollback_finds_the_previous_or_a_named_release(path: Path) -> None:
    ledger = confirmed(path, release("v1"), release("v2"), release("v3"))
    first, second = release_id(release("v1")), release_id(release("v2"))
    assert ledger.target("")["id"] == second
    assert ledger.target(first)["id"] == first
    assert ledger.target(first[:8])["id"] == first


@pytest.mark.parametrize(("known", "wanted"), [([], ""), (["v1"], ""), (["v1", "v2"], "nosuch"), ([], "a")])
def test_a_rollback_to_nowhere_is_refused(path: Path, known: list[str], wanted: str) -> None:
    ledger = confirmed(path, *map(release, known)) if known else Ledger(path)
    with pytest.raises(LedgerError, match=r"(?s)Rule: .*Remedy: .*one of: ") as refused:
        ledger.target(wanted)
    assert all(release_id(release(name)) in str(refused.value) for name in known)


def broken(text: str, path: Path) -> str:
    """What a ledger of this text is refused with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    with pytest.raises(LedgerError) as refused:
        Ledger(path)
    assert path.read_text() == text, "it is left as it is"
    return str(refused.value)


def spoilt(path: Path, **changes: Any) -> str:
    data = confirmed(path, release("v1"), release("v2")).data
    return json.dumps(data | changes)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": 2}', '{"format": 1, "releases": [1]}'])
def test_a_malformed_ledger_is_refused_with_a_remedy(path: Path, text: str) -> None:
    said = broken(text, path)
    assert str(path) in said and "Rule: " in said and "Remedy: " in said and "mv " in said


def test_a_ledger_that_contradicts_itself_is_refused(path: Path) -> None:
    assert "names as current" in broken(spoilt(path, current="0" * 12), path)
    path.unlink()
    entries = confirmed(path, release("v1")).data["releases"]
    entries[0]["release"]["engine"]["argv"] = ["rm"]
    assert "not what its id says" in broken(spoilt(path, releases=entries), path)


def test_a_ledger_that_is_a_directory_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(LedgerError, match="cannot be read"):
        Ledger(path)


def test_failures_are_remembered_with_their_reason_and_bounded(path: Path) -> None:
    ledger = confirmed(path, release("v1"))
    for number in range(FAILURES + 3):
        ledger.fail(release(f"bad{number}"), "gate", f"reason {number}")
    ledger.write()
    again = Ledger(path)
    assert [f["reason"] for f in again.data["failures"]][-1] == f"reason {FAILURES + 2}"
    assert len(again.data["failures"]) == FAILURES
    assert again.current and again.current["id"] == release_id(release("v1")), "a failure confirms nothing"


def test_a_long_reason_keeps_both_ends() -> None:
    text = "first line\n" + "x" * 3 * REASON + "\nlast line"
    short = shortened(text)
    assert short.startswith("first line") and short.endswith("last line") and len(short) < REASON + 20
    assert shortened("short") == "short"


@pytest.mark.parametrize(
    ("keep", "stays"), [(2, ["v3", "v4"]), (3, ["v2", "v3", "v4"]), (9, ["v1", "v2", "v3", "v4"])]
)
def test_the_newest_are_kept(path: Path, keep: int, stays: list[str]) -> None:
    ledger = confirmed(path, *map(release, ("v1", "v2", "v3", "v4")))
    assert [e["release"]["voicebot"]["id"] for e in ledger.kept(keep)] == stays


def test_current_and_previous_are_kept_whatever_their_age(path: Path) -> None:
    ledger = confirmed(path, *map(release, ("v1", "v2", "v3")))
    ledger.data["current"], ledger.data["previous"] = (release_id(release(v)) for v in ("v1", "v2"))
    assert [e["release"]["voicebot"]["id"] for e in ledger.kept(2)] == ["v1", "v2", "v3"]


def test_forgetting_drops_old_entries_and_what_failures_were_made_of(path: Path) -> None:
    ledger = confirmed(path, *map(release, ("v1", "v2", "v3")))
    ledger.fail(release("bad"), "gate", "why")
    assert ledger.forget(2) is True
    assert [e["release"]["voicebot"]["id"] for e in ledger.entries] == ["v2", "v3"]
    assert ledger.data["failures"][0]["reason"] == "why"
    assert ledger.forget(2) is False


def test_a_write_that_fails_leaves_the_old_ledger(path: Path) -> None:
    before = (confirmed(path, release("v1")), path.read_bytes())[1]
    ledger = Ledger(path)
    ledger.data["releases"].append({"id": object()})  # no JSON
    with pytest.raises(TypeError):
        ledger.write()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["ledger.json"]


def test_what_releases_are_made_of() -> None:
    entries: list[dict[str, Any]] = [
        {"release": release("v1")},
        {"release": release("v2", model="c" * 40)},
        {"id": "forgotten"},
    ]
    made = named(entries)
    assert made["voicebots"] == {"v1", "v2"}
    assert made["models"] == {("mistral-7b", "a" * 40), ("mistral-7b", "c" * 40), ("whisper-base", "b" * 40)}
    assert made["images"] == {"nvcr.io/nvidia/vllm@sha256:" + "1" * 64}
