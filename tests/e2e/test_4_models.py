"""Model files: a flipped byte, on disk or in transit, is found, and that file alone is fetched again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.play import play
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
FIND = "find /srv/models -path '*/.partial' -prune -o -name {} -path '*{}*' -print"


def weights(sh: Sh, name: str, file: str) -> str:
    [path] = sh(FIND.format(file, name)).split()
    return path


def inodes(sh: Sh, directory: str) -> dict[str, str]:
    lines = sh(f"cd {directory} && stat -c '%n %i' *").splitlines()
    return dict(line.split() for line in lines)


def test_flipped_byte_on_disk(lab: Lab, sh: Sh) -> None:
    path = weights(sh, "lab-smollm2", "model.safetensors")
    directory, good = path.rsplit("/", 1)[0], sh(f"sha256sum < {path}")
    before = inodes(sh, directory)
    sh(f"printf X | dd of={path} bs=1 seek=70000 conv=notrunc status=none")
    assert sh(f"sha256sum < {path}") != good
    run = play("site.yml")
    assert run.code == 0, run.output[-4000:]
    assert sh(f"sha256sum < {path}") == good
    after = inodes(sh, directory)
    assert {n for n in before if before[n] != after[n]} == {"model.safetensors"}, (
        "that file alone is fetched again"
    )


def test_flipped_byte_in_transit_and_orphans(lab: Lab, sh: Sh) -> None:
    """The Hub client reports success then; what broken downloads leave behind goes."""
    path = weights(sh, "whisper-base", "model.bin")
    directory, good = path.rsplit("/", 1)[0], sh(f"sha256sum < {path}")
    sh(f"systemctl stop voicebot; rm -rf {directory}; mkdir -p /srv/models/.partial/whisper-base-{'0' * 40}; "
       f"head -c 5000000 /dev/zero > /srv/models/.partial/whisper-base-{'0' * 40}/x.incomplete")  # fmt: skip
    with lab.hub_faults(corrupt=["model.bin"]):
        refused = play("site.yml")
    assert refused.code != 0
    assert "model.bin" in refused.messages(), refused.messages()
    assert sh(f"ls {directory} 2>/dev/null", check=False) == "", "nothing half-written is served"
    run = play("site.yml")
    assert run.code == 0, run.output[-4000:]
    assert sh(f"sha256sum < {path}") == good
    assert int(sh("du -sm /srv/models/.partial 2>/dev/null | cut -f1 || echo 0") or 0) <= 1
