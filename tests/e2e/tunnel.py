"""`ssh -L` to a port that listens on a host's loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from types import TracebackType

from tests.lab.api import Lab


class Tunnel:
    """Context manager: forwards a free local port; gives ``http://127.0.0.1:PORT``."""

    def __init__(self, lab: Lab, host: str, port: int) -> None:
        self._argv = lab.ssh_argv(host)
        self._port = port

    def __enter__(self) -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            local = int(free.getsockname()[1])
        forward = f"127.0.0.1:{local}:127.0.0.1:{self._port}"
        self._process = subprocess.Popen([*self._argv, "-N", "-L", forward, "-o", "ExitOnForwardFailure=yes"])
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", local)) == 0:
                    return f"http://127.0.0.1:{local}"
            time.sleep(0.1)
        self._process.terminate()
        raise TimeoutError(f"no tunnel to port {self._port} within 20 s: {' '.join(self._argv)}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(10)
