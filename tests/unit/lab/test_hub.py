"""The Hub stand-in against the real client: `hf download` of the locked huggingface_hub."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.lab.hub import CHUNK, HubServer, sums

OLD, NEW = "a" * 40, "b" * 40
MIB = 1 << 20
CLIENT_BLOCK = 10 * MIB  # hf writes no smaller part of a file whose connection ends
LARGE = 2 * CLIENT_BLOCK + MIB
Hf = Callable[..., subprocess.CompletedProcess[str]]
Command = Callable[..., tuple[list[str], dict[str, str]]]


def repository(root: Path, name: str, *revisions: str) -> Path:
    """A repository whose `main` is the last revision; config.json holds the revision's own name."""
    home = root / name
    for revision in revisions:
        (home / revision / "deep").mkdir(parents=True)
        (home / revision / "config.json").write_text(f'{{"revision": "{revision}"}}')
        (home / revision / "deep/notes.txt").write_text("in a folder")
        (home / revision / "model.safetensors").write_bytes(random.Random(revision).randbytes(2 * MIB))
    (home / "refs").mkdir()
    (home / "refs/main").write_text(f"{revisions[-1]}\n")
    return home


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    root = tmp_path / "hub"
    repository(root, "owner/model", OLD, NEW)
    repository(root, "owner/gated", OLD)
    repository(root, "owner/denied", OLD)
    gated, denied = frozenset({"owner/gated"}), frozenset({"owner/denied"})
    with HubServer(root, token="good", gated=gated, denied=denied) as server:
        yield server


@pytest.fixture
def command(hub: HubServer, tmp_path: Path) -> Command:
    """The argv and the environment of a download into tmp_path/out."""

    def build(name: str = "owner/model", *options: str, token: str = "") -> tuple[list[str], dict[str, str]]:
        program = str(Path(sys.executable).with_name("hf"))
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        env |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"}
        env |= {"HF_TOKEN": token} if token else {}
        return [program, "download", name, *options, "--local-dir", str(tmp_path / "out")], env

    return build


@pytest.fixture
def hf(command: Command) -> Hf:
    """Downloads, and waits for the end."""

    def run(name: str = "owner/model", *options: str, token: str = "") -> subprocess.CompletedProcess[str]:
        argv, env = command(name, *options, token=token)
        return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=50)

    return run


def same(mine: Path, theirs: Path) -> bool:
    return mine.read_bytes() == theirs.read_bytes()


def ranges(hub: HubServer, name: str) -> list[str | None]:
    """The Range of each GET of a file, oldest first."""
    return [r["range"] for r in hub.requests if r["method"] == "GET" and r["path"].endswith(f"/{name}")]


def test_a_pinned_revision_is_not_what_main_says(hub: HubServer, hf: Hf, tmp_path: Path) -> None:
    done = hf("owner/model", "--revision", OLD)
    assert done.returncode == 0, done.stderr
    for name in ("config.json", "deep/notes.txt", "model.safetensors"):
        assert same(tmp_path / "out" / name, hub.hub.root / "owner/model" / OLD / name)
    assert not any(NEW in r["path"] for r in hub.requests)


def test_a_branch_is_the_revision_it_points_to(hf: Hf, tmp_path: Path) -> None:
    done = hf("owner/model", "--include", "*.json")
    assert done.returncode == 0, done.stderr
    assert NEW in (tmp_path / "out/config.json").read_text()
    assert not (tmp_path / "out/model.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "revision", "said"),
    [("owner/model", "c" * 40, "Revision Not Found"), ("owner/none", OLD, "Repository Not Found")],
)
def test_what_is_not_there_is_told_apart(hf: Hf, name: str, revision: str, said: str) -> None:
    done = hf(name, "--revision", revision, token="good")
    assert done.returncode == 1
    assert said in done.stderr


