"""The door of every HTTP request and WebSocket: rate, Origin, key, body, security headers."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import math
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from voicebot.admission import Rate
from voicebot.config import Limits, Server
from voicebot.errors import TooLargeError, VoicebotError
from voicebot.keys import Keys

log = logging.getLogger("voicebot")

_KEY_PROTOCOL = "openai-insecure-api-key."
_LINGER_S, _LINGER_MB = 10.0, 64
_BODIES_A_SESSION = 2
_TIMED_OUT = 408
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class RefusedError(VoicebotError):
    """Not let in; `headers` go with the answer."""

    kind = "invalid_request_error"

    def __init__(self, status: int, code: str, what: str, *, rule: str, remedy: str, **headers: str) -> None:
        super().__init__(code, what, rule=rule, remedy=remedy)
        self.status = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Door:
    """ASGI middleware. `known` in the request's state behind it: a key was shown, or none is needed."""

    def __init__(
        self, app: ASGIApp, server: Server, limits: Limits, keys: Keys | None, public: Collection[str]
    ) -> None:
        """`public`: paths that need no key; what is behind them tells strangers nothing."""
        self._app = app
        self._limits = limits
        self._keys = keys
        self._public = public
        self._rate = Rate(limits.requests_per_minute)
        self._names = _own_names()
        self._origins = server.origins
        self._bodies = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self._refuse(scope, Headers(scope=scope))
        if refusal:
            log.info("refused: %s", refusal.code)
        if scope["type"] == "websocket":
            if refusal:
                await WebSocket(scope, receive, send).send_denial_response(_answer(refusal))
            else:
                await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._limits)
        if refusal is None and exchange.has_body:
            refusal = self._too_large(scope) or self._too_many_bodies()
        if refusal:
            await _answer(refusal)(scope, exchange.receive, exchange.send)
            return
        self._bodies += exchange.has_body
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            self._bodies -= exchange.has_body

    def _refuse(self, scope: Scope, headers: Headers) -> VoicebotError | None:
        holder = self._holder(scope, headers)
        scope.setdefault("state", {})["known"] = holder is not None or self._keys is None
        address = str((scope.get("client") or ("?",))[0])
        if wait := self._rate.wait_s(holder or address):
            return RefusedError(
                429, "too_many_requests", f"{holder or address} asks too often.",
                rule=f"at most {self._limits.requests_per_minute} a minute (limits.requests_per_minute).",
                remedy="ask more slowly.", Retry_After=str(math.ceil(wait)),
            )  # fmt: skip
        if (origin := headers.get("origin")) and not self._is_own(origin, headers.get("host", "")):
            return RefusedError(
                403, "origin", f"Pages of {origin[:200]} may not use this service.",
                rule="pages that it serves itself, by address or its host's name, and server.origins.",
                remedy="open its own page, or add the page's host to server.origins.",
            )  # fmt: skip
        if holder is None and self._keys and scope["path"] not in self._public:
            return RefusedError(
                401, "invalid_api_key", "No valid key was shown.",
                rule="a bearer key; from a browser, the subprotocol openai-insecure-api-key.KEY.",
                remedy="ask who runs it for one.", WWW_Authenticate="Bearer",
            )  # fmt: skip
        return None

    def _holder(self, scope: Scope, headers: Headers) -> str | None:
        kind, _, key = headers.get("authorization", "").partition(" ")
        if scope["type"] == "websocket":
            offered = scope.get("subprotocols", [])
            scope["subprotocols"] = [name for name in offered if not name.startswith(_KEY_PROTOCOL)]
            shown = [name.removeprefix(_KEY_PROTOCOL) for name in offered if name.startswith(_KEY_PROTOCOL)]
            if shown:
                kind, key = "bearer", shown[0]
        if self._keys is None or kind.lower() != "bearer" or not key.strip():
            return None
        return self._keys.holder(key.strip())

    def _is_own(self, origin: str, host: str) -> bool:
        """Whether the service's own page asks. A foreign name that points at this host does not count."""
        try:
            page = urlsplit(origin)
        except ValueError:
            return False
        if page.hostname in self._origins or page.netloc in self._origins:
            return True
        named = page.hostname in self._names or _is_address(page.hostname or "")
        return page.netloc == host and (named or self._keys is not None)

    def _too_large(self, scope: Scope) -> VoicebotError | None:
        length = Headers(scope=scope).get("content-length", "")
        too_long = length.isdecimal() and int(length[:18]) > self._limits.max_body_mb * 1_000_000
        return too_large(self._limits) if too_long else None

    def _too_many_bodies(self) -> VoicebotError | None:
        most = _BODIES_A_SESSION * self._limits.max_sessions
        if self._bodies < most:
            return None
        return RefusedError(
            503, "too_many_uploads", f"{self._bodies} recordings are being worked on.",
            rule=f"at most {most}, {_BODIES_A_SESSION} for each of limits.max_sessions.",
            remedy="try again later.", Retry_After="5",
        )  # fmt: skip


class _Exchange:
    """One request and its answer: what comes is timed, and read to its end before the answer is over."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, limits: Limits) -> None:
        headers = Headers(scope=scope)
        self.has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
        self._receive = receive
        self._send = send
        self._ends = asyncio.get_running_loop().time() + limits.max_upload_seconds
        self._complete = not self.has_body
        self._stalled = False
        self._received = 0
        self._refuses = False

    async def receive(self) -> Message:
        """As ASGI has it; a body that takes too long is a client that went away."""
        if self._complete:
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._ends):
                message = await self._receive()
        except TimeoutError:
            self._stalled = self._complete = True
            return {"type": "http.disconnect"}
        self._received += len(message.get("body", b""))
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """As ASGI has it. Closing while a body is still coming would reset the connection, answer and all."""
        if message["type"] == "http.response.start":
            if self._stalled:
                message = {**message, "status": _TIMED_OUT}
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
            if not self._complete or self._stalled:
                headers["Connection"] = "close"
        elif not self._complete and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        self._ends = min(self._ends, asyncio.get_running_loop().time() + _LINGER_S)
        most = self._received + _LINGER_MB * 1_000_000
        while not self._complete and self._received < most:
            await self.receive()


def too_large(limits: Limits) -> TooLargeError:
    """What a body over the limit is answered."""
    return TooLargeError(
        "body_too_large",
        f"The recording has more than {limits.max_body_mb:g} MB.",
        rule=f"at most {limits.max_body_mb:g} MB (limits.max_body_mb) "
        f"and {limits.max_audio_seconds:g} s (limits.max_audio_seconds).",
        remedy="send a compressed format (FLAC, Opus), cut it, or raise limits.max_body_mb.",
    )


def _answer(refusal: VoicebotError) -> JSONResponse:
    headers = refusal.headers if isinstance(refusal, RefusedError) else None
    return JSONResponse({"error": refusal.as_dict()}, status_code=refusal.status, headers=headers)


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {"localhost", name, name.partition(".")[0], f"{name.partition('.')[0]}.local"}


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
