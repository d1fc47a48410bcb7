"""The module that installs small files: together, validated first, truthful in check mode."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def run(files: dict[str, str], check: bool = False, **more: Any) -> dict[str, Any]:
    """The module as Ansible runs it."""
    arguments = {"files": files, **more, "_ansible_check_mode": check, "_ansible_diff": True}
    done = subprocess.run(
        [sys.executable, str(ROOT / "plugins/modules/installed_files.py")],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), capture_output=True, text=True, check=False,
    )  # fmt: skip
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_files_are_written_once_and_repaired(tmp_path: Path) -> None:
    one, two = str(tmp_path / "a/one"), str(tmp_path / "b/two")
    files = {one: "1\n", two: "zwei äöü\n"}
    assert run(files, check=True)["written"] == [one, two]
    assert list(tmp_path.iterdir()) == [], "check mode writes nothing"
    assert run(files)["changed"]
    assert Path(two).read_text(encoding="utf-8") == "zwei äöü\n"
    assert Path(one).stat().st_mode & 0o7777 == 0o644
    assert run(files)["changed"] is False and run(files, check=True)["changed"] is False
    Path(one).chmod(0o600)
    Path(two).write_text("altered", encoding="utf-8")
    told = run(files, check=True)
    assert told["written"] == [one, two]
    assert [(d["before"], d["after"]) for d in told["diff"]][1] == ("altered", "zwei äöü\n")
    assert run(files)["written"] == [one, two]
    assert Path(one).stat().st_mode & 0o7777 == 0o644


def test_a_link_is_replaced_and_its_target_spared(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept", encoding="utf-8")
    (tmp_path / "file").symlink_to(tmp_path / "target")
    assert run({str(tmp_path / "file"): "kept"})["changed"]
    assert (tmp_path / "file").read_text(encoding="utf-8") == "kept\n"
    assert (
        not (tmp_path / "file").is_symlink() and (tmp_path / "target").read_text(encoding="utf-8") == "kept"
    )


def test_a_complete_folder_holds_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "program"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__/x.pyc").write_bytes(b"")
    (folder / "stale.py").write_text("", encoding="utf-8")
    files = {str(folder / "main.py"): "pass\n"}
    told = run(files, check=True, complete=[str(folder)])
    assert told["removed"] == [str(folder / "stale.py")] and (folder / "stale.py").exists()
    assert run(files, complete=[str(folder)])["removed"] == [str(folder / "stale.py")]
    assert sorted(path.name for path in folder.iterdir()) == ["__pycache__", "main.py"]
    assert run(files, complete=[str(folder)])["changed"] is False


def test_a_refused_file_changes_nothing(tmp_path: Path) -> None:
    good, bad = str(tmp_path / "good.json"), str(tmp_path / "bad.json")
    validate = [[sys.executable, "-m", "json.tool", "{root}" + bad]]
    said = run({good: "{}", bad: "{"}, validate=validate)
    assert said["failed"] and "Nothing is installed" in said["msg"] and "json.tool" in said["msg"]
    assert list(tmp_path.iterdir()) == []
    assert run({good: "{}", bad: "{}"}, validate=validate)["changed"]


@pytest.mark.parametrize("path", ["relative", ""])
def test_a_path_that_is_not_absolute_is_refused(path: str) -> None:
    assert "Rule: absolute paths" in run({path: "x"})["msg"]
