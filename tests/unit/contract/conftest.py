"""What the tests of the contract share: a small catalogue, sound pins for it, and a way to run a playbook."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
DIGEST = "sha256:" + "1" * 64
REVISION = "a" * 40
_SMALL = {"size": 10, "git_oid": "c" * 40}
_LARGE = {"size": 4000, "sha256": "d" * 64}

CATALOG: dict[str, dict[str, Any]] = {
    "images": {
        "engine": {"repository": "nvcr.io/nvidia/vllm", "tag": "25.11-py3", "size_gb": 14.1},
        "other": {"repository": "nvcr.io/nvidia/vllm", "tag": "25.12-py3", "size_gb": 14.1},
    },
    "models": {
        "chat": {
            "kind": "llm",
            "repository": "Some/Chat-GPTQ",
            "branch": "main",
            "licence": "Apache-2.0",
            "gated": False,
            "size_gb": 4.16,
            "directory": "chat-7b",
            "files": ["config.json", "model.safetensors"],
            "presets": {"seed": {"quantization": "gptq", "gpu-memory-utilization": 0.9, "dtype": "float16"}},
            "template": {"system_role": False, "strict_alternation": True},
            "golden": {"prompt": "Capital of France?", "pattern": "(?i)paris"},
        },
        "ears": {
            "kind": "stt",
            "repository": "Some/ears",
            "branch": "main",
            "licence": "MIT",
            "size_gb": 0.15,
            "files": ["config.json", "model.bin"],
        },
        "mouth": {
            "kind": "tts",
            "engine": "hibari",
            "voice": "heart",
            "package": "hibari-tts",
            "licence": "Apache-2.0",
            "memory_mb": 512,
        },
    },
}
PINS: dict[str, dict[str, Any]] = {
    "images": {"engine": {"digest": DIGEST}},
    "models": {
        "chat": {
            "revision": REVISION,
            "files": {"config.json": _SMALL, "model.safetensors": _LARGE},
            "config": {
                "hidden_size": 4096,
                "max_position_embeddings": 32768,
                "num_attention_heads": 32,
                "num_hidden_layers": 32,
                "num_key_value_heads": 8,
            },
        },
        "ears": {"revision": "b" * 40, "files": {"config.json": _SMALL, "model.bin": _LARGE}},
    },
}


@pytest.fixture
def catalog() -> dict[str, dict[str, Any]]:
    """A small sound catalogue, to be spoilt."""
    return copy.deepcopy(CATALOG)


@pytest.fixture
def pins() -> dict[str, dict[str, Any]]:
    """Sound pins for it."""
    return copy.deepcopy(PINS)


def change(data: Any, path: str, value: Any) -> Any:
    """Set what lies at a/b/c in nested dicts; `...` as value removes it."""
    *parents, last = path.split("/")
    inner = data
    for part in parents:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return data


class Run:
    """What a playbook's run came to."""

    def __init__(self, code: int, report: dict[str, Any], text: str) -> None:
        self.code, self.report, self.text = code, report, text

    def messages(self, host: str) -> str:
        """All of a host's failure messages."""
        tasks = [task for play in self.report["plays"] for task in play["tasks"]]
        results = [task["hosts"][host] for task in tasks if host in task["hosts"]]
        return "\n".join(str(result.get("msg")) for result in results if result.get("failed"))

    def changed(self) -> int:
        """Changed tasks on all hosts."""
        return sum(stats["changed"] for stats in self.report["stats"].values())


@pytest.fixture(scope="session")
def play() -> Callable[..., Run]:
    """Run a real playbook on an inventory directory."""

    def run(playbook: str | Path, inventory: Path, *options: str) -> Run:
        environment = os.environ | {
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
        }
        ansible = Path(sys.executable).with_name("ansible-playbook")
        done = subprocess.run(
            [str(ansible), str(playbook), "-i", str(inventory), *options],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        text = done.stdout + done.stderr
        start = done.stdout.find("{\n")  # other callbacks print around it
        report, _ = json.JSONDecoder().raw_decode(done.stdout, start) if start >= 0 else ({}, 0)
        return Run(done.returncode, report, text)

    return run


def write(path: Path, text: str) -> Path:
    """Write a file, with its directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
