"""The loaded engines, and a stopwatch for the way through them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from voicebot.llm import ChatModel
from voicebot.stt import SpeechToText
from voicebot.tts import TextToSpeech


@dataclass(frozen=True)
class Stages:
    """The loaded engines, shared by all conversations."""

    stt: SpeechToText
    llm: ChatModel
    tts: TextToSpeech


RECORDED = MappingProxyType(
    {
        "decode_s": ("started", "decoded"),
        "stt_s": ("decoded", "heard"),
        "llm_first_token_s": ("asked", "first_token"),
        "first_clause_s": ("first_token", "first_clause"),
        "tts_first_audio_s": ("first_clause", "first_audio"),
        "first_audio_s": ("started", "first_audio"),
        "total_s": ("started", "done"),
    }
)
"""Spans of a turn that comes as a recording."""

LIVE = MappingProxyType(
    {
        "endpoint_s": ("started", "ended"),
        "stt_s": ("ended", "heard"),
        "prompt_s": ("heard", "asked"),
        "llm_first_token_s": ("asked", "first_token"),
        "first_clause_s": ("first_token", "first_clause"),
        "tts_first_audio_s": ("first_clause", "first_audio"),
        "first_audio_s": ("started", "first_audio"),
        "total_s": ("started", "done"),
    }
)
"""Spans of a live turn: it starts with the last voiced sample."""

_WHOLES = ("first_audio_s", "total_s")


@dataclass
class Stopwatch:
    """When things first happened; stages are the gaps between them."""

    started: float = field(default_factory=time.monotonic)
    spans: Mapping[str, tuple[str, str]] = field(default_factory=lambda: RECORDED)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Note the time, once."""
        self.marks.setdefault(name, time.monotonic())

    def metrics(self) -> dict[str, float]:
        """Seconds. The stages up to first audio follow one another; the last two count from the start."""
        at = {"started": self.started, **self.marks}
        return {name: round(at[b] - at[a], 4) for name, (a, b) in self.spans.items() if a in at and b in at}

    def unexplained_s(self) -> float | None:
        """What of the time to first audio no stage accounts for; None where nothing was spoken."""
        metrics = self.metrics()
        if "first_audio_s" not in metrics:
            return None
        explained = sum(seconds for name, seconds in metrics.items() if name not in _WHOLES)
        return round(metrics["first_audio_s"] - explained, 4)
