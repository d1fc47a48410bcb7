"""What a client may ask for: hear this, answer this, say this."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Eventable
from wyoming.handle import Handled, HandledChunk, HandledStart, HandledStop, NotHandled

from voicebot.audio import Recording
from voicebot.clauses import ClauseSplitter
from voicebot.config import Settings
from voicebot.conversation import Conversation, Item
from voicebot.errors import EngineError, VoicebotError
from voicebot.llm import Asking
from voicebot.setup import Setup
from voicebot.stages import Stages
from voicebot.window import fitted
from voicebot.wyoming.memory import Remembered
from voicebot.wyoming.wire import bad_event

log = logging.getLogger("voicebot")

Send = Callable[[Eventable], Awaitable[None]]
LONGEST_TEXT = 4096
"""Characters of a question, and of a text to say."""
_SHORTEST_S, _ONE_PART_S = 0.1, 30.0


class Work:
    """The stages that all ways in share, in the protocol's words. Failures are VoicebotErrors."""

    def __init__(self, settings: Settings, stages: Stages) -> None:
        self._settings = settings
        self._stages = stages
        self._persona = settings.persona(settings.conversation.persona)
        self.spoken = self._persona.language or settings.stt.language

    def conversation(self) -> Conversation:
        """A new one."""
        prompt = self._persona.instructions or self._settings.llm.system_prompt
        return Conversation(prompt, self._settings.conversation.rounds)

    async def transcribe(self, recording: Recording, language: str | None, send: Send) -> None:
        """transcript-start, chunks, transcript (for clients that know only this), stop."""
        language = language or self.spoken
        self._stages.stt.check_language(language)
        parts = await self._parts(recording, language)
        await send(TranscriptStart(language=language))
        for number, part in enumerate(parts):
            await send(TranscriptChunk(f" {part}" if number else part))
        await send(Transcript(" ".join(parts), language=language))
        await send(TranscriptStop())

    async def _parts(self, recording: Recording, language: str) -> list[str]:
        stt = self._stages.stt
        if recording.seconds < _SHORTEST_S:
            return []
        if recording.seconds <= _ONE_PART_S:
            texts = [await stt.transcribe(recording, language=language)]
        else:
            texts = [segment.text for segment in await stt.segments(recording, language=language)]
        return [text.strip() for text in texts if text.strip()]

    async def converse(self, remembered: Remembered, question: str, send: Send) -> None:
        """handled-start, chunks by clause, handled (for those who know only this), stop; or not-handled."""
        async with remembered.lock:
            conversation = remembered.conversation
            item = Item("user", question)
            conversation.append(item)
            said: list[str] = []
            try:
                async with aclosing(self._answer(conversation, question)) as clauses:
                    async for clause in clauses:
                        if not said:
                            await send(HandledStart())
                        await send(HandledChunk(f" {clause}" if said else clause))
                        said.append(clause)
                conversation.append(Item("assistant", " ".join(said)))
            except VoicebotError as error:
                log.error("wyoming: answer failed: %s", error.code)
                await send(NotHandled(self._settings.conversation.apology or str(error)))
            else:
                await send(Handled(" ".join(said)))
            finally:
                if conversation.items[-1:] == [item]:  # not answered: as if it had not been asked
                    conversation.delete(item.id)
            if said:
                await send(HandledStop())

    async def _answer(self, conversation: Conversation, question: str) -> AsyncGenerator[str, None]:
        setup = Setup(None, persona=self._persona)
        budget = setup.budget(question, self._settings.llm.max_tokens)
        llm = self._stages.llm
        system_role = await llm.prepare()
        messages = await fitted(conversation, llm, system_role=system_role, reserve=budget)
        splitter, reason, some = ClauseSplitter(), None, False
        async with aclosing(llm.stream(messages, Asking(budget))) as pieces:
            async for piece in pieces:
                reason = piece.finish_reason or reason
                for clause in splitter.feed(piece.text):
                    some = True
                    yield clause
        for clause in splitter.finish(cut=reason == "length"):
            some = True
            yield clause
        if not some:
            raise EngineError("engine_empty", "The engine's answer is empty.", remedy="ask in other words.")

    async def say(self, clauses: AsyncIterator[str], voice: str | None, send: Send) -> None:
        """audio-start, chunks while the rest is still spoken (or written), audio-stop."""
        rate = self._stages.tts.sample_rate
        begun = False
        async for clause in clauses:
            async with aclosing(self._stages.tts.speak(clause, voice or self._persona.voice)) as speech:
                async for pcm in speech:
                    if not begun:
                        begun = True
                        await send(AudioStart(rate, 2, 1))
                    await send(AudioChunk(rate, 2, 1, pcm))
        if not begun:
            await send(AudioStart(rate, 2, 1))
        await send(AudioStop())


async def clauses_of(text: str) -> AsyncIterator[str]:
    """Of a text that is there."""
    splitter = ClauseSplitter()
    for clause in [*splitter.feed(text), *splitter.finish()]:
        yield clause


class Dictation:
    """A text that comes in pieces, as a language model writes it."""

    def __init__(self, voice: str | None) -> None:
        self.voice = voice
        self._splitter = ClauseSplitter()
        self._clauses: asyncio.Queue[str | None] = asyncio.Queue()  # bounded by LONGEST_TEXT
        self._length = 0

    def feed(self, text: str) -> None:
        """A piece, cut anywhere. Raises AudioError when it all gets too long."""
        self._length += len(text)
        if self._length > LONGEST_TEXT:
            raise bad_event("The text is too long.", f"at most {LONGEST_TEXT} characters.")
        for clause in self._splitter.feed(text):
            self._clauses.put_nowait(clause)

    def finish(self) -> None:
        """There is no more."""
        for clause in self._splitter.finish():
            self._clauses.put_nowait(clause)
        self._clauses.put_nowait(None)

    async def clauses(self) -> AsyncIterator[str]:
        """As they come."""
        while (clause := await self._clauses.get()) is not None:
            yield clause
