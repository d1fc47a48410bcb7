"""Ask a playbook what it would change on this host: in check mode, as a process of its own, on it alone.

So one host that is refused or away hides nothing of another, and the roles see a true `ansible_check_mode`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ansible import constants as C
from ansible import context
from ansible.plugins.action import ActionBase

# Options of this run that the other one gets, too: name in Ansible's command line, and its flag.
_PASSED_ON = {
    "inventory": "--inventory",
    "extra_vars": "--extra-vars",
    "remote_user": "--user",
    "private_key_file": "--private-key",
    "connection": "--connection",
    "timeout": "--timeout",
    "ssh_common_args": "--ssh-common-args",
    "ssh_extra_args": "--ssh-extra-args",
    "become_method": "--become-method",
    "become_user": "--become-user",
}
_ENVIRONMENT = {"ANSIBLE_CALLBACKS_ENABLED": "run_log", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}


def passed_on(given: Any) -> Iterator[str]:
    """Flags for the other run, out of this one's options (each a value or several)."""
    for name, flag in _PASSED_ON.items():
        values = given.get(name) or []
        for value in values if isinstance(values, list | tuple) else [values]:
            yield f"{flag}={value}"


def outcome(record: dict[str, Any] | None, host: str, output: str) -> dict[str, Any]:
    """changed (task names), failed (task and msg), unreachable and tasks, out of the run's record."""
    found: dict[str, Any] | None = (record or {}).get("hosts", {}).get(host)
    if found:
        return found
    said = "\n".join(output.strip().splitlines()[-8:])
    failed = [{"task": "ansible-playbook", "msg": f"ended before its first task: {said}"}]
    return {"tasks": 0, "changed": [], "failed": failed, "unreachable": False}


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the module's docstring. Runs on the controller alone, and changes nothing."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """The record of the other run for this host, as `outcome` says."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        host = (task_vars or {})["inventory_hostname"]
        _, args = self.validate_argument_spec(
            argument_spec={
                "playbook": {"type": "path", "required": True},
                "skip_tags": {"type": "list", "elements": "str", "default": []},
            }
        )
        with tempfile.TemporaryDirectory(dir=C.DEFAULT_LOCAL_TMP) as folder:  # only ours to read
            argv = [sys.executable, "-m", "ansible", "playbook", args["playbook"], "--check", "--limit", host]
            argv += [f"--skip-tags={','.join(args['skip_tags'])}"] if args["skip_tags"] else []
            argv += [*passed_on(context.CLIARGS), *self._secrets(Path(folder))]
            environment = os.environ | _ENVIRONMENT | {"ANSIBLE_RUN_LOG_DIR": f"{folder}/log"}
            done = subprocess.run(
                argv, env=environment, text=True, check=False,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            records = [json.loads(p.read_text(encoding="utf-8")) for p in Path(folder, "log").glob("*.json")]
        return result | {"changed": False, "would": outcome(next(iter(records), None), host, done.stdout)}

    def _secrets(self, folder: Path) -> Iterator[str]:
        """Flags for files with the passwords that were typed or read for this run."""
        known = [("--become-password-file={}", self._play_context.become_pass)]
        known += [("--connection-password-file={}", self._play_context.password)]
        for name, vault in self._loader._vault.secrets or []:
            known.append((f"--vault-id={name}@{{}}", vault.bytes.decode()))
        for number, (flag, secret) in enumerate(known):
            if secret:
                file = folder / f"secret-{number}"
                file.write_text(secret, encoding="utf-8")
                yield flag.format(file)
