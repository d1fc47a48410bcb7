"""A bundle is imported as it was signed, or not at all; what differs is named."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.carry.parts import bundle, flip, image, lay_out
from tests.unit.deploy.snapshot import ROOT, hub_pin

REVISION = "d" * 40
LAYER = "images/blobs/sha256"
Options = dict[str, Any]


def key(place: Path, name: str) -> Path:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(place / name)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    return place / name


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys of alice, who may sign, and of mallory, who may not."""
    place = tmp_path_factory.mktemp("keys")
    for name in ("alice", "mallory"):
        key(place, name)
    (place / "signers").write_text(f"alice@example {(place / 'alice.pub').read_text()}")
    return place


def do(action: str, root: Path, keys: Path, **more: Any) -> Options:
    given = {"path": str(root), "action": action, "key": str(keys / "alice"), "about": {"what": "a test"}}
    given |= {"signers": str(keys / "signers"), "project": str(ROOT), "depot": str(root.parent / "depot")}
    told: Options = bundle.run({**given, **more})
    return told


def refusal(root: Path, keys: Path) -> str:
    """Verify and import refuse in the same words, and nothing is imported."""
    said = []
    for action in ("verify", "import"):
        with pytest.raises(hub_pin.Refused) as caught:
            do(action, root, keys)
        said.append(str(caught.value))
    assert said[0] == said[1] and "Rule: " in said[0] and "Remedy: " in said[0]
    assert not (root.parent / "depot").exists()
    return said[0]


@pytest.fixture
def sealed(tmp_path: Path, keys: Path) -> Path:
    root = tmp_path / "bundle"
    blobs = image(1, size=5000)
    lay_out(root, blobs)
    name = {"org.opencontainers.image.ref.name": "registry.example/engine"}
    entry = {
        "mediaType": "x",
        "digest": list(blobs)[-1],
        "size": len(list(blobs.values())[-1]),
        "annotations": name,
    }
    (root / "images/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    home = root / "models/m" / REVISION
    home.mkdir(parents=True)
    (home / "model.safetensors").write_bytes(b"weights")
    home.with_suffix(".json").write_text("a record of this machine's disk")
    (root / "wheels").mkdir()
    (root / "wheels/wheelhouse-1.tar").write_bytes(b"wheels")
    (root / "wheels/wheelhouse-1.lock").touch()
    (root / ".run").mkdir()
    do("seal", root, keys)
    return root


def parts(root: Path) -> Options:
    told: Options = json.loads((root / "manifest.json").read_text())["parts"]
    return told


def test_whole_bundle_fills_a_depot_once(sealed: Path, keys: Path) -> None:
    assert set(parts(sealed)) >= {"controller/project.tar", "wheels/wheelhouse-1.tar", "images/index.json"}
    assert not [name for name in parts(sealed) if name.endswith((f"{REVISION}.json", ".lock"))]
    seen = do("verify", sealed, keys)
    assert seen["signer"] == "alice@example" and seen["parts"] == len(parts(sealed))
    told = do("import", sealed, keys)
    depot = sealed.parent / "depot"
    assert told["changed"] and f"models/m/{REVISION}/model.safetensors" in told["copied"]
    for name in told["copied"]:
        assert (depot / name).read_bytes() == (sealed / name).read_bytes()
    index = json.loads((depot / "images/index.json").read_text())["manifests"]
    assert [entry["annotations"] for entry in index] == [
        {"org.opencontainers.image.ref.name": "registry.example/engine"}
    ]
    assert not (depot / "controller").exists() and not (depot / "manifest.json").exists()
    again = do("import", sealed, keys)
    assert not again["changed"] and again["copied"] == []


def test_project_goes_along_without_what_git_ignores(sealed: Path) -> None:
    argv = ["tar", "tf", str(sealed / "controller/project.tar")]
    names = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert "spark-voicebot/site.yml" in names
    assert not [name for name in names if "/.venv/" in name or "/.lab/" in name or "/.git/" in name]


def test_every_part_that_differs_is_named_before_anything_is_imported(sealed: Path, keys: Path) -> None:
    one, two, *_ = sorted((sealed / LAYER).iterdir())
    flip(one, 3)
    two.unlink()
    (sealed / "wheels/wheelhouse-1.tar").write_bytes(b"more wheels")
    (sealed / "models/m/stranger").write_text("not signed")
    said = refusal(sealed, keys)
    found = said.partition("signed: ")[2].partition(". Rule: ")[0].split("; ")
    assert len(found) == 4
    assert f"{LAYER}/{two.name} is missing" in found and "models/m/stranger is not in the manifest" in found
    assert "wheels/wheelhouse-1.tar has 11 bytes, not 6" in found
    assert any(finding.startswith(f"{LAYER}/{one.name} is altered") for finding in found)


@pytest.mark.parametrize("where", ["first", "last"])
def test_one_flipped_byte_anywhere_is_named(sealed: Path, keys: Path, where: str) -> None:
    name = max(parts(sealed), key=lambda part: parts(sealed)[part]["size"])
    flip(sealed / name, 0 if where == "first" else -1)
    assert f"{name} is altered: its sha256 is" in refusal(sealed, keys)


def test_manifest_altered_after_signing_is_refused(sealed: Path, keys: Path) -> None:
    text = (sealed / "manifest.json").read_text()
    (sealed / "manifest.json").write_text(text.replace("a test", "a tesT"))
    assert "The signature cannot be accepted" in refusal(sealed, keys)


def test_somebody_else_s_signature_is_refused(sealed: Path, keys: Path) -> None:
    do("seal", sealed, keys, key=str(keys / "mallory"))
    assert "The signature cannot be accepted" in refusal(sealed, keys)


def test_bundle_without_signature_is_refused(sealed: Path, keys: Path) -> None:
    (sealed / "manifest.json.sig").unlink()
    assert "holds no manifest.json with manifest.json.sig" in refusal(sealed, keys)


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "models/../../outside", "models", "other/x", "models//x"]
)
def test_path_out_of_the_bundle_is_refused_even_if_signed(sealed: Path, keys: Path, name: str) -> None:
    document = json.loads((sealed / "manifest.json").read_text())
    document["parts"][name] = {"size": 1, "sha256": "0" * 64}
    (sealed / "manifest.json").write_text(json.dumps(document))
    (sealed / "manifest.json.sig").unlink()
    argv = ["ssh-keygen", "-Y", "sign", "-q", "-f", str(keys / "alice"), "-n", "spark-voicebot-bundle"]
    subprocess.run(
        [*argv, str(sealed / "manifest.json")], check=True, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert "no place inside the bundle" in refusal(sealed, keys)


def test_link_in_a_part_s_place_is_refused(sealed: Path, keys: Path) -> None:
    place = sealed / "models/m" / REVISION / "model.safetensors"
    place.rename(sealed.parent / "elsewhere")
    place.symlink_to(sealed.parent / "elsewhere")
    assert f"models/m/{REVISION}/model.safetensors is missing" in refusal(sealed, keys)
    place.unlink()
    (sealed.parent / "elsewhere").rename(place)
    (sealed / "models").rename(sealed.parent / "models")
    (sealed / "models").symlink_to(sealed.parent / "models")
    assert "model.safetensors is missing" in refusal(sealed, keys)


def test_key_that_cannot_sign_is_refused(sealed: Path, keys: Path) -> None:
    with pytest.raises(hub_pin.Refused, match="The signature cannot be made"):
        do("seal", sealed, keys, key=str(keys / "nobody"))
