"""The modules of depot and bundle without Ansible around them, and small images for them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unit.deploy.snapshot import ROOT, load

depot_layout, depot_registry, bundle_parts = (
    load(f"plugins/module_utils/{name}.py", f"ansible.module_utils.{name}")
    for name in ("depot_layout", "depot_registry", "bundle_parts")
)
depot_image, image_pull_from, bundle = (
    load(f"plugins/modules/{name}.py", name) for name in ("depot_image", "image_pull_from", "bundle")
)
SERVER = ROOT / "roles/depot/files/depot_server.py"
OCI = "application/vnd.oci.image"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def flip(path: Path, at: int = 0) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def image(seed: int, architecture: str = "arm64", size: int = 1 << 20) -> dict[str, bytes]:
    """Blobs of an image by digest, its manifest last."""
    layer = random.Random(seed).randbytes(size)
    config = json.dumps({"architecture": architecture, "os": "linux", "seed": seed}).encode()
    described = [
        {"mediaType": f"{OCI}.{kind}", "size": len(data), "digest": digest(data)}
        for kind, data in (("config.v1+json", config), ("layer.v1.tar", layer))
    ]
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{OCI}.manifest.v1+json",
        "config": described[0],
        "layers": described[1:],
    }
    blobs = (config, layer, json.dumps(manifest).encode())
    return {digest(data): data for data in blobs}


def index_of(images: dict[str, dict[str, bytes]]) -> bytes:
    """An index over images by architecture."""
    entries = [
        {
            "mediaType": f"{OCI}.manifest.v1+json",
            "digest": list(blobs)[-1],
            "size": len(list(blobs.values())[-1]),
            "platform": {"architecture": architecture, "os": "linux"},
        }
        for architecture, blobs in images.items()
    ]
    return json.dumps(
        {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": entries}
    ).encode()


def lay_out(depot: Path, blobs: dict[str, bytes]) -> None:
    """Put blobs where a depot has them."""
    place = depot / "images/blobs/sha256"
    place.mkdir(parents=True, exist_ok=True)
    for name, data in blobs.items():
        (place / name.removeprefix("sha256:")).write_bytes(data)


@contextmanager
def served(depot: Path, state: Path, owner: int | None = None) -> Iterator[str]:
    """The address at which depot_server.py serves a depot, as long as `owner` (this process) runs."""
    argv = [sys.executable, str(SERVER), "--root", str(depot), "--state", str(state)]
    process = subprocess.Popen(
        [*argv, "--owner", str(owner or os.getpid())], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        yield f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}"
    finally:
        process.terminate()
        process.wait(60)
        with contextlib.suppress(OSError):
            process.stdout.close()


def have(depot: Path, reference: str, url: str, check: bool = False, **more: Any) -> dict[str, Any]:
    """Run the module depot_image."""
    server = reference.partition("/")[0]
    options = {
        "root": str(depot),
        "image": reference,
        "architectures": ["aarch64"],
        "tries": 3,
        "pause": 0.01,
    }
    told: dict[str, Any] = depot_image.run({**options, "registries": {server: {"url": url}}, **more}, check)
    return told
