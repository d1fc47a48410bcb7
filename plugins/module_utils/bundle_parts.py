"""A bundle: a depot, what another controller needs, a manifest of every part, and a signature over that.

FOLDER/images, models, wheels    a depot (role depot)
FOLDER/controller/               project.tar, and an archive of wheels for the controller
FOLDER/manifest.json             {format, about, parts: {PATH: {size, sha256}}}
FOLDER/manifest.json.sig         by ssh-keygen -Y sign
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.depot_layout import Layout
from ansible.module_utils.hub_pin import Refused

Parts = dict[str, dict[str, Any]]  # path -> {size, sha256}
DEPOT = ("images", "models", "wheels")
FOLDERS = (*DEPOT, "controller")
FORMAT = 1
NAMESPACE = "spark-voicebot-bundle"
BLOCK = 1 << 20
PRIVATE = re.compile(r"models/[^/]+/[^/]+\.json|.+\.lock")  # notes of this machine, no parts


class Bundle:
    """One folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest, self.signature = root / "manifest.json", root / "manifest.json.sig"

    def files(self) -> Iterator[tuple[str, Path]]:
        """All that counts as a part, by path; links too."""
        for folder in FOLDERS:
            for place in sorted((self.root / folder).rglob("*")):
                name = place.relative_to(self.root).as_posix()
                hidden = any(step.startswith(".") for step in name.split("/"))
                if not hidden and not PRIVATE.fullmatch(name) and (place.is_symlink() or not place.is_dir()):
                    yield name, place

    def seal(self, key: str, about: dict[str, Any]) -> Parts:
        """Write the manifest of what is there, and sign it."""
        parts = {
            name: {"size": place.stat().st_size, "sha256": sha256(place)} for name, place in self.files()
        }
        self.signature.unlink(missing_ok=True)
        document = {"format": FORMAT, "about": about, "parts": parts}
        self.manifest.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        ssh_keygen("sign", "-q", "-f", key, "-n", NAMESPACE, str(self.manifest))
        return parts

    def signer(self, signers: str) -> str:
        """Who signed the manifest, of those who may; refused if nobody of them did."""
        if not self.manifest.is_file() or not self.signature.is_file():
            raise Refused(
                f"{self.root} holds no manifest.json with manifest.json.sig. Rule: a bundle has both. "
                "Remedy: name the folder that bundle.yml exported, and copy all of it."
            )
        found = ssh_keygen("find-principals", "-s", str(self.signature), "-f", signers).split("\n")[0]
        with self.manifest.open("rb") as text:
            argv = ["-n", NAMESPACE, "-I", found, "-f", signers, "-s", str(self.signature)]
            ssh_keygen("verify", *argv, stdin=text)
        return found

    def parts(self) -> Parts:
        """What the manifest names; refused if it is none, or if it names a place elsewhere."""
        try:
            document = json.loads(self.manifest.read_text())
            if document["format"] != FORMAT:
                raise ValueError(f"its format is {document['format']!r}, known is {FORMAT}")
            parts: Parts = document["parts"]
            for name, part in parts.items():
                steps = name.split("/")
                if steps[0] not in FOLDERS or len(steps) < 2 or not {"", ".", ".."}.isdisjoint(steps):
                    raise ValueError(f"it names {name!r}, no place inside the bundle")
                if not isinstance(part["size"], int) or not re.fullmatch(r"[0-9a-f]{64}", part["sha256"]):
                    raise ValueError(f"of {name} it says {part}")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise Refused(
                f"{self.manifest} is no manifest: {error}. Rule: format {FORMAT}, and paths below "
                f"{', '.join(FOLDERS)} with size and sha256. Remedy: export the bundle again."
            ) from error
        return parts

    def findings(self, parts: Parts) -> list[str]:
        """Every part that is missing, altered or not in the manifest; nothing of it is used before."""
        found = []
        for name, part in sorted(parts.items()):
            place = self.root / name
            if not inside(place, self.root) or not place.is_file():
                found.append(f"{name} is missing")
            elif (size := place.stat().st_size) != part["size"]:
                found.append(f"{name} has {size} bytes, not {part['size']}")
            elif (got := sha256(place)) != part["sha256"]:
                found.append(f"{name} is altered: its sha256 is {got}, not {part['sha256']}")
        return found + [f"{name} is not in the manifest" for name, _ in self.files() if name not in parts]

    def verify(self, signers: str) -> tuple[str, Parts]:
        """Signer and parts of a whole bundle; else refused, with the name of every part that is not right."""
        signer = self.signer(signers)
        parts = self.parts()
        if found := self.findings(parts):
            raise Refused(
                f"{self.root} is not what {signer} signed: {'; '.join(found)}. Rule: every part is there, "
                "equal to "
                "the manifest, and nothing else. Remedy: copy these parts again; nothing was imported."
            )
        return signer, parts

    def fill(self, depot: Path, parts: Parts) -> list[str]:
        """Copy images, models and wheels into a depot, hashed on the way. Returns paths that were copied."""
        copied = []
        for name, part in sorted(parts.items()):
            target = depot / name
            if name.split("/")[0] not in DEPOT or name == "images/index.json":
                continue
            if (
                target.is_file()
                and target.stat().st_size == part["size"]
                and sha256(target) == part["sha256"]
            ):
                continue
            aside = depot / ".partial" / "import"
            aside.parent.mkdir(parents=True, exist_ok=True)
            if copy(self.root / name, aside) != part["sha256"]:
                raise Refused(
                    f"{name} was altered while it was copied from {self.root}. Rule: it is what was "
                    "verified. "
                    "Remedy: see dmesg and the disk, then import again."
                )
            target.parent.mkdir(parents=True, exist_ok=True)
            aside.replace(target)
            copied.append(name)
        if "images/index.json" in parts:
            layout = Layout(depot / "images")
            for entry in json.loads((self.root / "images/index.json").read_text())["manifests"]:
                layout.name(entry["digest"], entry["annotations"]["org.opencontainers.image.ref.name"])
        return copied


