"""One pinned revision of a model: compared with its pin, adopted or fetched, switched into place."""

from __future__ import annotations

import fcntl
import glob
import json
import os
import re
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.hub_fetch import BLOCK, Hub, Part
from ansible.module_utils.hub_job import Job, Progress
from ansible.module_utils.hub_pin import Refused, digest, expected, stamp

FICLONE = 0x40049409  # ioctl: share another file's blocks, copy on write (Btrfs, XFS)
GB = 1e9


class Snapshot:
    """One revision of one model. `options` are those of the module hub_snapshot."""

    def __init__(self, options: dict[str, Any], job: Job) -> None:
        self.options, self.files, self.job = options, options["files"], job
        self.root, self.name = Path(options["root"]), options["name"]
        self.path = self.root / self.name / options["revision"]
        self.record_path = self.path.with_name(f"{options['revision']}.json")
        self.partial = self.root / ".partial"
        self.staging = self.partial / f"{self.name}-{options['revision']}"
        asked = ("repository", "revision", "token", "tries", "pause")
        self.hub = Hub(options["endpoint"].rstrip("/"), *(options[key] for key in asked))
        self.progress = Progress(job)
        self.hashed: list[str] = []
        self.fetched: list[str] = []
        self.adopted: dict[str, str] = {}
        self.differs: set[str] = set()
        if not re.fullmatch(r"[!-~]*", options["token"]):
            raise Refused(
                "model_store_token has white space or other signs in it. Rule: a token is one word. "
                "Remedy: look at the vault value, or at the variable it is looked up from."
            )

    def record(self) -> dict[str, Any]:
        """Read the record of the last verification; an unreadable one counts as none."""
        try:
            files = json.loads(self.record_path.read_text())["files"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return files if isinstance(files, dict) else {}

    def present(self, name: str) -> dict[str, Any]:
        """What a record says of a file as it is now, taken for right."""
        return {**(stamp(self.path / name) or {}), "hash": expected(self.files[name])}

    def wrong(self, known: dict[str, Any]) -> list[str]:
        """List the files that differ from the pin; those that are as `known` need no second reading."""
        found = []
        for name, pin in self.files.items():
            now = stamp(self.path / name)
            if now is None or now["size"] != pin["size"]:
                found.append(name)
            elif known.get(name) != {**now, "hash": expected(pin)}:
                self.hashed.append(name)
                if digest(self.path / name, pin) != expected(pin):
                    found.append(name)
        return found

    def strangers(self, directory: Path) -> list[Path]:
        """List what is in a directory and not in the pin, outer directories first."""
        wanted = set(self.files) | {str(parent) for name in self.files for parent in Path(name).parents}
        return sorted(p for p in directory.rglob("*") if str(p.relative_to(directory)) not in wanted)

    def unreadable(self) -> list[Path]:
        """List files and directories that engine and service could not read, or others could write."""
        files = [self.path / name for name in self.files]
        places = {self.path.parent, self.path, *files, *(file.parent for file in files)}
        return [place for place in places if place.exists() and not has_mode(place)]

    def orphans(self) -> list[Path]:
        """List what no download goes on with: of other revisions, models that are not kept, other files."""
        if not self.partial.is_dir():
            return []
        found, keep = [], self.options["keep"]
        for place in self.partial.iterdir():
            staging = re.fullmatch(r"(.+)-[0-9a-f]{40}", place.name)
            of = staging[1] if staging else ""
            if place != self.staging and (of == self.name or (keep and of not in keep)):
                found.append(place)
        return found + self.strangers(self.staging)

    def candidates(self, name: str) -> list[Path]:
        """List files below the directories to adopt from that could be this one: its path's end, its size."""
        return [
            place
            for directory in self.options["adopt"]
            for place in sorted(Path(directory).rglob(glob.escape(name)))
            if place.is_file() and place.stat().st_size == self.files[name]["size"]
        ]

    def check_disk(self, names: Iterable[str]) -> None:
        """Refuse what the disk cannot take, beside the reserve that stays free on it."""
        staged = [self.staging / name for name in names]
        there = sum(place.stat().st_size for place in staged if place.is_file())
        need = sum(self.files[name]["size"] for name in names) - there
        place = next(parent for parent in [self.root, *self.root.parents] if parent.is_dir())
        free, reserve = shutil.disk_usage(place).free, self.options["reserve_gb"] * GB
        if need + reserve > free:
            raise Refused(
                f"{self.name} needs {need / GB:.2f} GB more below {self.root}; {free / GB:.2f} GB are free, "
                f"of which {reserve / GB:.2f} GB stay so (model_store_reserve_gb). Rule: the model fits. "
                "Remedy: free space there, set model_store_root to a larger disk, or choose a smaller model."
            )

    def adopt(self, name: str) -> bool:
        """Take a file over that is on this host already, if it equals the pin. The original is only read.

        Its blocks are shared where the file system can (they part when either is written), else copied: a
        hard link would let whoever owns the original alter what is served.
        """
        target = self.staging / f"{name}.adopted"  # beside a download that may have begun
        for source in self.candidates(name):
            part = Part(target, self.files[name], self.progress.tell)
            with part.file, source.open("rb") as original:
                part.restart()
                try:
                    fcntl.ioctl(part.file, FICLONE, original.fileno())
                    part.restart(keep=True)
                except OSError:
                    while part.size < part.pin["size"] and (block := original.read(BLOCK)):
                        part.append(block[: part.pin["size"] - part.size])
            if part.sum() == expected(part.pin):
                target.replace(self.staging / name)
                self.adopted[name] = str(source)
                return True
            self.progress.tell(-part.size)
            target.unlink()
            self.differs.add(str(source))
        return False

    def differing(self) -> list[str]:
        """List the files that lie beside adopted ones, and are not what is pinned."""
        homes = {source.removesuffix(name) for name, source in self.adopted.items()}
        beside = (f"{home}{name}" for home in homes for name in self.fetched)
        return sorted(self.differs.union(place for place in beside if Path(place).exists()))

    def stage(self, names: list[str]) -> int:
        """Have the named files staged as the pin says: adopted, else fetched. Returns bytes received."""
        self.staging.mkdir(parents=True, exist_ok=True)
        self.progress.begin(sum(self.files[name]["size"] for name in names))
        received = 0
        for name in names:
            self.progress.file = name
            if not self.adopt(name):
                received += self.hub.fetch(name, self.files[name], self.staging / name, self.progress.tell)
                self.fetched.append(name)
        return received

    def serve(self, names: list[str]) -> None:
        """Put what is staged where it is served from: a new revision by one rename, else each file by one."""
        for place in [*self.staging.rglob("*"), self.staging]:
            settle(place)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.is_dir():
            self.staging.rename(self.path)
        else:
            for name in names:
                target = self.path / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if target.is_dir() and not target.is_symlink():
                    remove(target)
                (self.staging / name).replace(target)
            remove(self.staging)
        for place in {self.path, self.path.parent}:
            settle(place)

    def write_record(self) -> None:
        """Note what was verified, so that it need not be read again."""
        record = {key: self.options[key] for key in ("repository", "revision")}
        aside = self.record_path.with_suffix(".new")
        aside.write_text(
            json.dumps({**record, "files": {n: self.present(n) for n in self.files}}, indent=1) + "\n"
        )
        aside.replace(self.record_path)

    def survey(self) -> dict[str, Any]:
        """Compare; change nothing. `changed` tells whether anything would be."""
        record = self.record()
        wrong = self.wrong(record if self.options["verify"] == "changed" else {})
        extra = [str(place.relative_to(self.path)) for place in self.strangers(self.path)]
        stale = not wrong and record != {name: self.present(name) for name in self.files}
        removed = [*extra, *(str(place.relative_to(self.root)) for place in self.orphans())]
        adoptable = {name: str(places[0]) for name in wrong if (places := self.candidates(name))}
        return {
            "path": str(self.path),
            "changed": bool(wrong or removed or self.unreadable() or stale),
            "wrong": wrong,
            "extra": extra,
            "hashed": self.hashed,
            "hashed_bytes": sum(self.files[name]["size"] for name in self.hashed),
            "fetched": [name for name in wrong if name not in adoptable],
            "adopted": adoptable,
            "differs": [],
            "received": 0,
            "removed": removed,
        }

    def check(self, found: dict[str, Any]) -> None:
        """Refuse, before anything is changed, what this host or this token could not take."""
        self.check_disk(found["wrong"])
        if found["fetched"] and self.options["gated"] and not self.options["token"]:
            raise self.hub.refused("GatedRepo: it is gated, and model_store_token is empty.")

    def mend(self, found: dict[str, Any]) -> dict[str, Any]:
        """Make it so, what the survey found. The lock is held by the caller."""
        self.partial.mkdir(parents=True, exist_ok=True)
        for place in [*self.orphans(), *(self.path / name for name in found["extra"])]:
            remove(place)
        received = 0
        if found["wrong"]:
            received = self.stage(found["wrong"])
            self.serve(found["wrong"])
        elif self.staging.is_dir():
            remove(self.staging)
        for place in self.unreadable():
            place.chmod(mode_of(place))
        self.write_record()
        done = {"adopted": self.adopted, "fetched": self.fetched, "differs": self.differing()}
        return {**found, **done, "received": received}

    def run(self, check: bool, apart: bool) -> dict[str, Any]:
        """Compare and mend. `apart`: what takes long goes on in a process of its own (`running` says so)."""
        found = self.survey()
        if self.options["state"] == "verified":
            return {**found, "changed": False}
        if found["wrong"]:
            self.check(found)
        if check and found["fetched"] and self.options["probe"]:
            self.hub.probe(found["fetched"][0])
        if check or not found["changed"]:
            return found
        if not self.job.take():
            if apart:
                return {"running": True, "attached": True}
            raise Refused(
                f"Process {self.job.read().get('pid', '?')} is fetching {self.name} already. Rule: one at a "
                "time. Remedy: wait for it, or end that process; the next run goes on where it stopped."
            )
        try:
            if not (apart and found["wrong"]):
                return self.mend(found)
            self.job.start(lambda: self.mend(found))
            return {"running": True, "attached": False}
        finally:
            self.job.release()


def mode_of(place: Path) -> int:
    """The mode in which everyone may read the store, and only its owner may write."""
    return 0o755 if place.is_dir() else 0o644


def has_mode(place: Path) -> bool:
    """Tell whether a file or directory has that mode."""
    return stat.S_IMODE(place.stat().st_mode) == mode_of(place)


def settle(place: Path) -> None:
    """Have a file or directory readable, and on the disk, before it is served."""
    place.chmod(mode_of(place))
    handle = os.open(place, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def remove(place: Path) -> None:
    """Remove a file, a link or a directory, if it is there."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
