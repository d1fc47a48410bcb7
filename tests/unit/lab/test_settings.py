"""Names, places and addresses: what one clone's lab has, no other clone's has."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.lab.daemon import free_subnet, needs_clamp
from tests.lab.settings import LabError, Settings, cache_root, write_atomically

SOCKET_LIMIT = 108  # of sockaddr_un, the closing zero included


def owned(lab: Settings) -> set[str]:
    """Everything that exists outside the clone, or under a name that the whole machine shares."""
    return {lab.id, str(lab.run), str(lab.lock), lab.bridge, lab.prefix, lab.docker_host}


def test_two_clones_share_nothing(tmp_path: Path) -> None:
    one, two = Settings(tmp_path / "one"), Settings(tmp_path / "two")
    assert not owned(one) & owned(two)
    assert free_subnet(one.id, set()) != free_subnet(two.id, {free_subnet(one.id, set())})


def test_many_clones_have_as_many_ids() -> None:
    assert len({Settings(Path(f"/clones/{n}")).id for n in range(100)}) == 100


def test_a_clone_is_the_same_by_whatever_path(tmp_path: Path) -> None:
    (tmp_path / "clone").mkdir()
    (tmp_path / "link").symlink_to("clone")
    assert owned(Settings(tmp_path / "link")) == owned(Settings(tmp_path / "clone/../clone"))


def test_a_long_path_of_a_clone_keeps_sockets_and_names_short(tmp_path: Path) -> None:
    lab = Settings(tmp_path.joinpath(*["a-rather-long-name-of-a-folder"] * 20))
    containerd = lab.run / "exec/containerd/containerd-debug.sock"  # the deepest
    assert len(str(containerd)) < SOCKET_LIMIT
    assert len(lab.bridge) <= 15  # IFNAMSIZ less one


@pytest.mark.parametrize(
    ("lab_id", "taken", "expected"),
    [
        ("000000", set(), "172.31.1"),
        ("000000", {"172.31.1", "172.31.2"}, "172.31.3"),
        ("0000fd", {"172.31.254"}, "172.31.1"),  # round the end: neither .0 nor .255
        ("ffffff", {f"172.31.{n}" for n in range(1, 255) if n != 7}, "172.31.7"),
    ],
)
def test_the_next_free_subnet_is_taken(lab_id: str, taken: set[str], expected: str) -> None:
    assert free_subnet(lab_id, taken) == expected


def test_no_free_subnet_says_what_to_do() -> None:
    with pytest.raises(LabError, match=r"172\.31\.X.*Remedy: .*tests\.lab down"):
        free_subnet("000000", {f"172.31.{n}" for n in range(1, 255)})


def test_without_a_lab_there_is_no_subnet(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=r"no lab at .*\.lab\. Remedy: python -m tests\.lab up"):
        _ = Settings(tmp_path).gateway


def test_facts_add_up_across_threads(tmp_path: Path) -> None:
    lab = Settings(tmp_path)
    threads = [threading.Thread(target=lambda n=n: lab.learn(**{f"fact{n}": n})) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lab.learn(subnet="172.31.9.0/24")
    assert lab.facts() == {f"fact{n}": n for n in range(20)} | {"subnet": "172.31.9.0/24"}
    assert lab.gateway == "172.31.9.1"
    assert [p.name for p in lab.state.iterdir()] == ["lab.json"]  # no half-written ones


def test_a_file_is_replaced_with_its_mode(tmp_path: Path) -> None:
    secret = tmp_path / "deep/secret"
    write_atomically(secret, "old", 0o644)
    write_atomically(secret, "new", 0o600)
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("new", 0o600)
    assert [p.name for p in secret.parent.iterdir()] == ["secret"]


def test_the_cache_lies_outside_of_the_clone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "spark-voicebot"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_root() == Path("/home/someone/.cache/spark-voicebot")


@pytest.mark.parametrize(
    ("bounding", "expected"), [("000001ffffffffff", False), ("000001fffeffffff", True), ("0", True)]
)
def test_runc_is_clamped_where_root_may_not_raise_limits(bounding: str, expected: bool) -> None:
    assert needs_clamp(f"Name:\tpython\nCapEff:\tffffffffff\nCapBnd:\t{bounding}\n") is expected
