"""Container images in a folder, as the OCI lays them out: blobs by digest, and an index of what they make.

    ROOT/oci-layout, ROOT/index.json, ROOT/blobs/sha256/HEX

An image's identity is the digest of its manifest, or of the index over the manifests of several platforms.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.hub_pin import Refused

Descriptor = dict[str, Any]  # {mediaType, digest, size}, in an index also {platform: {architecture, os}}
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
MANIFEST_MOST = 4 << 20  # bytes; what registries take at most
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
ARCHITECTURES = {"aarch64": "arm64", "x86_64": "amd64"}  # as a kernel says it -> as an image says it


def digest_of(data: bytes) -> str:
    """The digest of a blob in memory."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parse(data: bytes, digest: str) -> dict[str, Any]:
    """A manifest or index that is what its digest says, and has the parts that are read here."""
    try:
        if digest_of(data) != digest:
            raise ValueError(f"its content has the digest {digest_of(data)}")
        document = json.loads(data)
        for part in (
            document["manifests"] if is_index(document) else [document["config"], *document["layers"]]
        ):
            if not DIGEST.fullmatch(part["digest"]) or not isinstance(part["size"], int):
                raise ValueError(f"a part of it is {part}")
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            f"The manifest {digest} is no manifest: {type(error).__name__}: {error}. Rule: it is what "
            "its digest "
            "says, and names its parts by sha256 and size. Remedy: see what lies between here and "
            "the registry."
        ) from error
    return dict(document)


def is_index(document: dict[str, Any]) -> bool:
    """Whether it names manifests, one for each platform, and not layers."""
    return "manifests" in document


def chosen(index: dict[str, Any], architectures: Iterable[str], digest: str) -> list[str]:
    """Digests of an index's Linux manifests for these architectures (as images say it)."""
    wanted = set(architectures)
    found = {
        m["digest"]: m["platform"]["architecture"]
        for m in index["manifests"]
        if m.get("platform", {}).get("os") == "linux" and m["platform"].get("architecture") in wanted
    }
    if lacking := wanted - set(found.values()):
        raise Refused(
            f"The image {digest} has nothing for {', '.join(sorted(lacking))}. Rule: an image for every "
            "architecture of the fleet. Remedy: pin another image."
        )
    return list(found)


class Layout:
    """One folder of images."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob(self, digest: str) -> Path:
        """Where a blob lies, or would; whatever else stands there for a digest is refused."""
        if not DIGEST.fullmatch(digest):
            raise Refused(
                f"A digest is {digest!r}. Rule: sha256: and 64 hexadecimal digits. Remedy: pin anew."
            )
        return self.root / "blobs" / digest.replace(":", "/")

    def manifest(self, digest: str) -> dict[str, Any] | None:
        """A manifest or index of the folder; None if it is not there, or has been altered."""
        try:
            return parse(self.blob(digest).read_bytes(), digest)
        except (FileNotFoundError, Refused):
            return None

    def manifests(
        self, digest: str, architectures: Iterable[str]
    ) -> Iterator[tuple[str, dict[str, Any] | None]]:
        """The image's manifests by digest; before them the index, if that is its identity."""
        top = self.manifest(digest)
        yield digest, top
        if top and is_index(top):
            for one in chosen(top, architectures, digest):
                yield one, self.manifest(one)

    def lacks(self, digest: str, architectures: Iterable[str]) -> list[str]:
        """Digests of the image's parts that are not there, or too short, so far as can be told."""
        missing = []
        for name, manifest in self.manifests(digest, architectures):
            if manifest is None:
                missing.append(name)
            elif not is_index(manifest):
                missing += [part["digest"] for part in parts(manifest) if not self.complete(part)]
        return missing

    def complete(self, part: Descriptor) -> bool:
        """Whether a blob is there; one gets its name only after it was hashed."""
        place = self.blob(part["digest"])
        return place.is_file() and place.stat().st_size == part["size"]

    def write(self, place: Path, data: bytes) -> None:
        """Write a small file, whole or not at all."""
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = place.with_name(f".{place.name}.new")
        aside.write_bytes(data)
        aside.replace(place)

    def name(self, digest: str, reference: str) -> bool:
        """Enter an image that is complete into the index; true if it was not there."""
        index = self.root / "index.json"
        try:
            known = json.loads(index.read_text())["manifests"]
        except (OSError, ValueError, KeyError, TypeError):
            known = []
        if any(entry["digest"] == digest for entry in known):
            return False
        document = self.manifest(digest) or {}
        entry = {
            "mediaType": media_type(document),
            "digest": digest,
            "size": self.blob(digest).stat().st_size,
            "annotations": {"org.opencontainers.image.ref.name": reference},
        }
        self.write(self.root / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}\n')
        whole = {"schemaVersion": 2, "manifests": [*known, entry]}
        self.write(index, json.dumps(whole, indent=1).encode() + b"\n")
        return True


def parts(manifest: dict[str, Any]) -> list[Descriptor]:
    """Configuration and layers of an image, each once."""
    return list({part["digest"]: part for part in (manifest["config"], *manifest["layers"])}.values())


def media_type(document: dict[str, Any]) -> str:
    """What a manifest is; OCI's may leave it unsaid."""
    return str(document.get("mediaType") or MANIFESTS[0 if is_index(document) else 2])
