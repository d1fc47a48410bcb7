"""A hub that misbehaves on order, and the options of a model that it has."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.hub import HubServer
from tests.unit.deploy.snapshot import REVISION, Options, pins, run


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    base = tmp_path / "hub/owner/model" / REVISION
    base.mkdir(parents=True)
    (base / "config.json").write_text('{"model_type": "test"}')
    (base / "model.safetensors").write_bytes(random.Random(1).randbytes(2 << 20))
    (base / "tokenizer.json").write_text("{}")
    with HubServer(tmp_path / "hub", token="good", gated=frozenset({"owner/gated"})) as server:
        yield server


@pytest.fixture
def options(tmp_path: Path, hub: HubServer) -> Options:
    return {
        "root": str(tmp_path / "models"),
        "name": "m",
        "repository": "owner/model",
        "revision": REVISION,
        "files": pins(hub),
        "endpoint": hub.url,
    }


@pytest.fixture
def served(options: Options) -> Path:
    """The model, fetched."""
    return Path(run(options)["path"])
