"""The OpenAI audio API: POST /v1/audio/transcriptions and /v1/audio/speech, GET /v1/models."""

from __future__ import annotations

import asyncio
import io
import json
import struct
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from email.message import Message
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from voicebot.audio import decode
from voicebot.body import read
from voicebot.clauses import ClauseSplitter
from voicebot.config import Settings
from voicebot.errors import AudioError, BusyError, VoicebotError
from voicebot.stages import Stages
from voicebot.stt import Segment
from voicebot.transcription import Transcription, check, joined

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
            asked = await self._asked(request)
            if asked.streamed:
                return StreamingResponse(self._streamed(asked), media_type="text/event-stream")
            stt = self._stages.stt
            segments = await stt.segments(asked.recording, language=asked.language, words=asked.words)
            return asked.answer(segments)
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)
        except VoicebotError as error:
            return _refused(error)

    async def _asked(self, request: Request) -> Transcription:
        body = await read(request, self._settings.limits)
        form = _Form(request.headers.get("content-type", ""), body.getvalue())
        language = form.text("language")
        shape = form.text("response_format") or "json"
        streamed = form.text("stream").lower() == "true"
        wanted = form.texts("timestamp_granularities[]") or form.texts("timestamp_granularities")
        check(shape, wanted, streamed=streamed)
        if language:
            self._stages.stt.check_language(language)
        limits = self._settings.limits
        recording = await asyncio.to_thread(
            decode, io.BytesIO(form.file()),
            max_seconds=limits.max_audio_seconds, within_s=limits.max_decode_seconds,
        )  # fmt: skip
        spoken = language or self._settings.stt.language
        return Transcription(recording, spoken, shape, frozenset(wanted), streamed)

    async def _streamed(self, asked: Transcription) -> AsyncGenerator[str, None]:
        """Each segment as soon as it is understood."""
        found: asyncio.Queue[Segment | None] = asyncio.Queue()  # bounded by the recording's length
        work = asyncio.create_task(
            self._stages.stt.segments(asked.recording, language=asked.language, told=found.put_nowait)
        )
        work.add_done_callback(lambda _: found.put_nowait(None))
        before = ""
        try:
            while (segment := await found.get()) is not None:
                yield _event({"type": "transcript.text.delta", "delta": before + segment.text})
                before = " "
            yield _event({"type": "transcript.text.done", "text": joined(await work)})
        except VoicebotError as error:
            yield _event({"type": "error", "error": error.as_dict()})
        finally:
            work.cancel()

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
    later = {"Retry-After": "1"} if isinstance(error, BusyError) else None
    return JSONResponse({"error": error.as_dict()}, status_code=status, headers=later)


class _Form:
    """The fields of a multipart form; a file's field is its content."""

    def __init__(self, content_type: str, body: bytes) -> None:
        kind = _header(content_type)
        boundary = kind.get_param("boundary")
        if kind.get_content_type() != "multipart/form-data" or not isinstance(boundary, str):
            what = f"The body is {content_type or 'of no type'}."
            raise AudioError("no_form", what, rule="multipart/form-data with a boundary.")
        self._fields: dict[str, list[bytes]] = {}
        mark = b"\r\n--" + boundary.encode()
        for part in (b"\r\n" + body).split(mark)[1:-1]:
            head, _, content = part.partition(b"\r\n\r\n")
            lines = head.decode("utf-8", "replace").splitlines()
            about = [
                line.partition(":")[2] for line in lines if line.lower().startswith("content-disposition:")
            ]
            name = _header(about[0]).get_param("name") if about else None
            if isinstance(name, str):
                self._fields.setdefault(name, []).append(content)

    def texts(self, name: str) -> list[str]:
        """Of a field that may be there more than once."""
        return [value.decode("utf-8", "replace") for value in self._fields.get(name, [])]

    def text(self, name: str) -> str:
        """Empty where it is missing."""
        return (self.texts(name) or [""])[-1]

    def file(self) -> bytes:
        """The recording."""
        if "file" not in self._fields:
            raise AudioError("missing_file", "The form has no field `file`.", rule="the recording.")
        return self._fields["file"][-1]


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
