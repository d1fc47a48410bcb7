#!/usr/bin/python3
"""Ansible module: one pinned revision of a model, fetched from the Hub, compared with its pin, kept so."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hub_pin import Refused, check_pin, digest, expected, explain, stamp

DOCUMENTATION = r"""
module: hub_snapshot
short_description: Fetch and verify one pinned revision of a model
description:
  - Fetches the files of a pin with C(hf download) into a staging directory, compares each with the pin,
    fetches exactly the wrong ones again, and renames the directory into place. Files of a present revision
    that are wrong are fetched alone and replaced by rename. Nothing half-written is ever served.
  - Needs C(hf) on the host only to fetch; otherwise the standard library alone.
options:
  root: {type: path, required: true, description: The store.}
  name: {type: str, required: true, description: Name of the model in the store.}
  repository: {type: str, required: true, description: OWNER/NAME on the Hub.}
  revision: {type: str, required: true, description: Commit of 40 hexadecimal digits.}
  files: {type: dict, required: true, description: The pin; path to size and sha256, or size and git_oid.}
  gated: {type: bool, default: false, description: The repository wants a token.}
  token: {type: str, default: "", description: Token of the Hub; goes into the child's environment alone.}
  endpoint: {type: str, default: "https://huggingface.co", description: Address of the Hub.}
  hf: {type: path, default: hf, description: The Hub's command line client.}
  tries: {type: int, default: 3, description: How often a file is fetched before it is given up.}
  verify:
    type: str
    choices: [changed, full]
    default: changed
    description: Hash the files whose size, times or inode differ from the record, or all.
  state:
    type: str
    choices: [present, verified]
    default: present
    description: Make it so, or only tell what is wrong, without network and changes.
"""

EXAMPLES = r"""
- name: Fetch a model
  hub_snapshot:
    root: /srv/models
    name: whisper-base
    repository: Systran/faster-whisper-base
    revision: "{{ revision }}"
    files: "{{ files }}"
    hf: /opt/model-store/current/bin/hf
"""

RETURN = r"""
fetched: {type: list, returned: always, description: Files that were fetched; in check mode, that would be}
hashed: {type: list, returned: always, description: Files that were read to the end}
wrong: {type: list, returned: always, description: Files that were missing or differed at the start}
extra: {type: list, returned: always, description: Files beside those of the pin at the start}
removed: {type: list, returned: always, description: Extra files, and orphans of broken downloads}
path: {type: str, returned: always, description: Where the revision is served from}
"""


class Snapshot:
    """One revision of one model in the store."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options, self.files = options, options["files"]
        self.root, self.name = Path(options["root"]), options["name"]
        self.endpoint = options["endpoint"].rstrip("/")
        self.path = self.root / self.name / options["revision"]
        self.record_path = self.path.with_name(f"{options['revision']}.json")
        self.partial = self.root / ".partial"
        self.staging = self.partial / f"{self.name}-{options['revision']}"
        self.hashed: list[str] = []
        self.fetched: list[str] = []

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

    def wrong(self, directory: Path, names: Iterable[str], known: dict[str, Any]) -> list[str]:
        """List the files that differ from the pin; those that are as `known` need no second reading."""
        found = []
        for name in names:
            now, pin = stamp(directory / name), self.files[name]
            if now is None or now["size"] != pin["size"]:
                found.append(name)
            elif known.get(name) != {**now, "hash": expected(pin)}:
                self.hashed.append(name)
                if digest(directory / name, pin) != expected(pin):
                    found.append(name)
        return found

    def extra(self) -> list[str]:
        """List what is in the served directory and not in the pin."""
        wanted = set(self.files) | {str(parent) for name in self.files for parent in Path(name).parents}
        found = (str(place.relative_to(self.path)) for place in self.path.rglob("*"))
        return sorted(name for name in found if name not in wanted)

    def unreadable(self) -> list[Path]:
        """List files and directories that engine and service could not read, or others could write."""
        files = [self.path / name for name in self.files]
        places = {self.path.parent, self.path, *files, *(file.parent for file in files)}
        return [place for place in places if place.exists() and not has_mode(place)]

    def orphans(self) -> list[Path]:
        """List what broken downloads of this model left that no later one will use."""
        if not self.partial.is_dir():
            return []
        ours = re.compile(rf"{re.escape(self.name)}-[0-9a-f]{{40}}")
        found = [
            place for place in self.partial.iterdir() if ours.fullmatch(place.name) and place != self.staging
        ]
        hashes = {expected(pin) for pin in self.files.values()}
        parts = self.staging.rglob("*.incomplete") if self.staging.is_dir() else []
        return found + [place for place in parts if place.name.split(".")[-2] not in hashes]

    def refuse(self, said: str) -> Refused:
        """Say why the Hub's or its client's answer means that there is no model."""
        what = f"{self.name} ({self.options['repository']} at {self.options['revision'][:12]})"
        return Refused(explain(what, self.endpoint, said))

    def check_reachable(self, name: str) -> None:
        """Ask the Hub whether it would give a file; a redirection means yes."""
        url = f"{self.endpoint}/{self.options['repository']}/resolve/{self.options['revision']}/{name}"
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "hub_snapshot"})
        if self.options["token"]:
            request.add_header("Authorization", f"Bearer {self.options['token']}")
        try:
            urllib.request.build_opener(StayHere).open(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            if error.code >= 400:
                code, text = (error.headers.get(f"X-Error-{part}", "") for part in ("Code", "Message"))
                raise self.refuse(f"{error.code} {error.reason} {code} {text}") from None
        except (OSError, ValueError) as error:
            raise self.refuse(f"Connection failed: {getattr(error, 'reason', error)}") from None

    def download(self, names: list[str]) -> None:
        """Let hf fetch files into the staging directory; it goes on where an earlier run stopped."""
        revision = ["--revision", self.options["revision"], "--local-dir", str(self.staging)]
        command = [self.options["hf"], "download", self.options["repository"], *names, *revision]
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        environment = {
            **kept,
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self.staging / ".cache/home"),  # no token and no settings of root's own
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_XET": "1",
            **({"HF_TOKEN": self.options["token"]} if self.options["token"] else {}),
        }
        try:
            done = subprocess.run(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, text=True, errors="replace", preexec_fn=die_with_parent,
            )  # fmt: skip
        except OSError as error:
            raise Refused(
                f"{command[0]} cannot be run: {error.strerror}. Rule: the Hub's client is installed. "
                "Remedy: run the role model_store as a whole."
            ) from error
        # hf ends with 0, too, when the Hub refuses and the directory is not empty
        if done.returncode or any(stamp(self.staging / name) is None for name in names):
            raise self.refuse(done.stdout)

    def check_disk(self, names: Iterable[str]) -> None:
        """Refuse what the disk cannot take."""
        there = sum(place.stat().st_size for place in self.staging.rglob("*") if place.is_file())
        need = sum(self.files[name]["size"] for name in names) - there
        free = shutil.disk_usage(self.staging).free
        if need > free:
            raise Refused(
                f"{self.name} needs {need / 1e9:.2f} GB more below {self.root}; {free / 1e9:.2f} GB free. "
                "Rule: the whole model fits. Remedy: free space there, or choose a smaller model."
            )

    def stage(self, names: list[str]) -> None:
        """Have the named files staged as the pin says; fetch again exactly the wrong ones."""
        (self.staging / ".cache").mkdir(parents=True, exist_ok=True)
        self.check_disk(names)
        wrong = self.wrong(self.staging, names, {})  # an earlier run may have ended between two files
        for _ in range(self.options["tries"]):
            if wrong:
                self.discard(wrong)
                self.check_reachable(wrong[0])
                self.download(wrong)
                self.fetched += wrong
                wrong = self.wrong(self.staging, wrong, {})
        if wrong:
            self.discard(wrong)
            raise Refused(
                f"{', '.join(wrong)} of {self.name} differ from the pin after {self.options['tries']} tries. "
                "Rule: size and hash equal the pin's. Remedy: see what lies between this host and "
                f"{self.endpoint} (proxy, mirror); if the pin is wrong, pin it anew."
            )

    def discard(self, names: Iterable[str]) -> None:
        """Remove staged files that are wrong: hf takes a file that is there for right."""
        for name in names:
            (self.staging / name).unlink(missing_ok=True)

    def serve(self, names: list[str]) -> None:
        """Put what is staged where it is served from: a new revision by one rename, else each file by one."""
        shutil.rmtree(self.staging / ".cache", ignore_errors=True)
        for place in [self.staging, *self.staging.rglob("*")]:
            settle(place)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.is_dir():
            self.staging.rename(self.path)
            return
        for name in names:
            target = self.path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.is_dir() and not target.is_symlink():
                remove(target)
            (self.staging / name).replace(target)
        remove(self.staging)

    def write_record(self) -> None:
        """Note what was verified, so that it need not be read again."""
        record = {key: self.options[key] for key in ("repository", "revision")}
        aside = self.record_path.with_suffix(".new")
        aside.write_text(
            json.dumps({**record, "files": {n: self.present(n) for n in self.files}}, indent=1) + "\n"
        )
        aside.replace(self.record_path)

    def run(self, check: bool) -> dict[str, Any]:
        """Compare; then, unless only that is asked for, make it so."""
        record = self.record()
        wrong = self.wrong(self.path, self.files, record if self.options["verify"] == "changed" else {})
        extra, orphans, unreadable = self.extra(), self.orphans(), self.unreadable()
        stale = not wrong and record != {name: self.present(name) for name in self.files}
        removed = [*extra, *(str(place.relative_to(self.root)) for place in orphans)]
        result = {
            "path": str(self.path),
            "changed": self.options["state"] == "present" and bool(wrong or removed or unreadable or stale),
            "wrong": wrong,
            "extra": extra,
            "hashed": self.hashed,
            "fetched": wrong,
            "removed": removed,
        }
        if wrong and self.options["state"] == "present":
            if self.options["gated"] and not self.options["token"]:
                raise self.refuse(
                    "GatedRepo: the catalogue says that it is gated, and model_store_token is empty."
                )
            if check:
                self.check_reachable(wrong[0])
        if result["changed"] and not check:
            self.partial.mkdir(parents=True, exist_ok=True)
            with locked(self.partial / f"{self.name}.lock"):
                for place in [*orphans, *(self.path / name for name in extra)]:
                    remove(place)
                if wrong:
                    self.stage(wrong)
                    self.serve(wrong)
                elif self.staging.is_dir():
                    remove(self.staging)
                for place in self.unreadable():
                    place.chmod(mode_of(place))
                self.write_record()
            result["fetched"] = self.fetched
        return result


