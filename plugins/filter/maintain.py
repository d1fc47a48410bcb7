"""What an upgrade by apt would install."""

from __future__ import annotations

import re
from collections.abc import Callable

# Inst openssl [3.0.13-0ubuntu3.4] (3.0.13-0ubuntu3.5 Ubuntu:24.04/noble-security [arm64])
_INSTALLED = re.compile(
    r"^Inst (?P<name>\S+) (?:\[(?P<old>[^\]]*)\] )?\((?P<new>\S+) (?P<origins>.*?)(?: \[\w+\])?\)"
)


def apt_upgrades(simulated: str, choice: str) -> list[str]:
    """Names of packages that are there and would be upgraded, out of `apt-get --simulate dist-upgrade`.

    choice: none; security (only what an archive of security updates has); full.
    """
    found = [match for line in simulated.splitlines() if (match := _INSTALLED.match(line)) and match["old"]]
    if choice == "security":
        found = [match for match in found if "security" in match["origins"].lower()]
    return [] if choice == "none" else sorted(match["name"] for match in found)


class FilterModule:
    """Ansible's entry point."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Names in templates."""
        return {"apt_upgrades": apt_upgrades}
