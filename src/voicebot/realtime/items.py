"""Parts of client events: JSON, sound, and items."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from voicebot.conversation import Kind
from voicebot.errors import AudioError

_KINDS: dict[str, Kind] = {
    "function_call": "call", "function_call_output": "output",
    "user": "user", "assistant": "assistant", "system": "system",
}  # fmt: skip


def parsed(text: str) -> dict[str, Any]:
    """A message's JSON object."""
    try:
        data = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(data, ensure_ascii=False).encode()  # half a character is none
    except (ValueError, RecursionError) as error:
        raise AudioError("invalid_json", f"A message is not JSON: {error}.", rule="JSON objects.") from error
    if not isinstance(data, dict):
        raise AudioError("invalid_json", f"A message is a JSON {type(data).__name__}.", rule="JSON objects.")
    return data


def decoded(audio: str) -> bytes:
    """Sound out of its base64."""
    try:
        return base64.b64decode(audio, validate=True)
    except (binascii.Error, ValueError) as error:
        what = f"`audio` is not base64: {error}."
        raise AudioError("invalid_audio", what, rule="base64 of pcm16.") from error


def kind_of(item: dict[str, Any]) -> Kind:
    """Which kind of item of the conversation it is."""
    name = item["role"] if item["type"] == "message" else item["type"]
    if name not in _KINDS:
        what = f"An item of type {name!r}."
        raise AudioError("unsupported_item", what, rule="messages and functions.")
    return _KINDS[name]


def text_of(item: dict[str, Any]) -> str:
    """Its words, arguments or output."""
    if item["type"] != "message":
        return str(item.get("output", item.get("arguments", "")))
    parts = [part.get("text") or part.get("transcript") or "" for part in item["content"]]
    return "\n".join(part for part in parts if part)


def spoken_part(item: dict[str, Any]) -> bytes | None:
    """Its sound, where it has no words."""
    parts = item.get("content", []) if item["type"] == "message" else []
    sound = [p["audio"] for p in parts if p.get("type") == "input_audio" and p.get("audio")]
    return b"".join(map(decoded, sound)) if sound and not text_of(item) else None


def no_item(item_id: str) -> AudioError:
    """The error for an item that is not there."""
    return AudioError("item_not_found", f"There is no item {item_id!r}.", rule="one of this conversation.")
