"""The memory plan as it runs: preflight.yml shows, warns and refuses; the engine gets the figures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plugins.filter.memory_plan import GIB, kv_tokens
from tests.unit.contract.conftest import REVISION, ROOT, Run, write
from tests.unit.contract.test_catalog import real_catalog
from tests.unit.contract.test_engine import SEED
from tests.unit.contract.test_preflight import SHAPE, inventory, sound_pins

Play = Callable[..., Run]
SPARK = int(121.6 * GIB)
SHAPE_70B = {**SHAPE, "hidden_size": 8192, "max_position_embeddings": 8192, "num_attention_heads": 64}
SHAPE_70B["num_hidden_layers"] = 80
WEIGHTS = {"mistral-7b": 4_160_000_000, "llama3-70b": 39_800_000_000}
VOICE = (
    "vllm serve /models/{} --quantization gptq_marlin --dtype float16 --max-num-seqs 8 --max-model-len 8192"
    " --gpu-memory-utilization {} --kv-cache-memory-bytes {}"
)
# hosts of one inventory: `old-7b` is a pin without config, `mute-7b` one whose config.json told no shape
SHOWN: dict[str, dict[str, Any]] = {
    "seed": {"memory_total": SPARK},
    "voice": {"memory_total": SPARK, "vllm_preset": "voice"},
    "large": {"memory_total": SPARK, "vllm_preset": "voice", "vllm_model": "llama3-70b"},
    "old": {"memory_total": SPARK, "vllm_model": "old-7b"},
    "mute": {"memory_total": SPARK, "vllm_model": "mute-7b"},
    "here": {"memory_system_gib": 1},
    "fewer": {"memory_total": SPARK, "vllm_preset": "voice", "vllm_args": {"max-num-seqs": 4}},
    "eager": {"memory_total": SPARK, "vllm_args": {"enforce-eager": True, "kv-cache-dtype": "fp8"}},
}
UNFIT: dict[str, dict[str, Any]] = {
    "small": {"memory_total": 28 * GIB, "vllm_preset": "voice"},
    "small-seed": {"memory_total": 28 * GIB},
    "tiny": {"memory_total": 16 * GIB},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "old": (
        {"vllm_model": "old-7b", "vllm_preset": "voice"},
        "gpu-memory-utilization is planned, but {inventory}/pins.yml has no models.old-7b.config. Rule: the"
        " memory plan takes the KV cache's shape from the pin. Remedy:"
        " `ansible-playbook playbooks/pin.yml -i {inventory}` adds it to the pinned revision,"
        " with -e pin_update=true to the newest.",
    ),
    "mute": (
        {"vllm_model": "mute-7b", "vllm_preset": "voice"},
        "config.json of mute-7b does not tell the KV cache's shape. Rule: ",
    ),
    "flag": (
        {"vllm_args": {"dtype": "planned"}},
        "dtype is planned. Rule: planned are gpu-memory-utilization and",
    ),
    "context": (
        {"vllm_args": {"max-model-len": 40000}},
        "max_model_len is 40000. Rule: at most the model's max_position_embeddings, 32768. Remedy: ",
    ),
    "sequences": (
        {"memory_sequences": 0},
        "memory_sequences is 0. Rule: a whole number, 1 or more. Remedy: ",
    ),
    "system": (
        {"memory_system_gib": "x"},
        "memory_system_gib is 'x'. Rule: a number of GiB, 1 or more. Remedy: ",
    ),
}


def fleet(folder: Path, hosts: dict[str, dict[str, Any]]) -> Path:
    models = real_catalog()["models"]
    extra = dict.fromkeys(("old-7b", "mute-7b"), models["mistral-7b"])
    write(folder / "group_vars/spark/all.yml", json.dumps({"catalog_extra": {"models": extra}}))
    pins = sound_pins()
    large = {name: {"size": 1, "git_oid": "c" * 40} for name in models["llama3-70b"]["files"]}
    pins["models"]["llama3-70b"] = {"revision": REVISION, "files": large, "config": SHAPE_70B}
    for name, size in WEIGHTS.items():
        pins["models"][name]["files"]["model.safetensors"] = {"size": size, "sha256": "d" * 64}
    pins["models"]["whisper-base"]["files"]["model.bin"] = {"size": GIB // 6, "sha256": "d" * 64}
    old = {"revision": REVISION, "files": pins["models"]["mistral-7b"]["files"]}
    pins["models"] |= {"old-7b": old, "mute-7b": {**old, "config": {}}}
    return inventory(folder, hosts, pins)


@pytest.fixture(scope="module")
def shown(play: Play, tmp_path_factory: pytest.TempPathFactory) -> Run:
    hosts = SHOWN | UNFIT
    return play("playbooks/preflight.yml", fleet(tmp_path_factory.mktemp("fleet"), hosts), "--tags", "memory")


def said(run: Run, task: str, host: str) -> str:
    (results,) = [
        t["hosts"] for p in run.report["plays"] for t in p["tasks"] if t["task"]["name"].startswith(task)
    ]
    return str(results[host].get("msg", ""))


def words(text: str) -> str:
    return " ".join(text.split())


def test_the_plan_is_shown_with_the_known_answers(shown: Run) -> None:
    assert said(shown, "Show", "voice").splitlines() == [
        "voice: mistral-7b, preset voice",
        "  weights           3.87 GiB  *.safetensors",
        "  KV cache          8.00 GiB  8 sequences x 8192 tokens, 128 KiB a token",
        "  activations       3.00 GiB  and CUDA context",
        "  CUDA graphs       2.50 GiB",
        "  rounding up       0.87 GiB  to 0.15 of MemTotal; holds the one block vLLM keeps to itself",
        "  = engine         18.24 GiB  --gpu-memory-utilization 0.15",
        "  speech to text    0.50 GiB",
        "  text to speech    0.50 GiB",
        "  system           16.00 GiB  OS, Docker, the engine's host side, page cache",
        "  = planned        35.24 GiB",
        "  left             86.36 GiB",
        "  MemTotal        121.60 GiB",
    ]
    large = words(said(shown, "Show", "large"))
    assert "weights 37.07 GiB" in large
    assert "KV cache 20.00 GiB 8 sequences x 8192 tokens, 320 KiB a token" in large
    assert "--gpu-memory-utilization 0.52" in large


def test_flags_change_the_plan(shown: Run) -> None:
    assert "KV cache 4.00 GiB 4 sequences x 8192 tokens" in words(said(shown, "Show", "fewer"))
    eager = words(said(shown, "Show", "eager"))
    assert "KV cache 4.00 GiB 8 sequences x 8192 tokens, 64 KiB a token" in eager
    assert "CUDA graphs 0.00 GiB" in eager


def test_without_an_inventory_saying_otherwise_it_is_this_machines_memory(shown: Run) -> None:
    kib = int(Path("/proc/meminfo").read_text(encoding="utf-8").split()[1])
    assert said(shown, "Show", "here").split("MemTotal")[-1].split()[0] == f"{kib / 1024**2:.2f}"


def test_the_seed_is_warned_of_and_shown_the_plans_figure(shown: Run) -> None:
    warning = words(said(shown, "Warn", "seed"))
    assert "--gpu-memory-utilization 0.9 on unified memory takes 109.44 of 121.60 GiB" in warning
    assert "The plan's figure is 0.15." in warning
    tokens = int(warning.split("KV cache: ")[1].split(", ", 1)[1].split(" tokens")[0].replace(",", ""))
    assert tokens == pytest.approx(kv_tokens(int(102.56 * GIB), 128 * 1024), rel=1e-3)
    assert kv_tokens(int(102.56 * GIB), 128 * 1024) == 840_160
    for host in ("voice", "large", "fewer"):
        assert "GiB" not in said(shown, "Warn", host)


def test_without_a_pinned_shape_the_seed_is_not_refused_and_told_why(shown: Run) -> None:
    old = words(said(shown, "Show", "old"))
    assert old.startswith("old: old-7b, preset seed: no memory plan. ")
    assert "has no models.old-7b.config. Rule: " in old
    assert "-e pin_update=true" in old
    assert "config.json of mute-7b does not tell the KV cache's shape" in words(said(shown, "Show", "mute"))


def test_what_does_not_fit_is_refused_with_the_nearest_setting(shown: Run) -> None:
    assert shown.code != 0
    assert shown.changed() == 0
    for host in ("small", "small-seed"):
        message = shown.messages(host)
        assert message.startswith(f"{host}: The memory plan takes ")
        assert "with max-num-seqs 8 and max-model-len 8192. Rule: " in message
        assert (
            "at most MemTotal, 28.00 GiB. Remedy: set max-num-seqs to 1 and max-model-len to 8192 in"
            in message
        )
    assert "Remedy: no setting fits beside these weights" in shown.messages("tiny")
    assert [host for host in SHOWN if shown.messages(host) and host != "here"] == []


def test_a_plan_that_cannot_be_made_is_refused_by_the_contract(play: Play, tmp_path: Path) -> None:
    folder = fleet(tmp_path, {host: variables for host, (variables, _) in REFUSED.items()})
    run = play("playbooks/preflight.yml", folder)
    assert run.code != 0
    where = os.path.relpath(folder, ROOT)
    for host, (_, expected) in REFUSED.items():
        assert expected.format(inventory=where) in run.messages(host)


BOOK = "- hosts: spark\n  tasks: [{name: Show, debug: {var: vllm_argv}}]\n"


def test_the_engine_is_told_exactly_this(play: Play, tmp_path: Path) -> None:
    """The argument vectors as site.yml's roles get them, from the playbooks' own variables."""
    book = write(tmp_path / "book/show.yml", BOOK)
    (book.parent / "group_vars").symlink_to(ROOT / "playbooks/group_vars")
    hosts = {**SHOWN, "one-key": {"memory_total": SPARK, "vllm_args": {"swap-space": 2}}}
    run = play(book, fleet(tmp_path / "inventory", hosts))
    assert run.code == 0, run.text
    argv = {
        host: " ".join(r["vllm_argv"]) for host, r in run.report["plays"][0]["tasks"][-1]["hosts"].items()
    }
    assert argv["seed"] == argv["old"] == argv["mute"] == SEED
    assert argv["one-key"] == f"{SEED} --swap-space 2"
    assert argv["voice"] == VOICE.format("mistral-7b", 0.15, 8 * GIB + 16 * 128 * 1024)
    assert argv["large"] == VOICE.format("llama3-70b", 0.52, 20 * GIB + 16 * 320 * 1024)
