"""Names and values of an inventory's variables against the roles' specifications."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.action.inventory_contract import unknown_names, value_findings

OPTIONS: dict[str, dict[str, Any]] = {
    "port": {"type": "int", "default": 8000},
    "ratio": {"type": "float", "default": 0.5},
    "name": {"type": "str", "default": ""},
    "mode": {"type": "str", "default": "changed", "choices": ["changed", "full"]},
    "loud": {"type": "bool", "default": False},
    "words": {"type": "list", "elements": "str", "default": []},
    "secret": {"type": "str", "default": "", "no_log": True},
    "maybe": {"type": "str"},
    "free": {"type": "dict", "default": {}},
    "settings": {
        "type": "dict",
        "default": {},
        "options": {
            "beam_size": {"type": "int"},
            "token": {"type": "int", "no_log": True},
            "mounts": {
                "type": "list",
                "elements": "dict",
                "options": {"source": {"type": "path", "required": True}, "target": {"type": "path"}},
            },
        },
    },
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", 1),
        ("port", "8000"),
        ("ratio", 1),
        ("name", "x"),
        ("name", 25.11),
        ("mode", "full"),
        ("loud", "yes"),
        ("words", []),
        ("words", ["a", "b"]),
        ("maybe", None),
        ("free", {"any": {"thing": 1}}),
        ("settings", {"beam_size": 5, "mounts": [{"source": "/a", "target": "/b"}]}),
    ],
)
def test_sound_value_passes(name: str, value: Any) -> None:
    assert list(value_findings(name, value, OPTIONS[name])) == []


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("port", "many", "port is 'many'. Rule: an integer"),
        ("port", True, "port is True. Rule: an integer"),
        ("port", None, "port is null"),
        ("ratio", "half", "a number"),
        ("name", ["x"], "name is ['x']. Rule: a text"),
        ("mode", "ful", "mode is 'ful'. Rule: one of changed, full"),
        ("loud", "perhaps", "true or false"),
        ("words", "a b", "a list"),
        ("words", ["a", {}], "words[1] is {}"),
        ("free", "a=b", "a dict"),
        ("settings", {"beam_sise": 5}, "settings.beam_sise is not known"),
        ("settings", {"beam_sise": 5}, "did you mean beam_size?"),
        ("settings", {"beam_size": "x"}, "settings.beam_size is 'x'"),
        ("settings", {"mounts": [{"target": "/b"}]}, "settings.mounts[0].source is missing"),
        ("settings", {"mounts": [{"source": "/a", "targt": "/b"}]}, "settings.mounts[0].targt is not known"),
    ],
)
def test_wrong_value_is_named(name: str, value: Any, said: str) -> None:
    (found,) = value_findings(name, value, OPTIONS[name])
    assert said in found
    assert "Remedy: " in found


@pytest.mark.parametrize(
    ("name", "value"),
    [("secret", ["sesame"]), ("settings", {"token": "sesame"}), ("secret", {"a": "sesame"})],
)
def test_a_secret_is_not_shown(name: str, value: Any) -> None:
    (found,) = value_findings(name, value, OPTIONS[name])
    assert "sesame" not in found
    assert "(hidden)" in found


def test_unknown_names_come_with_the_nearest_known() -> None:
    names = ["vllm_modle", "vllm_port", "ansible_host", "inventory_hostname", "__vllm_seen", "quite_other"]
    modle, other = reversed(unknown_names(names, ["vllm_model", "vllm_port"]))
    assert modle.startswith("vllm_modle is not known. Rule: ")
    assert "did you mean vllm_model?" in modle
    assert other.endswith("Remedy: correct or remove it.")
