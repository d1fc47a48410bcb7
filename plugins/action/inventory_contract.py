"""Refuse what the project does not know in a host's variables, all of it at once, before anything is changed.

Known is: an option of a role (meta/argument_specs.yml), a key of the playbooks' own variables, what Ansible
sets. Values of options are checked against their specification, nested ones included. What has been found out
by other means (`findings`: the catalogue, the choices, the pins) is reported in the same breath.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.module_utils.common.parameters import DEFAULT_TYPE_VALIDATORS
from ansible.plugins.action import ActionBase

_MAGIC = {
    "discovered_interpreter_python",
    "environment",
    "group_names",
    "groups",
    "hostvars",
    "inventory_dir",
    "inventory_file",
    "inventory_hostname",
    "inventory_hostname_short",
    "omit",
    "play_hosts",
    "playbook_dir",
    "role_name",
    "role_names",
    "role_path",
    "role_uuid",
    "vars",
}
# Ansible's own, a test runner's, and what roles register (an inventory has no business with those).
_PREFIXES = ("ansible_", "molecule_", "__")
_NAMES = {
    "bool": "true or false",
    "float": "a number",
    "int": "an integer",
    "list": "a list",
    "str": "a text",
}
_NAMES |= {"dict": "a dict", "path": "a path"}
# What the ending of a name says of its value, in every role.
_ENDINGS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "port": ("a TCP port, 1 to 65535", lambda value: 1 <= int(value) <= 65535),
    "timeout": ("seconds, above 0", lambda value: float(value) > 0),
    "root": ("an absolute path", lambda value: re.match(r"/[^/]", str(value)) is not None),
    "ports": (
        "no port twice (vllm_port, vllm_guard_port, voicebot_settings.server.port)",
        lambda value: len({str(entry.get("port")) for entry in value}) == len(value),
    ),
    "endpoint": (
        "a URL that begins with http:// or https://",
        lambda value: re.fullmatch(r"https?://[^/\s]+\S*", str(value)) is not None,
    ),
}


def _refusal(given: str, rule: str, remedy: str) -> str:
    return f"{given}. Rule: {rule}. Remedy: {remedy}."


def _near(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}? Otherwise remove it" if close else "correct or remove it"


def unknown_names(names: Iterable[str], known: Iterable[str]) -> list[str]:
    """A refusal for each variable that nothing in the project reads."""
    known = set(known)
    rule = "a variable is an option of a role or of a playbook"
    return [
        _refusal(f"{name} is not known", rule, _near(name, known))
        for name in sorted(names)
        if name not in known and name not in _MAGIC and not name.startswith(_PREFIXES)
    ]


def _converted(value: Any, kind: str) -> Any:
    """The value as its type, else TypeError; stricter than Ansible, which makes a text of any list."""
    if kind in ("str", "path") and isinstance(value, dict | list | bool):
        raise TypeError
    if kind in ("int", "float") and isinstance(value, bool):
        raise TypeError
    if kind in ("list", "dict") and isinstance(value, str):
        raise TypeError
    return DEFAULT_TYPE_VALIDATORS[kind](value)


def value_findings(path: str, value: Any, option: Mapping[str, Any], secret: bool = False) -> Iterator[str]:
    """What is wrong with a value, by the specification of its option; a secret's value is never shown."""
    secret = secret or bool(option.get("no_log"))
    kind = option.get("type", "str")
    given = f"{path} is {'(hidden)' if secret else repr(value)}"
    if value is None:
        if option.get("required") or option.get("default") is not None:
            yield _refusal(f"{path} is null", "a value", "give it one, or remove the line for the default")
        return
    try:
        value = _converted(value, kind)
    except (TypeError, ValueError):
        yield _refusal(given, _NAMES.get(kind, f"a {kind}"), "correct it")
        return
    rule, holds = _ENDINGS.get(re.split(r"[._]", path)[-1], ("", lambda _: True))
    if isinstance(value, list):
        if all(isinstance(entry, Mapping) for entry in value) and not holds(value):
            yield _refusal(given, rule, "correct it")
        element = {k: option[k] for k in ("options", "choices") if k in option}
        element["type"] = option.get("elements", "raw")
        for number, entry in enumerate(value):
            yield from value_findings(f"{path}[{number}]", entry, element, secret)
        return
    if not isinstance(value, Mapping) and not holds(value):
        yield _refusal(given, rule, "correct it")
    choices = option.get("choices")
    if choices and value not in choices:
        yield _refusal(given, f"one of {', '.join(map(str, choices))}", "choose one of them")
    if isinstance(value, Mapping) and option.get("options"):
        yield from _nested_findings(path, value, option["options"], secret)


