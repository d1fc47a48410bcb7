"""Downloads from a hub that misbehaves: on from the byte where they stopped, as pinned or refused."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.hub import CHUNK, HubServer
from tests.unit.deploy.snapshot import (
    OTHER,
    REVISION,
    ROOT,
    Options,
    fetched_from,
    hub_fetch,
    ranges,
    refusal,
    run,
    wait_for,
)

SIZE = 2 << 20
HALF = SIZE // 2


def begun(options: Options, hub: HubServer, size: int = HALF, wrong: bool = False) -> Path:
    """As an earlier run has left it: the beginning of the large file."""
    staged = Path(options["root"]) / ".partial" / f"m-{REVISION}" / "model.safetensors"
    staged.parent.mkdir(parents=True)
    source = (hub.hub.root / "owner/model" / REVISION / "model.safetensors").read_bytes()
    staged.write_bytes(bytes(size) if wrong else (source + b"x")[:size])
    return staged


def test_goes_on_at_the_byte(hub: HubServer, options: Options) -> None:
    begun(options, hub, HALF + 1)
    result = run(options)
    assert ranges(hub) == [f"bytes={HALF + 1}-"]
    small = sum(pin["size"] for name, pin in options["files"].items() if name != "model.safetensors")
    assert result["received"] == SIZE - HALF - 1 + small
    assert not run({**options, "verify": "full"})["changed"]


@pytest.mark.parametrize(
    ("faults", "asked"),
    [
        ({"ignore_range": True}, [f"bytes={HALF}-"]),
        ({"no_range": True}, [f"bytes={HALF}-", None]),
        ({"busy": 3}, [f"bytes={HALF}-"]),
    ],
    ids=["range ignored", "416", "503"],
)
def test_what_a_hub_may_answer_to_a_range(
    hub: HubServer, options: Options, faults: dict[str, Any], asked: list[str | None]
) -> None:
    begun(options, hub)
    hub.faults(**faults)
    assert run(options)["changed"]
    assert [r for r in ranges(hub) if r not in asked] == [] and ranges(hub)[-len(asked) :] == asked
    assert not run({**options, "verify": "full"})["changed"]


@pytest.mark.parametrize(("size", "wrong"), [(SIZE, True), (HALF, True), (SIZE + 1, False)])
def test_what_lies_there_and_does_not_fit_is_fetched_anew(
    hub: HubServer, options: Options, size: int, wrong: bool
) -> None:
    begun(options, hub, size, wrong)
    assert run(options)["changed"]
    assert ranges(hub)[-1] is None
    assert not run({**options, "verify": "full"})["changed"]


def test_what_the_hubs_client_left_is_taken_over_and_swept(hub: HubServer, options: Options) -> None:
    staged = begun(options, hub)
    (cache := staged.parent / ".cache/huggingface/download").mkdir(parents=True)
    (cache / "x.incomplete").write_bytes(b"x")
    served = Path(run({**options, "keep": ["m", "n"]})["path"])
    assert ranges(hub) == [f"bytes={HALF}-"]
    assert sorted(p.name for p in served.iterdir()) == sorted(options["files"])
    assert not run({**options, "keep": ["m", "n"]})["changed"]


def test_what_lies_there_complete_is_not_fetched(hub: HubServer, options: Options) -> None:
    begun(options, hub, SIZE)
    assert run(options)["changed"]
    assert ranges(hub) == []


def test_a_connection_that_drops_again_and_again(hub: HubServer, options: Options) -> None:
    hub.faults(cut_after=3 * CHUNK)
    assert run({**options, "tries": 1})["changed"], "each brings some bytes: none counts as a failure"
    assert ranges(hub) == [None, *(f"bytes={n}-" for n in range(3 * CHUNK, SIZE, 3 * CHUNK))]


def test_a_hub_that_has_less_than_the_pin_is_given_up(hub: HubServer, options: Options) -> None:
    hub.faults(short=HALF)
    assert "3 times in a row" in refusal(options, tries=3)
    assert not (Path(options["root"]) / "m").exists()


def test_a_hub_that_stays_out_of_order_is_given_up(hub: HubServer, options: Options) -> None:
    hub.faults(status=503)
    message = refusal(options, tries=3)
    assert "fault of its own" in message and "3 times in a row" in message
    assert sum(r["method"] == "GET" for r in hub.requests) == 3
    message = refusal(options, tries=2, endpoint="http://127.0.0.1:9")
    assert "unreachable" in message and "127.0.0.1:9" in message


def test_byte_flipped_in_transit_is_found_and_that_file_alone_fetched_again(
    hub: HubServer, options: Options
) -> None:
    hub.faults(corrupt=["model.safetensors"], corrupt_first=1)
    run(options)
    assert sorted(fetched_from(hub)) == sorted([*options["files"], "model.safetensors"])
    assert not run({**options, "verify": "full"})["changed"]


def test_a_hub_that_always_corrupts_is_given_up_and_nothing_served(hub: HubServer, options: Options) -> None:
    name = min(options["files"])
    wanted = options["files"][name]["git_oid"]
    hub.faults(corrupt=[name])
    message = refusal(options)
    assert f"{name} of owner/model came wrong twice: wanted {wanted}, got " in message
    assert not (Path(options["root"]) / "m").exists()
    hub.faults()
    assert run(options)["changed"]
    assert [fetched_from(hub).count(other) for other in options["files"] if other != name] == [1, 1], (
        "what was right is kept"
    )


def test_the_token_goes_to_the_hub_and_not_where_it_sends_us(
    tmp_path: Path, hub: HubServer, options: Options
) -> None:
    (tmp_path / "content/owner").mkdir(parents=True)
    (tmp_path / "content/owner/model").symlink_to(tmp_path / "hub/owner/model")
    with HubServer(tmp_path / "content", token="good") as content:
        hub.faults(redirect=content.url)
        begun(options, hub)
        assert run({**options, "token": "good"})["changed"]
        assert {r["token"] for r in hub.requests} == {"accepted"}
        assert {r["token"] for r in content.requests} == {None}
        assert ranges(content) == [f"bytes={HALF}-"], "the Range goes along"


def test_what_the_hub_itself_calls_another_file_is_refused_unread(hub: HubServer, options: Options) -> None:
    options["files"]["model.safetensors"]["sha256"] = "0" * 64
    assert "model.safetensors of owner/model has sha256" in refusal(options)
    [staged] = Path(options["root"]).rglob("model.safetensors")
    assert staged.stat().st_size == 0


def test_gated_repository(hub: HubServer, options: Options) -> None:
    (hub.hub.root / "owner/model").rename(hub.hub.root / "owner/gated")
    gated = {**options, "repository": "owner/gated"}
    for said_so in (True, False):  # by the catalogue, or by the hub alone
        for check in (True, False):
            message = refusal(gated, check, gated=said_so)
            assert "model_store_token" in message and f"licence at {hub.url}/owner/gated" in message
    assert "model_store_token" in refusal(gated, token="wrong")
    assert run({**gated, "gated": True, "token": "good"})["changed"]


def test_a_denied_token_and_a_token_with_a_line_end(hub: HubServer, options: Options) -> None:
    hub.hub.denied = frozenset({"owner/model"})
    message = refusal(options, token="good")
    assert "refuses access to owner/model" in message and f"licence at {hub.url}/owner/model" in message
    message = refusal(options, token="secret\n")
    assert "white space" in message and "secret" not in message


def test_what_the_hub_lacks(hub: HubServer, options: Options) -> None:
    assert "no such revision" in refusal(options, revision=OTHER)
    assert "no such file" in refusal(options, files={"nothing.json": {"size": 1, "git_oid": "0" * 40}})
    assert "no such repository" in refusal(options, repository="owner/nothing")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], check=True)
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_that_fills_up_keeps_what_is_there(
    hub: HubServer, options: Options, small_disk: Path, tmp_path: Path
) -> None:
    options |= {"root": str(small_disk / "models"), "run": str(tmp_path / "run")}
    staged = small_disk / "models/.partial" / f"m-{REVISION}" / "model.safetensors"
    hub.faults(rate=1 << 20)
    argv = [
        sys.executable,
        "-m",
        "tests.unit.deploy.snapshot",
    ]
    with subprocess.Popen(
        argv, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        process.stdin.write(json.dumps(options))
        process.stdin.close()
        wait_for(lambda: staged.exists() and staged.stat().st_size > CHUNK)
        filler = small_disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        assert process.stderr
        said = process.stderr.read()
    assert "the disk is full" in said and "are there and kept" in said and "Remedy: free space" in said
    there = staged.stat().st_size
    assert CHUNK < there < SIZE and not (small_disk / "models/m").exists()
    filler.unlink()
    hub.faults()
    hub.requests.clear()
    assert run(options)["changed"]
    assert ranges(hub) == [f"bytes={there}-"]
    assert not run({**options, "verify": "full"})["changed"]


def test_a_disk_that_has_less_than_was_written_is_refused(
    hub: HubServer, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash is of what came; the file has to hold it, too."""
    append = hub_fetch.Part.append

    def losing(part: Any, block: bytes) -> None:
        append(part, block)
        if part.size == SIZE:
            part.file.truncate(SIZE - 1)

    monkeypatch.setattr(hub_fetch.Part, "append", losing)
    said = refusal(options)
    assert f"has {SIZE - 1} bytes, {SIZE} were written" in said
    assert not (Path(options["root"]) / "m").exists()
