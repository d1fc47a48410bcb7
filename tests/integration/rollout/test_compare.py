"""Which hosts a rollout passes by: the real step, where docker and systemctl say what the test wants."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.module_utils.release import Ledger
from tests.unit.release.conftest import GATE, release

pytestmark = pytest.mark.lab  # in `make test`, though it needs no lab: it is none of the quick ones
ROOT = Path(__file__).parents[3]
ANSWER = {"choices": [{"message": {"content": "Few instructions."}}], "usage": {"completion_tokens": 4}}
PLAY = [
    {
        "hosts": "all",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.include_tasks": str(ROOT / "playbooks/tasks/compare.yml")},
            {
                "ansible.builtin.copy": {
                    "dest": "{{ folder }}/seen.json",
                    "content": "{{ rollout_seen | to_json }}",
                    "mode": "0600",
                }
            },
        ],
    }
]


@pytest.fixture
def engine() -> Iterator[str]:
    """Address of what answers like an engine and like a voicebot."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps(ANSWER | {"status": "ok"}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def commands(folder: Path) -> Path:
    """docker and systemctl of a host on which release v1 runs."""
    made, seen = release("v1")["engine"], folder / "inspect.json"
    config = {"Image": made["image"], "Cmd": made["argv"], "Labels": made["labels"]}
    seen.write_text(json.dumps([{"State": {"Status": "running"}, "Config": config}]))
    (folder / "bin").mkdir()
    lines = {"docker": f"cat {seen}", "systemctl": "shift; for unit; do echo active; done"}
    for name, line in lines.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (folder / "bin" / name).chmod(0o755)
    return folder / "bin"


def seen(tmp_path: Path, hosts: dict[str, dict[str, Any]]) -> dict[str, bool]:
    """Run the step; whether each host counts as there."""
    for name, more in hosts.items():
        (tmp_path / name).mkdir()
        book = Ledger(tmp_path / name / "ledger.json")
        book.confirm(release(more.pop("confirmed", "v1")), {}, GATE)
        if begun := more.pop("begun", ""):
            book.begin(release(begun))
        book.write()
        more |= {"ansible_connection": "local", "folder": str(tmp_path / name)}
    made = release("v1")
    given: dict[str, Any] = {
        "ansible_python_interpreter": sys.executable,
        "release_ledger_path": "{{ folder }}/ledger.json",
        "release_ledger_release": made,
        "smoke_image": made["engine"]["image"],
        "smoke_argv": made["engine"]["argv"],
        "smoke_labels": made["engine"]["labels"],
        "smoke_served_name": made["engine"]["served_name"],
    }
    (tmp_path / "play.yml").write_text(yaml.safe_dump(PLAY))
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts, "vars": given}}))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(tmp_path / "hosts.yml"),
            str(tmp_path / "play.yml"),
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=900, check=False,
        env=os.environ | {"PATH": f"{commands(tmp_path)}:{os.environ['PATH']}", "ANSIBLE_NOCOLOR": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: json.loads((tmp_path / name / "seen.json").read_text())["there"] for name in hosts}


def test_passed_by_is_only_what_is_confirmed_and_serves(tmp_path: Path, engine: str) -> None:
    up = {"smoke_engine_url": engine, "smoke_voicebot_url": engine}
    down = "http://127.0.0.1:9"
    found = seen(
        tmp_path,
        {
            "serves": {**up},
            "on_another": {**up, "confirmed": "v2"},
            "cut_off": {**up, "begun": "v2"},
            "engine_down": {**up, "smoke_engine_url": down},
            "voicebot_down": {**up, "smoke_voicebot_url": down},
            "altered_by_hand": {**up, "smoke_argv": ["vllm", "serve", "/models/other"]},
        },
    )
    assert found == {name: name == "serves" for name in found}
