"""The image that virtual Sparks start from: Debian, systemd, sshd, Docker, stand-ins of NVIDIA's tools."""

from __future__ import annotations

from pathlib import Path

from tests.lab import packages
from tests.lab.cache import cached, key_of
from tests.lab.daemon import docker
from tests.lab.settings import Settings

PARTS = Path(__file__).resolve().parent / "spark"
SUITE = "trixie"  # systemd 257 and Python 3.13; DGX OS 7 has 255 and 3.12
PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "openssh-server", "sudo"),
    *("docker.io", "docker-cli", "iptables", "jq", "kmod"),
    *("ca-certificates", "curl", "gpg", "iproute2", "iputils-ping", "procps", "python3", "python3-apt"),
)


def build(out: Path) -> None:
    """Writes the root file system as an archive."""
    packages.bootstrap(SUITE, out / "root.tar", PACKAGES, [f'{PARTS}/customise.sh "$1" {PARTS}'])


def up(settings: Settings) -> bool:
    """The lab's engine has the image afterwards. True if it lacked it."""
    key = key_of([p for p in PARTS.iterdir() if p.name != "runc-clamp"], SUITE, *PACKAGES)
    name = f"virtual-spark:{key}"
    settings.learn(base_image=name)
    if docker(settings, "images", "-q", name):
        return False
    archive, _ = cached("virtual-spark", key, build)
    docker(settings, "import", "--change", 'CMD ["/sbin/init"]', archive / "root.tar", name)
    return True
