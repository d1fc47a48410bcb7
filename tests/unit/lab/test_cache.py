"""The cache of slow builds: its keys, killed builds, builders at the same time."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.lab import base_image, cache, models
from tests.lab.cache import cached, key_of
from tests.lab.engine import build as engine
from tests.lab.settings import Settings

ROOT = Path(__file__).parents[3]
# a builder in a process of its own: argv is its name and how long it builds
BUILDER = """
import sys, time
from tests.lab.cache import cached

def build(out):
    print("building", flush=True)
    (out / "half").write_text(sys.argv[1])
    time.sleep(float(sys.argv[2]))
    (out / "whole").write_text(sys.argv[1])

print((cached("thing", "key", build)[0] / "whole").read_text())
"""


@pytest.fixture(autouse=True)
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, for this process and its children."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "spark-voicebot"


def builder(name: str, seconds: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", BUILDER, name, str(seconds)]
    return subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_the_key_changes_with_each_input_and_with_nothing_else(tmp_path: Path) -> None:
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    one.write_text("1")
    two.write_text("2")
    first = key_of([one, two], "suite", "package")
    assert key_of([two, one], "suite", "package") == first
    os.utime(one, (0, 0))
    assert key_of([one, two], "suite", "package") == first
    variants = {
        first,
        key_of([one], "suite", "package"),
        key_of([one, two], "suite"),
        key_of([one, two], "package", "suite"),
        key_of([one, two], "suitepackage"),
        key_of([one, two], "suite", "package", ""),
    }
    two.write_text("3")
    variants.add(key_of([one, two], "suite", "package"))
    two.rename(renamed := tmp_path / "three.py")
    variants.add(key_of([one, renamed], "suite", "package"))
    assert len(variants) == 8


def test_the_key_does_not_depend_on_where_the_clone_lies(tmp_path: Path) -> None:
    for clone in ("z", "a"):
        (tmp_path / clone).mkdir()
        for name in ("one", "two"):
            (tmp_path / clone / name).write_text(name)
    first, second = (key_of((tmp_path / clone).iterdir(), "word") for clone in ("z", "a"))
    assert first == second


def copy_of_inputs(folder: Path, into: Path) -> list[Path]:
    shutil.copytree(folder, into, ignore=shutil.ignore_patterns("__pycache__"))
    return sorted(p for p in into.iterdir() if p.is_file() and p.suffix in {"", ".py", ".sh"})


def test_the_engine_is_keyed_by_all_of_its_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sources = copy_of_inputs(engine.HERE, tmp_path / "engine")
    locked = Path(shutil.copy(engine.REQUIREMENTS, tmp_path))
    monkeypatch.setattr(engine, "HERE", tmp_path / "engine")
    monkeypatch.setattr(engine, "REQUIREMENTS", locked)
    keys = [engine.key()]
    for path in [*sources, locked]:
        with path.open("a") as stream:
            stream.write("#\n")
        keys.append(engine.key())
    assert len(sources) >= 5
    assert len(set(keys)) == len(keys)


def test_the_models_are_keyed_by_their_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("gptq.py", "models.py", models.REQUIREMENTS.name):
        shutil.copy(models.HERE / name, tmp_path)
    monkeypatch.setattr(models, "HERE", tmp_path)
    monkeypatch.setattr(models, "REQUIREMENTS", tmp_path / models.REQUIREMENTS.name)
    keys: list[str] = []
    monkeypatch.setattr(models, "cached", lambda what, key, build: keys.append(key))
    models.built()
    for path in sorted(tmp_path.iterdir()):
        if path.is_file():
            path.write_text(path.read_text() + "#\n")
            models.built()
    assert len(set(keys)) == len(keys) == 4


def test_the_hosts_image_is_keyed_by_what_goes_into_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """runc-clamp does not: it is copied into each host where it is needed."""
    parts = copy_of_inputs(base_image.PARTS, tmp_path / "spark")
    monkeypatch.setattr(base_image, "PARTS", tmp_path / "spark")
    monkeypatch.setattr(base_image, "docker", lambda *_: "it is there")  # the engine of a running lab
    lab = Settings(tmp_path)
    base_image.up(lab)
    names = [lab.facts()["base_image"]]
    for path in parts:
        with path.open("a") as stream:
            stream.write("#\n")
        base_image.up(lab)
        names.append(lab.facts()["base_image"])
        assert (names[-1] == names[-2]) is (path.name == "runc-clamp"), path.name
    assert all(name.startswith("virtual-spark:") for name in names)
    assert len(parts) >= 7


def test_a_build_is_done_once(root: Path) -> None:
    calls = []

    def build(out: Path) -> None:
        calls.append(list(out.iterdir()))
        (out / "file").write_text("built")

    assert cached("thing", "key", build) == (root / "thing-key", True)
    assert cached("thing", "key", build) == (root / "thing-key", False)
    assert (root / "thing-key/file").read_text() == "built"
    cached("thing", "other", build)
    assert calls == [[], []]


def test_a_failed_build_counts_for_nothing(root: Path) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("")
        raise RuntimeError("no network")

    with pytest.raises(RuntimeError, match="no network"):
        cached("thing", "key", fail)
    assert not (root / "thing-key").exists()
    assert cached("thing", "key", lambda out: None)[1]
    assert [p.name for p in root.glob("thing-*")] == ["thing-key"]


def test_what_a_killed_build_left_is_removed_and_it_is_built_anew(root: Path) -> None:
    doomed = builder("doomed", 60)
    assert doomed.stdout and doomed.stdout.readline() == "building\n"
    other = root / "another-key.x.partial"  # someone else's, perhaps at work
    other.mkdir()
    doomed.send_signal(signal.SIGKILL)
    doomed.communicate()
    assert list(root.glob("thing-*.partial"))
    after = builder("after", 0)
    assert after.communicate(timeout=30)[0] == "building\nafter\n"
    assert [p.name for p in root.glob("thing-*")] == ["thing-key"]
    assert [p.name for p in (root / "thing-key").iterdir()].count("half") == 1
    assert other.is_dir()


def test_builders_at_the_same_time_build_once(root: Path) -> None:
    builders = [builder(f"builder{n}", 0.5) for n in range(3)]
    said = [b.communicate(timeout=30)[0].split() for b in builders]
    assert sorted(len(words) for words in said) == [1, 1, 2]  # one says "building"
    assert len({words[-1] for words in said}) == 1
    assert [p.name for p in root.glob("thing-*")] == ["thing-key"]


def test_threads_at_the_same_time_build_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the slow steps of `up` run. The waiting one says what it waits for."""
    said: list[str] = []
    monkeypatch.setattr("tests.lab.proc.say", said.append)
    monkeypatch.setattr(cache, "say", said.append)
    made: list[bool] = []
    calls: list[Path] = []

    def build(out: Path) -> None:
        calls.append(out)
        time.sleep(0.3)

    threads = [
        threading.Thread(target=lambda: made.append(cached("thing", "key", build)[1])) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert sorted(made) == [False, False, True]
    assert any("waiting for another process" in line for line in said)
