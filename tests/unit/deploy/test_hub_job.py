"""A download in a process of its own: it outlives its starter, tells its state, and is attached to."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from plugins.action.hub_snapshot import progress_line
from tests.lab.hub import HubServer
from tests.unit.deploy.snapshot import REVISION, ROOT, Options, hub_pin, pins, ranges, run, wait_for

SIZE = 12 << 20


@pytest.fixture
def slow(hub: HubServer, options: Options) -> Options:
    """A download of six seconds."""
    big = hub.hub.root / "owner/model" / REVISION / "model.safetensors"
    big.write_bytes(random.Random(2).randbytes(SIZE))
    hub.faults(rate=2 << 20)
    return options | {"files": pins(hub), "token": "good"}


def start(options: Options) -> Options:
    """By a starter that ends at once; its output is read to the end, as ssh does."""
    argv = [sys.executable, "-m", "tests.unit.deploy.snapshot"]
    given = json.dumps({**options, "job": "start"})
    done = subprocess.run(argv, input=given, cwd=ROOT, check=True, capture_output=True, text=True, timeout=20)
    started: Options = json.loads(done.stdout)
    return started


def watch(options: Options, seconds: float = 30) -> Options:
    return run({**options, "job": "watch", "seconds": seconds})


def staged(options: Options) -> Path:
    return Path(options["root"]) / ".partial" / f"m-{REVISION}" / "model.safetensors"


def begun(options: Options) -> bool:
    return staged(options).exists() and staged(options).stat().st_size > 1 << 20


def test_outlives_its_starter_tells_its_progress_and_is_attached_to(hub: HubServer, slow: Options) -> None:
    assert start(slow) == {"running": True, "attached": False}
    wait_for(lambda: begun(slow))
    assert run({**slow, "job": "start"}) == {"running": True, "attached": True}
    with pytest.raises(hub_pin.Refused, match="is fetching m already"):
        run(slow)
    wait_for(lambda: watch(slow, 0).get("progress", {}).get("left") is not None)
    progress = watch(slow, 0)["progress"]
    assert 0 < progress["done"] < progress["total"] == sum(pin["size"] for pin in slow["files"].values())
    assert 0 < progress["rate"] < 20e6 and progress["file"] == "model.safetensors"
    assert not Path(slow["root"], "m").exists(), "nothing half-written is served"
    outcome = watch(slow)
    assert outcome["changed"] and sorted(outcome["fetched"]) == sorted(slow["files"])
    assert ranges(hub) == [None]
    again = run({**slow, "job": "start"})
    assert not again["changed"] and again["hashed_bytes"] == 0 and again["received"] == 0


def test_killed_goes_on_where_it_stopped_and_the_token_is_in_no_file(hub: HubServer, slow: Options) -> None:
    slow["token"] = hub.hub.token = "hf_planted"
    start(slow)
    wait_for(lambda: begun(slow))
    pid = watch(slow, 0)["progress"]["pid"]
    for place in ("cmdline", "environ"):
        assert b"hf_planted" not in Path(f"/proc/{pid}/{place}").read_bytes()
    os.kill(pid, signal.SIGKILL)
    ended = watch(slow)
    assert ended["failed"] and "ended without a word" in ended["msg"]
    there = staged(slow).stat().st_size
    hub.faults()
    start(slow)
    assert watch(slow)["changed"]
    assert ranges(hub) == [None, f"bytes={there}-"]
    places = [p for p in Path(slow["root"]).parent.rglob("*") if p.is_file() and "hub" not in p.parts]
    assert len(places) > 5 and not [p for p in places if b"hf_planted" in p.read_bytes()]


def test_a_refusal_in_the_process_is_its_outcome(hub: HubServer, slow: Options) -> None:
    hub.faults(status=503)
    start({**slow, "tries": 2})
    outcome = watch(slow)
    assert outcome["failed"] and "fault of its own" in outcome["msg"]


def test_what_the_host_has_already_is_adopted_and_the_original_only_read(
    hub: HubServer, slow: Options
) -> None:
    """Files of the tutorial are adopted; the original is only read."""
    hub.faults()
    home = Path(slow["root"]).parent / "nvidia/models/mistral"
    home.mkdir(parents=True)
    for name in slow["files"]:
        source = hub.hub.root / "owner/model" / REVISION / name
        (home / name).write_bytes(source.read_bytes())
        (home / name).chmod(0o600)
    (home / "tokenizer.json").write_text("{ }")
    before = {p: (p.read_bytes(), p.stat().st_mode, p.stat().st_mtime_ns) for p in home.iterdir()}
    slow["adopt"] = [str(home.parent), str(home.parent / "nowhere")]
    told = run(slow, check=True)
    assert told["fetched"] == ["tokenizer.json"] and set(told["adopted"]) == {
        "config.json",
        "model.safetensors",
    }
    result = run(slow)
    assert result["fetched"] == ["tokenizer.json"] and ranges(hub) == []
    assert result["adopted"]["model.safetensors"] == str(home / "model.safetensors")
    assert result["differs"] == [str(home / "tokenizer.json")]
    assert {p: (p.read_bytes(), p.stat().st_mode, p.stat().st_mtime_ns) for p in home.iterdir()} == before
    served = Path(result["path"])
    assert {p.stat().st_ino for p in served.iterdir()}.isdisjoint(p.stat().st_ino for p in home.iterdir())
    assert not run({**slow, "verify": "full"})["changed"]


def test_a_file_of_the_same_size_that_differs_is_fetched_and_named(hub: HubServer, slow: Options) -> None:
    hub.faults()
    home = Path(slow["root"]).parent / "old"
    home.mkdir()
    (home / "model.safetensors").write_bytes(bytes(SIZE))
    result = run({**slow, "adopt": [str(home)]})
    assert "model.safetensors" in result["fetched"]
    assert result["differs"] == [str(home / "model.safetensors")]
    assert not run({**slow, "adopt": [str(home)], "verify": "full"})["changed"]


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        ({}, "spark1: m: begins"),
        (
            {"done": 10**9, "total": 4 * 10**9, "rate": 1e8, "left": 30.2},
            "spark1: m: 25 %, 1.00 of 4.00 GB, 100.0 MB/s, 0:00:30 left",
        ),
        ({"done": 0, "total": 15 * 10**7, "rate": 0, "left": None}, "spark1: m: 0 %, 0 of 150 MB, 0.0 MB/s"),
        (
            {"done": 0, "total": 10**9, "note": "503; again in 4 s"},
            "spark1: m: 0 %, 0.00 of 1.00 GB, waiting: 503; again in 4 s",
        ),
    ],
)
def test_progress_line(progress: Options, line: str) -> None:
    assert progress_line("spark1", "m", progress) == line
