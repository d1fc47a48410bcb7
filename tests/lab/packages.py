"""Packages: Debian's on this machine, Debian root file systems, and data out of hash-pinned wheels."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.lab.proc import run, say
from tests.lab.settings import LabError

HERE = Path(__file__).resolve().parent
NEEDED = (
    "binutils",
    "ca-certificates",
    "docker-registry",
    "docker.io",
    "gcc",
    "haproxy",
    "iproute2",
    "iptables",
    "mmdebstrap",
    "openssh-client",
    "openssl",
    "pigz",
    "pocketsphinx-testdata",
)
APT_CLOCK = ('Acquire::Check-Valid-Until "false"', 'Acquire::Check-Date "false"')  # mirrors may be snapshots
_LIST = "mirror+file:"
SMALL = ("doc", "man", "locale")


def check_platform() -> None:
    """Says so where the lab can't work, and where nobody has tried it."""
    if os.uname().machine != "x86_64":
        raise LabError(
            f"this machine is {os.uname().machine}. Rule: the lab is for x86-64. Remedy: another machine"
        )
    if os.geteuid() != 0:
        raise LabError(
            "not root. Rule: the lab starts a Docker engine and makes network bridges. Remedy: run it as root"
        )
    release = Path("/etc/os-release").read_text()
    if 'VERSION_ID="12"' not in release or "\nID=debian" not in release:
        name = re.search(r'^PRETTY_NAME="?([^"\n]+)', release, re.M)
        say(f"untested: the lab was only tried on Debian 12, this is {name[1] if name else 'something else'}")


def install_missing(*more: str) -> list[str]:
    """Installs what this machine lacks of NEEDED and of more; returns the names."""
    needed = (*NEEDED, *more)
    query = run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *needed], check=False)
    missing = sorted(
        set(needed) - {line.split()[0] for line in query.stdout.splitlines() if line.endswith(" installed")}
    )
    if missing:
        say(f"installing {' '.join(missing)}")
        env = {"DEBIAN_FRONTEND": "noninteractive"}
        run(["apt-get", "update", "-q"], env=env)
        lock = ["-o", "DPkg::Lock::Timeout=300"]
        run(["apt-get", "install", "-q", "-y", "--no-install-recommends", *lock, *missing], env=env)
    return missing


def apt_lines(suite: str, apt: Path = Path("/etc/apt")) -> list[str]:
    """This machine's own Debian mirrors, for another suite: archive, updates, security."""
    files = sorted([*apt.glob("sources.list"), *apt.glob("sources.list.d/*")])
    text = "\n\n".join(p.read_text() for p in files if p.suffix in (".list", ".sources"))
    text = re.sub(r"(?m)^[ \t]*#.*\n", "", text + "\n")
    stanzas = re.split(r"\n\s*\n", text)
    text = "\n".join(s for s in stanzas if not re.search(r"(?mi)^Enabled:\s*no\b", s))
    found = re.findall(r"(?m)^URIs:\s*(\S+)", text) + re.findall(r"(?m)^deb\s+(?:\[[^]]*\]\s*)?(\S+)", text)
    found = [_first_mirror(Path(u.removeprefix(_LIST))) if u.startswith(_LIST) else u for u in found]
    security = [u for u in found if "security" in u]
    archive = [u for u in found if re.search(r"/debian/?$", u)]
    if not archive or not security:
        raise LabError(
            f"no Debian archive and security mirror in {apt}. Rule: the lab uses this machine's mirrors. "
            "Remedy: have both in sources.list or sources.list.d"
        )
    return [
        f"deb {archive[0]} {suite} main",
        f"deb {archive[0]} {suite}-updates main",
        f"deb {security[0]} {suite}-security main",
    ]


def _first_mirror(listed: Path) -> str:
    """The first of a list of mirrors: so apt is set up on Debian's own cloud images."""
    words = [line.split()[0] for line in listed.read_text().splitlines() if line.strip() and line[0] != "#"]
    return words[0] if words else ""


def bootstrap(suite: str, target: Path, packages: Sequence[str], hooks: Sequence[str] = ()) -> None:
    """A small Debian root (a folder or a tar archive, by the target's name) with these packages."""
    options = [f"--aptopt={o}" for o in (*APT_CLOCK, 'Acquire::Languages "none"')]
    options += [f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in SMALL]
    options += [f"--customize-hook={h}" for h in hooks]
    run(
        [
            "mmdebstrap",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            *options,
            suite,
            target,
            *apt_lines(suite),
        ],
        env={"DEBIAN_FRONTEND": "noninteractive"},
    )


def download(requirements: Path, into: Path, platform: Sequence[str] = ()) -> list[Path]:
    """Fetches hash-pinned wheels without installing them."""
    argv = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ]
    run([*argv, *platform, "-r", requirements, "-d", into])
    return sorted(into.glob("*.whl"))
