"""Smoke finds what is broken, names it, and says that nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.play import Run, play
from tests.e2e.test_3_faults import wait_for_answer
from tests.lab.api import Lab

pytestmark = pytest.mark.lab
Sh = Callable[..., str]


def smoke(report: Path, **more: Any) -> tuple[Run, dict[str, dict[str, Any]]]:
    run = play("playbooks/smoke.yml", extra={"smoke_report": str(report), **more})
    found = json.loads(report.read_text(encoding="utf-8"))["hosts"]["spark1"]["checks"]
    return run, {check["name"]: check for check in found}


def test_every_part_passes(
    lab: Lab, sh: Sh, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    wait_for_answer(lab)
    run, checks = smoke(tmp_path / "smoke.json")
    assert run.code == 0, run.output[-4000:]
    assert run.changed() == [], "smoke is read-only"
    assert "spark1: 11 of 11 checks passed" in run.output
    assert [check["name"] for check in checks.values() if not check["ok"]] == []
    assert checks["completion"]["figures"]["tokens"] > 20
    record_property("smoke_tokens_per_second", checks["completion"]["figures"]["tokens_per_second"])
    record_property("smoke_first_audio_s", checks["spoken question"]["figures"]["first_audio_s"])


def test_broken_parts_are_named_and_no_others(lab: Lab, sh: Sh, tmp_path: Path) -> None:
    """The engine runs, and answers, while a file of its model is corrupt: only the hashes can tell."""
    [path] = sh("ls /srv/models/whisper-base/*/vocabulary.txt").split()
    [weights] = sh("ls /srv/models/lab-smollm2/*/model.safetensors").split()
    sh(f"cp -a {path} /tmp/kept; printf X | dd of={path} bs=1 seek=100 conv=notrunc status=none")
    sh(f"cp -a {weights} /tmp/kept2; printf X | dd of={weights} bs=1 seek=70000 conv=notrunc status=none")
    sh("systemctl stop voicebot")
    try:
        run, checks = smoke(tmp_path / "smoke.json", smoke_max_tokens=1)
    finally:
        sh(
            f"cp -a /tmp/kept {path}; cp -a /tmp/kept2 {weights}; rm /tmp/kept /tmp/kept2; systemctl start voicebot"
        )
        # the files are new ones to the record: read again, and noted
        noted = play("site.yml", "--tags", "model_store")
        assert noted.code == 0, noted.output[-4000:]
    assert run.code == 2, run.output[-4000:]
    broken = {name for name, check in checks.items() if not check["ok"]}
    assert broken == {"model whisper-base", "model lab-smollm2", "voicebot /health", "spoken question"}
    assert checks["completion"]["ok"]
    assert "model.safetensors" in checks["model lab-smollm2"]["detail"]
    assert "vocabulary.txt" in checks["model whisper-base"]["detail"]
    for name in broken:
        assert "Rule:" in checks[name]["detail"] and "Remedy:" in checks[name]["detail"]


def test_engine_down_wrong_pin_and_old_driver_are_named(lab: Lab, sh: Sh, tmp_path: Path) -> None:
    sh("systemctl stop vllm")
    try:
        run, checks = smoke(tmp_path / "smoke.json", smoke_min_cuda="14.0")
    finally:
        sh("systemctl start vllm")
        wait_for_answer(lab)
    assert run.code == 2, run.output[-4000:]
    assert {name for name, check in checks.items() if check["ok"]} == {
        "model lab-smollm2",
        "model whisper-base",
        "gpu in a container",
    }
    assert "14.0" in checks["driver and CUDA"]["detail"]
    assert "exited" in checks["container as pinned"]["detail"]
