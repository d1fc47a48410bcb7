"""One WebSocket: client events in, server events out."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from openai.types import realtime as rt
from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from voicebot import happenings as h
from voicebot.config import Settings
from voicebot.conversation import Item, new_id
from voicebot.errors import AudioError, VoicebotError
from voicebot.metrics import Metrics
from voicebot.realtime.agreement import Agreement, chat_choice, chat_tools
from voicebot.realtime.formats import Heard, Voiced
from voicebot.realtime.items import decoded, kind_of, no_item, parsed, spoken_part, text_of
from voicebot.realtime.wire import Event, Wire, item_object
from voicebot.session import Session
from voicebot.setup import Setup
from voicebot.stages import Stages
from voicebot.turns import VoiceModel

log = logging.getLogger("voicebot")

_PROTOCOL = "realtime"
_NOT_ALLOWED, _BUSY = 403, 503

_CLIENT_EVENTS: MappingProxyType[str, type[BaseModel]] = MappingProxyType(
    {
        "session.update": rt.SessionUpdateEvent,
        "input_audio_buffer.append": rt.InputAudioBufferAppendEvent,
        "input_audio_buffer.commit": rt.InputAudioBufferCommitEvent,
        "input_audio_buffer.clear": rt.InputAudioBufferClearEvent,
        "conversation.item.create": rt.ConversationItemCreateEvent,
        "conversation.item.delete": rt.ConversationItemDeleteEvent,
        "conversation.item.retrieve": rt.ConversationItemRetrieveEvent,
        "conversation.item.truncate": rt.ConversationItemTruncateEvent,
        "response.create": rt.ResponseCreateEvent,
        "response.cancel": rt.ResponseCancelEvent,
    }
)


class Realtime:
    """The endpoint `/v1/realtime`."""

    def __init__(self, stages: Stages, voices: VoiceModel, settings: Settings, metrics: Metrics) -> None:
        self._stages = stages
        self._voices = voices
        self._settings = settings
        self._metrics = metrics

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client until it leaves."""
        if refusal := self._refuse(socket):
            self._metrics.refused()
            await socket.send_denial_response(refusal)
            return
        try:
            name = socket.query_params.get("persona", self._settings.conversation.persona)
            agreement = Agreement(self._settings, self._settings.persona(name))
        except VoicebotError as error:
            await socket.send_denial_response(JSONResponse({"error": error.as_dict()}, status_code=400))
            return
        offered = socket.scope.get("subprotocols", [])
        await socket.accept(subprotocol=_PROTOCOL if _PROTOCOL in offered else None)
        self._metrics.session(1)
        try:
            connection = Connection(
                socket, self._stages, self._voices, self._settings, agreement, self._metrics
            )
            await connection.run()
        finally:
            self._metrics.session(-1)

    def _refuse(self, socket: WebSocket) -> JSONResponse | None:
        # A page of another site must not talk to a service on this host behind its user's back.
        origin = socket.headers.get("origin")
        if origin and urlsplit(origin).netloc != socket.headers.get("host"):
            what = f"Pages of {origin} may not use this service."
            error = AudioError(
                "origin", what, rule="pages that it serves itself.", remedy="open its own page."
            )
            return JSONResponse({"error": error.as_dict()}, status_code=_NOT_ALLOWED)
        if self._metrics.sessions >= self._settings.limits.max_sessions:
            error = AudioError(
                "too_many_sessions",
                f"{self._metrics.sessions} conversations are going on.",
                rule=f"at most {self._settings.limits.max_sessions} (limits.max_sessions).",
                remedy="try again later.",
            )
            return JSONResponse({"error": error.as_dict()}, status_code=_BUSY)
        return None


