"""Request bodies within their limit."""

from __future__ import annotations

import io

from starlette.requests import Request

from voicebot.config import Limits
from voicebot.errors import TooLargeError


async def read(request: Request, limits: Limits) -> io.BytesIO:
    """The body within its limit; more is read on for a while, unkept, so that the client hears why."""
    max_mb = limits.max_body_mb
    limit = int(max_mb * 1_000_000)
    body = io.BytesIO()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received <= limit:
            body.write(chunk)
        elif received > 8 * limit:
            break
    if received > limit:
        raise TooLargeError(
            "body_too_large",
            f"The recording has more than {max_mb:g} MB.",
            rule=f"at most {max_mb:g} MB (limits.max_body_mb) "
            f"and {limits.max_audio_seconds:g} s (limits.max_audio_seconds).",
            remedy="send a compressed format (FLAC, Opus), cut it, or raise limits.max_body_mb.",
        )
    return body
