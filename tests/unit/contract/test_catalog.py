"""The catalogue: what is well-formed, how an inventory adds to it, and what may be chosen from it."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from plugins.filter.catalog import catalog_findings, choice_findings, chosen, merge_catalog
from tests.unit.contract.conftest import ROOT, change

CHOICES = {
    "vllm_image": "engine",
    "vllm_model": "chat",
    "vllm_preset": "seed",
    "stt_model": "ears",
    "tts_voice": "mouth",
}


def real_catalog() -> dict[str, dict[str, Any]]:
    text = (ROOT / "playbooks/group_vars/all/catalog.yml").read_text(encoding="utf-8")
    loaded: dict[str, dict[str, Any]] = yaml.safe_load(text)["catalog"]
    return loaded


def test_the_real_catalogue_is_sound_and_complete() -> None:
    catalog = real_catalog()
    assert catalog_findings(catalog, {}) == []
    whisper = {f"whisper-{size}" for size in ("tiny.en", "base", "small", "small.en", "medium", "medium.en")}
    assert set(catalog["models"]) == {"mistral-7b", "llama3-70b", "hibari-heart"} | whisper


def test_llama3_has_mistrals_files_but_no_tokenizer_model() -> None:
    models = real_catalog()["models"]
    assert set(models["mistral-7b"]["files"]) - set(models["llama3-70b"]["files"]) == {"tokenizer.model"}


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("pictures", {}, "catalog.pictures is not known"),
        ("images", [], "catalog.images is []"),
        ("images/Engine 1", {}, "the key 'Engine 1'"),
        ("images/engine", "x", "catalog.images.engine is 'x'"),
        ("images/engine/repository", "nvcr.io/nvidia/vllm:25.11", "without tag and digest"),
        ("images/engine/tag", "", "catalog.images.engine.tag is ''"),
        ("images/engine/size_gb", "14 GB", "a number of gigabytes"),
        ("images/engine/size_gb", ..., "catalog.images.engine.size_gb is missing"),
        ("images/engine/licens", "x", "did you mean licence?"),
        ("models/chat/kind", "chat", "one of llm, stt, tts"),
        ("models/chat/repository", "just-a-name", "OWNER/NAME"),
        ("models/chat/branch", ..., "catalog.models.chat.branch is missing"),
        ("models/chat/gated", "no", "true or false"),
        ("models/chat/directory", "../etc", "a directory's name"),
        ("models/chat/files", ["config.json"], "*.safetensors"),
        (
            "models/chat/files",
            ["config.json", "model.safetensors", "pytorch_model.bin"],
            "*.safetensors alone",
        ),
        ("models/chat/files", ["model.safetensors", "modeling_x.py"], "never *.py"),
        ("models/chat/files", ["model.safetensors", "../../etc/passwd"], "relative paths"),
        ("models/chat/presets", {}, "a dict of presets"),
        ("models/chat/template", {"system_role": True}, "strict_alternation"),
        ("models/chat/golden", {"prompt": "x", "pattern": "("}, "a regular expression"),
        ("models/ears/files", [], "catalog.models.ears.files is []"),
        ("models/ears/presets", {}, "catalog.models.ears.presets is not known"),
        ("models/mouth/voice", ..., "catalog.models.mouth.voice is missing"),
        ("models/mouth/memory_mb", 0.5, "a whole number of MiB above 0"),
    ],
)
def test_malformed_entry_is_refused(catalog: dict[str, Any], path: str, value: Any, said: str) -> None:
    found = catalog_findings(change(catalog, path, value), {})
    assert len(found) == 1
    assert said in found[0]
    assert "Rule: " in found[0]
    assert "Remedy: " in found[0]


def test_addition_is_merged(catalog: dict[str, Any]) -> None:
    extra = {"models": {"chat-2": catalog["models"]["chat"]}}
    merged = merge_catalog(catalog, extra)
    assert set(merged["models"]) == {"chat", "chat-2", "ears", "mouth"}
    assert merged["images"] == catalog["images"]


def test_key_given_twice_is_refused(catalog: dict[str, Any]) -> None:
    extra = {"models": {"chat": catalog["models"]["chat"]}}
    with pytest.raises(
        AnsibleFilterError, match=r"catalog_extra\.models\.chat exists in the catalogue already"
    ):
        merge_catalog(catalog, extra)


@pytest.mark.parametrize("extra", [None, [], "models", {"modles": {}}, {"models": {"x": {"kind": "llm"}}}])
def test_malformed_addition_is_refused(catalog: dict[str, Any], extra: Any) -> None:
    with pytest.raises(AnsibleFilterError, match="catalog_extra"):
        merge_catalog(catalog, extra)


def test_sound_choices_pass(catalog: dict[str, Any]) -> None:
    assert choice_findings(catalog, CHOICES) == []


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("vllm_image", "vllm-99", "Set vllm_image to one of: engine, other"),
        ("vllm_model", "chatt", "did you mean chat?"),
        ("vllm_model", "ears", "of kind llm"),
        ("vllm_preset", "fast", "vllm_preset is 'fast'. Rule: a key of chat's presets"),
        ("stt_model", "chat", "of kind stt"),
        ("tts_voice", None, "tts_voice is None"),
    ],
)
def test_unknown_choice_is_refused(catalog: dict[str, Any], variable: str, value: Any, said: str) -> None:
    found = choice_findings(catalog, CHOICES | {variable: value})
    assert len(found) == 1
    assert said in found[0]


def test_all_choices_are_judged_at_once(catalog: dict[str, Any]) -> None:
    assert len(choice_findings(catalog, dict.fromkeys(CHOICES, "x"))) == 4


def test_chosen_entry_knows_its_name(catalog: dict[str, Any]) -> None:
    assert chosen(catalog, "ears", "stt_model") == {"name": "ears", **catalog["models"]["ears"]}
    with pytest.raises(AnsibleFilterError, match=r"vllm_model is 'ears'\. Rule: .* kind llm\. Remedy: "):
        chosen(catalog, "ears", "vllm_model")