class StayHere(urllib.request.HTTPRedirectHandler):
    """Follow no redirection: the token is for the Hub, not for its content servers."""

    def redirect_request(self, *_: Any) -> None:
        """Answer with the redirection itself."""


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


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold off a second run: one that was interrupted at the controller may still be fetching here."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise Refused(
                f"Process {file.read() or '?'} is fetching this model already. Rule: one at a time. "
                "Remedy: wait for it, or end that process; the next run goes on where it stopped."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def die_with_parent() -> None:
    """In the child: end when this module is killed, so that nobody writes behind the lock."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "repository": {"type": "str", "required": True},
            "revision": {"type": "str", "required": True},
            "files": {"type": "dict", "required": True},
            "gated": {"type": "bool", "default": False},
            "token": {"type": "str", "default": "", "no_log": True},
            "endpoint": {"type": "str", "default": "https://huggingface.co"},
            "hf": {"type": "path", "default": "hf"},
            "tries": {"type": "int", "default": 3},
            "verify": {"type": "str", "choices": ["changed", "full"], "default": "changed"},
            "state": {"type": "str", "choices": ["present", "verified"], "default": "present"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    try:
        check_pin(module.params["name"], module.params["revision"], module.params["files"])
        result = Snapshot(module.params).run(module.check_mode)
    except Refused as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        where = module.params["root"]
        module.fail_json(msg=f"{error}. Rule: root reads and writes below {where}. Remedy: see that place.")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
