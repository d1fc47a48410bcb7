"""The browser page: plain files out of the package, nothing from anywhere else."""

from __future__ import annotations

from importlib import resources
from types import MappingProxyType

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_TYPES = MappingProxyType(
    {
        "index.html": "text/html; charset=utf-8",
        "page.css": "text/css",
        "page.js": "text/javascript",
        "player.js": "text/javascript",
        "microphone.js": "text/javascript",
    }
)
_HEADERS = MappingProxyType(
    {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": "default-src 'self'; img-src data:; style-src 'self' 'unsafe-inline'; "
        "frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
)


def routes() -> list[Route]:
    """`/` and its files."""
    return [_route("/", "index.html"), *(_route(f"/{name}", name) for name in _TYPES if name != "index.html")]


def _route(path: str, name: str) -> Route:
    content = (resources.files("voicebot") / "web" / name).read_bytes()

    async def get(_request: Request) -> Response:
        return Response(content, media_type=_TYPES[name], headers=dict(_HEADERS))

    return Route(path, get)
