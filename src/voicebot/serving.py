"""uvicorn as this service runs it: listeners, TLS, connection limits, the drain at SIGTERM, systemd."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from voicebot import systemd
from voicebot.admission import Admission
from voicebot.config import Limits, Settings, Tls
from voicebot.errors import ConfigError

log = logging.getLogger("voicebot")

_REQUEST_WITHIN_S = 10.0
_CUT_AFTER_S = 10.0
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
)


class _Http(H11Protocol):
    """Not more connections than allowed, and none that says nothing."""

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        others: Iterable[Any] = self.connections
        mine = (self.client or ("",))[0]
        same = sum((other.client or ("",))[0] == mine for other in others)
        if (
            same > self.limits.max_connections_per_address
            or len(self.connections) > self.limits.max_connections
        ):
            self.connections.discard(self)  # it counts no longer
            transport.write(_FULL)
            transport.close()
            return
        self.loop.call_later(_REQUEST_WITHIN_S, self._give_up, None)

    def on_response_complete(self) -> None:
        self.loop.call_later(_REQUEST_WITHIN_S, self._give_up, self.cycle)
        super().on_response_complete()

    def _give_up(self, last: object) -> None:
        """No further request has begun since the last."""
        if self.cycle is last and self in self.connections:
            self.transport.abort()


class _WebSocket(WebSocketsSansIOProtocol):
    """A peer that takes nothing any more is cut off: what waits for it would wait for ever."""

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self.loop.call_later(_CUT_AFTER_S / 10, self.transport.abort)

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            self.loop.call_later(_CUT_AFTER_S, self.transport.abort)


def options(application: ASGIApp, limits: Limits) -> uvicorn.Config:
    """How uvicorn is to serve."""
    http = type("_LimitedHttp", (_Http,), {"limits": limits})
    return uvicorn.Config(
        application, http=http, ws=_WebSocket, log_config=None, access_log=False, server_header=False,
        proxy_headers=False, ws_max_size=int(limits.max_frame_mb * 1_000_000), ws_per_message_deflate=False,
        ws_ping_interval=limits.ping_seconds, ws_ping_timeout=limits.ping_seconds,
        timeout_graceful_shutdown=5,
    )  # fmt: skip


class Server(uvicorn.Server):
    """Tells systemd when it really serves, and when it stops."""

    def __init__(
        self,
        application: ASGIApp,
        settings: Settings,
        admission: Admission,
        watchdog: systemd.Watchdog,
        secured: socket.socket | None = None,
    ) -> None:
        """`secured`: the bound socket of server.tls."""
        super().__init__(options(application, settings.limits))
        self._settings = settings.server
        self._admission = admission
        self._watchdog = watchdog
        self._secured = secured
        self._tls = _context(settings.server.tls) if settings.server.tls else None
        self._certificate = self._stamp()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if not self.started:
            return
        if self._secured:
            loop = asyncio.get_running_loop()
            listening = await loop.create_server(self._protocol, sock=self._secured, ssl=self._tls)
            self.servers.append(listening)
        systemd.tell("READY=1")
        listeners = [*(sockets or []), *([self._secured] if self._secured else [])]
        log.info("ready on %s", ", ".join(str(s.getsockname()[:2]) for s in listeners))

    def _protocol(self) -> asyncio.Protocol:
        kind: Any = self.config.http_protocol_class
        made: asyncio.Protocol = kind(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        return made

    async def on_tick(self, counter: int) -> bool:
        self._watchdog.feed()
        if counter % 50 == 0 and self._stamp() != self._certificate:
            self._renew()
        return await super().on_tick(counter)

    def _stamp(self) -> list[int]:
        tls = self._settings.tls
        try:
            return [path.stat().st_mtime_ns for path in (tls.certificate, tls.key)] if tls else []
        except OSError:
            return []

    def _renew(self) -> None:
        """New handshakes show the new certificate; a pair that does not fit leaves the old one."""
        self._certificate = self._stamp()
        tls = self._settings.tls
        try:
            if tls and self._tls:
                _context(tls)
                self._tls.load_cert_chain(tls.certificate, tls.key)
                log.info("a new certificate is in use")
        except ConfigError as error:
            log.error("%s", error)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        systemd.tell("STOPPING=1")
        for listening in self.servers:
            listening.close()
        await self._admission.drain(self._settings.drain_s, lambda: self.force_exit)
        await super().shutdown(sockets=sockets)


def _context(tls: Tls) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            "tls",
            f"server.tls can't use {tls.certificate} with {tls.key} ({error.strerror or error}).",
            rule="a PEM certificate with its chain, and its key without a pass phrase.",
            remedy="correct the two paths, or their modes.",
        ) from error
    return context


def bind(host: str, port: int, setting: str = "server") -> socket.socket:
    """Take the port before the models load; connections are refused until the server listens."""
    with contextlib.ExitStack() as stack:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError as error:
            raise ConfigError(
                "port_taken",
                f"The service can't listen on {host}:{port} ({error.strerror}).",
                rule=f"{setting}.host is an address of this host and {setting}.port is free.",
                remedy=f"find who has it (ss -ltnp 'sport = :{port}'), or set {setting}.port.",
            ) from error
        stack.pop_all()
        return listener
