"""Happenings as server events, made of the types of the `openai` package."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, get_args

from openai.types import realtime as rt
from pydantic import BaseModel

from voicebot import happenings as h
from voicebot.conversation import Item, new_id
from voicebot.errors import VoicebotError

Event = dict[str, Any]


@dataclass
class _Reply:
    """What was told of an answer so far."""

    text: str = ""
    item: bool = False
    output: list[dict[str, Any]] = field(default_factory=list)


class Wire:
    """Translates for one client; numbers its events."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._replies: dict[str, _Reply] = {}
        self._conversation = new_id("conv")

    def event(self, kind: type[BaseModel], **fields: Any) -> Event:
        """One event of this type."""
        (name,) = get_args(kind.model_fields["type"].annotation)
        made = kind.model_validate({"type": name, "event_id": f"event_{next(self._count)}", **fields})
        dumped: Event = made.model_dump(mode="json", exclude_unset=True)
        return dumped

    def error(self, error: VoicebotError, event_id: str | None = None, param: str | None = None) -> Event:
        """What went wrong, and with which of the client's events."""
        return self.event(
            rt.RealtimeErrorEvent, error={**error.as_dict(), "event_id": event_id, "param": param}
        )

    def translate(self, happening: h.Happening) -> Iterator[Event]:
        """The events that tell of it."""
        match happening:
            case h.SpeechStarted(item_id, at_ms):
                kind = rt.InputAudioBufferSpeechStartedEvent
                yield self.event(kind, item_id=item_id, audio_start_ms=at_ms)
            case h.SpeechStopped(item_id, at_ms):
                yield self.event(rt.InputAudioBufferSpeechStoppedEvent, item_id=item_id, audio_end_ms=at_ms)
            case h.Committed(item, previous_id):
                kind_ = rt.InputAudioBufferCommittedEvent
                yield self.event(kind_, item_id=item.id, previous_item_id=previous_id)
                yield from self.added(item, previous_id, spoken=True)
            case h.Partial(item_id, text):
                yield self.event(
                    rt.ConversationItemInputAudioTranscriptionDeltaEvent,
                    item_id=item_id, content_index=0, delta=text,
                )  # fmt: skip
            case h.Transcribed(item_id, text, seconds):
                yield self.event(
                    rt.ConversationItemInputAudioTranscriptionCompletedEvent,
                    item_id=item_id, content_index=0, transcript=text,
                    usage={"type": "duration", "seconds": round(seconds, 3)},
                )  # fmt: skip
            case h.NotTranscribed(item_id, error):
                yield self.event(
                    rt.ConversationItemInputAudioTranscriptionFailedEvent,
                    item_id=item_id, content_index=0, error=error.as_dict(),
                )  # fmt: skip
            case h.Truncated(item_id, audio_end_ms):
                yield self.event(
                    rt.ConversationItemTruncatedEvent,
                    item_id=item_id, content_index=0, audio_end_ms=audio_end_ms,
                )  # fmt: skip
            case _:
                yield from self._reply(happening)

    def added(self, item: Item, previous_id: str | None, *, spoken: bool = False) -> Iterator[Event]:
        """A new item of the conversation, whole from the start."""
        shown = item_object(item, spoken=spoken)
        yield self.event(rt.ConversationItemAdded, item=shown, previous_item_id=previous_id)
        yield self.event(rt.ConversationItemDone, item=shown, previous_item_id=previous_id)

    def _reply(self, happening: h.Happening) -> Iterator[Event]:
        match happening:
            case h.ReplyStarted(info):
                self._replies[info.id] = _Reply()
                yield self.event(rt.ResponseCreatedEvent, response=self._response(info, "in_progress"))
            case h.ReplyItem(info, previous_id):
                self._replies[info.id].item = True
                yield from self._begin_item(info, previous_id)
            case h.ReplyText(info, text):
                self._replies[info.id].text += text
                kind: type[BaseModel] = rt.ResponseTextDeltaEvent
                if info.aloud:
                    kind = rt.ResponseAudioTranscriptDeltaEvent
                yield self.event(kind, **_part_of(info), delta=text)
            case h.ReplyAudio(info, pcm):
                delta = base64.b64encode(pcm).decode()
                yield self.event(rt.ResponseAudioDeltaEvent, **_part_of(info), delta=delta)
            case h.ReplyDone():
                yield from self._end(happening)

    def _begin_item(self, info: h.ReplyInfo, previous_id: str | None) -> Iterator[Event]:
        item = _message(info, "in_progress", None)
        where = {"response_id": info.id, "output_index": 0}
        yield self.event(rt.ResponseOutputItemAddedEvent, **where, item=item)
        if info.remembered:
            yield self.event(rt.ConversationItemAdded, item=item, previous_item_id=previous_id)
        yield self.event(rt.ResponseContentPartAddedEvent, **_part_of(info), part=_part(info, ""))

    def _end(self, done: h.ReplyDone) -> Iterator[Event]:
        info = done.reply
        told = self._replies.pop(info.id)
        if told.item:
            text = done.text if done.status in ("completed", "cancelled", "incomplete") else told.text
            status = "completed" if done.status == "completed" else "incomplete"
            if info.aloud:
                yield self.event(rt.ResponseAudioDoneEvent, **_part_of(info))
                yield self.event(rt.ResponseAudioTranscriptDoneEvent, **_part_of(info), transcript=text)
            else:
                yield self.event(rt.ResponseTextDoneEvent, **_part_of(info), text=text)
            yield self.event(rt.ResponseContentPartDoneEvent, **_part_of(info), part=_part(info, text))
            item = _message(info, status, text)
            told.output.append(item)
            yield self.event(rt.ResponseOutputItemDoneEvent, response_id=info.id, output_index=0, item=item)
            if info.remembered:
                yield self.event(rt.ConversationItemDone, item=item)
        for call in done.calls:
            yield from self._call(info, call, told)
        yield self.event(rt.ResponseDoneEvent, response=self._response(info, done.status, told, done))

    def _call(self, info: h.ReplyInfo, call: Item, told: _Reply) -> Iterator[Event]:
        item = item_object(call)
        index = len(told.output)
        told.output.append(item)
        where = {"response_id": info.id, "output_index": index}
        started = {**item, "status": "in_progress", "arguments": ""}
        yield self.event(rt.ResponseOutputItemAddedEvent, **where, item=started)
        named = {**where, "item_id": call.id, "call_id": call.call_id}
        yield self.event(rt.ResponseFunctionCallArgumentsDeltaEvent, **named, delta=call.text)
        yield self.event(
            rt.ResponseFunctionCallArgumentsDoneEvent, **named, name=call.name, arguments=call.text
        )
        yield self.event(rt.ResponseOutputItemDoneEvent, **where, item=item)
        if info.remembered:
            yield self.event(rt.ConversationItemAdded, item=item)
            yield self.event(rt.ConversationItemDone, item=item)

    def _response(
        self, info: h.ReplyInfo, status: str, told: _Reply | None = None, done: h.ReplyDone | None = None
    ) -> dict[str, Any]:
        details: dict[str, Any] | None = None
        if done is not None and status != "completed":
            details = {"type": status}
            if status == "incomplete":
                details["reason"] = "max_output_tokens"
            elif done.reason in ("turn_detected", "client_cancelled"):
                details["reason"] = done.reason
            if done.error is not None:
                details["error"] = done.error.as_dict()
        timing = {name: f"{seconds:.4f}" for name, seconds in done.metrics.items()} if done else None
        return {
            "object": "realtime.response",
            "id": info.id,
            "status": status,
            "status_details": details,
            "output": told.output if told else [],
            "conversation_id": self._conversation if info.remembered else None,
            "output_modalities": ["audio" if info.aloud else "text"],
            "max_output_tokens": "inf",
            "usage": None,
            "metadata": timing,
        }