def test_a_cut_connection_is_resumed_by_the_next_run(hub: HubServer, hf: Hf, tmp_path: Path) -> None:
    weights = hub.hub.root / "owner/model" / OLD / "model.safetensors"
    weights.write_bytes(random.Random(1).randbytes(LARGE))
    hub.faults(cut_after=CLIENT_BLOCK + CHUNK)
    ends = [hf("owner/model", "model.safetensors", "--revision", OLD).returncode for _ in range(3)]
    assert ends == [1, 1, 0]
    starts = [None, f"bytes={CLIENT_BLOCK}-", f"bytes={2 * CLIENT_BLOCK}-"]
    assert ranges(hub, "model.safetensors") == starts
    assert same(tmp_path / "out/model.safetensors", weights)


def test_a_flipped_byte_arrives_and_hf_reports_success(hub: HubServer, hf: Hf, tmp_path: Path) -> None:
    hub.faults(corrupt=["model.safetensors"])
    assert hf("owner/model", "--revision", OLD).returncode == 0
    origin = hub.hub.root / "owner/model" / OLD
    got, sent = ((d / "model.safetensors").read_bytes() for d in (tmp_path / "out", origin))
    assert [i for i, (a, b) in enumerate(zip(got, sent, strict=True)) if a != b] == [0]
    assert same(tmp_path / "out/config.json", origin / "config.json")


def test_503_is_asked_again_until_it_ends(hub: HubServer, command: Command, tmp_path: Path) -> None:
    weights = hub.hub.root / "owner/model" / OLD / "model.safetensors"
    hub.faults(status=503)
    argv, env = command("owner/model", "model.safetensors", "--revision", OLD)
    with subprocess.Popen(argv, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as client:
        deadline = time.monotonic() + 30
        while not hub.requests and client.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        hub.faults()
        _, errors = client.communicate(timeout=50)
    assert hub.requests[0]["status"] == 503
    assert client.returncode == 0, errors.decode()
    assert same(tmp_path / "out/model.safetensors", weights)


@pytest.mark.parametrize(
    ("name", "token", "status", "said"),
    [
        ("owner/gated", "", 401, "Please log in"),
        ("owner/gated", "bad", 401, "Invalid credentials"),
        ("owner/model", "bad", 401, "Invalid credentials"),
        ("owner/denied", "good", 403, "not in the authorized list"),
    ],
)
def test_who_may_not_read_is_told_why(
    hub: HubServer, hf: Hf, tmp_path: Path, name: str, token: str, status: int, said: str
) -> None:
    done = hf(name, "config.json", "--revision", OLD, token=token)
    assert done.returncode == 1
    assert said in done.stderr
    assert hub.requests[-1]["status"] == status
    assert not (tmp_path / "out/config.json").exists()


def test_the_token_opens_a_gated_repository(hf: Hf, tmp_path: Path) -> None:
    done = hf("owner/gated", "config.json", "--revision", OLD, token="good")
    assert done.returncode == 0, done.stderr
    assert OLD in (tmp_path / "out/config.json").read_text()


def test_a_token_is_accepted_on_order_and_its_fate_recorded(hub: HubServer, hf: Hf) -> None:
    assert hf("owner/gated", "config.json", "--revision", OLD, token="later").returncode == 1
    hub.faults(accept_token="later")
    assert hf("owner/gated", "config.json", "--revision", OLD, token="later").returncode == 0
    fates = [r["token"] for r in hub.requests]
    assert fates[0] == "refused" and fates[-1] == "accepted"
    assert "later" not in str(hub.requests)


def test_an_unknown_fault_is_refused_and_none_ordered(hub: HubServer) -> None:
    with pytest.raises(TypeError, match="corupt"):
        hub.faults(corupt=["config.json"])
    assert not (hub.hub.root / "faults.json").exists()


def test_sums_follow_the_file(tmp_path: Path) -> None:
    """The hashes git itself gives; a large file is known by its sha256."""
    path = tmp_path / "file"
    path.write_bytes(b"one\n")
    by_git = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True)
    assert sums(path).git_oid == sums(path).etag == by_git.stdout.strip()
    path.write_bytes(bytes(MIB))
    by_tool = subprocess.run(["sha256sum", path], capture_output=True, text=True, check=True)
    assert sums(path).etag == by_tool.stdout.split()[0]
    assert sums(path).lfs and sums(path).size == MIB
