"""One turn: a recording in; transcript, written answer and speech out, each as soon as it is there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Literal

from voicebot.audio import Recording
from voicebot.clauses import ClauseSplitter
from voicebot.conversation import Conversation
from voicebot.errors import AudioError, EngineError, VoicebotError, first_error
from voicebot.llm import ChatModel
from voicebot.stt import SpeechToText
from voicebot.tts import TextToSpeech


@dataclass(frozen=True)
class Stages:
    """The loaded engines, shared by all conversations."""

    stt: SpeechToText
    llm: ChatModel
    tts: TextToSpeech


@dataclass(frozen=True)
class Heard:
    """What the recogniser understood."""

    text: str


@dataclass(frozen=True)
class Written:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class Spoken:
    """A piece of the answer's speech: 16-bit mono PCM."""

    pcm: bytes


@dataclass(frozen=True)
class Failed:
    """The turn can't go on."""

    error: VoicebotError


@dataclass(frozen=True)
class Done:
    """The end of every turn; `incomplete` means that llm.max_tokens ended the answer."""

    status: Literal["completed", "incomplete", "failed"]
    metrics: dict[str, float]


Event = Heard | Written | Spoken | Failed | Done


@dataclass
class Stopwatch:
    """When things first happened; stages are the gaps between them."""

    started: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)

    def mark(self, name: str) -> None:
        """Note the time, once."""
        self.marks.setdefault(name, time.monotonic())

    def metrics(self) -> dict[str, float]:
        """Seconds. The stages up to first audio follow one another; the last two count from the start."""
        spans = {
            "decode_s": ("started", "decoded"),
            "stt_s": ("decoded", "heard"),
            "llm_first_token_s": ("asked", "first_token"),
            "first_clause_s": ("first_token", "first_clause"),
            "tts_first_audio_s": ("first_clause", "first_audio"),
            "first_audio_s": ("started", "first_audio"),
            "total_s": ("started", "done"),
        }
        at = {"started": self.started, **self.marks}
        return {name: round(at[b] - at[a], 4) for name, (a, b) in spans.items() if a in at and b in at}


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
        self._clauses: asyncio.Queue[str | None] = asyncio.Queue()
        self._spoken: list[str] = []

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
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(self._write(question, system_role=engine.result()))
            group.create_task(self._speak())
        self._conversation.add(question, " ".join(self._spoken))
        return "incomplete" if writing.result() == "length" else "completed"

    async def _write(self, question: str, *, system_role: bool) -> str | None:
        splitter = ClauseSplitter()
        reason: str | None = None
        text = ""
        messages = self._conversation.window(question, system_role=system_role)
        self._watch.mark("asked")
        async with aclosing(self._stages.llm.stream(messages)) as pieces:
            async for piece in pieces:
                reason = piece.finish_reason or reason
                new = piece.text if text else piece.text.lstrip()
                if not new:
                    continue
                text += new
                self._watch.mark("first_token")
                self._hand_over(splitter.feed(new))
                self._emit(Written(new))
        if not text:
            raise EngineError(
                "engine_empty", "The engine's answer is empty.", remedy="ask again, in other words."
            )
        self._hand_over(splitter.finish(cut=reason == "length"))
        self._clauses.put_nowait(None)
        return reason

    def _hand_over(self, clauses: list[str]) -> None:
        for clause in clauses:
            self._watch.mark("first_clause")
            self._clauses.put_nowait(clause)

    async def _speak(self) -> None:
        while (clause := await self._clauses.get()) is not None:
            async with aclosing(self._stages.tts.speak(clause)) as speech:
                async for pcm in speech:
                    self._watch.mark("first_audio")
                    self._emit(Spoken(pcm))
            self._spoken.append(clause)
