"""What is deployed, exactly: an environment's pins (inventory/<env>/pins.yml)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

import yaml
from ansible.errors import AnsibleFilterError

_MAIN = {"images": "digest", "models": "revision"}
_FORMS = {
    "digest": (re.compile(r"sha256:[0-9a-f]{64}"), "sha256: and 64 hex digits, in lower case"),
    "revision": (
        re.compile(r"[0-9a-f]{40}"),
        "40 hex digits in lower case: a commit, neither a branch nor a tag",
    ),
}
_HASHES = {"sha256": re.compile(r"[0-9a-f]{64}"), "git_oid": re.compile(r"[0-9a-f]{40}")}
# Never fetched, whatever a pattern says: code, and for an LLM pickled weights, which run code when loaded.
_CODE = (".py",)
_LLM_CODE = (".py", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
_HEADER = """\
---
# What this environment deploys, exactly. Written by
#   ansible-playbook playbooks/pin.yml -i {inventory}
# which fills empty pins and keeps the others; -e pin_update=true moves them to what tag and branch say now.
# An empty pin is refused by every other playbook. A digest or a revision may also be typed in by hand;
# `files: {{}}` is then filled by pin.yml at that very revision.
"""


def _refusal(given: str, rule: str, remedy: str) -> str:
    return f"{given}. Rule: {rule}. Remedy: {remedy}."


def _fill(inventory: str) -> str:
    return f"fill it with `ansible-playbook playbooks/pin.yml -i {inventory}`"


class _Once(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML in which a key stands once."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def pins_text_findings(text: str | None, inventory: str) -> list[str]:
    """What keeps the text of pins.yml from being read at all."""
    try:
        parse_pins(text, inventory)
    except AnsibleFilterError as error:
        return [str(error)]
    return []


def parse_pins(text: str | None, inventory: str) -> dict[str, dict[str, Any]]:
    """The pins of an inventory from its pins.yml's text; no file (None) means no pins yet."""
    try:
        pins = yaml.load(str(text or ""), _Once) or {}
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        given = f"{inventory}/pins.yml{line} cannot be read: {getattr(error, 'problem', None) or error}"
        remedy = f"correct it, or remove it and {_fill(inventory)}"
        raise AnsibleFilterError(_refusal(given, "YAML in which a key stands once", remedy)) from None
    sections = [pins.get("images") or {}, pins.get("models") or {}] if isinstance(pins, dict) else [None]
    if not all(isinstance(section, dict) for section in sections) or set(pins) - {"images", "models"}:
        given = f"{inventory}/pins.yml has the wrong shape"
        raise AnsibleFilterError(_refusal(given, "a dict of two dicts, `images` and `models`", "correct it"))
    return {"images": sections[0] or {}, "models": sections[1] or {}}


