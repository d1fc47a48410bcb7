#!/usr/bin/env python3
"""Builds, on the controller, the archive of wheels that one virtual environment is installed from.

usage: wheelhouse.py key|build --lock FILE [--project DIR] --python 3.12.3 --arch aarch64 [--cache DIR]
                              [--is ID]

`key` prints what the release is called; it needs no network. `build` makes what the cache lacks. With --is
the release is one of earlier sources: its archive is in the cache, or it is refused; nothing is built in its
place. Both print one JSON object; progress goes to stderr. Which package index is asked is pip's own
configuration.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from packaging.requirements import InvalidRequirement, Requirement

FORMAT = "1"  # raise it when the same inputs shall give another archive
OLDEST_GLIBC, NEWEST_GLIBC = 5, 28  # manylinux tags that every supported host can run
SKIPPED = {"__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
KEPT = 4  # archives of each project that the cache holds


class WheelhouseError(Exception):
    """A message for the operator: what, rule, remedy."""


@dataclass(frozen=True)
class Target:
    """The host that the wheels are for."""

    python: str  # full version, 3.12.3
    arch: str  # as uname -m says it

    def __post_init__(self) -> None:
        """Refuse what pip would misunderstand."""
        if not re.fullmatch(r"3\.\d+\.\d+\S*", self.python):
            raise WheelhouseError(
                f"python is {self.python!r}. Rule: a full Python 3 version. Remedy: pass it as 3.12.3."
            )
        if not re.fullmatch(r"[a-z0-9_]+", self.arch):
            raise WheelhouseError(
                f"arch is {self.arch!r}. Rule: as uname -m prints it. Remedy: pass aarch64 or x86_64."
            )

    @property
    def minor(self) -> str:
        """The version that wheels are tagged with, 3.12."""
        return ".".join(self.python.split(".")[:2])

    @property
    def platforms(self) -> list[str]:
        """The platform tags, newest first: pip takes the given ones literally."""
        tags = [f"manylinux_2_{minor}_{self.arch}" for minor in range(NEWEST_GLIBC, OLDEST_GLIBC - 1, -1)]
        return [*tags, f"manylinux2014_{self.arch}", f"linux_{self.arch}"]

    def environment(self) -> dict[str, str | AbstractSet[str]]:
        """What environment markers are evaluated against."""
        return {
            "implementation_name": "cpython",
            "implementation_version": self.python,
            "os_name": "posix",
            "platform_machine": self.arch,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": self.python,
            "python_version": self.minor,
            "sys_platform": "linux",
        }


def lock_for(text: str, target: Target) -> str:
    """Return what the target needs of a lock, without markers: pip evaluates them for its own host."""
    environment, kept = target.environment(), []
    for number, line in enumerate(text.replace("\\\n", " ").splitlines(), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        spec, *hashes = re.split(r"\s+--hash=", line)
        try:
            requirement = Requirement(spec)
        except InvalidRequirement as error:
            raise WheelhouseError(
                f"Requirement {number} of the lock is {spec!r}. Rule: name==version and hashes. ({error})"
            ) from error
        if not hashes or not re.fullmatch(r"==[^*,]+", str(requirement.specifier)):
            raise WheelhouseError(
                f"{requirement.name} in the lock lacks an exact version or a hash. Rule: every requirement "
                "is pinned with ==, and by hash. Remedy: write the lock anew with its generator."
            )
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pins = " ".join(f"--hash={value.strip()}" for value in sorted(hashes))
            kept.append(f"{requirement.name}{requirement.specifier} {pins}")
    return "\n".join(sorted(kept)) + "\n"


def project_files(project: Path) -> list[Path]:
    """List what the project's wheel is built from, apart from pyproject.toml and the README."""
    found = (
        path
        for path in (project / "src").rglob("*")
        if path.is_file() and not any(part in SKIPPED or part.endswith(".egg-info") for part in path.parts)
    )
    return sorted(found)


