"""A support bundle of a host that runs: secrets planted where its parts come from are not in it, the rest is."""

from __future__ import annotations

import base64
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.e2e.play import play
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
INCIDENT = "/var/lib/vllm-guard/incidents/2000-01-01T00-00-00Z"
DROPIN = "/etc/systemd/system/voicebot.service.d/99-planted.conf"
TOKEN = "hf_" + "planted" + "InAVault0123456789"
PLANTED = {
    "vault": TOKEN,
    "log": "hf_" + "planted" + "InALog0123456789",
    "bearer": "pl4nted" + "Bearer-abc.def",
    "environment": "pl4nted" + "Environment 7",
    "URL": "pl4nted" + "Urlword",
    "JSON": "pl4nted" + "Json/key",
    "PEM": "MIGHAgEAMBMG" + "pl4ntedKeyBody0123456789abcdefghijkl",
    "hash": "ab12cd34" * 8,
    "base64": "pl4nted" + "Base64word",
    "escaped": "pl4nted" + "Escaped",
}  # fmt: skip


def incident_log() -> str:
    p = PLANTED
    hidden = base64.b64encode(f"password: {p['base64']}".encode()).decode()
    escaped = json.dumps({"a": json.dumps({"client_secret": p["escaped"]})})
    key = "PRIVATE KEY-----"
    return (
        f"fetch with {p['log']}\nAuthorization: Bearer {p['bearer']}\nbody {hidden}\ngot {escaped}\n"
        f"-----BEGIN {key}\n{p['PEM']}\n-----END {key}\nkey={p['hash']} asked\nagain {p['JSON']}, "
        f"{base64.b64encode(('xx' + p['vault']).encode()).decode()}\nuseful to know\n"
    )


def test_ten_planted_secrets_are_in_no_bundle(
    lab: Lab, sh: Sh, spark: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    dropin = f'[Service]\nEnvironment="MY_SECRET={PLANTED["environment"]}"\n'
    dropin += f"Environment=HTTPS_PROXY=http://me:{PLANTED['URL']}@proxy:3128\n"
    files = {
        f"{INCIDENT}/container.log": incident_log(),
        f"{INCIDENT}/verdict.json": json.dumps({"api_key": PLANTED["JSON"], "state": "wedged"}),
        DROPIN: dropin,
        "/etc/haproxy/keys.map": f"{PLANTED['hash']} kitchen\n",
    }
    vault = tmp_path / "vault.yml"  # as from a vault: on the command line a token would be public
    vault.write_text(yaml.safe_dump({"model_store_token": TOKEN}))
    extra = {"diagnostics_folder": str(tmp_path / "bundles")}
    try:
        for path, text in files.items():
            lab.ssh(spark, ["sh", "-c", f"mkdir -p $(dirname {path}) && cat > {path}"], text=text)
        run = play("playbooks/diagnostics.yml", "-e", f"@{vault}", extra=extra)
    finally:
        sh(
            f"rm -rf {INCIDENT} {DROPIN} /etc/haproxy/keys.map; rmdir --ignore-fail-on-non-empty $(dirname {DROPIN})"
        )
    assert run.code == 0, run.output[-4000:]
    assert run.changed() == []
    bundle = tmp_path / f"bundles/{spark}.tar.gz"
    assert bundle.stat().st_mode & 0o777 == 0o600
    with tarfile.open(bundle) as tar:
        streams = {member.name: tar.extractfile(member) for member in tar}
        texts = {name: stream.read().decode() for name, stream in streams.items() if stream}
    whole = "\n".join(f"{name}\n{text}" for name, text in texts.items())
    assert [kind for kind, value in PLANTED.items() if value in whole] == []
    assert base64.b64encode(("xx" + TOKEN).encode()).decode() not in whole
    assert not any(value in run.output for value in PLANTED.values())
    index = json.loads(texts["index.json"])
    record_property("diagnostics_bundle_bytes", bundle.stat().st_size)
    record_property("diagnostics_secrets_taken_out", sum(part["secrets"] for part in index["parts"]))
    for name, said in {
        f"files{INCIDENT}/container.log": "useful to know",
        "units/vllm.service.txt": "ActiveState=active",
        "units/voicebot.service.environment": "HF_HUB_OFFLINE=1",
        "pages/guard-state": '"state"',
        "pages/engine-metrics": "vllm:num_requests_running",
        "engine/inspect.json": "/models/mistral-7b",
        "files/var/lib/spark-voicebot/ledger.json": '"current"',
        "files/etc/voicebot/config.yml": "/models/mistral-7b",
        "gpu/nvidia-smi.txt": "NVIDIA GB10",
        "host/memory.txt": "Mem:",
        "host/listeners.txt": "127.0.0.1:8000",
    }.items():
        assert said in texts[name], name
    assert sh("ls /run/spark-voicebot-diagnostics.tar.gz 2>/dev/null", check=False) == ""