def item_object(item: Item, *, spoken: bool = False) -> dict[str, Any]:
    """A conversation item as clients see it."""
    whole = {"id": item.id, "object": "realtime.item", "status": "completed"}
    match item.kind:
        case "call":
            call = {"name": item.name, "call_id": item.call_id, "arguments": item.text}
            return {**whole, "type": "function_call", **call}
        case "output":
            return {**whole, "type": "function_call_output", "call_id": item.call_id, "output": item.text}
        case "assistant":
            content: dict[str, Any] = {"type": "output_text", "text": item.text}
        case _ if spoken:
            content = {"type": "input_audio", "transcript": item.text or None}
        case _:
            content = {"type": "input_text", "text": item.text}
    return {**whole, "type": "message", "role": item.kind, "content": [content]}


def _message(info: h.ReplyInfo, status: str, text: str | None) -> dict[str, Any]:
    content: list[dict[str, Any]] = []
    if text is not None:
        part = {"type": "output_text", "text": text}
        content = [{"type": "output_audio", "transcript": text} if info.aloud else part]
    whole = {"id": info.item_id, "object": "realtime.item", "type": "message", "role": "assistant"}
    return {**whole, "status": status, "content": content}


def _part(info: h.ReplyInfo, text: str) -> dict[str, str]:
    return {"type": "audio", "transcript": text} if info.aloud else {"type": "text", "text": text}


def _part_of(info: h.ReplyInfo) -> dict[str, Any]:
    return {"response_id": info.id, "item_id": info.item_id, "output_index": 0, "content_index": 0}
