"""mDNS: Home Assistant finds the server by itself, where `zeroconf` is installed (extra `discovery`)."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from voicebot.config import Wyoming

log = logging.getLogger("voicebot")

SERVICE = "_wyoming._tcp.local."
_MULTICAST = "224.0.0.251"


@asynccontextmanager
async def announced(settings: Wyoming, host: str, port: int) -> AsyncIterator[None]:
    """Make it known meanwhile, unless only this host can reach it. No failure of this ends the service."""
    if not settings.discovery or ipaddress.ip_address(host).is_loopback:
        yield
        return
    try:
        address = _outward() if ipaddress.ip_address(host).is_unspecified else host
        announcement = await announce(socket.gethostname().partition(".")[0], address, port)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        log.warning("wyoming: not announced by mDNS: %s", error or type(error).__name__)
        yield
        return
    try:
        yield
    finally:
        await announcement.end()


class Announcement:
    """A service that is known on the network."""

    def __init__(self, zeroconf: object) -> None:
        self._zeroconf = zeroconf

    async def end(self) -> None:
        """Take it back."""
        await self._zeroconf.async_unregister_all_services()  # type: ignore[attr-defined]
        await self._zeroconf.async_close()  # type: ignore[attr-defined]


async def announce(name: str, address: str, port: int) -> Announcement:
    """Announce on the interface of this address. Raises ImportError, OSError, or zeroconf's own errors."""
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

    packed = ipaddress.ip_address(address).packed
    info = ServiceInfo(SERVICE, f"{name}.{SERVICE}", port, addresses=[packed], server=f"{name}.local.")
    zeroconf = AsyncZeroconf(interfaces=[address])
    try:
        await zeroconf.async_register_service(info, allow_name_change=True)
    except BaseException:
        await zeroconf.async_close()
        raise
    return Announcement(zeroconf)


def _outward() -> str:
    """This host's address on the network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((_MULTICAST, 5353))
        return str(probe.getsockname()[0])
