"""daemon.json as data: parts merged, foreign keys, dockerd's flags, what a change asks of Docker."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

# Flags of dockerd whose key is spelt otherwise (docs.docker.com/reference/cli/dockerd).
KEYS = {
    "-b": "bridge", "-D": "debug", "-G": "group", "-H": "hosts", "-l": "log-level", "-p": "pidfile",
    "-s": "storage-driver", "-g": "data-root", "host": "hosts", "label": "labels", "dns-opt": "dns-opts",
    "insecure-registry": "insecure-registries", "registry-mirror": "registry-mirrors",
    "exec-opt": "exec-opts", "storage-opt": "storage-opts", "log-opt": "log-opts",
    "default-ulimit": "default-ulimits",
    "authorization-plugin": "authorization-plugins", "default-address-pool": "default-address-pools",
    "cdi-spec-dir": "cdi-spec-dirs", "add-runtime": "runtimes", "graph": "data-root",
}  # fmt: skip
# Taken over on SIGHUP (ibid., "Configuration reload behavior").
RELOADED = {
    "authorization-plugins", "debug", "default-runtime", "features", "insecure-registries", "labels",
    "live-restore", "max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts",
    "registry-mirrors", "runtimes", "shutdown-timeout",
}  # fmt: skip
# A restart under live-restore loses containers if one of these differs (ibid., "Live restore").
NOT_RESTORED = {
    "bip", "bridge", "containerd", "containerd-namespace", "data-root", "exec-root", "fixed-cidr",
    "fixed-cidr-v6", "live-restore", "storage-driver", "userns-remap",
}  # fmt: skip
EFFECTS = ("none", "reload", "restart")  # ascending


class Refused(Exception):
    """A refusal: what is given, the rule, the remedy."""

    def __init__(self, given: str, rule: str, remedy: str) -> None:
        super().__init__(f"{given}. Rule: {rule}. Remedy: {remedy}.")


def parse(text: str, path: str) -> dict[str, Any]:
    """The file as a dict; an empty one is {}. Refused if it is anything but a JSON object."""
    rule, remedy = (
        "a JSON object",
        "repair it (`dockerd --validate` helps), or move it away; a new one is written then",
    )
    try:
        document = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise Refused(f"{path} is broken: {error}", rule, remedy) from error
    if not isinstance(document, dict):
        raise Refused(f"{path} holds {document!r}", rule, remedy)
    return document


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, `over` winning; dicts are merged, lists replaced."""
    both = {k: merge(base[k], v) for k, v in over.items() if isinstance(v, Mapping) and _dict_at(base, k)}
    return {**base, **over, **both}


def _dict_at(tree: Mapping[str, Any], key: str) -> bool:
    return isinstance(tree.get(key), Mapping)


def leaves(tree: Mapping[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each path to a value that is no dict, or an empty one, with that value."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, (*before, key))
        else:
            yield (*before, key), value


def publish(fragments: Iterable[Mapping[str, Any]], daemon: Mapping[str, Any]) -> dict[str, Any]:
    """Fragments and the operator's keys in one. Refused if two fragments want different things."""
    together: dict[str, Any] = {}
    for fragment in fragments:
        known = dict(leaves(together))
        for path, value in leaves(fragment):
            if path in known and known[path] != value and path not in dict(leaves(daemon)):
                given = f"docker_engine_fragments want {'.'.join(path)} to be {known[path]!r} and {value!r}"
                raise Refused(given, "fragments agree", "set the key in docker_engine_daemon, which wins")
        together = merge(together, fragment)
    return merge(together, daemon)


def foreign(current: Mapping[str, Any], published: Mapping[str, Any]) -> list[str]:
    """Keys of the file that nobody published, dotted."""
    ours = [path for path, _ in leaves(published)]
    return [".".join(path) for path, _ in leaves(current) if not any(_within(path, our) for our in ours)]


def _within(path: tuple[str, ...], other: tuple[str, ...]) -> bool:
    return path[: len(other)] == other or other[: len(path)] == path


def words(exec_start: str, environment: Mapping[str, str]) -> list[str]:
    """dockerd's arguments out of systemctl's property ExecStart, variables of the environment filled in."""
    found = re.search(r"argv\[\]=(.*?) ; ignore_errors=", exec_start)
    plain: list[str] = []
    for word in shlex.split(found.group(1))[1:] if found else []:
        name = re.fullmatch(r"\$\{?(\w+)\}?", word)
        plain += shlex.split(environment.get(name.group(1), "")) if name else [word]
    return plain


def flags(arguments: Iterable[str]) -> dict[str, str]:
    """daemon.json's key for each flag, and the flag as it is written."""
    found = {}
    for word in arguments:
        if word.startswith("--") and len(word) > 2:
            name = word[2:].partition("=")[0]
            found[KEYS.get(name, name)] = word
        elif re.match(r"-[A-Za-z]", word):
            found[KEYS.get(word[:2], word[:2])] = word
    return found


def changed_keys(current: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Top-level keys that differ."""
    return sorted(key for key in current.keys() | wanted.keys() if current.get(key) != wanted.get(key))


def effect_of(keys: Iterable[str]) -> str:
    """What Docker needs so that it takes changes of these keys."""
    keys = set(keys)
    return "none" if not keys else "reload" if keys <= RELOADED else "restart"


def render(document: Mapping[str, Any]) -> str:
    """daemon.json's text."""
    return json.dumps(document, indent=4, sort_keys=True) + "\n"
