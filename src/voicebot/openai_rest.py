"""The OpenAI audio API: POST /v1/audio/transcriptions and /v1/audio/speech, GET /v1/models."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from email.message import Message
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from voicebot.audio import Recording, decode
from voicebot.body import read
from voicebot.clauses import ClauseSplitter
from voicebot.config import Settings
from voicebot.errors import AudioError, VoicebotError
from voicebot.stages import Stages
from voicebot.stt import Segment

_CLIENT_CLOSED = 499
_LONGEST_INPUT = 4096
_WAV_OF_UNKNOWN_LENGTH = 0x7FFF_FFFF


def routes(settings: Settings, stages: Stages) -> list[Route]:
    """Their routes over loaded stages."""
    audio = _Audio(settings, stages)
    return [
        Route("/v1/models", audio.models),
        Route("/v1/audio/transcriptions", audio.transcriptions, methods=["POST"]),
        Route("/v1/audio/speech", audio.speech, methods=["POST"]),
    ]


class _Audio:
    def __init__(self, settings: Settings, stages: Stages) -> None:
        self._settings = settings
        self._stages = stages

    async def models(self, _request: Request) -> Response:
        names = ("voicebot", self._settings.stt.model.name, self._settings.tts.engine)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "voicebot"} for name in names]
        return JSONResponse({"object": "list", "data": data})

    async def transcriptions(self, request: Request) -> Response:
        try:
            body = await read(request, self._settings.limits)
            fields = _form(request.headers.get("content-type", ""), body.getvalue())
            answer = _formatter(fields.get("response_format", b"json").decode())
            language = fields.get("language", b"").decode() or None
            if language:
                self._stages.stt.check_language(language)
            if "file" not in fields:
                raise AudioError("missing_file", "The form has no field `file`.", rule="the recording.")
            limits = self._settings.limits
            recording = await asyncio.to_thread(
                decode, io.BytesIO(fields["file"]),
                max_seconds=limits.max_audio_seconds, within_s=limits.max_decode_seconds,
            )  # fmt: skip
            if fields.get("stream", b"").lower() == b"true":
                return StreamingResponse(self._streamed(recording, language), media_type="text/event-stream")
            segments = await self._stages.stt.segments(recording, language=language)
            return answer(segments, recording, language or self._settings.stt.language)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)
        except VoicebotError as error:
            return _refused(error)

    async def _streamed(self, recording: Recording, language: str | None) -> AsyncIterator[str]:
        try:
            segments = await self._stages.stt.segments(recording, language=language)
        except VoicebotError as error:
            yield _event({"type": "error", "error": error.as_dict()})
            return
        for number, segment in enumerate(segments):
            delta = segment.text if number == 0 else f" {segment.text}"
            yield _event({"type": "transcript.text.delta", "delta": delta})
        yield _event({"type": "transcript.text.done", "text": _joined(segments)})

    async def speech(self, request: Request) -> Response:
        try:
            fields = _speech_fields((await read(request, self._settings.limits)).getvalue())
            clauses = _clauses(fields["input"])
            speech = self._spoken(clauses)
            head = _wav_head(self._stages.tts.sample_rate) if fields["response_format"] == "wav" else b""
            first = await anext(speech, b"")  # a voice that fails at once is an error, not a cut stream
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)
        except VoicebotError as error:
            return _refused(error)
        kind = "audio/wav" if head else "audio/pcm"
        return StreamingResponse(_all(head + first, speech), media_type=kind)

    async def _spoken(self, clauses: list[str]) -> AsyncGenerator[bytes, None]:
        for clause in clauses:
            async with aclosing(self._stages.tts.speak(clause)) as pieces:
                async for pcm in pieces:
                    yield pcm


async def _all(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


def _refused(error: VoicebotError) -> JSONResponse:
    status = 400 if error.kind == "config_error" else error.status
    return JSONResponse({"error": error.as_dict()}, status_code=status)


def _form(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form; a file's field is its content."""
    kind = _header(content_type)
    boundary = kind.get_param("boundary")
    if kind.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
        what = f"The body is {content_type or 'of no type'}."
        raise AudioError("no_form", what, rule="multipart/form-data with a boundary.")
    fields: dict[str, bytes] = {}
    mark = b"\r\n--" + boundary.encode()
    for part in (b"\r\n" + body).split(mark)[1:-1]:
        head, _, content = part.partition(b"\r\n\r\n")
        lines = head.decode("utf-8", "replace").splitlines()
        about = [line.partition(":")[2] for line in lines if line.lower().startswith("content-disposition:")]
        name = _header(about[0]).get_param("name") if about else None
        if isinstance(name, str):
            fields[name] = content
    return fields


def _header(value: str) -> Message:
    message = Message()
    message["Content-Type"] = value.strip()
    return message


def _speech_fields(body: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise AudioError("invalid_json", f"The body is not JSON: {error}.", rule="a JSON object.") from error
    text = fields.get("input") if isinstance(fields, dict) else None
    if not isinstance(text, str) or not 0 < len(text) <= _LONGEST_INPUT:
        raise AudioError(
            "invalid_input", "`input` is no text to speak.", rule=f"1 to {_LONGEST_INPUT} characters."
        )
    form = fields.setdefault("response_format", "wav")
    if form not in ("wav", "pcm"):
        what = f"response_format is {form!r}."
        raise AudioError(
            "unsupported_format", what, rule="wav or pcm.", remedy="name it: the API's default is mp3."
        )
    return dict(fields)


def _clauses(text: str) -> list[str]:
    splitter = ClauseSplitter()
    return [*splitter.feed(text), *splitter.finish()]


def _wav_head(rate: int) -> bytes:
    """Of a WAV whose length is not known yet."""
    size = _WAV_OF_UNKNOWN_LENGTH
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", size, b"WAVE") + form + struct.pack("<4sI", b"data", size)


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data)}\n\n"


def _joined(segments: list[Segment]) -> str:
    return " ".join(segment.text for segment in segments).strip()


Formatter = Callable[[list[Segment], Recording, str], Response]


def _formatter(name: str) -> Formatter:
    known: dict[str, Formatter] = {
        "json": lambda segments, _, __: JSONResponse({"text": _joined(segments)}),
        "text": lambda segments, _, __: PlainTextResponse(_joined(segments) + "\n"),
        "srt": lambda segments, _, __: PlainTextResponse(_subtitles(segments, ",", numbered=True)),
        "vtt": lambda segments, _, __: PlainTextResponse(
            "WEBVTT\n\n" + _subtitles(segments, ".", numbered=False), media_type="text/vtt"
        ),
        "verbose_json": _verbose,
    }
    if name not in known:
        raise AudioError(
            "unsupported_format", f"response_format is {name!r}.", rule=f"one of {', '.join(known)}."
        )
    return known[name]


def _verbose(segments: list[Segment], recording: Recording, language: str) -> Response:
    listed = [
        {"id": number, "start": round(s.start, 2), "end": round(s.end, 2), "text": s.text}
        for number, s in enumerate(segments)
    ]
    whole = {"task": "transcribe", "language": language, "duration": round(recording.seconds, 2)}
    return JSONResponse({**whole, "text": _joined(segments), "segments": listed})


def _subtitles(segments: list[Segment], comma: str, *, numbered: bool) -> str:
    blocks = []
    for number, segment in enumerate(segments, 1):
        times = f"{_time(segment.start, comma)} --> {_time(segment.end, comma)}"
        blocks.append((f"{number}\n" if numbered else "") + f"{times}\n{segment.text}\n")
    return "\n".join(blocks)


def _time(seconds: float, comma: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{comma}{ms % 1000:03}"
