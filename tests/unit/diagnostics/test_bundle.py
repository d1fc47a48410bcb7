"""The bundle: ten secrets of different kinds go in and none comes out; the rest does, within its limit."""

from __future__ import annotations

import base64
import json
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.module_utils.redaction import Redactor
from plugins.modules import support_bundle
from tests.unit.contract.conftest import Run, play, write  # noqa: F401 (a fixture)

KEY = "-----BEGIN " + "PRIVATE KEY-----"
HALVES = {  # never whole in this file
    "token of the inventory": ("hf_plantedInv", "entoryToken01"),
    "token in a log": ("hf_plantedInA", "Log0123456789"),
    "bearer": ("Pl4nted.Bearer", "_abcdefgh-123"),
    "password in YAML": ("correct horse ", "battery 7 st"),
    "key in JSON": ("pl4ntedJson", "Key/with+=\\\"quotes"),
    "environment": ("pl4ntedEnv", "Value 99"),
    "URL": ("pl4ntedUrl", "Passw0rd"),
    "private key": ("MIGHAgEAMBMGByqGSM49AgEGCCqGSM49", "AwEHBG0wawIBAQQgPLANTEDKEYBODY"),
    "hash of a key": ("ab12" * 8, "cd34" * 8),
    "value of a vault": ("vaulted-", "Sesame_42"),
    "only in Base64": ("pl4ntedBase", "64Value"),
    "only escaped": ("pl4nted\"Esc", "aped\\Value"),
}  # fmt: skip
PLANTED = {kind: "".join(halves) for kind, halves in HALVES.items()}


def plant(root: Path) -> None:
    """Files as they lie on a host, each with secrets in it, and something worth reading."""
    s = PLANTED
    encoded = base64.b64encode(f"password={s['only in Base64']}".encode()).decode()
    escaped = json.dumps({"reply": json.dumps({"api_key": s["only escaped"]})})
    write(root / "app.log", f"12:00 engine started\n12:01 fetched with {s['token in a log']}\n"
          f"12:02 sent Authorization: Bearer {s['bearer']}\n12:03 body {encoded}\n12:04 got {escaped}\n"
          f"12:05 retried {s['key in JSON']} after {s['password in YAML']}\n"
          f"12:06 key={s['hash of a key']} asked\n12:07 {s['token of the inventory']}\n"
          f"12:08 Base64 {base64.b64encode(('x' + s['value of a vault']).encode()).decode()}\n"
          f"12:09 prompt: 'what a user said'\n12:10 engine stopped: out of memory\n")  # fmt: skip
    write(
        root / "config.yml", f"server:\n  port: 8080\nauth:\n  password: {s['password in YAML']}\nafter: 1\n"
    )
    write(root / "guard.json", json.dumps({"api_key": s["key in JSON"], "listen_port": 8001}))
    write(
        root / "app.env",
        f"LANG=C\nMY_SECRET={s['environment']}\nHTTPS_PROXY=http://me:{s['URL']}@proxy:3128\n",
    )
    write(
        root / "mixed.pem",
        f"subject=gate\n{KEY}\n{s['private key']}\n{KEY.replace('BEGIN', 'END')}\nend of it\n",
    )
    write(root / "keys.map", f"{s['hash of a key']} kitchen\n")


def options(root: Path, **more: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "path": str(root / "bundle.tar.gz"),
        "units": [],
        "commands": [{"name": "host/app.log", "argv": ["cat", str(root / "app.log")], "said": True}],
        "pages": {"nobody": "http://127.0.0.1:9/health"},
        "files": [str(root / "*")],
        "held": [str(root / "keys.map")],
        "secrets": [PLANTED["token of the inventory"], PLANTED["value of a vault"]],
        "limit": 20_000_000,
        "lines": 100,
    }
    return given | more


def contents(path: Path) -> dict[str, str]:
    with tarfile.open(path) as bundle:
        assert {member.mode for member in bundle} == {0o600}
        files = {member.name: bundle.extractfile(member) for member in bundle}
        return {name: stream.read().decode() for name, stream in files.items() if stream}


def told(texts: dict[str, str]) -> set[str]:
    """The planted secrets that a text tells, in plain or within Base64."""
    whole = "\n".join(f"{name}\n{text}" for name, text in texts.items())
    for run in re.findall(r"(?:[A-Za-z0-9+/]{4}){3,}", whole):
        whole += "\n" + base64.b64decode(run).decode(errors="replace")
    bare = whole.replace("\\", "")
    return {kind for kind, value in PLANTED.items() if value in whole or value.replace("\\", "") in bare}


def test_none_of_the_planted_secrets_is_told_and_the_rest_is(tmp_path: Path) -> None:
    plant(tmp_path)
    assert told({"app": "".join(p.read_text() for p in tmp_path.iterdir())}) == set(PLANTED)
    result = support_bundle.run(options(tmp_path))
    assert "msg" not in result
    bundle = Path(result["path"])
    assert bundle.stat().st_mode & 0o777 == 0o600
    texts = contents(bundle)
    assert told(texts) == set()
    everything = "\n".join(texts.values())
    for useful in (
        "12:00 engine started", "12:10 engine stopped: out of memory", "12:02 sent Authorization",
        "port: 8080", "after: 1", '"listen_port": 8001', "LANG=C", "@proxy:3128", "subject=gate", "end of it",
    ):  # fmt: skip
        assert useful in everything, useful
    assert "what a user said" not in texts["host/app.log"]
    index = json.loads(texts["index.json"])
    assert index == result["index"] and index["cut"] == []
    parts = {part["name"]: part for part in index["parts"]}
    assert set(texts) == {name for name, part in parts.items() if part["bytes"]} | {"index.json"}
    assert parts[f"files{tmp_path}/keys.map"]["note"] == "left out: it holds keys"
    assert parts["host/app.log"]["secrets"] >= 8
    assert "could not be had" in texts["pages/nobody"]


