"""What exists, and what a host has chosen of it: the catalogue's filters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

_KEY = r"[a-z0-9][a-z0-9._-]*"
_HUB_REPOSITORY = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_IMAGE_REPOSITORY = r"[a-z0-9][a-z0-9.-]*(:\d+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+"
_UNSAFE_WEIGHTS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")  # pickles: loading them runs code

Rule = tuple[str, Callable[[Any], bool]]


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _relative(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and ".." not in value.split("/") and value[0] not in "/~."


_TEXT: Rule = ("a text", lambda value: isinstance(value, str) and bool(value.strip()))
_FLAG: Rule = ("true or false", lambda value: isinstance(value, bool))
_SIZE: Rule = (
    "a number of gigabytes above 0",
    lambda value: isinstance(value, int | float) and not isinstance(value, bool) and value > 0,
)
_MEMORY: Rule = (
    "a whole number of MiB above 0",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
)
_FILES: Rule = (
    "a list of relative paths of data files, never *.py (no code from a repository is ever run)",
    lambda value: (
        isinstance(value, list)
        and bool(value)
        and all(_relative(name) and not name.endswith(".py") for name in value)
    ),
)
_LLM_FILES: Rule = (
    "a list of relative paths, weights as *.safetensors alone, never *.py",
    lambda value: (
        _FILES[1](value)
        and any(name.endswith(".safetensors") for name in value)
        and not any(name.endswith(_UNSAFE_WEIGHTS) for name in value)
    ),
)
_PRESETS: Rule = (
    "a dict of presets, each a dict of flags",
    lambda value: (
        isinstance(value, Mapping) and bool(value) and all(isinstance(p, Mapping) for p in value.values())
    ),
)
_TEMPLATE: Rule = (
    "{system_role: true or false, strict_alternation: true or false}",
    lambda value: (
        isinstance(value, Mapping)
        and set(value) == {"system_role", "strict_alternation"}
        and all(isinstance(trait, bool) for trait in value.values())
    ),
)
_GOLDEN: Rule = (
    "{prompt: a text, pattern: a regular expression}",
    lambda value: isinstance(value, Mapping) and set(value) == {"prompt", "pattern"} and _compiles(value),
)
_BRANCH: Rule = ("a branch's name", _matches(r"[\w][\w./-]*"))
_HUB: Rule = ("OWNER/NAME on the model hub", _matches(_HUB_REPOSITORY))

_IMAGE: dict[str, Rule] = {
    "repository": ("REGISTRY/PATH, in lower case, without tag and digest", _matches(_IMAGE_REPOSITORY)),
    "tag": ("an image tag", _matches(r"\w[\w.-]{0,127}")),
    "size_gb": _SIZE,
    "licence": _TEXT,
    "engine_version": _TEXT,
}
_FROM_HUB: dict[str, Rule] = {
    "repository": _HUB,
    "branch": _BRANCH,
    "licence": _TEXT,
    "gated": _FLAG,
    "size_gb": _SIZE,
}
_KINDS: dict[str, dict[str, Rule]] = {
    "llm": {
        **_FROM_HUB,
        "directory": ("a directory's name in lower case", _matches(_KEY)),
        "files": _LLM_FILES,
        "presets": _PRESETS,
        "template": _TEMPLATE,
        "golden": _GOLDEN,
    },
    "stt": {**_FROM_HUB, "files": _FILES},
    "tts": {"engine": _TEXT, "voice": _TEXT, "package": _TEXT, "licence": _TEXT, "memory_mb": _MEMORY},
}
_OPTIONAL = {"licence", "engine_version", "gated", "template", "golden"}

_CHOICES = {
    "vllm_image": ("images", None),
    "vllm_model": ("models", "llm"),
    "stt_model": ("models", "stt"),
    "tts_voice": ("models", "tts"),
}


def _compiles(golden: Mapping[str, Any]) -> bool:
    try:
        re.compile(golden["pattern"])
    except (re.error, TypeError):
        return False
    return isinstance(golden["prompt"], str)


def _refusal(given: str, rule: str, remedy: str) -> str:
    return f"{given}. Rule: {rule}. Remedy: {remedy}."


def _near(name: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"did you mean {close[0]}? " if close else ""


def _entry_findings(where: str, entry: Any, rules: Mapping[str, Rule]) -> list[str]:
    found = []
    for name in entry:
        if name not in rules:
            found.append(
                _refusal(
                    f"{where}.{name} is not known",
                    f"one of {', '.join(rules)}",
                    f"{_near(name, rules)}correct or remove it",
                )
            )
    for name, (rule, holds) in rules.items():
        if name not in entry:
            if name not in _OPTIONAL:
                found.append(_refusal(f"{where}.{name} is missing", rule, "add it"))
        elif not holds(entry[name]):
            found.append(_refusal(f"{where}.{name} is {entry[name]!r}", rule, "correct it"))
    return found


def _model_findings(where: str, entry: Mapping[str, Any]) -> list[str]:
    kind = entry.get("kind")
    if kind not in _KINDS:
        return [_refusal(f"{where}.kind is {kind!r}", f"one of {', '.join(_KINDS)}", "correct it")]
    return _entry_findings(where, {k: v for k, v in entry.items() if k != "kind"}, _KINDS[kind])


def _shape_findings(name: str, catalog: Any) -> list[str]:
    if not isinstance(catalog, Mapping):
        return [_refusal(f"{name} is {catalog!r}", "a dict with `images` and `models`", "correct it")]
    found = []
    for section, entries in catalog.items():
        if section not in ("images", "models"):
            remedy = f"{_near(section, ('images', 'models'))}correct or remove it"
            found.append(_refusal(f"{name}.{section} is not known", "one of images, models", remedy))
            continue
        if not isinstance(entries, Mapping):
            given = f"{name}.{section} is {entries!r}"
            found.append(_refusal(given, "a dict of entries by key", "correct it"))
            continue
        for key, entry in entries.items():
            where = f"{name}.{section}.{key}"
            if not _matches(_KEY)(key):
                rule = "a key of lower-case letters, digits, dots, dashes and underscores"
                found.append(_refusal(f"{name}.{section} has the key {key!r}", rule, "rename it"))
            elif not isinstance(entry, Mapping):
                found.append(_refusal(f"{where} is {entry!r}", "a dict describing one entry", "correct it"))
            elif section == "images":
                found += _entry_findings(where, entry, _IMAGE)
            else:
                found += _model_findings(where, entry)
    return found


def catalog_findings(catalog: Any, extra: Any) -> list[str]:
    """Everything wrong with the catalogue and the inventory's additions to it."""
    found = _shape_findings("catalog", catalog) + _shape_findings("catalog_extra", extra)
    if found:
        return found
    for section in ("images", "models"):
        for key in extra.get(section, {}):
            if key in catalog.get(section, {}):
                found.append(
                    _refusal(
                        f"catalog_extra.{section}.{key} exists in the catalogue already",
                        "a key means one thing",
                        "give it another key, and choose that",
                    )
                )
    return found