def _lacking(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    names = list(names)
    return [p for p in patterns if not any(fnmatchcase(name, p) for name in names)]


def _file_finding(where: str, name: Any, record: Any) -> str | None:
    rule = "{size: bytes, sha256: 64 hex digits} or {size: bytes, git_oid: 40 hex digits}"
    if not isinstance(name, str) or name.startswith("/") or ".." in name.split("/") or name.endswith(".py"):
        given = f"{where} names the file {name!r}"
        return _refusal(given, "a relative path of a data file, never *.py", "remove it")
    sound = (
        isinstance(record, Mapping)
        and type(size := record.get("size")) is int
        and size >= 0
        and len(hashes := set(record) - {"size"}) == 1
        and hashes <= set(_HASHES)
        and all(_HASHES[h].fullmatch(str(record[h])) for h in hashes)
    )
    return None if sound else _refusal(f"{where}.files has {name}: {record!r}", rule, "pin this model again")


def _shape(config: Any) -> bool:
    return isinstance(config, Mapping) and all(
        isinstance(name, str) and isinstance(value, int) and not isinstance(value, bool) and value > 0
        for name, value in config.items()
    )


def _pin_findings(where: str, pin: Any, main: str) -> list[str]:
    known = ["digest"] if main == "digest" else ["revision", "files", "config"]
    if not isinstance(pin, Mapping):
        return [_refusal(f"{where} is {pin!r}", f"a dict of {', '.join(known)}", "correct it")]
    found = [
        _refusal(f"{where}.{name} is not known", f"one of {', '.join(known)}", "correct or remove it")
        for name in pin
        if name not in known
    ]
    form, rule = _FORMS[main]
    value = pin.get(main)
    if value and not form.fullmatch(str(value)):
        remedy = 'correct it, or empty it ("") and let pin.yml fill it'
        found.append(_refusal(f"{where}.{main} is {value!r}", rule, remedy))
    if not _shape(config := pin.get("config", {})):
        rule = "a dict of whole numbers above 0, out of the model's config.json"
        found.append(_refusal(f"{where}.config is {config!r}", rule, "remove it, and let pin.yml write it"))
    files = pin.get("files") or {}
    if not isinstance(files, Mapping):
        return [*found, _refusal(f"{where}.files is {files!r}", "a dict by path", "correct it")]
    return found + [f for name in files if (f := _file_finding(where, name, files[name]))]


def _malformed(section: str, key: str, pin: Any) -> list[str]:
    return _pin_findings(f"pins.yml: {section}.{key}", pin, _MAIN[section])


def _empty(
    section: str, key: str, pin: Mapping[str, Any], entry: Mapping[str, Any], inventory: str
) -> list[str]:
    where, main = f"pins.yml: {section}.{key}", _MAIN[section]
    if not pin.get(main):
        return [_refusal(f"{where}.{main} is empty", "what is deployed is pinned", _fill(inventory))]
    if section == "models" and (lacking := _lacking(entry["files"], pin.get("files") or {})):
        rule = "every file of the catalogue's entry is pinned with its size and hash"
        return [_refusal(f"{where}.files lacks {', '.join(lacking)}", rule, _fill(inventory))]
    return []


def pin_findings(
    pins: Mapping[str, Any], catalog: Mapping[str, Any], chosen: Mapping[str, Iterable[str]], inventory: str
) -> list[str]:
    """Everything wrong with the pins: malformed ones, else empty ones of what was chosen.

    catalog: the merged catalogue; chosen: {images: [KEY], models: [KEY]}.
    """
    found = []
    for section, pinned in pins.items():
        for key, pin in pinned.items():
            if key not in catalog[section]:
                given = f"pins.yml: {section}.{key} is not in the catalogue"
                found.append(_refusal(given, f"a key of its {section}", "correct the key, or remove the pin"))
            found += _malformed(section, key, pin)
    if found:
        return found
    for section, keys in chosen.items():
        for key in filter(catalog[section].__contains__, keys):
            found += _empty(section, key, pins[section].get(key, {}), catalog[section][key], inventory)
    return found


def _sound(section: str, entry: Mapping[str, Any], pins: Mapping[str, Any], inventory: str) -> dict[str, Any]:
    key = entry["name"]
    pin = pins[section].get(key, {})
    if found := _malformed(section, key, pin) or _empty(section, key, pin, entry, inventory):
        raise AnsibleFilterError("\n".join(found))
    return dict(pin)


def pinned_image(entry: Mapping[str, Any], pins: Mapping[str, Any], inventory: str) -> dict[str, Any]:
    """The catalogue's image with its digest, and `ref`, by which it is pulled; refuses an unpinned one."""
    digest = _sound("images", entry, pins, inventory)["digest"]
    return {**entry, "digest": digest, "ref": f"{entry['repository']}@{digest}"}


def pinned_model(entry: Mapping[str, Any], pins: Mapping[str, Any], inventory: str) -> dict[str, Any]:
    """The catalogue's model with its revision, its files' records and, if pinned, `config`; else refused."""
    pin = _sound("models", entry, pins, inventory)
    return {**entry, **pin, "revision": str(pin["revision"])}


def images_to_pin(
    pins: Mapping[str, Any], catalog: Mapping[str, Any], keys: Iterable[str], update: bool
) -> list[str]:
    """Those images whose tag has to be resolved."""
    known = [key for key in dict.fromkeys(keys) if key in catalog["images"]]
    return [key for key in known if update or not pins["images"].get(key, {}).get("digest")]


def models_to_pin(
    pins: Mapping[str, Any], catalog: Mapping[str, Any], keys: Iterable[str], update: bool
) -> list[dict[str, Any]]:
    """What to ask the hub: {name, repository, revision, config: whether to read config.json as well}.

    The revision is the branch; for a pin that lacks files or, if of an LLM, `config`, it is the pin's own.
    """
    wanted = []
    for key in dict.fromkeys(keys):
        entry = catalog["models"].get(key, {})
        if "repository" not in entry:  # a voice inside a package
            continue
        pin = pins["models"].get(key, {})
        revision = "" if update else pin.get("revision", "")
        config = entry["kind"] == "llm"
        if (
            not revision
            or _lacking(entry["files"], pin.get("files") or {})
            or (config and "config" not in pin)
        ):
            asked = {"repository": entry["repository"], "revision": str(revision or entry["branch"])}
            wanted.append({"name": key, **asked, "config": config})
    return wanted


def updated_pins(
    pins: Mapping[str, Any],
    catalog: Mapping[str, Any],
    digests: Mapping[str, str],
    snapshots: Mapping[str, Any],
) -> dict[str, dict[str, Any]]:
    """The pins with what has been resolved.

    digests: KEY -> digest; snapshots: KEY -> {revision, files}, with `config` for an LLM.
    """
    images, models = dict(pins["images"]), dict(pins["models"])
    found: list[str] = []
    for key, digest in digests.items():
        images[key] = {"digest": digest}
        found += _pin_findings(f"registry: {key}", images[key], "digest")
    for key, snapshot in snapshots.items():
        entry = catalog["models"][key]
        patterns, never = entry["files"], _LLM_CODE if entry["kind"] == "llm" else _CODE
        where = f"{entry['repository']} at {snapshot['revision']}"
        if lacking := _lacking(patterns, snapshot["files"]):
            given = f"{where} has no {', '.join(lacking)}"
            remedy = f"correct `files` of the catalogue's entry {key}, or its branch"
            found.append(_refusal(given, "the repository has every file of the catalogue's entry", remedy))
        files = {
            name: record
            for name, record in sorted(snapshot["files"].items())
            if any(fnmatchcase(name, pattern) for pattern in patterns) and not name.endswith(never)
        }
        models[key] = {"revision": snapshot["revision"], "files": files}
        if "config" in snapshot:
            models[key]["config"] = snapshot["config"]
        found += _pin_findings(where, models[key], "revision")
    if found:
        raise AnsibleFilterError("\n".join(found))
    return {"images": images, "models": models}


def render_pins(pins: Mapping[str, Any], inventory: str) -> str:
    """The text of pins.yml, keys in order."""
    lines = ["images:" if pins["images"] else "images: {}"]
    for key, pin in sorted(pins["images"].items()):
        lines += [f"  {key}:", f"    digest: {json.dumps(str(pin.get('digest') or ''))}"]
    lines.append("models:" if pins["models"] else "models: {}")
    for key, pin in sorted(pins["models"].items()):
        files = pin.get("files") or {}
        lines += [f"  {key}:", f"    revision: {json.dumps(str(pin.get('revision') or ''))}"]
        lines.append("    files:" if files else "    files: {}")
        for name, record in sorted(files.items()):
            value = "".join(f', {h}: "{record[h]}"' for h in _HASHES if h in record)
            lines.append(f"      {json.dumps(str(name))}: {{size: {record['size']}{value}}}")
        if (config := pin.get("config")) is not None:
            lines.append("    config:" if config else "    config: {}")
            lines += [f"      {name}: {value}" for name, value in sorted(config.items())]
    return _HEADER.format(inventory=inventory) + "\n".join(lines) + "\n"


def pins_table(pins: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    """A line per pin: new, moved or kept; what; the beginning of its value; the size of its files."""
    rows: list[tuple[str, ...]] = []
    for section, main in _MAIN.items():
        for key, pin in sorted(pins[section].items()):
            old, value = before[section].get(key, {}), str(pin.get(main) or "(empty)")
            fate = "kept" if pin == old else "moved" if old.get(main) not in (None, "", value) else "new"
            files = list((pin.get("files") or {}).values())
            size = f"{len(files)} files, {sum(file['size'] for file in files) / 1e9:.2f} GB" if files else ""
            rows.append((fate, section[:-1], key, value[:19], size))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


class FilterModule:
    """Filters on the pins."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {
            "images_to_pin": images_to_pin,
            "models_to_pin": models_to_pin,
            "parse_pins": parse_pins,
            "pin_findings": pin_findings,
            "pins_table": pins_table,
            "pins_text_findings": pins_text_findings,
            "pinned_image": pinned_image,
            "pinned_model": pinned_model,
            "render_pins": render_pins,
            "updated_pins": updated_pins,
        }
