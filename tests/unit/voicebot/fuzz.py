"""Events as no client should send them."""

from __future__ import annotations

import base64
import copy
import json
import random
from typing import Any

from tests.unit.voicebot.live import sound

_SOUND = base64.b64encode(sound(0.1)).decode()
_TEXT = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi."}]}
_SPEECH = {"type": "message", "role": "user", "content": [{"type": "input_audio", "audio": _SOUND}]}
_CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
_OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "4"}
_TOOL = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}}

_VADS = (None, {"type": "server_vad", "threshold": 0.5}, {"type": "semantic_vad", "eagerness": "low"})


def _update(**session: Any) -> dict[str, Any]:
    return {"type": "session.update", "session": {"type": "realtime", **session}}


VALID: tuple[dict[str, Any], ...] = (
    {"type": "input_audio_buffer.append", "audio": _SOUND},
    {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(9601)).decode()},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear", "event_id": "e"},
    *({"type": "conversation.item.create", "item": item} for item in (_TEXT, _SPEECH, _CALL, _OUTPUT)),
    {"type": "conversation.item.create", "item": _TEXT | {"id": "mine"}, "previous_item_id": "root"},
    {"type": "conversation.item.delete", "item_id": "mine"},
    {"type": "conversation.item.retrieve", "item_id": "mine"},
    {"type": "conversation.item.truncate", "item_id": "mine", "content_index": 0, "audio_end_ms": 10},
    {"type": "response.create"},
    {"type": "response.create", "response": {"instructions": "Be brief.", "output_modalities": ["text"]}},
    {"type": "response.create", "response": {"conversation": "none", "max_output_tokens": 5}},
    {"type": "response.create", "response": {"tools": [_TOOL]}},
    {"type": "response.cancel"},
    _update(instructions="You are brief.", tools=[_TOOL]),
    _update(audio={"output": {"voice": "alloy"}}),
    *(_update(audio={"input": {"turn_detection": found}}) for found in _VADS),
)  # fmt: skip
_JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 10**30, 1e308, "", "x" * 2000, "\0\ud83d", "\U0001f4a5", [], {}, [[]], {"type": "x"},
    "../../etc/passwd", "${jndi:x}", ["a"] * 50, _TEXT, float("nan"),
)  # fmt: skip


def message(chance: random.Random) -> str:
    """One message: mostly a valid event with something wrong, sometimes no event or no JSON at all."""
    if chance.random() < 0.08:
        return chance.choice(
            ["", "{", "null", "[]", "0", '"x"', "[" * 100_000, '{"type":' * 5000, "\ufeff{}", "NaN", "\0"]
        )
    event = copy.deepcopy(chance.choice(VALID))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 3))):
        _spoil(event, chance)
    text = json.dumps(event)
    return text[: chance.randrange(len(text))] if chance.random() < 0.05 else text


def _spoil(event: dict[str, Any], chance: random.Random) -> None:
    """Somewhere in it: remove, replace, or add something."""
    place: Any = event
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(place[key], dict | list) or chance.random() < 0.3:
            break
        place = place[key]
    what = chance.random()
    if what < 0.25:
        del place[key]
    elif what < 0.9 or not isinstance(place, dict):
        place[key] = copy.deepcopy(chance.choice(_JUNK))
    else:
        place[chance.choice(("type", "id", "event_id", "audio", "x"))] = copy.deepcopy(chance.choice(_JUNK))
