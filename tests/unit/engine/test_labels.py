"""Labels of the container carry what makes a new one: digest, revision, argv; and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from plugins.filter.engine import model_path, vllm_labels

ARGV = ["vllm", "serve", "/models/m", "--dtype", "float16"]
IMAGE = {"ref": "nvcr.io/nvidia/vllm@sha256:" + "1" * 64, "size_gb": 14.1}
MODEL = {"name": "m", "revision": "a" * 40, "size_gb": 4.0, "golden": {"prompt": "?"}}


@pytest.mark.parametrize(
    ("argv", "image", "model", "changed"),
    [
        (ARGV, IMAGE, MODEL, set()),
        (ARGV, {**IMAGE, "size_gb": 15.0}, {**MODEL, "golden": {}, "size_gb": 5.0}, set()),
        ([*ARGV, "--enforce-eager"], IMAGE, MODEL, {"argv"}),
        (ARGV[::-1], IMAGE, MODEL, {"argv"}),
        (["vllm serve", *ARGV[2:]], IMAGE, MODEL, {"argv"}),  # other words, though the same text
        (ARGV, {**IMAGE, "ref": IMAGE["ref"][:-1] + "2"}, MODEL, {"image"}),  # type: ignore[index]
        (ARGV, IMAGE, {**MODEL, "revision": "b" * 40}, {"revision"}),
        (ARGV, IMAGE, {**MODEL, "name": "n"}, {"model"}),
    ],
)
def test_labels_tell_what_changed(
    argv: list[str], image: dict[str, Any], model: dict[str, Any], changed: set[str]
) -> None:
    before, after = vllm_labels(ARGV, IMAGE, MODEL), vllm_labels(argv, image, model)
    assert {name.rpartition(".")[2] for name in before if before[name] != after[name]} == changed


def test_an_environment_has_a_label_and_none_has_none() -> None:
    bare = vllm_labels(ARGV, IMAGE, MODEL)
    assert vllm_labels(ARGV, IMAGE, MODEL, {}) == bare
    first, same, other = (
        vllm_labels(ARGV, IMAGE, MODEL, given)
        for given in ({"A": "1", "B": "2"}, {"B": "2", "A": "1"}, {"A": "1", "B": "3"})
    )
    assert first == same and first != other
    assert set(first) - set(bare) == {"spark-voicebot.environment"}
    assert "1" not in first.values(), "labels are public"


def test_a_mount_carries_the_revision() -> None:
    assert model_path(MODEL, "/srv/models") != model_path({**MODEL, "revision": "b" * 40}, "/srv/models")