def _nested_findings(
    path: str, value: Mapping[str, Any], options: Mapping[str, Any], secret: bool
) -> Iterator[str]:
    for name in value:
        if name not in options:
            rule = f"one of {', '.join(sorted(options))}"
            yield _refusal(f"{path}.{name} is not known", rule, _near(str(name), options))
        else:
            yield from value_findings(f"{path}.{name}", value[name], options[name], secret)
    for name, option in options.items():
        if option.get("required") and name not in value:
            yield _refusal(f"{path}.{name} is missing", "required", "add it")


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the module's docstring. Runs on the controller alone."""

    TRANSFERS_FILES = False
    _requires_connection = False
    _supports_check_mode = True
    _supports_async = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Collect every finding on this host; fail if there is one."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, args = self.validate_argument_spec(
            argument_spec={
                "roles": {"type": "path", "required": True},
                "variables": {"type": "path", "required": True},
                "findings": {"type": "list", "elements": "str", "default": []},
                "complete": {
                    "type": "bool",
                    "default": True,
                },  # false: pins may be lacking, and what needs them
            }
        )
        options = self._options(Path(args["roles"]))
        own = self._names(args["variables"])
        found = unknown_names(task_vars, own | set(options))
        found += self._beaten(own, task_vars)
        found += args["findings"]
        options |= self._own_options(args["variables"], options)
        found += self._checked_values(options, task_vars, args["complete"] and not args["findings"])
        if found:
            host = task_vars["inventory_hostname"]
            lines = "\n".join(f"- {finding}" for finding in found)
            result |= {
                "failed": True,
                "msg": f"{host}: {len(found)} refused, nothing was changed.\n{lines}",
            }
        return result | {"changed": False}

    def _options(self, roles: Path) -> dict[str, Mapping[str, Any]]:
        options: dict[str, Mapping[str, Any]] = {}
        for file in sorted(roles.glob("*/meta/argument_specs.yml")):
            specs = self._loader.load_from_file(str(file))["argument_specs"]
            for entry_point in specs.values():
                options |= entry_point.get("options") or {}
        return options

    def _own_options(self, path: str, known: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Options for the playbooks' own plain values: of the type that their default has."""
        kinds = {bool: "bool", int: "float", float: "float", str: "str"}
        return {
            name: {"type": kinds[plain], "default": default}
            for name, default in self._variables(path).items()
            if name not in known and "{{" not in str(default)
            for plain in kinds
            if isinstance(default, plain) and not (plain is int and isinstance(default, bool))
        }

    def _names(self, path: str) -> set[str]:
        return set(self._variables(path))

    def _variables(self, path: str) -> dict[str, Any]:
        """The variables of a group, out of its directory or its one file."""
        suffixes = ("", ".yml", ".yaml", ".json")
        files = [file for file in sorted(Path(path).glob("**/*")) if file.suffix in suffixes]
        files += [Path(path + suffix) for suffix in suffixes]
        given: dict[str, Any] = {}
        for file in files:
            given |= (self._loader.load_from_file(str(file)) or {}) if file.is_file() else {}
        return given

    def _beaten(self, own: set[str], task_vars: Mapping[str, Any]) -> list[str]:
        """Variables of the inventory that the playbooks' own group_vars override without a word."""
        places: dict[str, set[str]] = {}
        if folder := task_vars.get("inventory_dir"):
            places["the inventory's group_vars/all"] = self._names(f"{folder}/group_vars/all")
        inventory = self._task.get_variable_manager()._inventory
        for group in inventory.get_host(task_vars["inventory_hostname"]).get_groups():
            places[f"the vars of group {group.name} in the inventory file"] = set(group.vars)
        rule = "there, the playbooks' own group_vars/all wins"
        return [
            _refusal(
                f"{name} is set in {place}", rule, "move it to group_vars/spark beside the inventory file"
            )
            for place, names in places.items()
            for name in sorted(names & own)
        ]

    def _checked_values(
        self, options: Mapping[str, Mapping[str, Any]], task_vars: Mapping[str, Any], computable: bool
    ) -> list[str]:
        """Findings on the values; also, if they should be computable, on those that are not, by cause."""
        found: list[str] = []
        causes: dict[str, list[str]] = {}
        for name in sorted(options.keys() & task_vars.keys()):
            try:
                value = self._templar.template(task_vars[name])
            except AnsibleError as error:
                causes.setdefault(str(error), []).append(name)
            else:
                found += value_findings(name, value, options[name])
        if computable:
            found += [f"{', '.join(names)} cannot be computed: {cause}" for cause, names in causes.items()]
        return found
