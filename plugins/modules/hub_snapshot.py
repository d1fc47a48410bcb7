#!/usr/bin/python3
"""Ansible module: one pinned revision of a model, adopted or fetched, compared with its pin, kept so."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.hub_job import Job
from ansible.module_utils.hub_pin import Refused, check_pin
from ansible.module_utils.hub_store import Snapshot

DOCUMENTATION = r"""
module: hub_snapshot
short_description: Have one pinned revision of a model in the store, equal to its pin
description:
  - Adopts or fetches the files of a pin into a staging directory, each from the byte where an earlier
    download stopped, hashed while it streams, and renames the directory into place. Files of a present
    revision that are wrong are replaced alone, by rename. Nothing half-written is ever served.
  - Its action plugin has a download done by a process that outlives the connection, shows its progress,
    and attaches to one that is under way.
  - Standard library alone, on the host's own Python.
options:
  root: {type: path, required: true, description: The store.}
  name: {type: str, required: true, description: Name of the model in the store.}
  repository: {type: str, required: true, description: OWNER/NAME on the Hub.}
  revision: {type: str, required: true, description: Commit of 40 hexadecimal digits.}
  files: {type: dict, required: true, description: The pin; path to size and sha256, or size and git_oid.}
  gated: {type: bool, default: false, description: The repository wants a token.}
  token: {type: str, default: "", description: Token of the Hub; stays in memory, and goes to the Hub alone.}
  endpoint: {type: str, default: "https://huggingface.co", description: Address of the Hub.}
  adopt: {type: list, elements: path, default: [], description: Directories to take files from that verify.}
  keep: {type: list, elements: str, default: [], description: Models whose downloads are not swept.}
  reserve_gb: {type: float, default: 0, description: Gigabytes that stay free on the disk.}
  tries: {type: int, default: 6, description: Requests without progress until the Hub is given up.}
  pause: {type: float, default: 1, description: Seconds until one is repeated; doubles each time.}
  probe: {type: bool, default: true, description: In check mode the Hub is asked for what is missing.}
  run: {type: path, default: /run/model-store, description: Directory of locks and states.}
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
  job:
    type: str
    choices: [here, start, watch]
    default: here
    description: Work in this process, leave a download to one of its own, or watch that one.
  seconds: {type: float, default: 10, description: How long to watch.}
"""

EXAMPLES = r"""
- name: Have a model
  hub_snapshot:
    root: /srv/models
    name: whisper-base
    repository: Systran/faster-whisper-base
    revision: "{{ revision }}"
    files: "{{ files }}"
"""

RETURN = r"""
wrong: {type: list, returned: always, description: Files that were missing or differed at the start}
fetched: {type: list, returned: always, description: Files that were fetched; in check mode, that would be}
adopted: {type: raw, returned: always, description: Files taken over, and whence; in check mode, that may be}
differs: {type: list, returned: always, description: Files to adopt that differ from the pin}
received: {type: int, returned: always, description: Bytes that came over the network}
hashed: {type: list, returned: always, description: Served files that were read to the end}
hashed_bytes: {type: int, returned: always, description: Their bytes}
extra: {type: list, returned: always, description: Files beside those of the pin at the start}
removed: {type: list, returned: always, description: Extra files, and downloads that nothing will go on with}
path: {type: str, returned: always, description: Where the revision is served from}
"""

ARGUMENTS: dict[str, Any] = {
    "root": {"type": "path", "required": True},
    "name": {"type": "str", "required": True},
    "repository": {"type": "str", "required": True},
    "revision": {"type": "str", "required": True},
    "files": {"type": "dict", "required": True},
    "gated": {"type": "bool", "default": False},
    "token": {"type": "str", "default": "", "no_log": True},
    "endpoint": {"type": "str", "default": "https://huggingface.co"},
    "adopt": {"type": "list", "elements": "path", "default": []},
    "keep": {"type": "list", "elements": "str", "default": []},
    "reserve_gb": {"type": "float", "default": 0},
    "tries": {"type": "int", "default": 6},
    "pause": {"type": "float", "default": 1},
    "probe": {"type": "bool", "default": True},
    "run": {"type": "path", "default": "/run/model-store"},
    "verify": {"type": "str", "choices": ["changed", "full"], "default": "changed"},
    "state": {"type": "str", "choices": ["present", "verified"], "default": "present"},
    "job": {"type": "str", "choices": ["here", "start", "watch"], "default": "here"},
    "seconds": {"type": "float", "default": 10},
}


def run(given: dict[str, Any], check: bool) -> dict[str, Any]:
    """Do what the options ask for, or raise Refused."""
    check_pin(given["name"], given["revision"], given["files"])
    job = Job(given["run"], given["root"], given["name"])
    result: dict[str, Any]
    if given["job"] == "watch":
        result = job.watch(given["seconds"])
    else:
        result = Snapshot(given, job).run(check, apart=given["job"] == "start")
    return result


def main() -> None:
    """Run as an Ansible module."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)
    try:
        result = run(module.params, module.check_mode)
    except Refused as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        where = module.params["root"]
        module.fail_json(msg=f"{error}. Rule: root reads and writes below {where}. Remedy: see that place.")
    if result.get("failed"):
        module.fail_json(**result)
    module.exit_json(**{"changed": False, **result})


if __name__ == "__main__":
    main()
