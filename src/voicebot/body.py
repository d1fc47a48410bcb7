"""Request bodies within their limit."""

from __future__ import annotations

import io

from starlette.requests import Request

from voicebot.config import Limits
from voicebot.door import too_large


async def read(request: Request, limits: Limits) -> io.BytesIO:
    """The body; raise TooLargeError as soon as it exceeds its limit: the door reads on."""
    limit = int(limits.max_body_mb * 1_000_000)
    body = io.BytesIO()
    async for chunk in request.stream():
        if body.tell() + len(chunk) > limit:
            raise too_large(limits)
        body.write(chunk)
    return body
