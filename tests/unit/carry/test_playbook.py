"""bundle.yml as an operator runs it: a small bundle, whole and with one byte flipped."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from tests.e2e.play import ROOT, Run, play
from tests.unit.carry.parts import bundle, flip, image, lay_out


def run(folder: Path, action: str, **more: Any) -> Run:
    extra = {
        "bundle_action": action,
        "bundle_path": str(folder / "bundle"),
        "bundle_signers": str(folder / "signers"),
    }
    inventory = ROOT / "inventory/example"
    return play("playbooks/bundle.yml", inventory=inventory, extra={**extra, **more}, timeout=300)


def test_import_takes_a_whole_bundle_and_names_a_flipped_byte(tmp_path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "alice", "-f", str(tmp_path / "key")]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    (tmp_path / "signers").write_text(f"alice@example {(tmp_path / 'key.pub').read_text()}")
    lay_out(tmp_path / "bundle", image(1, size=5000))
    sealing = {"path": str(tmp_path / "bundle"), "action": "seal", "project": str(ROOT)}
    bundle.run({**sealing, "key": str(tmp_path / "key"), "about": {}, "signers": "", "depot": ""})
    incomplete = run(tmp_path, "import")
    assert incomplete.code != 0 and "depot_path ''" in incomplete.messages(), incomplete.output[-3000:]
    blob, *_ = sorted((tmp_path / "bundle/images/blobs/sha256").iterdir())
    flip(blob, 5)
    refused = run(tmp_path, "import", depot_path=str(tmp_path / "depot"))
    assert refused.code != 0 and f"{blob.name} is altered" in refused.messages(), refused.output[-3000:]
    assert not (tmp_path / "depot").exists()
    flip(blob, 5)
    taken = run(tmp_path, "import", depot_path=str(tmp_path / "depot"))
    assert taken.code == 0 and "as alice@example signed them" in " ".join(taken.output.split()), taken.output[
        -3000:
    ]
    assert (tmp_path / "depot/images/blobs/sha256" / blob.name).is_file()
