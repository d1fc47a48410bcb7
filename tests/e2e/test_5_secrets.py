"""A planted token is looked for where it must not be."""

from __future__ import annotations

import re
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.e2e.play import ROOT, play
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
TOKEN = "hf_" + "planted" + "Secret0123456789"


def test_planted_token_is_nowhere(lab: Lab, sh: Sh, tmp_path: Path) -> None:
    directory = sh("ls -d /srv/models/lab-smollm2/*/").strip().rstrip("/")
    sh(f"rm -f {directory}/model.safetensors")
    # By a vars file, as from a vault: on the command line a token would be public.
    vault = tmp_path / "vault.yml"
    vault.write_text(yaml.safe_dump({"model_store_token": TOKEN}))
    seen: list[str] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            for argv in (["ps", "eww", "-A"], [*lab.ssh_argv("spark1"), "ps eww -A"]):
                done = subprocess.run(argv, capture_output=True, check=False)
                seen.append(done.stdout.decode(errors="replace"))
            stop.wait(0.3)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with lab.hub_faults(rate=12_000_000, accept_token=TOKEN):
            run = play("site.yml", "-vvv", "-e", f"@{vault}")
    finally:
        stop.set()
        watcher.join()
    assert run.code == 0, run.output[-4000:]
    pins = yaml.safe_load((ROOT / "inventory/lab/pins.yml").read_text(encoding="utf-8"))
    wanted = pins["models"]["lab-smollm2"]["files"]["model.safetensors"]["sha256"]
    assert sh(f"sha256sum {directory}/model.safetensors").split()[0] == wanted
    assert re.search(r"spark1: lab-smollm2: \d+ %, \d+ of \d+ MB, .* MB/s", run.output), (
        "its progress is shown"
    )
    fetched = [r for r in lab.hub_requests() if r["path"].endswith("/model.safetensors")]
    assert fetched and fetched[-1]["token"] == "accepted", "the token was used"
    assert len(seen) > 5 and not [s for s in seen if TOKEN in s], "among arguments and environments"
    assert TOKEN not in run.output, "in Ansible's output"
    assert TOKEN not in sh("journalctl --no-pager -o cat")
    assert "complete, as pinned" in sh("journalctl -t model-store --no-pager -o cat")
    found = sh(
        f"grep -rlsF {TOKEN} /etc /srv /opt /run /var /home /root /tmp --exclude-dir=docker --exclude-dir=containerd",
        check=False,
    )
    assert found == "", f"on disk: {found}"
