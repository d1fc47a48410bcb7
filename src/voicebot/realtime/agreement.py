"""The session object that client and server agree on, and what it means for the session."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from openai.types.realtime import RealtimeSessionCreateRequest, SessionUpdateEvent

from voicebot.config import Conversing, Persona, Settings
from voicebot.conversation import new_id
from voicebot.errors import AudioError
from voicebot.realtime.formats import FORMATS
from voicebot.setup import Setup
from voicebot.turns import PRESETS, TurnRules
from voicebot.turns.rules import semantic

PCM = {"type": "audio/pcm", "rate": 24000}
_MODEL = "voicebot"


class Agreement:
    """Changed by session.update, field by field; a change that can't be had changes nothing."""

    def __init__(self, settings: Settings, persona: Persona) -> None:
        self._settings = settings
        self._persona = persona
        self._base = base_rules(settings.conversation)
        self.session: dict[str, Any] = {
            "type": "realtime",
            "object": "realtime.session",
            "id": new_id("sess"),
            "model": _MODEL,
            "expires_at": int(time.time()) + 86_400,
            "output_modalities": ["audio"],
            "instructions": persona.instructions or settings.llm.system_prompt,
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": "inf",
            "truncation": "auto",
            "tracing": None,
            "prompt": None,
            "include": None,
            "audio": {
                "input": {
                    "format": dict(PCM),
                    "transcription": {
                        "model": settings.stt.model.name,
                        "language": persona.language or settings.stt.language,
                    },
                    "noise_reduction": None,
                    "turn_detection": {
                        "type": "server_vad",
                        "threshold": self._base.threshold,
                        "prefix_padding_ms": round(self._base.pre_roll_s * 1000),
                        "silence_duration_ms": round(self._base.silence_s * 1000),
                        "idle_timeout_ms": None,
                        "create_response": True,
                        "interrupt_response": True,
                    },
                },
                "output": {
                    "format": dict(PCM),
                    "voice": persona.voice or settings.tts.voice,
                    "speed": settings.tts.speed,
                },
            },
        }

    @property
    def instructions(self) -> str:
        """The system prompt."""
        return str(self.session.get("instructions") or "")

    def format(self, direction: Literal["input", "output"]) -> str:
        """audio/pcm, audio/pcmu or audio/pcma."""
        return _format(self.session, direction)

    def update(self, event: SessionUpdateEvent) -> None:
        """Take the fields that were sent, or raise."""
        change = event.session.model_dump(mode="json", exclude_unset=True)
        if isinstance(event.session, RealtimeSessionCreateRequest):
            prompt = change.get("prompt")
            persona = self._settings.persona(prompt["id"]) if prompt else None
            if persona:
                change.setdefault("instructions", persona.instructions or self._settings.llm.system_prompt)
        else:
            persona = None
            change.setdefault("output_modalities", ["text"])
        merged = _merge(self.session, change)
        _check(merged)
        self.session = merged
        self._persona = persona or self._persona

    def setup(self) -> Setup:
        """What the session shall run by."""
        heard, spoken = self.session["audio"].get("input") or {}, self.session["output_modalities"]
        detection = heard.get("turn_detection")
        transcription = heard.get("transcription") or {}
        limit = self.session.get("max_output_tokens")
        return Setup(
            rules=self._rules(detection),
            persona=self._persona.model_copy(update={"language": transcription.get("language")}),
            interrupt=_flag(detection, "interrupt_response"),
            answer=_flag(detection, "create_response") and self.session["type"] == "realtime",
            aloud="audio" in spoken,
            partials=bool(transcription),
            max_tokens=limit if isinstance(limit, int) else None,
            tools=tuple(_chat_tool(tool) for tool in self.session["tools"] or ()),
            tool_choice=chat_choice(self.session["tool_choice"]),
        )

    def _rules(self, detection: Mapping[str, Any] | None) -> TurnRules | None:
        if detection is None:
            return None
        if detection["type"] == "semantic_vad":
            eagerness: Literal["low", "medium", "high", "auto"] = detection.get("eagerness") or "auto"
            return semantic(self._base, eagerness)
        given = {
            "silence_s": ("silence_duration_ms", 1000.0),
            "pre_roll_s": ("prefix_padding_ms", 1000.0),
            "threshold": ("threshold", 1.0),
        }
        numbers = {
            field: detection[name] / unit
            for field, (name, unit) in given.items()
            if detection.get(name) is not None
        }
        return replace(self._base, **numbers)


def base_rules(conversing: Conversing) -> TurnRules:
    """The preset with what the configuration changes of it."""
    changed = {
        name: getattr(conversing, name)
        for name in ("silence_s", "min_speech_s", "threshold", "interrupt_s")
        if getattr(conversing, name) is not None
    }
    return replace(PRESETS[conversing.preset], **changed)


def chat_tools(tools: list[Any] | None) -> tuple[dict[str, Any], ...]:
    """Realtime function tools as those of chat completions."""
    return tuple(_chat_tool(tool.model_dump(exclude_unset=True)) for tool in tools or ())


def _chat_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if tool.get("type", "function") != "function":
        raise AudioError(
            "unsupported_tool",
            f"A tool of type {tool['type']!r}.",
            rule="function tools, which the client calls.",
            remedy="leave it out: nothing here goes to other servers.",
        )
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def chat_choice(choice: Any) -> Any:
    """A Realtime tool choice as that of chat completions."""
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {"name": choice["name"]}}
    return choice or "auto"


def _flag(detection: Mapping[str, Any] | None, name: str) -> bool:
    return detection is not None and detection.get(name) is not False


_NEVER_NULL = {"audio", "input", "output", "format", "output_modalities"}


def _merge(old: dict[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Objects are merged, unless they are of another type; everything else is replaced, by null as well."""
    merged = dict(old)
    for key, value in change.items():
        if value is None and key in _NEVER_NULL:
            continue
        known = old.get(key)
        merged[key] = value
        if isinstance(known, dict) and isinstance(value, dict):
            kind = known.get("type")
            merged[key] = _merge(known, value) if value.get("type", kind) == kind else value
    return merged


def _format(session: Mapping[str, Any], direction: str) -> str:
    return str(((session["audio"].get(direction) or {}).get("format") or PCM)["type"])


def _check(session: Mapping[str, Any]) -> None:
    for direction in ("input", "output"):
        kind = _format(session, direction)
        if kind not in FORMATS:
            raise AudioError(
                "unsupported_format",
                f"session.audio.{direction}.format is {kind!r}.",
                rule=f"audio/pcm at 24000 Hz, or G.711: {', '.join(FORMATS)}.",
                remedy="use one of them.",
            )
    detection = (session["audio"].get("input") or {}).get("turn_detection") or {}
    for name, low, high in (
        ("threshold", 0.05, 0.99), ("silence_duration_ms", 100, 10_000), ("prefix_padding_ms", 0, 2_000),
    ):  # fmt: skip
        value = detection.get(name)
        if value is not None and not low <= value <= high:
            raise AudioError(
                "invalid_value",
                f"session.audio.input.turn_detection.{name} is {value}.",
                rule=f"from {low} to {high}.",
            )
    for tool in session["tools"] or ():
        _chat_tool(tool)
