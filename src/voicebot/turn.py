"""One turn: a recording in; transcript, written answer and speech out, each as soon as it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Literal

from voicebot.audio import Recording
from voicebot.conversation import Conversation
from voicebot.errors import AudioError, VoicebotError, first_error
from voicebot.llm import Asking
from voicebot.reply import Reply, Saying, Spoken, Written
from voicebot.stages import Stages, Stopwatch

__all__ = [
    "Done", "Event", "Failed", "Heard", "Said", "Spoken", "Stages", "Stopwatch", "Written", "events",
]  # fmt: skip


@dataclass(frozen=True)
class Heard:
    """What the recogniser understood."""

    text: str


@dataclass(frozen=True)
class Said:
    """The answer as it was spoken: without the unfinished sentence that llm.max_tokens left."""

    text: str


@dataclass(frozen=True)
class Failed:
    """The turn can't go on."""

    error: VoicebotError


@dataclass(frozen=True)
class Done:
    """The end of every turn; `incomplete` means that llm.max_tokens ended the answer."""

    status: Literal["completed", "incomplete", "failed"]
    metrics: dict[str, float]


Event = Heard | Written | Spoken | Said | Failed | Done


async def events(
    stages: Stages, conversation: Conversation, recording: Recording, watch: Stopwatch
) -> AsyncGenerator[Event, None]:
    """Run the turn. Closing this iterator cancels all of it, the engine's request included."""
    queue: asyncio.Queue[Event | None] = asyncio.Queue()  # bounded by llm.max_tokens
    turn = asyncio.create_task(_Turn(stages, conversation, watch, queue.put_nowait).run(recording))
    turn.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (event := await queue.get()) is not None:
            yield event
        await turn
    finally:
        turn.cancel()
        await asyncio.gather(turn, return_exceptions=True)


class _Turn:
    def __init__(
        self,
        stages: Stages,
        conversation: Conversation,
        watch: Stopwatch,
        emit: Callable[[Event], None],
    ) -> None:
        self._stages = stages
        self._conversation = conversation
        self._watch = watch
        self._emit = emit

    async def run(self, recording: Recording) -> None:
        """From recording to Done."""
        self._watch.mark("decoded")
        status: Literal["completed", "incomplete", "failed"] = "failed"
        try:
            status = await self._answer(recording)
        except VoicebotError as error:
            self._emit(Failed(error))
        except BaseExceptionGroup as group:
            failure = first_error(group)
            if not isinstance(failure, VoicebotError):
                raise
            self._emit(Failed(failure))
        finally:
            self._watch.mark("done")
        self._emit(Done(status, self._watch.metrics()))

    async def _answer(self, recording: Recording) -> Literal["completed", "incomplete"]:
        async with asyncio.TaskGroup() as group:
            # Beside the recogniser: nobody should wait for a transcript to hear that the engine is down.
            engine = group.create_task(self._stages.llm.prepare())
            question = await self._stages.stt.transcribe(recording)
        self._watch.mark("heard")
        if not question:
            raise AudioError(
                "nothing_heard",
                f"No speech was heard in {recording.seconds:.1f} s of sound.",
                rule="a recording of someone speaking.",
                remedy="check the microphone and record again.",
            )
        self._emit(Heard(question))
        reply = Reply(self._stages, self._watch, self._pass_on)
        messages = self._conversation.window(question, system_role=engine.result())
        await reply.run(messages, Asking())
        said = " ".join(reply.spoken)
        self._emit(Said(said))
        self._conversation.add(question, said)
        return "incomplete" if reply.cut else "completed"

    def _pass_on(self, event: Written | Saying | Spoken) -> None:
        if not isinstance(event, Saying):
            self._emit(event)
