"""Events on a stream: read within limits, written to clients that read them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from wyoming.event import Event, Eventable, async_write_event

from voicebot.errors import AudioError

LONGEST_LINE = 64 * 1024
LONGEST_DATA = 64 * 1024
LONGEST_PAYLOAD = 1024 * 1024
"""Bytes: 32 s of what Home Assistant sends."""
WRITTEN_WITHIN_S = 30.0


async def read(reader: asyncio.StreamReader) -> Event | None:
    """The next event; None where the stream ends, in the middle of an event too. Raises AudioError.

    The `wyoming` package's own reader takes payloads of any size.
    """
    try:
        head = _object(await reader.readuntil(b"\n"), "line")
        kind, data = head.get("type"), head.get("data") or {}
        if not isinstance(kind, str) or not isinstance(data, dict):
            raise bad_event(
                "An event has no type, or data that is no object.", "a type, and an object as data."
            )
        if length := _length(head, "data_length", LONGEST_DATA):
            data = data | _object(await reader.readexactly(length), "data")
        payload = None
        if length := _length(head, "payload_length", LONGEST_PAYLOAD):
            payload = await reader.readexactly(length)
        return Event(kind, data, payload)
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError as error:
        raise bad_event("An event's line does not end.", f"at most {LONGEST_LINE} bytes.") from error


async def write(writer: asyncio.StreamWriter, event: Eventable) -> None:
    """Send one. Raises OSError or TimeoutError for a client that is gone, or does not read."""
    async with asyncio.timeout(WRITTEN_WITHIN_S):
        await async_write_event(event.event(), writer)


def bad_event(what: str, rule: str) -> AudioError:
    """What a client is told that does not keep to the protocol."""
    return AudioError("bad_event", what, rule=rule, remedy="send it as the Wyoming protocol says.")


def text_of(data: Mapping[str, Any], longest: int) -> str:
    """The field `text`. Raises AudioError."""
    text = data.get("text")
    if not isinstance(text, str) or len(text) > longest:
        raise bad_event("`text` is missing, no text, or too long.", f"at most {longest} characters.")
    return text


def optional(data: Mapping[str, Any], name: str) -> str | None:
    """A field that may be absent. Raises AudioError where it is no text."""
    value = data.get(name)
    if value is not None and not isinstance(value, str):
        raise bad_event(f"`{name}` is a {type(value).__name__}.", "a text.")
    return value or None


def mapping(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A field that is an object, empty where it is absent. Raises AudioError where it is something else."""
    value = data.get(name) or {}
    if not isinstance(value, Mapping):
        raise bad_event(f"`{name}` is a {type(value).__name__}.", "an object.")
    return value


def _object(line: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise bad_event(f"An event's {name} is not JSON.", "a JSON object in UTF-8.") from error
    if not isinstance(value, dict):
        raise bad_event(f"An event's {name} is a {type(value).__name__}.", "a JSON object in UTF-8.")
    return value


def _length(head: Mapping[str, Any], name: str, longest: int) -> int:
    value = head.get(name) or 0
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= longest:
        raise bad_event(f"{name} is no length, or too long.", f"0 to {longest} bytes.")
    return value
