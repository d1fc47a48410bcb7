"""What the engine runs with: its argument vector, labels, models, and what all that takes on disk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

_UNFINISHED = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)$", re.M)
_FLAG = re.compile(r"[a-z][a-z0-9-]*")
_RESERVED = {  # pattern of a flag: why it is none to set
    "model": "the model is the catalogue's entry (vllm_model)",
    "served-model-name": "the served name is the model's directory",
    "host": "the container's port is published on loopback (vllm_port)",
    "port": "the container's port is published on loopback (vllm_port)",
    "api-key": "the engine has no key: it listens on loopback, and keys are the gateway's (gateway_keys)",
    "trust.*": "code from a model's repository is never run",
}


def _refusal(given: str, rule: str, remedy: str) -> str:
    return f"{given}. Rule: {rule}. Remedy: {remedy}."


def flag_findings(flags: Any, name: str) -> list[str]:
    """What is wrong with a dict of flags (name: where it stands)."""
    if not isinstance(flags, Mapping):
        return [_refusal(f"{name} is {flags!r}", "a dict of flags without dashes", "correct it")]
    found = []
    for flag in flags:
        reasons = [why for pattern, why in _RESERVED.items() if re.fullmatch(pattern, str(flag))]
        if reasons:
            found.append(_refusal(f"{name} has {flag}", reasons[0], "remove it"))
        elif not isinstance(flag, str) or not _FLAG.fullmatch(flag):
            rule = "flags are written as vLLM spells them, without the leading dashes: max-num-seqs"
            found.append(_refusal(f"{name} has {flag!r}", rule, "correct it"))
    return found


def _words(value: Any) -> list[str]:
    if isinstance(value, list | tuple):
        return [word for element in value for word in _words(element)]
    return [json.dumps(value) if isinstance(value, Mapping) else str(value)]


def chosen_flags(entry: Mapping[str, Any], preset: str, extra: Mapping[str, Any]) -> dict[str, Any]:
    """Flags for a catalogue's model: the preset's in their order, `extra` over it; false and null remove."""
    if preset not in entry["presets"]:
        rule = f"a key of {entry['name']}'s presets"
        remedy = f"set vllm_preset to one of: {', '.join(entry['presets'])}"
        raise AnsibleFilterError(_refusal(f"vllm_preset is {preset!r}", rule, remedy))
    chosen = entry["presets"][preset]
    if found := flag_findings(chosen, f"preset {preset}") + flag_findings(extra, "vllm_args"):
        raise AnsibleFilterError("\n".join(found))
    flags = {**chosen, **extra}
    return {flag: value for flag, value in flags.items() if value is not None and value is not False}


def vllm_argv(entry: Mapping[str, Any], flags: Mapping[str, Any]) -> list[str]:
    """`vllm serve` for a catalogue's model.

    true gives the bare flag; a list gives the flag followed by its elements (vLLM reads the last of a
    repeated flag); a dict is passed as JSON.
    """
    argv = ["vllm", "serve", served_name(entry)]
    for flag, value in flags.items():
        argv += [f"--{flag}"] if value is True else [f"--{flag}", *_words(value)]
    return argv


def served_name(model: Mapping[str, Any]) -> str:
    """Where the container finds a model, and the name under which the engine serves it."""
    return f"/models/{model['directory']}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def vllm_labels(
    argv: Iterable[str],
    image: Mapping[str, Any],
    model: Mapping[str, Any],
    environment: Any = None,
) -> dict[str, str]:
    """Labels that tell what a container was made from; one for the environment only where there is any."""
    labels = {
        "spark-voicebot.image": str(image["ref"]),
        "spark-voicebot.model": str(model["name"]),
        "spark-voicebot.revision": str(model["revision"]),
        "spark-voicebot.argv": _digest([str(word) for word in argv]),
    }
    return labels | ({"spark-voicebot.environment": _digest(environment)} if environment else {})


def model_path(model: Mapping[str, Any], root: str) -> str:
    """Where the store keeps a pinned model."""
    return f"{root}/{model['name']}/{model['revision']}"


def model_records(models: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the store needs to know of pinned models, to fetch and to verify them."""
    return [
        {
            "name": model["name"],
            "repository": model["repository"],
            "revision": model["revision"],
            "gated": model.get("gated", False),
            "files": model["files"],
        }
        for model in models
    ]


def disk_needs(
    image: Mapping[str, Any], models: Iterable[Mapping[str, Any]], root: str
) -> list[dict[str, Any]]:
    """What image and models take on disk, by the catalogue, and how to see that a part is there already."""
    needs = [
        {
            "what": f"image {image['name']}",
            "path": "/var/lib/docker",
            "gb": image["size_gb"],
            "image": image["ref"],
        }
    ]
    for model in models:
        needs.append(
            {
                "what": f"model {model['name']}",
                "path": root,
                "gb": model["size_gb"],
                "directory": model_path(model, root),
            }
        )
    return needs


def vllm_unfinished(metrics: str) -> int:
    """Requests that run or wait, from the engine's /metrics (Prometheus text; 0 where it names none)."""
    return int(sum(float(value) for value in _UNFINISHED.findall(metrics)))


class FilterModule:
    """Filters on the engine."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Names in templates."""
        return {
            "chosen_flags": chosen_flags,
            "disk_needs": disk_needs,
            "flag_findings": flag_findings,
            "model_path": model_path,
            "model_records": model_records,
            "served_name": served_name,
            "vllm_argv": vllm_argv,
            "vllm_labels": vllm_labels,
            "vllm_unfinished": vllm_unfinished,
        }
