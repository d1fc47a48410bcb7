#!/usr/bin/python3
"""Ansible module: what helps to help this host from afar, in one file without secrets."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.redaction import Redactor

DOCUMENTATION = r"""
module: support_bundle
short_description: Collect units, journals, configuration and health of a host into one file, without secrets
description:
  - Writes C(path), a tar.gz of at most C(limit) bytes that root alone may read. C(index.json) in it names
    every part, its bytes, what was cut or left out, and how many secrets were taken out of it.
  - Secrets go by name, look and value; values are C(secrets), what the collected configuration calls a
    secret, and every long word of the files C(held), which themselves stay out.
  - The written file is read again, and removed if one of the known values stands in it.
options:
  path: {type: path, required: true, description: File to be written.}
  units: {type: list, elements: str, default: [], description: "systemd units: state, journal, environment."}
  commands:
    description: "Whose output is kept: {name, argv}; with C(said: true) without what users say."
    type: list
    elements: dict
    default: []
  pages: {type: dict, default: {}, description: "Name -> address on this host."}
  files: {type: list, elements: str, default: [], description: Patterns of configuration and evidence.}
  held: {type: list, elements: str, default: [], description: Patterns of files of keys.}
  secrets: {type: list, elements: str, default: [], description: Values that must not be in the file.}
  limit: {type: int, default: 20000000, description: Bytes of the file.}
  lines: {type: int, default: 3000, description: Lines of a journal.}
"""

RETURN = r"""
path: {type: str, returned: success, description: The file; empty in check mode}
bytes: {type: int, returned: success, description: Its size}
index: {type: dict, returned: success, description: What index.json holds}
"""

TIMEOUT = 30.0  # seconds of a command or a page
SHARE = 8  # a part takes at most so much of the limit
BLOCK = 512  # of tar: a header, and what each part is rounded up to
INDEX = 64 * 1024  # bytes kept free for the index, and for tar's end
# What users say, where an engine is told to log it: `prompt: '…'`, `output: '…'`.
SAID = re.compile(r"\b(prompt\w*|messages|content|input\w*|output\w*|text)(['\"]?\s*[:=]).*", re.IGNORECASE)


@dataclass
class Part:
    """A text of the bundle. The end of what is `said` by a program counts more than its beginning."""

    name: str
    origin: str
    text: str = ""
    note: str = ""
    said: bool = False
    cut: bool = False  # its beginning was not read


def ran(argv: list[str]) -> str:
    """All that a command prints; why it did not run."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=TIMEOUT, check=False, env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"could not be had: {error}\n"
    text = done.stdout.decode(errors="replace")
    return text if done.returncode == 0 else f"{text}ended with {done.returncode}\n"


def page(url: str) -> str:
    """Status and text of a page."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback has no proxy
    try:
        with opener.open(url, timeout=TIMEOUT) as reply:
            return f"{reply.status}\n{reply.read().decode(errors='replace')}"
    except urllib.error.HTTPError as error:
        return f"{error.code}\n{error.read().decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return f"could not be had: {error}\n"


def of_unit(unit: str, lines: int) -> Iterator[Part]:
    """State, environment and journal of a unit that systemd knows."""
    shown = ran(["systemctl", "show", unit])
    if "LoadState=not-found" in shown:
        yield Part(f"units/{unit}.txt", f"systemctl show {unit}", note="no such unit")
        return
    argv = ["systemctl", "status", "--no-pager", "--full", "--lines=0", unit]
    yield Part(f"units/{unit}.txt", " ".join(argv), f"{ran(argv)}\n{shown}")
    process = re.search(r"^MainPID=(\d+)$", shown, re.MULTILINE)
    if process and process[1] != "0":
        environment = Path(f"/proc/{process[1]}/environ")
        yield read(environment, f"units/{unit}.environment", lambda raw: raw.replace(b"\0", b"\n"))
    argv = ["journalctl", f"--unit={unit}", f"--lines={lines}", "--no-pager", "--output=short-iso"]
    yield Part(f"units/{unit}.log", " ".join(argv), ran(argv), said=True)


def read(path: Path, name: str, change: Any = bytes, most: int = 4 << 20) -> Part:
    """A file, or the last `most` bytes of it, from a line's beginning on."""
    part = Part(name, str(path))
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size > most:
                stream.seek(size - most)
                stream.readline()
            raw = change(stream.read(most))
    except OSError as error:
        part.note = f"could not be had: {error}"
        return part
    part.cut = size > most
    if b"\0" in raw:
        part.note = "left out: no text"
    else:
        part.text = raw.decode(errors="replace")
    return part


def matching(patterns: list[str]) -> list[Path]:
    """Files, links followed, each once, in order."""
    found: dict[Path, None] = {}
    for pattern in patterns:
        paths = sorted(Path("/").glob(pattern.lstrip("/")))
        found |= dict.fromkeys(path for path in paths if path.is_file())
    return list(found)


