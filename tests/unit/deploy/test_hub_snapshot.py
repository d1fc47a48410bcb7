"""Models are fetched by the real `hf` from a hub that misbehaves; what is served is what is pinned."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.hub import HubServer, sums
from tests.unit.deploy.snapshot import ROOT, hub_pin, run

REVISION, OTHER = "a" * 40, "b" * 40
Options = dict[str, Any]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    base = tmp_path / "hub/owner/model" / REVISION
    base.mkdir(parents=True)
    (base / "config.json").write_text('{"model_type": "test"}')
    (base / "model.safetensors").write_bytes(random.Random(1).randbytes(2 << 20))
    (base / "tokenizer.json").write_text("{}")
    with HubServer(tmp_path / "hub", token="good", gated=frozenset({"owner/gated"})) as server:
        yield server


def pins(hub: HubServer) -> Options:
    files: Options = {}
    for path in (hub.hub.root / "owner/model" / REVISION).iterdir():
        known = sums(path)
        kind = {"sha256": known.sha256} if known.lfs else {"git_oid": known.git_oid}
        files[path.name] = {"size": known.size, **kind}
    return files


@pytest.fixture
def options(tmp_path: Path, hub: HubServer) -> Options:
    return {
        "root": str(tmp_path / "models"),
        "name": "m",
        "repository": "owner/model",
        "revision": REVISION,
        "files": pins(hub),
        "endpoint": hub.url,
    }


@pytest.fixture
def served(options: Options) -> Path:
    """The model, fetched."""
    return Path(run(options)["path"])


def fetched_from(hub: HubServer) -> list[str]:
    return [
        r["path"].rsplit("/", 1)[1] for r in hub.requests if r["method"] == "GET" and "/resolve/" in r["path"]
    ]


def refusal(options: Options, **changes: Any) -> str:
    with pytest.raises(hub_pin.Refused) as caught:
        run({**options, **changes})
    message = str(caught.value)
    assert "Rule: " in message and "Remedy: " in message
    return message


def flip(path: Path, at: int = 100) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def test_fetches_all_then_touches_nothing(hub: HubServer, options: Options) -> None:
    first = run(options)
    assert first["changed"] and sorted(first["fetched"]) == sorted(options["files"])
    served, asked = Path(first["path"]), len(hub.requests)
    assert sorted(p.name for p in served.iterdir()) == sorted(options["files"]), (
        "no debris of the client is served"
    )
    assert {oct(p.stat().st_mode & 0o777) for p in served.iterdir()} == {"0o644"}
    again = run(options)
    assert not again["changed"] and again["hashed"] == [] and len(hub.requests) == asked
    assert sorted(run({**options, "verify": "full"})["hashed"]) == sorted(options["files"])
    leftovers = [p for p in (served.parents[1] / ".partial").iterdir() if p.name != "m.lock"]
    assert leftovers == []


def test_check_mode_tells_and_changes_nothing(hub: HubServer, options: Options) -> None:
    told = run(options, check=True)
    assert told["changed"] and sorted(told["fetched"]) == sorted(options["files"])
    assert not Path(options["root"]).exists()
    hub.faults(status=503)
    with pytest.raises(hub_pin.Refused, match="503"):
        run(options, check=True)


def test_byte_flipped_on_disk_is_found_and_that_file_alone_fetched(
    hub: HubServer, options: Options, served: Path
) -> None:
    before = {p.name: p.stat().st_ino for p in served.iterdir()}
    flip(served / "model.safetensors")
    held = (served / "model.safetensors").open("rb")  # a running engine
    hub.requests.clear()
    assert run({**options, "state": "verified"})["wrong"] == ["model.safetensors"]
    result = run(options)
    assert result["fetched"] == result["hashed"][:1] == ["model.safetensors"] == fetched_from(hub)
    after = {p.name: p.stat().st_ino for p in served.iterdir()}
    assert {n for n in before if before[n] != after[n]} == {"model.safetensors"}
    assert sums(Path(held.name)).sha256 == options["files"]["model.safetensors"]["sha256"]
    assert os.fstat(held.fileno()).st_nlink == 0, "replaced by a rename, never written in place"
    held.close()
    assert not run(options)["changed"]


def test_damage_that_leaves_no_trace_is_found_by_a_full_verification(options: Options, served: Path) -> None:
    path = served / "model.safetensors"
    flip(path)
    record = served.with_name(f"{REVISION}.json")
    content = json.loads(record.read_text())
    content["files"][path.name] |= hub_pin.stamp(path)  # as a failing disk would leave it
    record.write_text(json.dumps(content))
    assert not run(options)["changed"]
    assert run({**options, "verify": "full"})["fetched"] == ["model.safetensors"]


def test_byte_flipped_in_transit_is_found_and_that_file_alone_fetched_again(
    hub: HubServer, options: Options
) -> None:
    hub.faults(corrupt=["model.safetensors"])

    def mend() -> None:
        while "model.safetensors" not in fetched_from(hub):
            time.sleep(0.01)
        hub.faults()

    mender = threading.Thread(target=mend)
    mender.start()
    result = run(options)
    mender.join()
    assert result["fetched"].count("model.safetensors") == 2 == fetched_from(hub).count("model.safetensors")
    assert fetched_from(hub).count("config.json") == fetched_from(hub).count("tokenizer.json") == 1
    assert not run({**options, "verify": "full"})["changed"]


def test_a_hub_that_always_corrupts_is_given_up_and_nothing_served(hub: HubServer, options: Options) -> None:
    hub.faults(corrupt=["tokenizer.json"])
    assert "tokenizer.json of m differ from the pin after 3" in refusal(options)
    assert not (Path(options["root"]) / "m").exists()
    hub.faults()
    hub.requests.clear()
    assert run(options)["changed"]
    assert fetched_from(hub) == ["tokenizer.json"], "what was right is kept"


def test_a_killed_download_goes_on_where_it_stopped(hub: HubServer, options: Options) -> None:
    big = hub.hub.root / "owner/model" / REVISION / "model.safetensors"
    big.write_bytes(random.Random(2).randbytes(24 << 20))  # hf writes in pieces of 10 MB
    options["files"] = pins(hub)
    hub.faults(rate=8 << 20)
    argv = [sys.executable, "-m", "tests.unit.deploy.snapshot", json.dumps(options)]
    process = subprocess.Popen(argv, cwd=ROOT)
    staging = Path(options["root"]) / ".partial" / f"m-{REVISION}"

    def parts() -> list[Path]:
        return [p for p in staging.rglob("*.incomplete") if p.stat().st_size > 1 << 20]

    wait_for(lambda: bool(parts()))
    with pytest.raises(hub_pin.Refused, match=f"Process {process.pid} is fetching"):
        run(options)
    process.kill()
    process.wait()
    wait_for(lambda: subprocess.run(["pgrep", "-f", str(staging)], stdout=subprocess.DEVNULL).returncode == 1)
    size = parts()[0].stat().st_size
    hub.faults()
    hub.requests.clear()
    assert run(options)["changed"]
    ranges = [
        r["range"] for r in hub.requests if r["method"] == "GET" and r["path"].endswith("model.safetensors")
    ]
    assert ranges == [f"bytes={size}-"]
    assert not run({**options, "verify": "full"})["changed"]


def wait_for(condition: Callable[[], bool], limit: float = 20) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_orphans_and_strangers_are_removed(hub: HubServer, options: Options, served: Path) -> None:
    partial = Path(options["root"]) / ".partial"
    old, mine, foreign = partial / f"m-{OTHER}", partial / f"m-{REVISION}", partial / f"n-{OTHER}"
    for place in (old, mine, foreign):
        (place / ".cache/huggingface/download").mkdir(parents=True)
        (place / f".cache/huggingface/download/x.{'0' * 64}.incomplete").write_bytes(b"x")
    (served / "extra/deep").mkdir(parents=True)
    (served / "extra/deep/modeling.py").write_text("")
    told = run(options, check=True)
    assert told["changed"] and told["fetched"] == [] and "extra/deep/modeling.py" in told["extra"]
    assert run(options)["changed"]
    assert not old.exists() and not mine.exists() and not (served / "extra").exists()
    assert foreign.exists(), "of another model, which may be under way"
    assert not run(options)["changed"]


def test_lost_truncated_linked_and_unreadable_files_are_restored(
    tmp_path: Path, hub: HubServer, options: Options, served: Path
) -> None:
    (served / "config.json").unlink()
    os.truncate(served / "model.safetensors", 10)
    (tmp_path / "elsewhere").write_text("{}")
    (served / "tokenizer.json").unlink()
    (served / "tokenizer.json").symlink_to(tmp_path / "elsewhere")
    assert sorted(run(options)["fetched"]) == sorted(options["files"])
    assert not (served / "tokenizer.json").is_symlink() and (tmp_path / "elsewhere").read_text() == "{}"
    (served / "config.json").chmod(0o600)
    hub.requests.clear()
    assert run(options)["changed"] and hub.requests == []
    assert (served / "config.json").stat().st_mode & 0o777 == 0o644
    assert not run(options)["changed"]


def test_gated_repository(hub: HubServer, options: Options) -> None:
    (hub.hub.root / "owner/model").rename(hub.hub.root / "owner/gated")
    gated = {**options, "repository": "owner/gated"}
    for said_so in (True, False):  # by the catalogue, or by the hub alone
        message = refusal(gated, gated=said_so)
        assert "model_store_token" in message and "licence" in message
    assert "model_store_token" in refusal(gated, token="wrong")
    assert run({**gated, "gated": True, "token": "good"})["changed"]


def test_what_the_hub_lacks(hub: HubServer, options: Options) -> None:
    assert "no such revision" in refusal(options, revision=OTHER)
    assert "no such file" in refusal(options, files={"nothing.json": {"size": 1, "git_oid": "0" * 40}})
    assert "no such repository" in refusal(options, repository="owner/nothing")


def test_hub_out_of_order_or_away(hub: HubServer, options: Options) -> None:
    hub.faults(status=500)
    assert "fault of its own" in refusal(options)
    message = refusal(options, endpoint="http://127.0.0.1:9")
    assert "unreachable" in message and "127.0.0.1:9" in message


def test_full_disk_is_said_before_the_download(hub: HubServer, options: Options) -> None:
    files = {**options["files"], "model.safetensors": {"size": 1 << 60, "sha256": "0" * 64}}
    assert "GB free" in refusal(options, files=files)
    assert hub.requests == []


BAD_PINS: dict[str, Options] = {
    "40 hexadecimal": {"revision": "main"},
    "no files": {"files": {}},
    "inside the model": {"files": {"../x.json": {"size": 1, "git_oid": "0" * 40}}},
    "modeling.py": {"files": {"modeling.py": {"size": 1, "git_oid": "0" * 40}}},
    "pytorch_model.bin": {"files": {"pytorch_model.bin": {"size": 1, "sha256": "0" * 64}}},
    "consolidated.pth": {"files": {"consolidated.pth": {"size": 1, "sha256": "0" * 64}}},
    "sha256 or git_oid": {"files": {"config.json": {"size": 1}}},
    "The model's name": {"name": "../m"},
}


@pytest.mark.parametrize("words", BAD_PINS)
def test_bad_pin_is_refused(options: Options, words: str) -> None:
    assert words in refusal(options, **BAD_PINS[words])


def test_as_an_ansible_module_the_token_stays_secret(
    hub: HubServer, options: Options, tmp_path: Path
) -> None:
    secret = "hf_planted"
    variables = tmp_path / "vars.json"
    variables.write_text(json.dumps({"given": {**options, "token": secret}, "ansible_connection": "local"}))
    arguments = json.dumps(
        {**{key: f"{{{{ given.{key} }}}}" for key in options}, "token": "{{ given.token }}"}
    )
    argv = ["ansible", "localhost", "-i", "localhost,", "-m", "hub_snapshot", "-a", arguments]
    argv += ["-e", f"@{variables}", "-vvv", "--check"]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "401" in done.stdout, done.stdout + done.stderr
    assert "Remedy: " in done.stdout and secret not in done.stdout + done.stderr
