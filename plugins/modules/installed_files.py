#!/usr/bin/python3
"""Ansible module: a handful of small text files, checked together, installed together."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: installed_files
short_description: Install small text files together, after all of them were validated
description:
  - Writes those that differ, each by an atomic rename, with mode 0644, owned by root. All are staged and
    validated before the first is replaced, so a refused file changes nothing.
  - One task for a program of many files; a task each costs a connection each.
options:
  files:
    description: Absolute path of each file, and its text; a last newline that it lacks is added.
    type: dict
    required: true
  complete:
    description: Directories that hold these files and no others; other files in them are removed.
    type: list
    elements: str
    default: []
  validate:
    description: Commands, word by word, run over the staged files; C({root}) is the folder they are in.
    type: list
    elements: list
    default: []
author: [spark-voicebot]
"""

EXAMPLES = r"""
- name: Install the program and its settings
  installed_files:
    files:
      /usr/local/lib/greeter/greeter.py: "{{ lookup('ansible.builtin.file', 'greeter.py', rstrip=false) }}"
      /etc/greeter.json: "{{ greeter | to_json }}"
    complete: [/usr/local/lib/greeter]
    validate:
      - [/usr/bin/python3, -B, "{root}/usr/local/lib/greeter/greeter.py", --check, "{root}/etc/greeter.json"]
"""

RETURN = r"""
written: {description: Paths written., type: list, returned: always}
removed: {description: Paths removed., type: list, returned: always}
"""

import os  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

MODE = 0o644


def text_of(path: Path) -> str | None:
    """What stands in a file; None if there is no such file."""
    if path.is_symlink() or not path.is_file():
        return None
    return path.read_text(encoding="utf-8", errors="surrogateescape")


def differs(path: Path, text: str) -> bool:
    """Whether the file lacks this text, or has another mode or owner."""
    if text_of(path) != text:
        return True
    state = path.stat()
    return state.st_mode & 0o7777 != MODE or (state.st_uid, state.st_gid) != (os.geteuid(), os.getegid())


def strangers(folder: Path, files: dict[str, str]) -> list[str]:
    """Files in a folder, byte code aside, that are none of ours."""
    if not folder.is_dir():
        return []
    found = (path for path in folder.rglob("*") if not path.is_dir() and "__pycache__" not in path.parts)
    return sorted(str(path) for path in found if str(path) not in files)


def stage(root: Path, files: dict[str, str]) -> None:
    """Write all of them below a folder, as they are to lie below /."""
    for name, text in files.items():
        place = root / name.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text, encoding="utf-8", errors="surrogateescape")


def install(path: Path, text: str) -> None:
    """Replace a file by an atomic rename within its folder."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), MODE)
            os.fsync(file.fileno())
        Path(aside).replace(path)
    except OSError:
        Path(aside).unlink(missing_ok=True)
        raise


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "required": True},
            "complete": {"type": "list", "elements": "str", "default": []},
            "validate": {"type": "list", "elements": "list", "default": []},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    files: dict[str, str] = module.params["files"]
    for name, text in files.items():
        if not name.startswith("/") or not isinstance(text, str):
            module.fail_json(
                msg=f"files has {name!r}. Rule: absolute paths, and a text each. Remedy: correct it."
            )
    files = {name: text if text.endswith("\n") else f"{text}\n" for name, text in files.items()}
    with tempfile.TemporaryDirectory(dir=module.tmpdir) as root:
        stage(Path(root), files)
        # as everywhere, not in check mode: what a validator looks for may be still to come
        for argv in [] if module.check_mode else module.params["validate"]:
            command = [word.replace("{root}", root) for word in argv]
            rc, out, err = module.run_command(command)
            if rc:
                module.fail_json(msg=f"Nothing is installed: {' '.join(argv)} refused: {(out + err).strip()}")
    written = [name for name, text in files.items() if differs(Path(name), text)]
    removed = [name for folder in module.params["complete"] for name in strangers(Path(folder), files)]
    diff: list[dict[str, Any]] = [
        {"before_header": n, "after_header": n, "before": text_of(Path(n)) or "", "after": files[n]}
        for n in written
    ]
    diff += [{"before_header": n, "before": text_of(Path(n)) or "", "after": ""} for n in removed]
    if not module.check_mode:
        for name in written:
            install(Path(name), files[name])
        for name in removed:
            Path(name).unlink()
    module.exit_json(changed=bool(written or removed), written=written, removed=removed, diff=diff)


if __name__ == "__main__":
    main()
