#!/usr/bin/python3
"""Ansible module: removes what only forgotten releases were made of, and forgets them."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.release import Ledger, LedgerError, named

DOCUMENTATION = r"""
module: release_prune
short_description: Remove images, model revisions and voicebots that no kept release names
description:
  - Kept are the newest C(keep) releases of the ledger, and its current and previous one in any case. What
    another release of the ledger, or a failed attempt, was made of goes, unless a kept one names it too.
  - An image that any container has, a model directory that a running container mounts, and a voicebot that a
    process has open stay. What the ledger never named is not looked at, except for voicebots in
    C(service_root)/releases, which is ours alone.
  - The ledger is written last, so that a run that was killed is finished by the next one.
options:
  path: {type: path, required: true, description: The ledger.}
  keep: {type: int, required: true, description: "How many releases are kept, 2 or more."}
  model_root: {type: path, required: true, description: The model store.}
  service_root: {type: path, required: true, description: Holds releases/ID and the link current.}
  all: {type: bool, default: false, description: "For the teardown: remove every image that nothing uses."}
"""

RETURN = r"""
removed: {type: list, returned: always, description: What was removed; in check mode, what would be}
spared: {type: list, returned: always, description: What would be removed if nothing used it}
"""


def docker(*argv: str) -> str:
    """Standard output of a docker command; refuses when it fails."""
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)
    if done.returncode:
        raise LedgerError(
            f"`docker {' '.join(argv[:2])}` failed: {done.stderr.strip()}. Rule: Docker tells what uses an "
            "image before one is removed. Remedy: systemctl status docker."
        )
    return done.stdout


def containers() -> list[dict[str, Any]]:
    """All containers, as docker inspects them."""
    ids = docker("container", "ls", "--all", "--quiet", "--no-trunc").split()
    return list(json.loads(docker("container", "inspect", *ids))) if ids else []


def image_id(reference: str) -> str:
    """The image's own id; empty when it is not on the host."""
    argv = ["docker", "image", "inspect", "--format", "{{.Id}}", reference]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def opened(directory: Path) -> bool:
    """Whether a process has a file below the directory mapped, or was started from there."""
    inside = f"{directory}/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("maps", "cmdline"):
            try:
                if inside in (process / file).read_bytes():
                    return True
            except OSError:  # it has ended
                continue
    return False


class Prune:
    """One run over a host."""

    def __init__(self, options: dict[str, Any], check: bool) -> None:
        self.options, self.check = options, check
        self.removed: list[str] = []
        self.spared: list[str] = []

    def settle(self, what: str, used: bool) -> bool:
        """Note the fate of a thing; whether it is to be removed now."""
        (self.spared if used else self.removed).append(what)
        return not used and not self.check

    def images(self, references: Iterable[str], kept: Iterable[str]) -> None:
        """Remove images by reference, none that a container was made from."""
        found = {reference: image_id(reference) for reference in references}
        if not any(found.values()):
            return
        stay = {image_id(reference) for reference in kept} | {c["Image"] for c in containers()}
        for reference, identity in sorted(found.items()):
            if identity and self.settle(f"image {reference}", identity in stay):
                docker("image", "rm", reference)

    def models(self, revisions: Iterable[tuple[str, str]]) -> None:
        """Remove model revisions, none that a running container mounts; a kill leaves nothing that looks "
        "whole."""
        root = Path(self.options["model_root"])
        found = [root / name / revision for name, revision in sorted(revisions)]
        found = [place for place in found if place.is_dir()]
        running = [c for c in containers() if c["State"]["Running"]] if found else []
        mounted = {Path(m["Source"]) for c in running for m in c["Mounts"] if m.get("Source")}
        for place in found:
            used = any(m == place or place in m.parents or m in place.parents for m in mounted)
            if self.settle(f"model {place.relative_to(root)}", used):
                place.with_name(f"{place.name}.json").unlink(missing_ok=True)
                place.rename(gone := place.with_name(f".gone-{place.name}"))
                shutil.rmtree(gone)
                if not any(place.parent.iterdir()):
                    place.parent.rmdir()
        for debris in root.glob("*/.gone-*"):
            if not self.check:
                shutil.rmtree(debris)

    def voicebots(self, kept: Iterable[str]) -> None:
        """Remove every voicebot but the kept ones, those that a link names, and those in use."""
        root = Path(self.options["service_root"])
        links = [root / name for name in ("current", "previous")]
        stay = {*kept, *(link.readlink().name for link in links if link.is_symlink())}
        for place in sorted((root / "releases").glob("*/")):
            if place.name not in stay and self.settle(f"voicebot {place.name}", opened(place)):
                (place / ".complete").unlink(missing_ok=True)  # without it nothing takes the rest for whole
                shutil.rmtree(place)


def run(options: dict[str, Any], check: bool) -> dict[str, Any]:
    """What the module returns."""
    ledger, prune = Ledger(Path(options["path"])), Prune(options, check)
    keep = [] if options["all"] else ledger.kept(options["keep"])
    stays, was = named(keep), named(ledger.data["releases"] + ledger.data["failures"])
    if keep or options["all"]:
        prune.images(was["images"] - stays["images"], stays["images"])
    forgotten = False
    if keep:
        prune.models(was["models"] - stays["models"])
        prune.voicebots(stays["voicebots"])
        forgotten = not prune.spared and ledger.forget(options["keep"])
        if forgotten and not check:
            ledger.write()
    return {"changed": bool(prune.removed) or forgotten, "removed": prune.removed, "spared": prune.spared}


def main() -> None:
    """Runs as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "keep": {"type": "int", "required": True},
            "model_root": {"type": "path", "required": True},
            "service_root": {"type": "path", "required": True},
            "all": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module.params, module.check_mode)
    except (LedgerError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
