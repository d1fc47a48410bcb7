#!/usr/bin/python3
"""Plan daemon.json out of its published parts, say what the change does to Docker, and apply it."""

from __future__ import annotations

import difflib
import importlib.util
import shlex
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.daemon_json import (
    EFFECTS,
    NOT_RESTORED,
    Refused,
    changed_keys,
    effect_of,
    flags,
    foreign,
    merge,
    parse,
    publish,
    render,
    words,
)

DOCUMENTATION = r"""
---
module: docker_engine_plan
short_description: Merge daemon.json and tell what that does to Docker; with apply, do it
description:
  - The file's own keys, then V(fragments) in order, then V(daemon); later ones win, dicts are merged.
  - Refuses, before anything is changed, a file that is no JSON object, fragments that contradict each other,
    a key that dockerd is given as a flag, what C(dockerd --validate) refuses, a restart that may not be.
  - Reloads Docker where that is enough, else restarts it. If it then does not answer, the old file is back.
options:
  path: {description: The file., type: path, default: /etc/docker/daemon.json}
  fragments: {description: Parts that roles publish., type: list, elements: dict, default: []}
  daemon: {description: The operator's own keys., type: dict, default: {}}
  foreign_keys: {description: What of keys that neither names., choices: [keep, refuse], default: keep}
  restart: {description: When Docker may restart., choices: [when_idle, allowed], default: when_idle}
  apply: {description: Write the file and let Docker take it., type: bool, default: false}
author: spark-voicebot
"""

EXAMPLES = r"""
- name: Say what would be done
  docker_engine_plan:
    fragments: [{log-driver: json-file}]
"""

RETURN = r"""
found: {description: Whether there is a dockerd., type: bool, returned: always}
requests: {description: Whether this Python has requests., type: bool, returned: always}
wanted: {description: daemon.json as it should be., type: dict, returned: always}
effect: {description: none, reload or restart., type: str, returned: always}
keys: {description: Top-level keys that change., type: list, returned: always}
containers: {description: Names of running containers., type: list, returned: always}
says: {description: All of it in a sentence., type: str, returned: always}
"""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PENDING = Path("/run/docker-engine-pending")  # what Docker has yet to take of a file already written


