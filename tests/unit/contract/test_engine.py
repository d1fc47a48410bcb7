"""What the engine runs with, by the catalogue."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.errors import AnsibleFilterError

from plugins.filter.engine import (
    chosen_flags,
    disk_needs,
    flag_findings,
    model_path,
    model_records,
    vllm_argv,
    vllm_labels,
)
from tests.unit.contract.conftest import REVISION
from tests.unit.contract.test_catalog import real_catalog

SEED = "vllm serve /models/mistral-7b --quantization gptq --gpu-memory-utilization 0.9 --dtype float16"
MISTRAL = {"name": "mistral-7b", "revision": REVISION, **real_catalog()["models"]["mistral-7b"]}
IMAGE = {"name": "engine", "ref": "nvcr.io/nvidia/vllm@sha256:" + "1" * 64, "size_gb": 14.1}


def argv_of(preset: str, extra: dict[str, Any]) -> list[str]:
    return vllm_argv(MISTRAL, chosen_flags(MISTRAL, preset, extra))


def test_the_seed_preset_is_the_tutorials_command() -> None:
    assert argv_of("seed", {}) == SEED.split()


@pytest.mark.parametrize(
    ("extra", "added"),
    [
        ({"max-num-seqs": 8}, ["--max-num-seqs", "8"]),
        ({"enforce-eager": True}, ["--enforce-eager"]),
        ({"enforce-eager": False, "seed": None}, []),
        ({"middleware": ["a", "b"]}, ["--middleware", "a", "b"]),
        ({"limit-mm-per-prompt": {"image": 1}}, ["--limit-mm-per-prompt", '{"image": 1}']),
    ],
)
def test_a_new_flag_is_one_key(extra: dict[str, Any], added: list[str]) -> None:
    assert argv_of("seed", extra) == SEED.split() + added


def test_a_flag_over_the_preset_keeps_its_place() -> None:
    argv = argv_of("seed", {"quantization": None, "gpu-memory-utilization": 0.2})
    assert argv == [
        "vllm",
        "serve",
        "/models/mistral-7b",
        "--gpu-memory-utilization",
        "0.2",
        "--dtype",
        "float16",
    ]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"--dtype": "half"}, "without the leading dashes"),
        ({"max_num_seqs": 8}, "as vLLM spells them"),
        ({"port": 1}, "published on loopback"),
        ({"api-key": "x"}, "gateway_keys"),
        ({"trust-" + "remote-code": True}, "never run"),
        (["--dtype"], "a dict of flags"),
        ("--dtype half", "a dict of flags"),
    ],
)
def test_flags_that_are_none_to_set(flags: Any, said: str) -> None:
    (found,) = flag_findings(flags, "vllm_args")
    assert said in found
    assert "vllm_args" in found
    assert "Remedy: " in found


def test_a_key_is_not_shown() -> None:
    assert "sesame" not in str(flag_findings({"api-key": "sesame"}, "vllm_args"))


def test_unknown_preset_or_flag_is_refused() -> None:
    with pytest.raises(AnsibleFilterError, match="set vllm_preset to one of: seed"):
        argv_of("sede", {})
    with pytest.raises(AnsibleFilterError, match="vllm_args has model"):
        argv_of("seed", {"model": "x"})


def test_labels_change_with_what_runs() -> None:
    labels = vllm_labels(SEED.split(), IMAGE, MISTRAL)
    assert labels["spark-voicebot.revision"] == REVISION
    assert all(isinstance(value, str) for value in labels.values())
    assert vllm_labels(SEED.split(), IMAGE, MISTRAL) == labels
    assert vllm_labels([*SEED.split(), "--x"], IMAGE, MISTRAL) != labels
    assert vllm_labels(SEED.split(), IMAGE, MISTRAL | {"revision": "b" * 40}) != labels


def test_disk_needs_come_from_the_catalogue() -> None:
    image, model = disk_needs(IMAGE, [MISTRAL], "/srv/models")
    assert image == {
        "what": "image engine",
        "path": "/var/lib/docker",
        "gb": 14.1,
        "image": IMAGE["ref"],
    }
    assert model == {
        "what": "model mistral-7b",
        "path": "/srv/models",
        "gb": 4.16,
        "directory": f"/srv/models/mistral-7b/{REVISION}",
    }


def test_the_store_gets_what_it_has_to_verify() -> None:
    (record,) = model_records([MISTRAL])
    assert set(record) == {"name", "repository", "revision", "gated", "files"}
    assert model_path(MISTRAL, "/srv/models") == f"/srv/models/mistral-7b/{REVISION}"
