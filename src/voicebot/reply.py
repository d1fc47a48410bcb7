"""One answer: written by the engine, handed over clause by clause, spoken while the rest is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from voicebot.clauses import ClauseSplitter
from voicebot.conversation import Message
from voicebot.errors import EngineError
from voicebot.llm import Asking, ToolCall
from voicebot.stages import Stages, Stopwatch


@dataclass(frozen=True)
class Written:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True)
class Saying:
    """The speech that follows says this clause."""

    clause: str


@dataclass(frozen=True)
class Spoken:
    """A piece of the answer's speech: 16-bit mono PCM."""

    pcm: bytes


Emit = Callable[[Written | Saying | Spoken], None]


class Reply:
    """Cancel the task that runs it, and the engine's request and the voice end with it."""

    def __init__(
        self, stages: Stages, watch: Stopwatch, emit: Emit, *, aloud: bool = True, voice: str | None = None
    ) -> None:
        self._stages = stages
        self._watch = watch
        self._emit = emit
        self._aloud = aloud
        self._voice = voice
        self._clauses: asyncio.Queue[str | None] = asyncio.Queue()
        self._calls: dict[int, ToolCall] = {}
        self._reason: str | None = None
        self.spoken: list[str] = []
        """Clauses that were handed out in full (written ones, where nothing is spoken)."""

    @property
    def calls(self) -> list[ToolCall]:
        """The client's tools that the model wants called."""
        return list(self._calls.values())

    @property
    def cut(self) -> bool:
        """Whether the token cap ended it; its unfinished sentence is not spoken."""
        return self._reason == "length"

    async def run(self, messages: Sequence[Message], asking: Asking) -> None:
        """Write and speak, side by side."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write(messages, asking))
            group.create_task(self._speak())

    async def say(self, text: str) -> None:
        """Speak a text that is already there."""
        self._emit(Written(text))
        splitter = ClauseSplitter()
        self._hand_over([*splitter.feed(text), *splitter.finish()])
        self._clauses.put_nowait(None)
        await self._speak()

    async def _write(self, messages: Sequence[Message], asking: Asking) -> None:
        splitter = ClauseSplitter()
        text = ""
        self._watch.mark("asked")
        async with aclosing(self._stages.llm.stream(messages, asking)) as pieces:
            async for piece in pieces:
                self._reason = piece.finish_reason or self._reason
                for call in piece.calls:
                    self._collect(call)
                new = piece.text if text else piece.text.lstrip()
                if not new:
                    continue
                text += new
                self._watch.mark("first_token")
                self._hand_over(splitter.feed(new))
                self._emit(Written(new))
        if not text and not self._calls:
            raise EngineError(
                "engine_empty", "The engine's answer is empty.", remedy="ask again, in other words."
            )
        self._hand_over(splitter.finish(cut=self.cut))
        self._clauses.put_nowait(None)

    def _collect(self, part: ToolCall) -> None:
        known = self._calls.get(part.index)
        self._calls[part.index] = (
            replace(known, arguments=known.arguments + part.arguments) if known else part
        )

    def _hand_over(self, clauses: list[str]) -> None:
        for clause in clauses:
            self._watch.mark("first_clause")
            self._clauses.put_nowait(clause)

    async def _speak(self) -> None:
        while (clause := await self._clauses.get()) is not None:
            if self._aloud:
                self._emit(Saying(clause))
                async with aclosing(self._stages.tts.speak(clause, self._voice)) as speech:
                    async for pcm in speech:
                        self._watch.mark("first_audio")
                        self._emit(Spoken(pcm))
            self.spoken.append(clause)