def inside(place: Path, root: Path) -> bool:
    """Whether neither a file nor a folder on the way to it is a link."""
    return not any(step.is_symlink() for step in (place, *place.parents) if root in step.parents)


def sha256(place: Path) -> str:
    """Hash of a file."""
    with place.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(source: Path, target: Path) -> str:
    """Copy a file; the hash of what was written."""
    digest = hashlib.sha256()
    with source.open("rb") as file, target.open("wb") as out:
        while block := file.read(BLOCK):
            digest.update(block)
            out.write(block)
    target.chmod(0o644)
    return digest.hexdigest()


def pack_project(project: Path, target: Path) -> None:
    """Put the project's files, as git knows them, into an archive; the same files give the same archive."""
    argv = ["git", "-C", str(project), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Refused(
            f"The project {project} cannot be listed: {done.stderr.strip()}. Rule: a bundle is exported "
            "from a clone. Remedy: run it in one, with git installed."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w") as tar:
        for name in sorted(set(done.stdout.split("\0")) - {""}):
            place = project / name
            if place.is_file() and not place.is_symlink():
                info = tar.gettarinfo(place, f"spark-voicebot/{name}")
                info.uid = info.gid = info.mtime = 0
                info.uname = info.gname = ""
                with place.open("rb") as file:
                    tar.addfile(info, file)


def ssh_keygen(what: str, *argv: str, stdin: Any = subprocess.DEVNULL) -> str:
    """Sign or verify; what it printed. Refused in its own words."""
    command = ["ssh-keygen", "-Y", what, *argv]
    done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join((done.stderr + done.stdout).split()) or f"exit code {done.returncode}"
        rule = {
            "sign": "the key of bundle_key, or its agent, signs without a question. Remedy: name a key file",
        }.get(
            what,
            "the manifest is as it was signed, by somebody in bundle_signers. Remedy: compare that file with "
            "the signer's public key; if it is right, somebody altered the bundle",
        )
        raise Refused(
            f"The signature cannot be {'made' if what == 'sign' else 'accepted'}: {said}. Rule: {rule}."
        )
    return done.stdout.strip()
