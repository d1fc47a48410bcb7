"""The end of `make demo`: a human's question goes to the virtual Spark, its spoken answer comes back."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import httpx

from tests.e2e.tunnel import Tunnel
from tests.lab.api import Lab

ROOT = Path(__file__).parents[1]
HOST = "spark1"


def wait_until_ready(url: str, limit: float = 180) -> None:
    """Wait until the service says that it hears, thinks and speaks; TimeoutError after ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(1)
    raise TimeoutError(f"{url}/health is not 200 after {limit:.0f} s: see `journalctl -u voicebot` on {HOST}")


def main() -> int:
    lab = Lab.load()
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    voicebot = str(ROOT / ".venv/bin/voicebot")
    with Tunnel(lab, HOST, 8080) as url:
        wait_until_ready(url)
        asked = subprocess.run(
            [voicebot, "ask", "--sample", "--url", url, "--out", out / "answer.wav"], check=False
        )
    login = " ".join(a for a in lab.ssh_argv(HOST))
    print(f"""
Talk to it yourself
  on the (virtual) Spark    {login}
                            /opt/voicebot/current/bin/voicebot ask FILE
  from this machine         {login} -N -L 8080:127.0.0.1:8080 &
                            .venv/bin/voicebot ask FILE          (any audio or video file)
  to a real Spark           ssh -N -L 8080:127.0.0.1:8080 you@spark-xxxx.local &
                            voicebot ask FILE
Take the lab down           make clean
""")
    return asked.returncode


if __name__ == "__main__":
    raise SystemExit(main())
