"""daemon.json: merged, judged against flags, and what a change of it asks of Docker."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.deploy.snapshot import load

daemon = load("roles/docker_engine/module_utils/daemon_json.py", "daemon_json")
RUNTIME = {"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "args": []}}}
LOG = {"log-driver": "json-file", "log-opts": {"max-size": "20m", "max-file": "3"}}
POOLS = {"default-address-pools": [{"base": "10.201.0.0/16", "size": 24}]}
# As systemd 257 shows Debian's unit, and DGX OS's drop-in.
SHOWN = "{{ path=/usr/bin/dockerd ; argv[]=/usr/bin/dockerd {} ; ignore_errors=no ; pid=0 ; status=0/0 }}"


def test_parts_become_one() -> None:
    published = daemon.publish([RUNTIME, LOG, POOLS], {"log-opts": {"max-file": "5"}})
    assert published == {
        **RUNTIME,
        **POOLS,
        "log-driver": "json-file",
        "log-opts": {"max-size": "20m", "max-file": "5"},
    }


def test_hand_edited_keys_stay_and_altered_ones_are_mended() -> None:
    current = {"debug": True, "runtimes": {"kata": {"path": "/opt/kata"}, "nvidia": {"path": "wrong"}}}
    wanted = daemon.merge(current, RUNTIME)
    assert wanted == {"debug": True, "runtimes": {"kata": {"path": "/opt/kata"}, **RUNTIME["runtimes"]}}
    assert daemon.foreign(current, RUNTIME) == ["debug", "runtimes.kata.path"]
    assert daemon.foreign(wanted, daemon.merge(RUNTIME, {"debug": False, "runtimes": {"kata": {}}})) == []


def test_fragments_that_contradict_are_refused_unless_the_operator_decides() -> None:
    other = {"log-opts": {"max-size": "1m"}}
    with pytest.raises(daemon.Refused, match=r"log-opts\.max-size to be '20m' and '1m'\. Rule: .* Remedy: "):
        daemon.publish([LOG, other], {})
    assert daemon.publish([LOG, other], {"log-opts": {"max-size": "9m"}})["log-opts"]["max-size"] == "9m"
    assert daemon.publish([LOG, LOG], {}) == LOG


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is broken: Expecting property name enclosed in double quotes: line 1 column 2"),
        ('{"debug": true,}', "is broken"),
        ("[]", r"holds \[\]"),
        ("7", "holds 7"),
        ("debug: true", "is broken"),
    ],
)
def test_a_file_that_is_no_json_object_is_refused(text: str, said: str) -> None:
    with pytest.raises(
        daemon.Refused, match=f"/etc/docker/daemon.json {said}.*Rule: a JSON object. Remedy: repair it"
    ):
        daemon.parse(text, "/etc/docker/daemon.json")


@pytest.mark.parametrize(("text", "document"), [("", {}), (" \n", {}), ('{"debug": true}', {"debug": True})])
def test_an_empty_file_is_an_empty_object(text: str, document: Any) -> None:
    assert daemon.parse(text, "f") == document


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("-H fd:// --containerd=/run/containerd/containerd.sock", {"hosts", "containerd"}),
        ("-H fd:// -s overlay2 --default-shm-size=1G", {"hosts", "storage-driver", "default-shm-size"}),
        ("--host=fd:// --label a=b --log-opt max-size=1m -D", {"hosts", "labels", "log-opts", "debug"}),
        ("--add-runtime nvidia=/usr/bin/x --default-ulimit memlock=-1", {"runtimes", "default-ulimits"}),
        ("-H fd:// $DOCKER_OPTS", {"hosts", "dns", "bridge"}),
        ("-H fd:// $NOTHING", {"hosts"}),
    ],
)
def test_flags_of_the_unit_are_known_by_their_key(line: str, keys: set[str]) -> None:
    arguments = daemon.words(SHOWN.format(line), {"DOCKER_OPTS": "--dns 192.0.2.1 -b br0"})
    assert set(daemon.flags(arguments)) == keys


def test_a_unit_that_is_not_there_has_no_flags() -> None:
    assert daemon.words("", {}) == []


@pytest.mark.parametrize(
    ("before", "after", "keys", "effect"),
    [
        ({}, {}, [], "none"),
        ({"debug": True}, {"debug": True}, [], "none"),
        ({}, RUNTIME, ["runtimes"], "reload"),
        ({"live-restore": False}, {"live-restore": True}, ["live-restore"], "reload"),
        ({}, RUNTIME | {"labels": ["a=b"]}, ["labels", "runtimes"], "reload"),
        (RUNTIME, RUNTIME | LOG, ["log-driver", "log-opts"], "restart"),
        (RUNTIME, RUNTIME | POOLS | {"debug": True}, ["debug", "default-address-pools"], "restart"),
    ],
)
def test_docker_is_disturbed_no_more_than_needed(
    before: Any, after: Any, keys: list[str], effect: str
) -> None:
    assert daemon.changed_keys(before, after) == keys
    assert daemon.effect_of(keys) == effect
