"""A transcription in the formats of the OpenAI audio API."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from voicebot.audio import Recording
from voicebot.errors import AudioError
from voicebot.stt import Segment

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
GRANULARITIES = ("segment", "word")
_PER_SECOND = 100
"""Whisper counts `seek` in frames of 10 ms."""


def check(shape: str, granularities: Collection[str], *, streamed: bool) -> None:
    """Refuse what can't be had, before anything is transcribed."""
    if shape not in FORMATS:
        raise AudioError(
            "unsupported_format", f"response_format is {shape!r}.", rule=f"one of {', '.join(FORMATS)}."
        )
    if streamed and shape not in ("json", "text"):
        raise AudioError(
            "unsupported_format",
            f"response_format is {shape!r}, and stream is true.",
            rule="events carry text: json or text.",
            remedy="leave one of them out.",
        )
    for name in granularities:
        if name not in GRANULARITIES or shape != "verbose_json":
            raise AudioError(
                "unsupported_granularity",
                f"timestamp_granularities[] is {name!r} with response_format {shape!r}.",
                rule=f"{' or '.join(GRANULARITIES)}, with verbose_json.",
            )


@dataclass(frozen=True)
class Transcription:
    """What a client asked for."""

    recording: Recording
    language: str
    shape: str
    granularities: frozenset[str]
    streamed: bool

    @property
    def words(self) -> bool:
        """Whether each word's times are wanted."""
        return "word" in self.granularities

    def answer(self, segments: Sequence[Segment]) -> Response:
        """The response in the format asked for."""
        match self.shape:
            case "text":
                return PlainTextResponse(joined(segments) + "\n")
            case "srt":
                return PlainTextResponse(_subtitles(segments, ",", numbered=True))
            case "vtt":
                text = "WEBVTT\n\n" + _subtitles(segments, ".", numbered=False)
                return PlainTextResponse(text, media_type="text/vtt")
            case "verbose_json":
                return JSONResponse(self._verbose(segments))
        usage = {"type": "duration", "seconds": round(self.recording.seconds, 3)}
        return JSONResponse({"text": joined(segments), "usage": usage})

    def _verbose(self, segments: Sequence[Segment]) -> dict[str, Any]:
        """Segments unless only words were asked for, as the API has it."""
        seconds = self.recording.seconds
        told: dict[str, Any] = {
            "task": "transcribe",
            "language": self.language,
            "duration": round(seconds, 3),
            "text": joined(segments),
            "usage": {"type": "duration", "seconds": round(seconds, 3)},
        }
        if self.granularities != {"word"}:
            told["segments"] = [_segment(number, segment) for number, segment in enumerate(segments)]
        if self.words:
            told["words"] = [
                {"word": word.word, "start": round(word.start, 3), "end": round(word.end, 3)}
                for segment in segments
                for word in segment.words
            ]
        return told


def joined(segments: Sequence[Segment]) -> str:
    """The whole text."""
    return " ".join(segment.text for segment in segments).strip()


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    return {
        "id": number,
        "seek": round(segment.start * _PER_SECOND),
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": list(segment.tokens),
        "temperature": segment.temperature,
        "avg_logprob": segment.avg_logprob,
        "compression_ratio": segment.compression_ratio,
        "no_speech_prob": segment.no_speech_prob,
    }


def _subtitles(segments: Sequence[Segment], comma: str, *, numbered: bool) -> str:
    blocks = []
    for number, segment in enumerate(segments, 1):
        times = f"{_time(segment.start, comma)} --> {_time(segment.end, comma)}"
        blocks.append((f"{number}\n" if numbered else "") + f"{times}\n{segment.text}\n")
    return "\n".join(blocks)


def _time(seconds: float, comma: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"
