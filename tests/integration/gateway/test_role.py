"""The role as it runs: again, with bad input, and in check mode on a host that has nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.integration.gateway.house import House

pytestmark = pytest.mark.lab


def changed(text: str) -> dict[str, int]:
    return {host: int(number) for host, number in re.findall(r"(?m)^(\S+) +: ok=.* changed=(\d+)", text)}


def snapshot(folder: Path) -> dict[str, tuple[float, bytes]]:
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix not in (".log", ".pid")]
    return {str(p): (p.stat().st_mtime, p.read_bytes()) for p in files}


def test_a_second_run_changes_nothing_and_verifies(house: House) -> None:
    before = snapshot(house.folder)
    done = house.configure("--tags", "all,after")
    assert done.returncode == 0, done.stdout
    assert changed(done.stdout) == {"spark-a": 0, "spark-b": 0, "gate": 0}
    assert "Check that it serves, and a Spark behind it" in done.stdout
    assert snapshot(house.folder) == before

    (house.folder / "gate/keys.map").touch()  # as if the reload after a change had failed
    done = house.configure("--limit", "gate", "--tags", "after", "-e", '{"__gateway_wait": 1}')
    assert done.returncode == 2
    assert "HAProxy on gate has not taken over" in done.stdout
    house.gateway.reload()


def test_bad_settings_are_refused_by_name_before_anything_changes(house: House) -> None:
    before = snapshot(house.folder)
    bad = {"gateway_keys": {"kitchen": "hunter2", "so so": "0" * 64}, "gateway_queue_timeout": 0}
    done = house.configure("--limit", "gate", "-e", json.dumps(bad))
    assert done.returncode == 2
    for said in (
        "gate: 3 refused, nothing was changed.",
        "gateway_keys.kitchen is no hash (its value is not shown). Rule: the SHA-256 of the key",
        "A name in gateway_keys is 'so so'",
        "gateway_queue_timeout is 0. Rule: a whole number from 1 on",
    ):
        assert said in re.sub(r"\\?'+", "'", done.stdout), done.stdout
    assert "hunter2" not in done.stdout
    assert snapshot(house.folder) == before


def test_check_mode_tells_and_makes_nothing(house: House, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    given = {"__gateway_etc": str(bare), "gateway_ca": str(bare / "ca"), "gateway_metrics_port": 1}
    given["gateway_certificate"] = str(house.folder / "ca/gate-server.pem")
    done = house.configure("--check", "--limit", "gate", "--tags", "all,after", "-e", json.dumps(given))
    assert done.returncode == 0, done.stdout
    assert "Would bring ca.crt, client.pem, server.pem" in done.stdout
    assert changed(done.stdout)["gate"] >= 5
    assert not bare.exists()