def project_hash(project: Path) -> str:
    """Hash what decides how the project's code behaves: its sources, and how it is built."""
    try:
        metadata = tomllib.loads((project / "pyproject.toml").read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise WheelhouseError(
            f"{project}/pyproject.toml cannot be read: {error}. Remedy: name a project."
        ) from error
    build = {key: metadata.get(key) for key in ("build-system", "project")}
    build["setuptools"] = metadata.get("tool", {}).get(
        "setuptools"
    )  # other tools' settings don't reach the wheel
    digest = hashlib.sha256(json.dumps(build, sort_keys=True, default=str).encode())
    for path in project_files(project):
        digest.update(f"\0{path.relative_to(project)}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Wheelhouse:
    """One archive: which wheels, for which target, and where it is kept."""

    lock: str
    project: Path | None
    target: Target
    cache: Path
    wanted: str = ""  # id of a release that is known already

    @property
    def id(self) -> str:
        """The release: a short hash of what decides what is installed, known before any download."""
        return self.wanted or self.own

    @property
    def own(self) -> str:
        """What these sources and this lock are called."""
        parts = [FORMAT, self.lock, self.target.minor, self.target.arch]
        if self.project:
            parts.append(project_hash(self.project))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def build(self) -> dict[str, Any]:
        """Make the archive unless the cache has it. Hosts of one kind wait for the first one's."""
        started, name = time.monotonic(), self.id
        self.cache.mkdir(parents=True, exist_ok=True)
        archive = self.cache / f"wheelhouse-{name}.tar"
        with locked(self.cache / f"wheelhouse-{name}.lock"):
            built = not archive.exists()
            if built and self.id != self.own:
                raise WheelhouseError(
                    f"Release {name} is neither on the host nor in {self.cache}, and these sources make "
                    f"{self.own}. Rule: a recorded release is what it was. Remedy: check out the commit "
                    "that it was made from."
                )
            if built:
                with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=self.cache) as scratch:
                    self._make(Path(scratch), archive)
            else:
                os.utime(archive)  # the cache drops what was not used for longest
        self._prune(archive)
        with tarfile.open(archive) as tar:
            member = tar.extractfile("manifest.json")
            manifest = json.load(member) if member else {}
        seconds = round(time.monotonic() - started, 1)
        return {"id": name, "archive": str(archive), "built": built, "seconds": seconds, "manifest": manifest}

    def _make(self, scratch: Path, archive: Path) -> None:
        content = scratch / "content"
        content.mkdir()
        requirements = content / "requirements.txt"
        requirements.write_text(self.lock)
        say(
            f"downloading {self.lock.count('==')} wheels for Python {self.target.minor} on {self.target.arch}"
        )
        platforms = [part for tag in self.target.platforms for part in ("--platform", tag)]
        pip("download", "--no-deps", "--require-hashes", "--only-binary=:all:", "--implementation", "cp",
            "--python-version", self.target.minor, *platforms, "--dest", str(content),
            "--requirement", str(requirements))  # fmt: skip
        if self.project:
            wheel = self._build_project(scratch)
            sha256 = hash_of(wheel)
            shutil.move(wheel, content)
            name, version = wheel.name.split("-")[:2]
            with requirements.open("a") as file:
                file.write(f"{name}=={version} --hash=sha256:{sha256}\n")
        wheels = sorted(content.glob("*.whl"))
        manifest = {
            "id": self.id,
            "python": self.target.minor,
            "arch": self.target.arch,
            "wheels": {wheel.name: hash_of(wheel) for wheel in wheels},
        }
        (content / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
        packed = scratch / "wheelhouse.tar"
        with tarfile.open(packed, "w") as tar:
            for path in ("manifest.json", "requirements.txt", *(wheel.name for wheel in wheels)):
                tar.add(content / path, arcname=path)
        packed.replace(archive)
        say(f"{len(wheels)} wheels, {archive.stat().st_size / 1e6:.0f} MB: {archive}")

    def _build_project(self, scratch: Path) -> Path:
        """Build the wheel from a copy: a build leaves debris behind, which would get into the next wheel."""
        assert self.project is not None
        say(f"building the wheel of {self.project.name}")
        copy = scratch / "project"
        for path in [
            *project_files(self.project),
            *(self.project / name for name in ("pyproject.toml", "README.md")),
        ]:
            if path.exists():
                destination = copy / path.relative_to(self.project)
                destination.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, destination)
        pip("wheel", "--no-deps", "--wheel-dir", str(scratch), str(copy), SOURCE_DATE_EPOCH="315532800")
        return next(scratch.glob("*.whl"))

    def _prune(self, current: Path) -> None:
        archives = sorted(
            self.cache.glob("wheelhouse-*.tar"), key=lambda path: path.stat().st_mtime, reverse=True
        )
        for old in archives[KEPT:]:
            if old != current:
                old.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file that other processes of this machine respect."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def pip(*arguments: str, **environment: str) -> None:
    """Run this interpreter's pip with the machine's own configuration; its output is the progress."""
    command = [sys.executable, "-m", "pip", *arguments, "--disable-pip-version-check", "--no-input"]
    output = []
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            sys.stderr.write(line)
    if process.returncode:
        errors = [line for line in output if line.startswith("ERROR")] or output[-10:]
        raise WheelhouseError(f"pip {arguments[0]} failed: {''.join(errors).strip()}")


def hash_of(path: Path) -> str:
    """Return the sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def say(message: str) -> None:
    """Tell a person what goes on."""
    print(f"wheelhouse: {message}", file=sys.stderr, flush=True)


def default_cache() -> Path:
    """Where the archives are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "spark-voicebot" / "wheelhouse"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("verb", choices=["key", "build"])
    parser.add_argument("--lock", type=Path, required=True)
    parser.add_argument("--project", type=Path)
    parser.add_argument("--python", required=True)
    parser.add_argument("--arch", required=True)
    parser.add_argument("--cache", type=Path, default=default_cache())
    parser.add_argument("--is", dest="wanted", default="")
    options = parser.parse_args(arguments)
    try:
        target = Target(options.python, options.arch)
        if not options.lock.is_file():
            raise WheelhouseError(f"The lock {options.lock} does not exist. Remedy: name a lock file.")
        lock = lock_for(options.lock.read_text(), target)
        house = Wheelhouse(lock, options.project, target, options.cache, options.wanted)
        print(json.dumps(house.build() if options.verb == "build" else {"id": house.id}))
    except WheelhouseError as error:
        fail(str(error))
    return 0


def fail(message: str) -> NoReturn:
    """End with a message on stderr."""
    print(message, file=sys.stderr)
    raise SystemExit(1)


if __name__ == "__main__":
    sys.exit(main())
