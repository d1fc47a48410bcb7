"""One WebSocket: client events in, server events out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from openai.types import realtime as rt
from pydantic import BaseModel, ValidationError
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from voicebot import happenings as h
from voicebot.admission import Admission, BusyError
from voicebot.config import Settings
from voicebot.conversation import Item, new_id
from voicebot.errors import AudioError, VoicebotError
from voicebot.metrics import Metrics
from voicebot.realtime.agreement import Agreement, chat_choice, chat_tools
from voicebot.realtime.formats import Heard, Voiced
from voicebot.realtime.items import decoded, kind_of, no_item, parsed, spoken_part, text_of
from voicebot.realtime.outbox import Outbox
from voicebot.realtime.wire import Event, Wire, item_object
from voicebot.session import Session
from voicebot.setup import Setup
from voicebot.stages import Stages
from voicebot.turns import VoiceModel

log = logging.getLogger("voicebot")

_PROTOCOL = "realtime"
_CLOSE_WITHIN_S = 2.0
_MOST_ITEMS, _MOST_TEXT = 1000, 1_000_000
_NO_TEXT, _TOO_LONG, _TOO_SLOW = 1003, 1008, 1013

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

    def __init__(
        self,
        stages: Stages,
        voices: VoiceModel,
        settings: Settings,
        metrics: Metrics,
        admission: Admission,
    ) -> None:
        self._admission = admission
        self._stages = stages
        self._voices = voices
        self._settings = settings
        self._metrics = metrics

    async def serve(self, socket: WebSocket) -> None:
        """Serve one client until it leaves."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._admission.place())
            except BusyError as error:
                self._metrics.refused()
                body = {"error": error.as_dict()}
                headers = {"Retry-After": str(error.retry_after_s)}
                await socket.send_denial_response(JSONResponse(body, error.status, headers))
                return
            await self._serve(socket)

    async def _serve(self, socket: WebSocket) -> None:
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
            with self._admission.seated(connection):
                await connection.run()
        finally:
            self._metrics.session(-1)


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
        self._limits = settings.limits
        self._ended = asyncio.Event()
        self._farewell: tuple[int, str] | None = None
        self._out = Outbox(
            int(settings.limits.max_outgoing_mb * 1_000_000),
            lambda: self.end(_TOO_SLOW, "events are taken too slowly (limits.max_outgoing_mb)"),
        )
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

    @property
    def engaged(self) -> bool:
        """Whether somebody speaks, or an answer is on its way."""
        return self._session.engaged

    def end(self, code: int, reason: str) -> None:
        """Close it soon, with a WebSocket's close code; the first reason counts."""
        self._farewell = self._farewell or (code, reason)
        self._ended.set()

    async def run(self) -> None:
        """Until the client leaves, or a limit is reached."""
        self._send(self._wire.event(rt.SessionCreatedEvent, session=self._agreement.session))
        self._session.greet()
        reading = asyncio.create_task(self._read())
        tasks = [reading, asyncio.create_task(self._write()), asyncio.create_task(self._ended.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                reading.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._session.close()
            await self._say_farewell()

    async def _read(self) -> None:
        now = asyncio.get_running_loop().time
        last = now() + 60 * self._limits.max_session_minutes
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                silent = now() + 60 * self._limits.max_idle_minutes
                try:
                    async with asyncio.timeout_at(min(last, silent)):
                        text = await self._socket.receive_text()
                except TimeoutError:
                    limit = "max_session_minutes" if last <= silent else "max_idle_minutes"
                    self.end(_TOO_LONG, f"limits.{limit} is reached")
                    return
                except KeyError:
                    self.end(_NO_TEXT, "events are text, this was a binary message")
                    return
                await self._take(text)

    async def _say_farewell(self) -> None:
        if self._farewell is None:
            return
        log.info("session ended: %s", self._farewell[1])
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
            async with asyncio.timeout(_CLOSE_WITHIN_S):
                await self._socket.close(*self._farewell)

    def _send(self, event: Event, audio_of: str = "") -> None:
        self._out.put(event, audio_of)

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
            self._out.silence(happening.reply.id)
        for event in self._wire.translate(happening):
            self._send(event, audio_of)

    async def _write(self) -> None:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            while True:
                await self._socket.send_text(await self._out.get())

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
        except Exception:  # one event must not end the conversation
            log.exception("a bug in an event")
            bug = VoicebotError("internal_error", "The event could not be handled.")
            self._send(self._wire.error(bug, event_id))

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
        self._refuse_more_text()
        recording = spoken_part(data)
        item = Item(kind_of(data), text_of(data), data.get("id") or new_id("item"))
        item.call_id, item.name = data.get("call_id", ""), data.get("name", "")
        previous = conversation.append(item, after=after)
        for told in self._wire.added(item, previous, spoken=recording is not None):
            self._send(told)
        if recording is not None:
            whole = Heard(self._heard.kind).pcm(recording, last=True)
            self._session.transcribe_into(item, whole)

    def _refuse_more_text(self) -> None:
        items = self._session.conversation.items
        if len(items) >= _MOST_ITEMS or sum(len(item.text) for item in items) > _MOST_TEXT:
            raise AudioError(
                "conversation_full",
                f"The conversation holds {len(items)} items.",
                rule=f"at most {_MOST_ITEMS}, and {_MOST_TEXT} characters.",
                remedy="delete some of them.",
            )

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
