"""The module support_bundle, told which secrets this run knows for the host.

They are what its variables call one, at any depth, what a vault has held, and the passwords of the
connection; they go the way of a module's arguments.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.parsing.vault import EncryptedString
from ansible.plugins.action import ActionBase

_FILE = Path(__file__).parents[1] / "module_utils/redaction.py"  # a host finds it by itself
_SPEC = importlib.util.spec_from_file_location("spark_voicebot_redaction", _FILE)
assert _SPEC and _SPEC.loader
redaction = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(redaction)

# Variables of Ansible's own that hold other variables, and facts: public, or the host's own.
_SKIPPED = {"hostvars", "vars", "groups", "ansible_facts", "ansible_local", "environment"}


def secret_leaves(data: Any, secret: bool = False) -> Iterator[Any]:
    """Leaves, not templated yet, that bear the name of a secret or come out of a vault."""
    if isinstance(data, Mapping):
        for name, value in data.items():
            yield from secret_leaves(value, secret or redaction.says_secret(str(name)))
    elif isinstance(data, list | tuple):
        for value in data:
            yield from secret_leaves(value, secret)
    elif secret or isinstance(data, EncryptedString):
        yield data


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the module's docstring."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """What the module returns."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        args = dict(self._task.args)
        args["secrets"] = sorted({*map(str, args.get("secrets") or []), *self._known(task_vars or {})})
        module = self._execute_module("support_bundle", module_args=args, task_vars=task_vars)
        return result | dict(module)

    def _known(self, task_vars: Mapping[str, Any]) -> Iterator[str]:
        given = {name: value for name, value in task_vars.items() if name not in _SKIPPED}
        for leaf in secret_leaves(given):
            try:
                value = self._templar.template(leaf)
            except AnsibleError:  # what cannot be computed is no value that could leak
                continue
            yield from (str(v) for v in redaction.named_values(value, True) if not isinstance(v, bool | None))
        yield from filter(None, (self._play_context.become_pass, self._play_context.password))
