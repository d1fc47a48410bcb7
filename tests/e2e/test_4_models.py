"""Model files on a host: found when they are wrong, resumed when a download ends early, adopted when they are there."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from tests.e2e.play import ROOT, Run, play
from tests.lab.api import Lab
from tests.lab.models import MODELS
from tests.lab.proc import wait_for

pytestmark = pytest.mark.lab
Sh = Callable[..., str]
FIND = "find /srv/models -path '*/.partial' -prune -o -name {} -path '*{}*' -print"
SMALL = "/mnt/small"  # a disk for two copies of a model
SIZE_MB = 400


def model(key: str) -> dict[str, Any]:
    """A pinned model, as the role takes it."""
    pin = yaml.safe_load((ROOT / "inventory/lab/pins.yml").read_text())["models"][key]
    repository = next(m.repository for m in MODELS if m.key == key)
    return {"name": key, "repository": repository, "revision": pin["revision"], "files": pin["files"]}


WHISPER = "whisper-base"  # its model.bin has 145 MB


def have(key: str, *flags: str, root: str = f"{SMALL}/models", **extra: Any) -> Run:
    """The role alone, on one model in a store of its own."""
    given = {"model_store_root": root, "model_store_models": [model(key)], "model_store_reserve_gb": 0}
    return play("site.yml", "--tags", "model_store", *flags, extra={**given, **extra})


class Download(threading.Thread):
    """A download that is under way, seen from its controller."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: Run | None = None
        self.start()

    def run(self) -> None:
        self.ended = have(WHISPER)

    def end(self) -> Run:
        """Wait for its end."""
        self.join()
        assert self.ended
        return self.ended


def staged(sh: Sh) -> int:
    """Bytes that are there of model.bin."""
    found = sh(f"stat -c %s {SMALL}/models/.partial/{WHISPER}-*/model.bin 2>/dev/null", check=False)
    return int(found or 0)


def answers(lab: Lab, since: int, file: str, method: str = "SENT") -> list[dict[str, Any]]:
    """What the hub was asked of whisper-base's file, or has sent of it, since its log was so long."""
    asked = [r for r in lab.hub_requests()[since:] if r["method"] == method]
    return [r for r in asked if "faster-whisper-base" in r["path"] and r["path"].endswith(f"/{file}")]


@pytest.fixture(scope="module")
def small(sh: Sh) -> Iterator[str]:
    sh(f"mkdir -p {SMALL} && mount -t tmpfs -o size={SIZE_MB}m tmpfs {SMALL}")
    yield SMALL
    sh(f"umount -l {SMALL} && rmdir {SMALL}")


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


def test_download_that_is_cut_off_killed_and_out_of_disk_goes_on(
    lab: Lab, sh: Sh, small: str, record_property: Callable[[str, object], None]
) -> None:
    since, size = len(lab.hub_requests()), model(WHISPER)["files"]["model.bin"]["size"]
    with lab.hub_faults(rate=15_000_000):
        download = Download()
        wait_for("the beginning of a download", lambda: staged(sh) > 10_000_000, 120)
        sh("pkill -f '[s]shd.*: root@'", check=False)  # every connection to this host, this one included
        dropped = staged(sh)
        wait_for("bytes after the drop", lambda: staged(sh) > dropped, 30)
        state = json.loads(sh(f"cat /run/model-store/mnt-small-models/{WHISPER}.json"))
        assert state["total"] > state["done"] > 0 and state["rate"] < 60e6, state
        sh(f"kill -KILL {state['pid']}")
        killed = staged(sh)
        ended = download.end()
        assert "is out of reach" in ended.output, ended.output[-4000:]
        assert ended.code != 0 and "ended without a word" in ended.messages(), ended.output[-4000:]

        download = Download()
        wait_for("more bytes", lambda: staged(sh) > killed + 10_000_000, 120)
        sh(f"head -c {SIZE_MB}m /dev/zero > {small}/filler", check=False)
        ended = download.end()
        assert ended.code != 0 and "the disk is full" in ended.messages(), ended.output[-4000:]
        full = staged(sh)
        assert killed < full < size

    early = have(WHISPER)
    assert early.code != 0 and "0.00 GB are free" in early.messages(), early.output[-4000:]
    assert sh(f"ls {small}/models") == "", "nothing half-written is served"
    sh(f"rm {small}/filler")
    last = have(WHISPER)
    assert last.code == 0, last.output[-4000:]
    ranges = [r["range"] for r in answers(lab, since, "model.bin", "GET")]
    assert ranges == [None, f"bytes={killed}-", f"bytes={full}-"]
    wait_for("the hub's account", lambda: len(answers(lab, since, "model.bin")) == 3, 30)
    sent = sum(r["sent"] for r in answers(lab, since, "model.bin"))
    record_property("model_bytes", size)
    record_property("bytes_sent_in_three_downloads", sent)
    assert size <= sent <= 1.1 * size
    again = have(WHISPER, "-v")
    assert again.code == 0 and again.changed() == []
    assert "hashed_bytes: 0" in again.output and "received: 0" in again.output, again.output[-4000:]


def test_models_that_are_there_are_adopted(lab: Lab, sh: Sh, small: str) -> None:
    """As the tutorial left them: not fetched again, but what differs is."""
    home = f"{small}/home/models/whisper"
    sh(f"mkdir -p {home} && mv {small}/models/{WHISPER}/*/* {home} && printf ' ' >> {home}/config.json "
       f"&& chown -R 1000 {home}")  # fmt: skip
    before, since = sh(f"cd {home} && stat -c '%n %a %u %Y' * && sha256sum *"), len(lab.hub_requests())
    run = have(WHISPER, root=f"{small}/adopting", model_store_adopt=[f"{small}/home"])
    assert run.code == 0, run.output[-4000:]
    assert f"{home}/config.json differs from the pin" in " ".join(run.output.split())
    assert "3 files adopted, 1 fetched" in run.output
    assert sh(f"cd {home} && stat -c '%n %a %u %Y' * && sha256sum *") == before, "the original is only read"
    fetched = [r["path"].rsplit("/", 1)[1] for r in lab.hub_requests()[since:] if r["method"] == "SENT"]
    assert fetched == ["config.json"]
    wanted = model(WHISPER)["files"]["model.bin"]["sha256"]
    assert sh(f"sha256sum {small}/adopting/{WHISPER}/*/model.bin").split()[0] == wanted


def test_flipped_byte_in_transit_and_orphans(lab: Lab, sh: Sh, small: str) -> None:
    """What comes wrong is not served; what nothing will go on with goes."""
    root, key = f"{small}/models", "whisper-tiny.en"
    sh(
        f"mkdir -p {root}/.partial/gone-{'0' * 40} && head -c 5m /dev/zero > {root}/.partial/gone-{'0' * 40}/x"
    )
    with lab.hub_faults(corrupt=["model.bin"]):
        refused = have(key)
    pin = model(key)["files"]["model.bin"]["sha256"]
    assert refused.code != 0 and f"came wrong twice: wanted {pin}, got" in refused.messages(), (
        refused.messages()
    )
    assert sh(f"ls {root}/{key} 2>/dev/null", check=False) == "", "nothing half-written is served"
    run = have(key)
    assert run.code == 0, run.output[-4000:]
    assert sh(f"sha256sum {root}/{key}/*/model.bin").split()[0] == pin
    assert sh(f"ls -A {root}/.partial") == ""
