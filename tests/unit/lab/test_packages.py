"""Packages: this machine's own mirrors serve another suite; a machine that won't do is told so."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.lab import packages
from tests.lab.settings import LabError

EXPECTED = [
    "deb http://mirror.example/debian trixie main",
    "deb http://mirror.example/debian trixie-updates main",
    "deb http://mirror.example/debian-security trixie-security main",
]
DEB822 = """\
# Types: deb
# URIs: http://old.example/debian
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""
ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/key.gpg] http://mirror.example/debian bookworm main contrib
deb http://mirror.example/debian-security bookworm-security main
deb https://apt.vendor.example/tool stable main
"""
DISABLED = "Enabled: no\nTypes: deb\nURIs: http://a.example/debian\nSuites: sid\nComponents: main\n\n"


@pytest.fixture
def apt(tmp_path: Path) -> Path:
    """A folder like /etc/apt, without sources."""
    (tmp_path / "sources.list.d").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sources.list.d/debian.sources", DEB822),
        ("sources.list.d/debian.sources", DISABLED + DEB822),
        ("sources.list", ONE_LINE),
        ("sources.list.d/debian.list", ONE_LINE.rstrip("\n")),
    ],
)
def test_each_form_of_sources_is_read(apt: Path, name: str, text: str) -> None:
    (apt / name).write_text(text)
    assert packages.apt_lines("trixie", apt) == EXPECTED


def test_what_apt_ignores_is_ignored(apt: Path) -> None:
    (apt / "sources.list.d/a.list.disabled").write_text(ONE_LINE.replace("mirror.example", "gone.example"))
    (apt / "sources.list.d/debian.sources").write_text(DEB822)
    (apt / "sources.list").write_text("")
    assert packages.apt_lines("trixie", apt) == EXPECTED


def test_lists_of_mirrors_are_followed(apt: Path) -> None:
    """Debian's cloud images have their mirrors in files of their own."""
    text = DEB822
    for name in ("debian-security", "debian"):
        (apt / f"{name}.mirrors").write_text(f"# first come\nhttp://mirror.example/{name} priority:1\n")
        text = text.replace(f"http://mirror.example/{name}\n", f"mirror+file:{apt}/{name}.mirrors\n")
    (apt / "sources.list.d/debian.sources").write_text(text)
    assert text.count("mirror+file:") == 2
    assert packages.apt_lines("trixie", apt) == EXPECTED


@pytest.mark.parametrize(
    "text", ["", DEB822.replace("mirror.example/debian-security", "x.example/backports")]
)
def test_a_machine_without_mirrors_is_told_what_to_do(apt: Path, text: str) -> None:
    (apt / "sources.list.d/debian.sources").write_text(text)
    with pytest.raises(LabError, match=r"no Debian archive and security mirror in .*Rule: .*Remedy: "):
        packages.apt_lines("trixie", apt)


@pytest.mark.parametrize(
    ("machine", "user", "said"),
    [("aarch64", 0, "aarch64. Rule: the lab is for x86-64"), ("x86_64", 1000, "not root. Rule: ")],
)
def test_a_platform_that_will_not_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, machine: str, user: int, said: str
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(machine=machine))
    monkeypatch.setattr(os, "geteuid", lambda: user)
    with pytest.raises(LabError) as caught:
        packages.check_platform()
    assert said in str(caught.value)
    assert "Remedy: " in str(caught.value)
