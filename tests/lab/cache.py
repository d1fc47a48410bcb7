"""Slow builds, kept outside the clone and keyed by their inputs."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from tests.lab.proc import locked, remove_tree, say
from tests.lab.settings import cache_root


def key_of(files: Iterable[Path], *words: str) -> str:
    """A key that changes when any of these files or words does."""
    digest = hashlib.sha256()
    for path in sorted(files):
        data = path.read_bytes()
        digest.update(f"{path.name}\0{len(data)}\0".encode() + data)
    for word in words:
        digest.update(f"\0{word}".encode())
    return digest.hexdigest()[:16]


def cached(what: str, key: str, build: Callable[[Path], None]) -> tuple[Path, bool]:
    """The folder that `build` fills, made only if the cache lacks it; and whether it was made now.

    `build` gets an empty folder; it counts only once it returns. What killed builds left behind is removed.
    """
    root = cache_root()
    done = root / f"{what}-{key}"
    if done.is_dir():
        return done, False
    with locked(root / f"{what}.lock"):
        if done.is_dir():
            return done, False
        for debris in root.glob(f"{what}-*.partial"):
            remove_tree(debris)
        partial = Path(tempfile.mkdtemp(dir=root, prefix=f"{what}-{key}.", suffix=".partial"))
        say(f"{what}: not in {root} yet, building")
        build(partial)
        partial.rename(done)
    say(f"{what}: built")
    return done, True
