"""What spark_host reads of a machine, and how that is held against a baseline."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.unit.deploy.snapshot import load

survey = load("roles/spark_host/library/spark_host_survey.py", "spark_host_survey")
FACTS: dict[str, Any] = {
    "dgx_ota": "7.3.1",
    "kernel": "6.14.0-1013-nvidia",
    "toolkit": None,
    "cdi_devices": 3,
    "clock_synchronised": True,
    "ssh_host_keys": {"ed25519": "SHA256:abc", "rsa": "SHA256:def"},
}


def test_the_release_is_read_without_the_serial_number() -> None:
    text = 'DGX_NAME="DGX Spark"\nDGX_SERIAL_NUMBER="1234567"\n\nDGX_OTA_VERSION="7.3.1"\nDGX_BARE=1\n'
    found = survey.release(text)
    assert found == {"DGX_NAME": "DGX Spark", "DGX_OTA_VERSION": "7.3.1", "DGX_BARE": "1"}


def test_a_host_keys_fingerprint_is_the_one_that_ssh_shows(tmp_path: Path) -> None:
    for kind in ("ed25519", "rsa"):
        file = tmp_path / f"ssh_host_{kind}_key"
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", file], check=True)
    shown = {}
    for kind in ("ed25519", "rsa"):
        argv = ["ssh-keygen", "-l", "-E", "sha256", "-f", f"{tmp_path}/ssh_host_{kind}_key.pub"]
        shown[kind] = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[1]
    assert survey.host_keys(tmp_path) == shown
    (tmp_path / "ssh_host_empty_key.pub").write_text("")
    assert survey.host_keys(tmp_path) == shown


def test_the_machine_id_does_not_show() -> None:
    print_ = survey.fingerprint(b"0123456789abcdef0123456789abcdef")
    assert print_.startswith("SHA256:") and "0123456789abcdef" not in print_
    assert len(base64.b64decode(print_.removeprefix("SHA256:") + "=")) == 32


def test_disks_are_named_with_their_size(tmp_path: Path) -> None:
    sizes = {"nvme0n1": 7814037168, "loop0": 999999999, "zram0": 999999999, "sda": 0, "nvme1n1": 1953525168}
    for name, sectors in sizes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text(f"{sectors}\n")
    assert survey.disks_of(tmp_path) == "nvme0n1 4001 GB, nvme1n1 1000 GB"
    assert survey.disks_of(tmp_path / "none") == ""


@pytest.mark.parametrize(
    "baseline",
    [
        {},
        {"dgx_ota": "7.3.1"},
        {"dgx_ota": ["7.2.9", "7.3.1"]},
        {"kernel": "6.14.*-nvidia"},
        {"kernel": ["6.11.*", "6.14.*"]},
        {"cdi_devices": 3, "clock_synchronised": True},
        {"cdi_devices": "3", "clock_synchronised": "true"},
        {"toolkit": None},
        {"ssh_host_keys": {"ed25519": "SHA256:abc"}},
    ],
)
def test_a_machine_as_wanted_does_not_deviate(baseline: dict[str, Any]) -> None:
    assert survey.deviations(FACTS, baseline) == []


@pytest.mark.parametrize(
    ("baseline", "said"),
    [
        ({"dgx_ota": "7.4.0"}, "dgx_ota is 7.3.1, not 7.4.0"),
        ({"dgx_ota": ["7.4.0", "7.5.0"]}, "dgx_ota is 7.3.1, not 7.4.0 or 7.5.0"),
        ({"kernel": "6.11.*"}, "kernel is 6.14.0-1013-nvidia, not 6.11.*"),
        ({"toolkit": "1.18.0"}, "toolkit is none, not 1.18.0"),
        ({"cdi_devices": 0}, "cdi_devices is 3, not 0"),
        ({"clock_synchronised": False}, "clock_synchronised is true, not false"),
        ({"ssh_host_keys": {"rsa": "SHA256:x"}}, "ssh_host_keys.rsa is SHA256:def, not SHA256:x"),
        ({"ssh_host_keys": {"ecdsa": "SHA256:x"}}, "ssh_host_keys.ecdsa is none, not SHA256:x"),
    ],
)
def test_a_deviation_is_told_with_both_values(baseline: dict[str, Any], said: str) -> None:
    [found] = survey.deviations(FACTS, baseline)
    assert survey.deviation_text(found) == said
    assert set(found) == {"property", "found", "wanted"} and isinstance(found["wanted"], list)
