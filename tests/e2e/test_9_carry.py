"""Images, models and wheels through a depot, and in a bundle: once over the wide network, whole or not at all."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.play import play
from tests.lab import registry
from tests.lab.api import Lab
from tests.unit.carry.parts import digest

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
REPOSITORY = "carry/tiny"
NAMES = "cat /etc/hosts; iptables -t nat -S OUTPUT"


def registries(lab: Lab) -> dict[str, Any]:
    """Where the lab's registry is for this machine, whose own names it does not touch."""
    known = lab.facts["registry"]
    return {known["name"]: {"url": f"https://{known['address']}", "ca": known["ca"]}}


def tiny_image(lab: Lab, folder: Path) -> str:
    """Push an image of a few bytes; its reference by digest."""
    layer = subprocess.run(
        ["tar", "-C", str(folder), "-cf", "-", "."], check=True, capture_output=True
    ).stdout
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()
    kinds = ("application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar")
    parts = [
        {"mediaType": kind, "size": len(data), "digest": digest(data)}
        for kind, data in zip(kinds, (config, layer), strict=True)
    ]
    manifest = {"schemaVersion": 2, "mediaType": registry.MANIFEST, "config": parts[0], "layers": parts[1:]}
    place = folder.parent / "image"
    place.mkdir()
    for part, data in zip(parts, (config, layer), strict=True):
        (place / str(part["digest"]).replace(":", "-")).write_bytes(data)
    (place / "manifest.json").write_text(json.dumps(manifest))
    name = digest((place / "manifest.json").read_bytes())
    (place / "digest").write_text(name)
    registry.push(lab.settings, place, REPOSITORY, "1")
    return f"{lab.facts['registry']['name']}/{REPOSITORY}@{name}"


def test_image_comes_through_the_depot_under_its_own_name_and_digest(
    lab: Lab, spark: str, sh: Sh, tmp_path: Path
) -> None:
    (tmp_path / "content").mkdir()
    (tmp_path / "content/file").write_text("carried")
    reference = tiny_image(lab, tmp_path / "content")
    depot, report = tmp_path / "depot", tmp_path / "report.json"
    extra: dict[str, Any] = {
        "depot_path": str(depot),
        "depot_images": [reference],
        "depot_models": [],
        "depot_report": str(report),
    }
    extra |= {"depot_architectures": ["x86_64"], "depot_registries": registries(lab)}
    before = sh(NAMES)
    run = play("tests/e2e/carry.yml", "--limit", spark, extra=extra, timeout=600)
    try:
        assert run.code == 0, run.output[-4000:]
        assert json.loads(sh(f"docker image inspect -f '{{{{json .RepoDigests}}}}' {reference}")) == [
            reference
        ]
        carried = json.loads(report.read_text())
        there = sum(place.stat().st_size for place in (depot / "images/blobs/sha256").iterdir())
        assert carried["wan"] == {"images": there, "models": 0, "total": there}
        assert 0 < carried["lan"][spark]["images"] <= 2 * there
        assert sh(NAMES) == before
        assert not list((depot / ".run").glob(f"*/{spark}.json")), "the depot is closed"
    finally:
        sh(f"docker image rm {reference}", check=False)
