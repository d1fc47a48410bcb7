"""maintain.yml on a Spark that runs: with nothing to update it asks for an answer; rebooted, it serves again."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from tests.e2e.play import play
from tests.e2e.test_3_faults import wait_for_answer
from tests.lab.api import Lab

pytestmark = [pytest.mark.lab, pytest.mark.long]
Sh = Callable[..., str]
DRAIN = "/var/lib/vllm-guard/drain"
BEGAN = "systemctl show --value --timestamp=us+utc --property=UserspaceTimestamp"


def test_a_host_with_nothing_to_do_is_gated_and_loses_an_old_mark(lab: Lab, sh: Sh) -> None:
    wait_for_answer(lab)
    sh(f"touch {DRAIN}")
    before = sh(f"{BEGAN}; systemctl show --property=InvocationID vllm voicebot")
    run = play("playbooks/maintain.yml", extra={"maintain_update": "none"})
    assert run.code == 0, run.output[-4000:]
    assert run.changed() == ["vllm : undrain | Take the mark down"]
    assert sh(f"{BEGAN}; systemctl show --property=InvocationID vllm voicebot") == before
    assert sh(f"ls {DRAIN} 2>/dev/null", check=False) == ""


def test_a_host_that_answers_nothing_stays_out_of_rotation(lab: Lab, sh: Sh) -> None:
    wait_for_answer(lab)
    sh(f"touch {DRAIN}; systemctl stop voicebot")
    try:
        run = play("playbooks/maintain.yml", extra={"maintain_update": "none"})
        assert run.code == 2 and "spark1 stays out of rotation" in run.messages(), run.output[-4000:]
        assert sh(f"ls {DRAIN}").strip() == DRAIN
    finally:
        sh(f"systemctl start voicebot; rm -f {DRAIN}")


def test_an_update_and_a_reboot(lab: Lab, sh: Sh, record_property: Callable[[str, object], None]) -> None:
    wait_for_answer(lab)
    before = sh(BEGAN)
    run = play("playbooks/maintain.yml", extra={"maintain_reboot": "always"}, timeout=1800)
    assert run.code == 0, run.output[-4000:]
    assert sh(BEGAN) != before, "it was rebooted"
    wait_for_answer(lab)
    assert sh(f"ls {DRAIN} 2>/dev/null", check=False) == ""
    [seconds] = re.findall(r"serves again ([0-9.]+) s after it was drained", " ".join(run.output.split()))
    record_property("maintain_reboot_out_of_rotation_s", float(seconds))
    again = play("playbooks/maintain.yml")
    assert again.code == 0 and again.changed() == [], "nothing left to update, no reboot asked for"