def test_a_bundle_that_tells_a_secret_is_refused_and_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cleaning has overlooked is found when the file is read again."""
    plant(tmp_path)
    monkeypatch.setattr(Redactor, "clean", lambda self, text, depth=0: (text, 0))
    result = support_bundle.run(options(tmp_path))
    assert result["failed"] and not (tmp_path / "bundle.tar.gz").exists()
    assert "host/app.log" in result["msg"] and "Rule: no known secret leaves the host" in result["msg"]
    assert told({"msg": result["msg"]}) == set()


def test_the_limit_holds_and_what_was_cut_is_named(tmp_path: Path) -> None:
    plant(tmp_path)
    noise = random.Random(1)
    limit = 400_000
    for number in range(12):
        lines = [f"{i} {noise.randbytes(40).hex()}" for i in range(1500)]
        write(tmp_path / f"noise-{number:02}.txt", "\n".join(lines) + "\n")
    long = {"name": "host/long.log", "argv": ["cat", str(tmp_path / "noise-00.txt")], "said": True}
    result = support_bundle.run(options(tmp_path, limit=limit, commands=[long]))
    assert "msg" not in result and result["bytes"] <= limit
    texts = contents(Path(result["path"]))
    cut = result["index"]["cut"]
    assert "host/long.log" in cut and f"files{tmp_path}/noise-11.txt" in cut
    assert texts["host/long.log"].splitlines()[-1].startswith("1499 "), "of a log its end is kept"
    assert all(re.match(r"\d+ [0-9a-f]{80}$", line) for line in texts["host/long.log"].splitlines())
    assert texts[f"files{tmp_path}/noise-00.txt"].startswith("0 "), "of a file its beginning"
    sizes = {part["name"]: part["bytes"] for part in result["index"]["parts"]}
    assert max(sizes.values()) <= limit // 8
    assert sum(len(text.encode()) for text in texts.values()) <= limit
    assert "port: 8080" in texts[f"files{tmp_path}/config.yml"]


def test_too_low_a_limit_is_refused(tmp_path: Path) -> None:
    result = support_bundle.run(options(tmp_path, limit=1000))
    assert result["failed"] and "diagnostics_bytes is 1000. Rule: 262144 or more" in result["msg"]
    assert not (tmp_path / "bundle.tar.gz").exists()


def test_what_is_missing_or_no_text_is_noted(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\0\1\2")
    commands = [
        {"name": "host/none.txt", "argv": ["no-such-command"]},
        {"name": "host/no.txt", "argv": ["false"]},
    ]
    result = support_bundle.run(options(tmp_path, commands=commands, held=[], files=[str(tmp_path / "bin*")]))
    texts = contents(Path(result["path"]))
    assert "could not be had" in texts["host/none.txt"] and texts["host/no.txt"] == "ended with 1\n"
    assert [part.get("note") for part in result["index"]["parts"]][-1] == "left out: no text"


def test_a_long_file_is_read_from_a_whole_line_on(tmp_path: Path) -> None:
    path = write(tmp_path / "long", "token: first-secret-of-all\n" + "x" * 50 + "\nlast\n")
    part = support_bundle.read(path, "long", most=40)
    assert part.cut and part.text == "last\n"


def test_the_playbook_knows_the_inventorys_secrets(
    play: Callable[..., Run],  # noqa: F811
    tmp_path: Path,
) -> None:
    """The real playbook on this machine: by name at any depth, by template, by vault."""
    plant(tmp_path / "host")
    key = write(tmp_path / "key", "password\n")
    vault = str(Path(sys.executable).with_name("ansible-vault"))
    argv = [vault, "encrypt_string", "--vault-id", f"mine@{key}", PLANTED["value of a vault"]]
    vaulted = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    held, folder = str(tmp_path / "host/keys.map"), tmp_path / "bundles"
    host: dict[str, Any] = {"ansible_connection": "local", "ansible_become": False}
    host |= {"ansible_python_interpreter": sys.executable}
    host |= {"diagnostics_files": [str(tmp_path / "host/*")], "diagnostics_held": [held]}
    host |= {"diagnostics_folder": str(folder), "diagnostics_units": []}
    host["nested"] = {"deep": [{"api_token": "{{ token_of_mine }}"}]}
    host["token_of_mine"] = PLANTED["token of the inventory"]
    host["broken_token"] = "{{ nowhere.to.be.found }}"
    write(tmp_path / "inventory/hosts.yml", yaml.safe_dump({"spark": {"hosts": {"here": host}}}))
    write(tmp_path / "inventory/group_vars/spark.yml", f"innocent: {vaulted}")
    run = play("playbooks/diagnostics.yml", tmp_path / "inventory", "--vault-id", f"mine@{key}")
    assert run.code == 0, run.text
    assert run.changed() == 0 and told({"output": run.text}) == set()
    bundle = folder / "here.tar.gz"
    assert bundle.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    texts = contents(bundle)
    assert told(texts) == set()
    assert "12:07 [redacted]" in texts[f"files{tmp_path}/host/app.log"]
    assert "MemTotal" in texts["host/meminfo.txt"]
    assert not Path("/run/spark-voicebot-diagnostics.tar.gz").exists()

    checked = play(
        "playbooks/diagnostics.yml", tmp_path / "inventory", "--vault-id", f"mine@{key}", "--check"
    )
    assert checked.code == 0, checked.text