class Connection:
    """One client's session and its two directions."""

    def __init__(
        self,
        socket: WebSocket,
        stages: Stages,
        voices: VoiceModel,
        settings: Settings,
        agreement: Agreement,
        metrics: Metrics,
    ) -> None:
        self._socket = socket
        self._stages = stages
        self._agreement = agreement
        self._wire = Wire()
        self._out: asyncio.Queue[tuple[Event, str]] = asyncio.Queue()
        self._silenced: set[str] = set()
        self._heard = Heard(agreement.format("input"))
        self._voiced: dict[str, Voiced] = {}
        self._session = Session(stages, voices, settings, agreement.setup(), self._tell, metrics)
        self._handlers: dict[str, Callable[[Any], Awaitable[None]]] = {
            "session.update": self._update,
            "input_audio_buffer.append": self._append,
            "input_audio_buffer.commit": self._commit,
            "input_audio_buffer.clear": self._clear,
            "conversation.item.create": self._create_item,
            "conversation.item.delete": self._delete_item,
            "conversation.item.retrieve": self._retrieve_item,
            "conversation.item.truncate": self._truncate,
            "response.create": self._respond,
            "response.cancel": self._cancel,
        }

    async def run(self) -> None:
        """Until the client leaves."""
        self._send(self._wire.event(rt.SessionCreatedEvent, session=self._agreement.session))
        self._session.greet()
        writer = asyncio.create_task(self._write())
        try:
            while not writer.done():
                await self._take(await self._socket.receive_text())
        except (WebSocketDisconnect, KeyError):  # KeyError: a binary message
            pass
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            await self._session.close()

    def _send(self, event: Event, audio_of: str = "") -> None:
        self._out.put_nowait((event, audio_of))

    def _tell(self, happening: h.Happening) -> None:
        for told in self._in_format(happening):
            self._tell_one(told)

    def _in_format(self, happening: h.Happening) -> Iterator[h.Happening]:
        """Speech in the client's format; its end is what a resampler held back."""
        match happening:
            case h.ReplyAudio(info, pcm):
                rate = self._stages.tts.sample_rate
                voiced = self._voiced.setdefault(info.id, Voiced(self._agreement.format("output"), rate))
                if encoded := voiced.encoded(pcm):
                    yield h.ReplyAudio(info, encoded)
                return
            case h.ReplyDone(info) if held := self._voiced.pop(info.id, None):
                if happening.status != "cancelled" and (end := held.encoded(b"", last=True)):
                    yield h.ReplyAudio(info, end)
        yield happening

    def _tell_one(self, happening: h.Happening) -> None:
        audio_of = happening.reply.id if isinstance(happening, h.ReplyAudio) else ""
        if isinstance(happening, h.ReplyDone) and happening.status == "cancelled":
            self._silenced.add(happening.reply.id)
        for event in self._wire.translate(happening):
            self._send(event, audio_of)

    async def _write(self) -> None:
        while True:
            event, audio_of = await self._out.get()
            if audio_of in self._silenced:
                continue  # nobody wants to hear the rest of it
            try:
                await self._socket.send_text(json.dumps(event))
            except (WebSocketDisconnect, RuntimeError, OSError):
                return

    async def _take(self, text: str) -> None:
        event_id = None
        try:
            data = parsed(text)
            event_id = data.get("event_id") if isinstance(data.get("event_id"), str) else None
            kind = _CLIENT_EVENTS.get(str(data.get("type")))
            if kind is None:
                raise AudioError(
                    "unknown_event",
                    f"The event type is {data.get('type')!r}.",
                    rule=f"one of {', '.join(_CLIENT_EVENTS)}.",
                )
            await self._handlers[data["type"]](kind.model_validate(data))
        except ValidationError as error:
            detail = error.errors()[0]
            where = ".".join(str(part) for part in detail["loc"])
            wrong = AudioError(
                "invalid_event", f"{where}: {detail['msg']}.", rule="as the Realtime API says."
            )
            self._send(self._wire.error(wrong, event_id, where))
        except VoicebotError as error:
            self._send(self._wire.error(error, event_id))

    async def _update(self, event: rt.SessionUpdateEvent) -> None:
        before = self._agreement.session
        self._agreement.update(event)
        setup = self._agreement.setup()
        if setup.persona.language:
            try:
                self._stages.stt.check_language(setup.persona.language)
            except VoicebotError:
                self._agreement.session = before
                raise
        self._session.change(setup)
        if (kind := self._agreement.format("input")) != self._heard.kind:
            self._heard = Heard(kind)
        self._session.conversation.system_prompt = self._agreement.instructions.strip()
        self._send(self._wire.event(rt.SessionUpdatedEvent, session=self._agreement.session))

    async def _append(self, event: rt.InputAudioBufferAppendEvent) -> None:
        await self._session.hear(self._heard.pcm(decoded(event.audio)))

    async def _commit(self, _event: rt.InputAudioBufferCommitEvent) -> None:
        self._session.commit()

    async def _clear(self, _event: rt.InputAudioBufferClearEvent) -> None:
        self._session.clear()
        self._send(self._wire.event(rt.InputAudioBufferClearedEvent))

    async def _create_item(self, event: rt.ConversationItemCreateEvent) -> None:
        data = event.item.model_dump(mode="json", exclude_unset=True)
        conversation = self._session.conversation
        after = event.previous_item_id
        if after not in (None, "root") and conversation.find(str(after)) is None:
            raise no_item(str(after))
        recording = spoken_part(data)
        item = Item(kind_of(data), text_of(data), data.get("id") or new_id("item"))
        item.call_id, item.name = data.get("call_id", ""), data.get("name", "")
        previous = conversation.append(item, after=after)
        for told in self._wire.added(item, previous, spoken=recording is not None):
            self._send(told)
        if recording is not None:
            whole = Heard(self._heard.kind).pcm(recording, last=True)
            self._session.transcribe_into(item, whole)

    async def _delete_item(self, event: rt.ConversationItemDeleteEvent) -> None:
        self._item(event.item_id)
        self._session.conversation.delete(event.item_id)
        self._send(self._wire.event(rt.ConversationItemDeletedEvent, item_id=event.item_id))

    async def _retrieve_item(self, event: rt.ConversationItemRetrieveEvent) -> None:
        item = item_object(self._item(event.item_id))
        kind = rt.realtime_server_event.ConversationItemRetrieved
        self._send(self._wire.event(kind, item=item))

    async def _truncate(self, event: rt.ConversationItemTruncateEvent) -> None:
        self._session.truncate(event.item_id, event.audio_end_ms)

    async def _respond(self, event: rt.ResponseCreateEvent) -> None:
        setup, remember = self._for_response(event.response)
        self._session.respond(setup, remember=remember)

    def _for_response(self, asked: rt.RealtimeResponseCreateParams | None) -> tuple[Setup, bool]:
        setup = self._session.setup
        if asked is None:
            return setup, True
        if asked.input is not None:
            raise AudioError(
                "unsupported",
                "response.input is not supported.",
                rule="a response answers the conversation.",
                remedy="create items first, and delete them afterwards.",
            )
        limit = asked.max_output_tokens
        choice = asked.model_dump(mode="json", exclude_unset=True).get("tool_choice")
        return replace(
            setup,
            instructions=asked.instructions,
            aloud="audio" in asked.output_modalities if asked.output_modalities else setup.aloud,
            max_tokens=limit if isinstance(limit, int) else setup.max_tokens,
            tools=setup.tools if asked.tools is None else chat_tools(asked.tools),
            tool_choice=setup.tool_choice if choice is None else chat_choice(choice),
        ), asked.conversation != "none"

    async def _cancel(self, _event: rt.ResponseCancelEvent) -> None:
        self._session.cancel()

    def _item(self, item_id: str) -> Item:
        item = self._session.conversation.find(item_id)
        if item is None:
            raise no_item(item_id)
        return item
