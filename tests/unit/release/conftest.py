"""Releases to write into ledgers."""

from __future__ import annotations

import copy
import sys
from typing import Any

from plugins.module_utils import release as _release

sys.modules["ansible.module_utils.release"] = _release  # where modules find it on a host

RELEASE: dict[str, Any] = {
    "engine": {
        "image": "nvcr.io/nvidia/vllm@sha256:" + "1" * 64,
        "model": "mistral-7b",
        "served_name": "/models/mistral-7b",
        "port": 8000,
        "argv": ["vllm", "serve", "/models/mistral-7b"],
        "mounts": [{"source": "/srv/models/mistral-7b/" + "a" * 40, "target": "/models/mistral-7b"}],
        "labels": {"spark-voicebot.revision": "a" * 40},
        "golden": {"prompt": "Capital of France?", "pattern": "(?i)paris"},
    },
    "models": [
        {"name": "mistral-7b", "revision": "a" * 40, "files": {}},
        {"name": "whisper-base", "revision": "b" * 40, "files": {}},
    ],
    "voicebot": {"id": "v1", "settings": {"server": {"host": "127.0.0.1", "port": 8080}}},
}
GATE = [{"name": "completion", "ok": True, "detail": "", "figures": {}}]


def release(voicebot: str = "v1", model: str = "a" * 40, image: str = "1" * 64) -> dict[str, Any]:
    """A release that differs in what is given."""
    made = copy.deepcopy(RELEASE)
    made["voicebot"]["id"] = voicebot
    made["models"][0]["revision"] = model
    made["engine"]["image"] = f"nvcr.io/nvidia/vllm@sha256:{image}"
    return made
