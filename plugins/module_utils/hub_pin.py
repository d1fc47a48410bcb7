"""What a pin of a model says, whether a file equals it, and what the Hub's refusals mean."""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path
from typing import Any

Pin = dict[str, dict[str, Any]]  # path -> {size, sha256} or, for small files, {size, git_oid}

CODE = (".py", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")  # loading these runs what is in them
HASHES = {"sha256": 64, "git_oid": 40}


class Refused(Exception):
    """What is wrong, the rule, the remedy."""


def check_pin(name: str, revision: str, files: Pin) -> None:
    """Refuse a pin that is malformed, or that names code."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise Refused(
            f"The model's name is {name!r}. Rule: letters, digits, '.', '_', '-'. Remedy: rename it."
        )
    where = f"The pin of {name} has"
    if not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise Refused(f"{where} the revision {revision!r}. Rule: 40 hexadecimal digits. Remedy: pin it anew.")
    if not files:
        raise Refused(f"{where} no files. Rule: every file is pinned. Remedy: pin it anew.")
    tensors = any(path.endswith(".safetensors") for path in files)
    for path, pin in files.items():
        if path.startswith(("/", ".")) or not set(path.split("/")).isdisjoint({"", ".", ".."}):
            raise Refused(f"{where} the path {path!r}. Rule: a place inside the model. Remedy: pin it anew.")
        # CTranslate2's only format is a plain model.bin; every other .bin is a pickle
        if path.endswith(CODE) or (path.endswith(".bin") and (tensors or path != "model.bin")):
            raise Refused(
                f"{where} {path}. Rule: no code and no pickles, as loading them runs what is in them. "
                "Remedy: choose a repository with safetensors, and take the file out of the catalogue's list."
            )
        kinds = [k for k, n in HASHES.items() if re.fullmatch(rf"[0-9a-f]{{{n}}}", str(pin.get(k, "")))]
        if len(kinds) != 1 or not isinstance(pin.get("size"), int):
            raise Refused(f"{where} {path}: {pin}. Rule: size, and sha256 or git_oid. Remedy: pin it anew.")


def expected(pin: dict[str, Any]) -> str:
    """The hash that a file has by its pin."""
    return str(pin.get("sha256") or pin["git_oid"])


def digest(path: Path, pin: dict[str, Any]) -> str:
    """Hash a file the way its pin does."""
    if "sha256" in pin:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    blob = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(blob) + blob, usedforsecurity=False).hexdigest()


def stamp(path: Path) -> dict[str, int] | None:
    """What changes when a file is written, as far as a file system tells; None if it is no regular file."""
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(state.st_mode):
        return None
    return {
        "size": state.st_size,
        "mtime_ns": state.st_mtime_ns,
        "ctime_ns": state.st_ctime_ns,
        "inode": state.st_ino,
    }


_TOKEN = (
    "accept the licence at {page} with your account, and set model_store_token to a token of that account "
    "(ansible-vault, or lookup('env'))"
)
_ON = "the download goes on where it stopped"
_ADVICE = (  # what is found in the Hub's answer -> what, rule, remedy
    (
        r"GatedRepo|gated repo|\b403\b",
        "the Hub refuses access to {repository}. Rule: a gated model needs a token that has access. Remedy: "
        + _TOKEN,
    ),
    (
        r"RevisionNotFound|Revision Not Found",
        "the Hub has no such revision. Rule: a pin names a commit that exists. Remedy: pin it anew",
    ),
    (
        r"\b401\b|RepoNotFound|RepositoryNotFound|Invalid (user|credentials)",
        "the Hub shows no such repository to this caller. Rule: it exists, and a token is valid. "
        "Remedy: check the repository's name; if it is private or gated, " + _TOKEN,
    ),
    (
        r"\b404\b|EntryNotFound|Entry Not Found",
        "the Hub has no such file. Rule: a pin names files that exist. Remedy: pin it anew",
    ),
    (
        r"\b(429|5\d\d)\b",
        "the Hub has a fault of its own. Rule: it serves the files. Remedy: run again later; " + _ON,
    ),
    (
        r"Connection",
        "the Hub is unreachable, or breaks off. Rule: it answers this host as long as a model is missing. "
        "Remedy: check the network, a proxy, and model_store_endpoint; " + _ON,
    ),
)
_UNKNOWN = "the download failed. Rule: the Hub gives what is pinned. Remedy: see what it said; " + _ON


def explain(what: str, endpoint: str, said: str, repository: str) -> str:
    """Turn what the Hub said into one message: what, rule, remedy."""
    advice = next((text for pattern, text in _ADVICE if re.search(pattern, said)), _UNKNOWN)
    advice = advice.format(repository=repository, page=f"{endpoint}/{repository}")
    return f"{what} cannot be fetched from {endpoint}: {advice}. It said: {' '.join(said.split())[:400]}"
