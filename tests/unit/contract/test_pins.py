"""Pins: what is well-formed, what is refused, and how they are filled and kept."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from plugins.filter.pins import (
    images_to_pin,
    models_to_pin,
    parse_pins,
    pin_findings,
    pinned_image,
    pinned_model,
    pins_table,
    render_pins,
    updated_pins,
)
from tests.unit.contract.conftest import DIGEST, REVISION, change

CHOSEN = {"images": ["engine"], "models": ["chat", "ears"]}
WHERE = "inventory/here"
Pins = dict[str, dict[str, Any]]


def findings(pins: Pins, catalog: Pins) -> list[str]:
    return pin_findings(pins, catalog, CHOSEN, WHERE)


def test_sound_pins_pass(pins: Pins, catalog: Pins) -> None:
    assert findings(pins, catalog) == []


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("images/engine", None, "images.engine is None"),
        ("images/engine/digest", "", "images.engine.digest is empty"),
        ("images/engine", ..., "images.engine.digest is empty"),
        ("images/engine/digest", "25.11-py3", "sha256: and 64 hex digits"),
        ("images/engine/digest", "sha256:" + "A" * 64, "in lower case"),
        ("images/engine/digset", DIGEST, "images.engine.digset is not known"),
        ("images/engin", {"digest": DIGEST}, "images.engin is not in the catalogue"),
        ("models/chat/revision", "main", "neither a branch nor a tag"),
        ("models/chat/revision", "a" * 39, "40 hex digits"),
        ("models/chat/revision", "", "models.chat.revision is empty"),
        ("models/chat/files", {}, "models.chat.files lacks config.json, model.safetensors"),
        ("models/chat/files", ["config.json"], "a dict by path"),
        ("models/chat/files/model.safetensors", {"size": 1}, "model.safetensors: {'size': 1}"),
        ("models/chat/files/model.safetensors", {"size": "1", "sha256": "d" * 64}, "size: bytes"),
        ("models/chat/files/model.safetensors", {"size": 1, "sha256": "d" * 63}, "64 hex digits"),
        ("models/chat/files/modeling.py", {"size": 1, "git_oid": "c" * 40}, "never *.py"),
        ("models/chat/config", None, "models.chat.config is None"),
        ("models/chat/config", ["hidden_size"], "models.chat.config is ['hidden_size']"),
        ("models/chat/config/hidden_size", "4096", "whole numbers above 0, out of the model's config.json"),
        ("models/chat/config/num_hidden_layers", 0, "'num_hidden_layers': 0"),
        ("models/chat/config/num_key_value_heads", True, "'num_key_value_heads': True"),
        ("models/chat/files/..", {"size": 1, "git_oid": "c" * 40}, "a relative path"),
        ("models/whisper", {}, "models.whisper is not in the catalogue"),
        ("models/ears", ..., "models.ears.revision is empty"),
    ],
)
def test_malformed_or_empty_pin_is_refused(
    pins: Pins, catalog: Pins, path: str, value: Any, said: str
) -> None:
    found = findings(change(pins, path, value), catalog)
    assert len(found) == 1
    assert said in found[0]
    assert "Rule: " in found[0]
    assert "Remedy: " in found[0]


def test_an_empty_pin_names_the_command_that_fills_it(pins: Pins, catalog: Pins) -> None:
    (found,) = findings(change(pins, "images/engine/digest", ""), catalog)
    assert f"ansible-playbook playbooks/pin.yml -i {WHERE}" in found


def test_what_is_not_chosen_may_be_empty(pins: Pins, catalog: Pins) -> None:
    pins["images"]["other"] = {"digest": ""}
    assert findings(pins, catalog) == []


@pytest.mark.parametrize("text", [None, "", "---\n", "images:\nmodels:\n"])
def test_no_pins_yet(text: str | None) -> None:
    assert parse_pins(text, WHERE) == {"images": {}, "models": {}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("images: [", "line"),
        ("- images", "wrong shape"),
        ("images: 7", "wrong shape"),
        ("image: {}", "wrong shape"),
    ],
)
def test_unreadable_pins_are_refused(text: str, said: str) -> None:
    with pytest.raises(AnsibleFilterError, match=said) as refused:
        parse_pins(text, WHERE)
    assert f"{WHERE}/pins.yml" in str(refused.value)


def test_pinned_image_is_pulled_by_digest(pins: Pins, catalog: Pins) -> None:
    entry = {"name": "engine", **catalog["images"]["engine"]}
    assert pinned_image(entry, pins, WHERE)["ref"] == f"nvcr.io/nvidia/vllm@{DIGEST}"
    with pytest.raises(AnsibleFilterError, match="digest is empty"):
        pinned_image(entry, change(pins, "images/engine", ...), WHERE)


def test_pinned_model_has_revision_and_files(pins: Pins, catalog: Pins) -> None:
    entry = {"name": "chat", **catalog["models"]["chat"]}
    model = pinned_model(entry, pins, WHERE)
    assert model["revision"] == REVISION
    assert model["files"] == pins["models"]["chat"]["files"]
    assert model["config"] == pins["models"]["chat"]["config"]
    assert "config" not in pinned_model(entry, change(pins, "models/chat/config", ...), WHERE)
    with pytest.raises(AnsibleFilterError, match=r"'main'\. Rule: 40 hex digits"):
        pinned_model(entry, change(pins, "models/chat/revision", "main"), WHERE)


def test_only_empty_pins_are_resolved(pins: Pins, catalog: Pins) -> None:
    assert images_to_pin(pins, catalog, ["engine", "other", "engine"], False) == ["other"]
    assert images_to_pin(pins, catalog, ["engine"], True) == ["engine"]
    assert models_to_pin(pins, catalog, ["chat", "ears", "mouth"], False) == []
    asked = models_to_pin(pins, catalog, ["chat", "mouth"], True)
    assert asked == [{"name": "chat", "repository": "Some/Chat-GPTQ", "revision": "main", "config": True}]
    (ears,) = models_to_pin(pins, catalog, ["ears"], True)
    assert ears["config"] is False


def test_a_revision_typed_by_hand_gets_its_files(pins: Pins, catalog: Pins) -> None:
    change(pins, "models/chat/files", {})
    (asked,) = models_to_pin(pins, catalog, ["chat"], False)
    assert asked["revision"] == REVISION


def test_an_older_pin_is_asked_for_its_config_and_stays_at_its_revision(pins: Pins, catalog: Pins) -> None:
    change(pins, "models/chat/config", ...)
    (asked,) = models_to_pin(pins, catalog, ["chat", "ears"], False)
    assert (asked["revision"], asked["config"]) == (REVISION, True)
    change(pins, "models/chat/config", {})  # asked before: this model's config.json does not tell
    assert models_to_pin(pins, catalog, ["chat", "ears"], False) == []


LISTING = {
    "config.json": {"size": 1, "git_oid": "e" * 40},
    "model.safetensors": {"size": 2, "sha256": "f" * 64},
    "modeling_chat.py": {"size": 3, "git_oid": "e" * 40},
    "README.md": {"size": 4, "git_oid": "e" * 40},
}


def test_only_what_the_entry_needs_is_pinned(pins: Pins, catalog: Pins) -> None:
    shape = {"num_hidden_layers": 2}
    snapshot = {"revision": "e" * 40, "files": LISTING, "config": shape}
    result = updated_pins(pins, catalog, {"other": DIGEST}, {"chat": snapshot})
    assert result["models"]["chat"]["config"] == shape
    assert set(result["models"]["chat"]["files"]) == {"config.json", "model.safetensors"}
    assert result["models"]["ears"] == pins["models"]["ears"]
    assert result["images"] == {"engine": {"digest": DIGEST}, "other": {"digest": DIGEST}}


def test_a_pattern_takes_no_code(pins: Pins, catalog: Pins) -> None:
    change(catalog, "models/chat/files", ["*", "*.safetensors"])
    files = LISTING | {"pytorch_model.bin": {"size": 5, "sha256": "f" * 64}}
    result = updated_pins(pins, catalog, {}, {"chat": {"revision": "e" * 40, "files": files}})
    assert set(result["models"]["chat"]["files"]) == {"README.md", "config.json", "model.safetensors"}


def test_a_repository_without_a_needed_file_is_refused(pins: Pins, catalog: Pins) -> None:
    files = {"config.json": LISTING["config.json"]}
    with pytest.raises(AnsibleFilterError, match=r"Some/Chat-GPTQ at e+ has no model\.safetensors"):
        updated_pins(pins, catalog, {}, {"chat": {"revision": "e" * 40, "files": files}})


def test_what_is_written_is_what_is_read(pins: Pins, catalog: Pins) -> None:
    text = render_pins(pins, WHERE)
    assert parse_pins(text, WHERE) == pins
    assert yaml.safe_load(text) == pins
    empty: Pins = {
        "images": {},
        "models": {"chat": {"revision": "", "files": {}}, "dim": {"revision": "", "files": {}, "config": {}}},
    }
    assert parse_pins(render_pins(empty, WHERE), WHERE) == empty


def test_the_table_tells_new_moved_and_kept(pins: Pins, catalog: Pins) -> None:
    snapshot = {"revision": "e" * 40, "files": LISTING}
    after = updated_pins(pins, catalog, {"other": DIGEST}, {"chat": snapshot})
    fates = [line.split()[:3] for line in pins_table(after, pins)]
    assert fates == [
        ["kept", "image", "engine"],
        ["new", "image", "other"],
        ["moved", "model", "chat"],
        ["kept", "model", "ears"],
    ]
