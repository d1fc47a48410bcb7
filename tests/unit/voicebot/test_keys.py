"""Bearer keys: hashes in a file, rotated while the service runs."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.unit.voicebot.house import write_keys
from voicebot.errors import ConfigError
from voicebot.keys import Keys


def test_a_key_is_known_by_its_hash(tmp_path: Path) -> None:
    keys = Keys(write_keys(tmp_path / "keys", kitchen="one", study="two"))
    assert keys.holder("one") == "kitchen"
    assert keys.holder("two") == "study"
    for stranger in ("", "on", "one ", "\udc80", "one" * 1000):
        assert keys.holder(stranger) is None


def test_rotation_without_a_restart(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys", kitchen="old")
    keys = Keys(path)
    local = keys.add_local()
    assert keys.holder("old") == "kitchen"
    write_keys(path, kitchen="old", kitchen2="new")
    assert [keys.holder("old"), keys.holder("new")] == ["kitchen", "kitchen2"]
    write_keys(path, kitchen2="new")
    assert [keys.holder("old"), keys.holder("new")] == [None, "kitchen2"]
    path.unlink()
    assert keys.holder("new") is None, "a file that is gone lets nobody in"
    write_keys(path, kitchen="third")
    assert keys.holder("third") == "kitchen"
    assert keys.holder(local) == "local"


def test_a_bad_line_is_an_error_at_the_start_and_later_keeps_out_its_holder_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_keys(tmp_path / "keys", kitchen="one")
    keys = Keys(path)
    path.write_text(path.read_text() + "study swordfish\n")
    with pytest.raises(ConfigError, match=r"no key in line 3.*Rule.*Remedy.*sha256sum"):
        Keys(path)
    with caplog.at_level(logging.INFO):
        assert keys.holder("one") == "kitchen"
        assert keys.holder("swordfish") is None
    assert "no key in line 3" in caplog.text
    assert "swordfish" not in caplog.text


def test_a_missing_file_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        Keys(tmp_path / "none")