def merge_catalog(catalog: Any, extra: Any) -> dict[str, dict[str, Any]]:
    """The catalogue with the inventory's additions; refuses malformed entries and keys given twice."""
    if found := catalog_findings(catalog, extra):
        raise AnsibleFilterError("\n".join(found))
    return {s: {**catalog.get(s, {}), **extra.get(s, {})} for s in ("images", "models")}


def _choice_finding(catalog: Mapping[str, Any], variable: str, key: Any) -> str | None:
    section, kind = _CHOICES[variable]
    known = [name for name, entry in catalog[section].items() if kind is None or entry["kind"] == kind]
    if key in known:
        return None
    rule = f"a key of the catalogue's {section}" + (f" of kind {kind}" if kind else "")
    remedy = f"{_near(key, known)}Set {variable} to one of: {', '.join(known)}"
    return _refusal(f"{variable} is {key!r}", rule, remedy)


def choice_findings(catalog: Mapping[str, Any], choices: Mapping[str, Any]) -> list[str]:
    """What is wrong with what was chosen (variable -> key) from the merged catalogue."""
    found = [finding for name in _CHOICES if (finding := _choice_finding(catalog, name, choices[name]))]
    name, preset = choices["vllm_model"], choices["vllm_preset"]
    presets = list(catalog["models"].get(name, {}).get("presets", {preset: {}}))
    if preset not in presets:
        remedy = f"{_near(preset, presets)}Set vllm_preset to one of: {', '.join(presets)}"
        found.append(_refusal(f"vllm_preset is {preset!r}", f"a key of {name}'s presets", remedy))
    return found


def chosen(catalog: Mapping[str, Any], key: Any, variable: str) -> dict[str, Any]:
    """The catalogue's entry that `variable` names, with its key as `name`."""
    if finding := _choice_finding(catalog, variable, key):
        raise AnsibleFilterError(finding)
    return {"name": key, **catalog[_CHOICES[variable][0]][key]}


class FilterModule:
    """Filters on the catalogue."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {
            "catalog_findings": catalog_findings,
            "choice_findings": choice_findings,
            "chosen": chosen,
            "merge_catalog": merge_catalog,
        }
