"""The store: what is served is what is pinned, whatever happened to it; nothing is read or fetched twice."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.hub import HubServer, sums
from tests.unit.deploy.snapshot import OTHER, REVISION, ROOT, Options, fetched_from, hub_pin, refusal, run


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


def test_full_disk_is_said_before_the_download(hub: HubServer, options: Options) -> None:
    files = {**options["files"], "model.safetensors": {"size": 1 << 60, "sha256": "0" * 64}}
    for check in (True, False):
        message = refusal({**options, "files": files}, check=check)
        assert "GB are free" in message and "model_store_root" in message
    plenty = refusal(options, reserve_gb=1e9)
    assert "1000000000.00 GB stay so (model_store_reserve_gb)" in plenty
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
