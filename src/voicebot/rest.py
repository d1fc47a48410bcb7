"""HTTP: all routes, and POST /v1/turns, which streams one turn in the names of the OpenAI Realtime API."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import socket
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute

from voicebot import openai_rest, page, turn
from voicebot.admission import Admission
from voicebot.audio import Recording, decode
from voicebot.body import read
from voicebot.config import Settings
from voicebot.conversation import Conversation
from voicebot.door import Door
from voicebot.errors import EngineError, VoicebotError
from voicebot.health import OK, Health
from voicebot.keys import Keys
from voicebot.metrics import CONTENT_TYPE, Metrics
from voicebot.realtime.server import Realtime
from voicebot.turns import VoiceModel
from voicebot.wyoming import server as wyoming

log = logging.getLogger("voicebot")

_CLIENT_CLOSED = 499


def build(
    settings: Settings,
    stages: turn.Stages,
    voices: VoiceModel,
    home: socket.socket | None = None,
    *,
    keys: Keys | None = None,
    admission: Admission | None = None,
) -> Starlette:
    """The web application over loaded stages, which it closes at its end.

    `home` is for Wyoming's server. `keys` None: nobody needs one.
    """

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            await stages.llm.prepare()
        except EngineError as error:
            log.warning("the engine is not ready yet: %s", error)
        async with wyoming.serving(home, settings, stages):
            yield
        stages.stt.close()
        if voices.turns:
            voices.turns.close()
        stages.tts.close()
        await stages.llm.close()

    fitness = Health(stages)

    async def get_health(request: Request) -> Response:
        state = await fitness.check()
        if not request.state.known:
            state = {"status": state["status"]}
        return JSONResponse(state, status_code=200 if state["status"] == OK else 503)

    async def post_turn(request: Request) -> Response:
        try:
            body = await read(request, settings.limits)
            watch = turn.Stopwatch()
            limits = settings.limits
            recording = await asyncio.to_thread(
                decode, body, max_seconds=limits.max_audio_seconds, within_s=limits.max_decode_seconds
            )
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED)
        except VoicebotError as error:
            log.info("turn refused: %s", error.code)
            return JSONResponse({"error": error.as_dict()}, status_code=error.status)
        conversation = Conversation(settings.llm.system_prompt)
        events = turn.events(stages, conversation, recording, watch)
        return StreamingResponse(
            _server_sent(events, recording),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    metrics = Metrics(lambda: stages.stt.waiting)

    async def get_metrics(_request: Request) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    admission = admission or Admission(settings.limits.max_sessions)
    realtime: Any = Realtime(stages, voices, settings, metrics, admission)
    routes = [
        Route("/health", get_health),
        Route("/metrics", get_metrics),
        Route("/v1/turns", post_turn, methods=["POST"]),
        WebSocketRoute("/v1/realtime", realtime.serve),
        *openai_rest.routes(settings, stages),
        *page.routes(),
    ]
    public = {"/health", *(route.path for route in page.routes())}
    door = Middleware(Door, settings.server, settings.limits, keys, public)
    context: Any = lifespan
    return Starlette(routes=routes, lifespan=context, middleware=[door])


async def _server_sent(
    events: AsyncGenerator[turn.Event, None], recording: Recording
) -> AsyncGenerator[str, None]:
    """Events as server-sent ones. Closed by a client that goes away: the turn is cancelled with it."""
    outcome = "abandoned"
    metrics: dict[str, float] = {}
    try:
        async with aclosing(events) as source:
            async for event in source:
                if isinstance(event, turn.Done):
                    outcome, metrics = event.status, event.metrics
                elif isinstance(event, turn.Failed):
                    log.error("turn failed: %s", event.error.code)
                yield f"data: {json.dumps(to_realtime(event))}\n\n"
    finally:
        timing = " ".join(f"{name}={seconds:.2f}" for name, seconds in metrics.items())
        log.info("turn %s: audio_s=%.1f %s", outcome, recording.seconds, timing)  # never what was said


def to_realtime(event: turn.Event) -> dict[str, Any]:
    """The event under its name in the OpenAI Realtime API."""
    match event:
        case turn.Heard(text):
            return {"type": "conversation.item.input_audio_transcription.completed", "transcript": text}
        case turn.Written(text):
            return {"type": "response.output_audio_transcript.delta", "delta": text}
        case turn.Spoken(pcm):
            return {"type": "response.output_audio.delta", "delta": base64.b64encode(pcm).decode()}
        case turn.Said(text):
            return {"type": "response.output_audio_transcript.done", "transcript": text}
        case turn.Failed(error):
            return {"type": "error", "error": error.as_dict()}
        case turn.Done(status, metrics):
            return {"type": "response.done", "response": {"status": status}, "metrics": metrics}