class Plan:
    """daemon.json of this host: as it is, as it should be, and the way from one to the other."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.given: dict[str, Any] = module.params
        self.path = Path(self.given["path"])
        self.dockerd = shutil.which("dockerd", path=PATH)
        self.before = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        self.current = parse(self.before, str(self.path))
        self.published = publish(self.given["fragments"], self.given["daemon"])
        self.wanted = merge(self.current, self.published)
        self.unit = self._unit()
        self.arguments = words(self.unit.get("ExecStart", ""), self._environment())
        self.keys = changed_keys(self.current, self.wanted)
        left = PENDING.read_text(encoding="utf-8").strip() if PENDING.exists() else "none"
        self.effect = max(effect_of(self.keys), left, key=EFFECTS.index)
        if not self.dockerd:
            self.effect = "none"  # nothing runs that could be restarted
        self.active = (
            self.unit.get("ActiveState") == "active"
        )  # else asking would start it, through its socket
        running = self._ask(["docker", "ps", "--format", "{{.Names}}"]) if self.active else ""
        self.containers = sorted(running.split())

    def _ask(self, argv: list[str]) -> str:
        """Standard output of a command that may fail."""
        rc, out, _ = self.module.run_command(argv, environ_update={"PATH": PATH})
        return out if rc == 0 else ""

    def _unit(self) -> dict[str, str]:
        names = "ExecStart,FragmentPath,DropInPaths,Environment,EnvironmentFiles,ActiveState"
        shown = self._ask(["systemctl", "show", "docker.service", f"--property={names}"])
        return {name: value for name, _, value in (line.partition("=") for line in shown.splitlines())}

    def _environment(self) -> dict[str, str]:
        """Variables of the unit and of its EnvironmentFile (Debian keeps DOCKER_OPTS there), which wins."""
        pairs = (word.partition("=") for word in shlex.split(self.unit.get("Environment", "")))
        found = {name: value for name, _, value in pairs}
        file = Path(self.unit.get("EnvironmentFiles", "").partition(" (")[0])
        for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else []:
            name, _, value = line.strip().partition("=")
            if name.isidentifier():
                found[name] = " ".join(shlex.split(value))
        return found

    def check(self) -> None:
        """Refuse what must not be written. Nothing has been changed until then."""
        self._check_foreign()
        self._check_flags()
        if self.dockerd:
            self._validate()
        if self.effect == "restart" and self.given["restart"] == "when_idle" and self._would_stop():
            raise Refused(
                f"{self.path} changes in {', '.join(self.keys)}, for which Docker restarts, and these "
                f"containers run: {', '.join(self.containers)}",
                "docker_engine_restart is when_idle: it restarts when none runs, or live-restore keeps them",
                "stop them (systemctl stop vllm), or allow it with -e docker_engine_restart=allowed",
            )

    def _would_stop(self) -> bool:
        alive = self._ask(["docker", "info", "--format", "{{.LiveRestoreEnabled}}"]).strip() == "true"
        return bool(self.containers) and not (alive and not NOT_RESTORED & set(self.keys))

    def _check_foreign(self) -> None:
        strange = foreign(self.current, self.published)
        if strange and self.given["foreign_keys"] == "refuse":
            raise Refused(
                f"{self.path} holds {', '.join(strange)}, which nobody published:\n"
                f"{self._diff(self.published)}",
                "docker_engine_foreign_keys is refuse: the file holds what roles and inventory say",
                "take them into docker_engine_daemon, remove them from the file, or set it to keep",
            )

    def _diff(self, after: Mapping[str, Any]) -> str:
        pair = (render(self.current).splitlines(), render(after).splitlines())
        return "\n".join(difflib.unified_diff(*pair, str(self.path), "published", lineterm=""))

    def _check_flags(self) -> None:
        given = flags(self.arguments)
        if "config-file" in given:
            remedy = f"remove the flag from {self._place(given['config-file'])}"
            raise Refused(f"dockerd is started with {given['config-file']}", f"it reads {self.path}", remedy)
        for key in sorted(given.keys() & self.wanted.keys() - {"runtimes"}):
            origin = str(self.path)
            if key in self.published:
                origin = "docker_engine_" + ("daemon" if key in self.given["daemon"] else "fragments")
            place = self._place(given[key])
            raise Refused(
                f"dockerd is started with {given[key]} (in {place}), and {self.path} would hold {key} "
                f"({self.wanted[key]!r}, from {origin})",
                "dockerd takes an option from its flags or from the file, and does not start with both",
                f"remove the flag from {place}, or the key from {origin}",
            )

    def _place(self, flag: str) -> str:
        """The unit's file that holds a flag: of several drop-ins the last."""
        files = [*self.unit.get("DropInPaths", "").split()[::-1], self.unit.get("FragmentPath", "")]
        files += [self.unit.get("EnvironmentFiles", "").partition(" (")[0]]
        texts = [(f, Path(f).read_text(encoding="utf-8")) for f in files if f and Path(f).is_file()]
        return next((file for file, text in texts if flag in text), "docker.service")

    def _validate(self) -> None:
        candidate = Path(self.module.tmpdir, "daemon.json")
        candidate.write_text(render(self.wanted), encoding="utf-8")
        argv = [str(self.dockerd), "--validate", "--config-file", str(candidate), *self.arguments]
        rc, out, err = self.module.run_command(argv, environ_update={"PATH": PATH})
        candidate.unlink()
        if rc:
            raise Refused(
                f"{self.path} merged from file, docker_engine_fragments and docker_engine_daemon (it changes "
                f"{', '.join(self.keys) or 'nothing'}) is refused: " + (err.strip() or out.strip()),
                "`dockerd --validate` accepts it",
                f"correct or remove that key in docker_engine_daemon (or in {self.path}, if it stands there)",
            )

    def says(self) -> str:
        """What the change does, for people."""
        if self.effect == "none":
            return f"{self.path}: {', '.join(self.keys) or 'nothing'} to change; Docker runs on as it is"
        run = f"containers that run: {', '.join(self.containers) or 'none'}"
        survive = " (live-restore keeps them)" if self.containers and not self._would_stop() else ""
        fate = f"Docker reloads, no container stops; {run}"
        fate = f"Docker restarts; {run}{survive}" if self.effect == "restart" else fate
        return f"{self.path}: {', '.join(self.keys) or 'an earlier change'} to apply; {fate}"

    def apply(self) -> None:
        """Write the file and let Docker take it. If it does not: the old file, and Refused."""
        if self.effect != "none":
            PENDING.write_text(self.effect, encoding="utf-8")
        self._write(render(self.wanted))
        if self.effect == "none" or not self.active:
            PENDING.unlink(missing_ok=True)
            return
        if not self._taken(self.effect):
            said = self._ask(["journalctl", "-u", "docker.service", "-n", "15", "--no-pager", "-o", "cat"])
            self._write(self.before or "{}\n")
            back = "runs with it" if self._taken("restart") else "does not start with it either"
            PENDING.unlink(missing_ok=True)
            raise Refused(
                f"Docker does not take the new {self.path} (keys {', '.join(self.keys)}): {said}",
                "it answers after its configuration changed",
                f"the old file is back, and Docker {back}",
            )
        PENDING.unlink(missing_ok=True)

    def _write(self, text: str) -> None:
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        candidate = Path(self.module.tmpdir, "daemon.json")
        candidate.write_text(text, encoding="utf-8")
        candidate.chmod(0o644)
        self.module.atomic_move(str(candidate), str(self.path))

    def _taken(self, verb: str, seconds: float = 60) -> bool:
        """Reload or restart Docker; whether it answers in time, or tells of its reload."""
        since = str(int(time.time()))
        self._ask(
            ["systemctl", "reset-failed", "docker.service"]
        )  # an earlier failure must not use up the start limit
        rc, _, _ = self.module.run_command(["systemctl", verb, "docker.service"])
        until = time.monotonic() + seconds
        while rc == 0 and time.monotonic() < until:
            asked = ["docker", "info", "--format", "{{.ServerVersion}}"]
            if verb == "reload":
                asked = ["docker", "events", "--since", since, "--until", str(int(time.time()) + 1)]
                asked += ["--filter", "type=daemon", "--filter", "event=reload"]
            if self._ask(asked).strip():
                return True
            time.sleep(0.5)
        return False


def main() -> None:
    """Entry point of the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "default": "/etc/docker/daemon.json"},
            "fragments": {"type": "list", "elements": "dict", "default": []},
            "daemon": {"type": "dict", "default": {}},
            "foreign_keys": {"choices": ["keep", "refuse"], "default": "keep"},
            "restart": {"choices": ["when_idle", "allowed"], "default": "when_idle"},
            "apply": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    try:
        plan = Plan(module)
        plan.check()
        ask, todo = not module.params["apply"], bool(plan.keys) or plan.effect != "none"
        if todo and not ask and not module.check_mode:
            plan.apply()
    except Refused as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(
        changed=todo and not ask,
        todo=todo,
        found=plan.dockerd is not None,
        requests=importlib.util.find_spec("requests") is not None,
        wanted=plan.wanted,
        effect=plan.effect,
        keys=plan.keys,
        containers=plan.containers,
        says=plan.says(),
        diff={"before": plan.before, "after": render(plan.wanted)} if todo else {},
    )


if __name__ == "__main__":
    main()