def collect(p: dict[str, Any]) -> tuple[list[Part], Redactor]:
    """The parts as they are, what matters most first; and all that is known to be secret."""
    held, parts = matching(p["held"]), []
    secret_files = {path.resolve() for path in held}
    for command in p["commands"]:
        said = bool(command.get("said"))
        parts.append(Part(command["name"], " ".join(command["argv"]), ran(command["argv"]), said=said))
    parts += [Part(f"pages/{name}", url, page(url)) for name, url in p["pages"].items()]
    parts += [
        read(path, f"files{path}") for path in matching(p["files"]) if path.resolve() not in secret_files
    ]
    for unit in p["units"]:
        parts += of_unit(unit, p["lines"])
    redactor = Redactor(p["secrets"])
    for path in held:
        redactor.learn_words(read(path, "").text)
        parts.append(Part(f"files{path}", str(path), note="left out: it holds keys"))
    for part in parts:
        if not part.said:
            redactor.learn_from(part.text)
    return parts, redactor


def cut(raw: bytes, room: int, end: bool) -> bytes:
    """At most `room` bytes: the beginning, or (`end`) the end; whole lines where there are some."""
    if len(raw) <= room:
        return raw
    if end:
        kept = raw[len(raw) - room :]
        return kept[kept.find(b"\n") + 1 :]
    return raw[: raw.rfind(b"\n", 0, room) + 1 or room]


def write(p: dict[str, Any], parts: list[Part], redactor: Redactor) -> dict[str, Any]:
    """Write the file; its index."""
    room = p["limit"] - INDEX
    entries: list[dict[str, Any]] = []
    handle = os.open(p["path"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.fchmod(handle, 0o600)
    with os.fdopen(handle, "wb") as stream, tarfile.open(fileobj=stream, mode="w:gz") as bundle:
        for part in parts:
            text, count = redactor.clean(part.text)
            if part.said:
                text = SAID.sub(r"\1\2 [not kept]", text)
            raw = text.encode()
            kept = cut(raw, max(0, min(room - 2 * BLOCK, p["limit"] // SHARE)), part.said)
            entry: dict[str, Any] = {"name": redactor.clean_known(part.name)}
            entry["from"] = redactor.clean_known(part.origin)
            entry |= {"bytes": len(kept), "secrets": count, "cut": part.cut or len(kept) < len(raw)}
            entries.append(entry | ({"note": redactor.clean(part.note)[0]} if part.note else {}))
            if kept:
                room -= add(bundle, entry["name"], kept)
        index = {
            "format": 1,
            "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "limit": p["limit"],
            "secrets_known": redactor.known,
            "cut": [entry["name"] for entry in entries if entry["cut"]],
            "parts": entries,
        }
        add(bundle, "index.json", json.dumps(index, indent=1).encode())
    return index


def add(bundle: tarfile.TarFile, name: str, raw: bytes) -> int:
    """Put a text into the tar; the bytes that it takes there."""
    member = tarfile.TarInfo(name.lstrip("/"))
    member.size, member.mode, member.mtime = len(raw), 0o600, int(time.time())
    bundle.addfile(member, io.BytesIO(raw))
    return BLOCK + -(-len(raw) // BLOCK) * BLOCK


def leaks(path: str, redactor: Redactor) -> list[str]:
    """The parts of the written file in which a known secret stands."""
    found = []
    with tarfile.open(path) as bundle:
        for member in bundle:
            stream = bundle.extractfile(member)
            text = stream.read().decode(errors="replace") if stream else ""
            if redactor.found(f"{member.name}\n{text}"):
                found.append(member.name.replace("\n", " "))
    return found


def run(p: dict[str, Any]) -> dict[str, Any]:
    """Write the bundle; what the module returns, or {failed, msg}."""
    if p["limit"] < 4 * INDEX:
        rule = f"Rule: {4 * INDEX} or more. Remedy: raise it"
        return {"failed": True, "msg": f"diagnostics_bytes is {p['limit']}. {rule}."}
    parts, redactor = collect(p)
    index = write(p, parts, redactor)
    size = Path(p["path"]).stat().st_size
    refusal = ""
    if leaked := leaks(p["path"], redactor):
        names = ", ".join(redactor.clean_known(name) for name in leaked)
        refusal = (
            f"A secret stands in {names}. Rule: no known secret leaves the host. Remedy: leave that part out "
            "(diagnostics_files, diagnostics_units), and report it as a fault of the redaction"
        )
    elif size > p["limit"]:
        refusal = (
            f"The bundle has {size} bytes. Rule: at most diagnostics_bytes, {p['limit']}. Remedy: raise it, "
            "or name fewer files"
        )
    if refusal:
        Path(p["path"]).unlink()
        return {"failed": True, "msg": f"{refusal}. The bundle was removed."}
    return {"path": p["path"], "bytes": size, "index": index}


def main() -> None:
    """Runs as an Ansible module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "units": {"type": "list", "elements": "str", "default": []},
            "commands": {"type": "list", "elements": "dict", "default": []},
            "pages": {"type": "dict", "default": {}},
            "files": {"type": "list", "elements": "str", "default": []},
            "held": {"type": "list", "elements": "str", "default": []},
            "secrets": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "limit": {"type": "int", "default": 20_000_000},
            "lines": {"type": "int", "default": 3000},
        },
        supports_check_mode=True,
    )
    p = module.params
    if module.check_mode:
        module.exit_json(changed=False, path="", bytes=0, index={})
    result = run(p)
    if result.get("failed"):
        module.fail_json(msg=result["msg"])
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
