"""Opens a depot on the controller to a host for the rest of the playbook, and closes it.

state=open: {port: of the host's 127.0.0.1, where the depot answers}. state=closed: {sent: {images, models}},
in bytes. Over ssh the port comes by a reverse tunnel, with the connection's own settings: nothing of the
controller has to be within the host's reach. Whatever ends the playbook ends the server with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

FIRST = ("BatchMode=yes", "ControlMaster=no", "ControlPath=none", "ExitOnForwardFailure=yes", "LogLevel=INFO",
         "ServerAliveInterval=15", "ServerAliveCountMax=3")  # fmt: skip
READY = 90.0  # seconds until the door stands open
END = 20.0


class ActionModule(ActionBase):  # type: ignore[misc]
    """See the module's docstring."""

    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Open or close."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, given = self.validate_argument_spec(
            {
                "root": {"type": "path", "required": True},
                "server": {"type": "path"},
                "state": {"type": "str", "choices": ["open", "closed"], "required": True},
            }
        )
        host = (task_vars or {})["inventory_hostname"]
        run = Path(given["root"]) / ".run" / str(os.getppid())  # the playbook, of which this is a worker
        state = run / f"{host}.json"
        if given["state"] == "closed":
            return result | {"changed": False, "sent": close(state)}
        if self._task.check_mode:
            return result | {"changed": False, "skipped": True, "msg": "no door is opened in check mode"}
        run.mkdir(parents=True, exist_ok=True)
        return result | {"changed": False, "port": self._open(given, state, host)}

    def _open(self, given: dict[str, Any], state: Path, host: str) -> int:
        argv = [sys.executable, given["server"], "--root", given["root"], "--state", str(state)]
        argv += ["--owner", str(os.getppid()), "--", *self._ssh()]
        with state.with_suffix(".log").open("w") as log:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert process.stdout
        ready = select.select([process.stdout], [], [], READY)[0]
        line = process.stdout.readline() if ready else b""
        told = (
            json.loads(line)
            if line
            else {"error": state.with_suffix(".log").read_text()[-500:] or "no answer"}
        )
        if "port" not in told:
            process.kill()
            raise AnsibleActionFail(
                f"The depot cannot be opened to {host}: {told['error']}. "
                f"Rule: ssh reaches the host with a key, "
                "and sshd "
                "there allows a port to be forwarded (AllowTcpForwarding). Remedy: try "
                "`ssh -N -R 127.0.0.1:0:127.0.0.1:9 "
                "HOST`, or run without depot_path."
            )
        return int(told["port"])

    def _ssh(self) -> list[str]:
        """The command up to the tunnel, as the connection would be made; empty on the controller itself."""
        transport = self._connection.transport
        if transport == "local":
            return []
        if transport != "ssh":
            raise AnsibleActionFail(
                f"The connection is {transport}. Rule: a depot is opened over ssh, or on the controller "
                "itself. "
                "Remedy: run without depot_path."
            )
        option = self._connection.get_option
        argv = [option("ssh_executable") or "ssh", *(word for o in FIRST for word in ("-o", o))]
        for name in ("ssh_args", "ssh_common_args", "ssh_extra_args"):
            argv += shlex.split(option(name) or "")
        for flag, value in (
            ("-p", option("port")),
            ("-i", option("private_key_file")),
            ("-l", option("remote_user")),
        ):
            argv += [flag, str(value)] if value else []
        return [*argv, option("host")]


def close(state: Path) -> dict[str, int]:
    """End the server of a host; what it sent. Nothing if there is none."""
    try:
        pid = json.loads(state.read_text())["pid"]
    except FileNotFoundError:
        return {}
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + END
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    sent: dict[str, int] = json.loads(state.read_text())["sent"]
    for place in (state, state.with_suffix(".log")):
        place.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        state.parent.rmdir()
    return sent


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be asked for its exit code does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return not Path("/proc").is_dir()
