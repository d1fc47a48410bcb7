"""The assistant's side of a session: at most one answer at a time, and an honest memory of it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from voicebot import happenings as h
from voicebot.config import Settings
from voicebot.conversation import Conversation, Item, new_id
from voicebot.errors import AudioError, SpeechError, VoicebotError, first_error
from voicebot.llm import Asking
from voicebot.metrics import Metrics
from voicebot.playback import Playback
from voicebot.reply import Reply, Saying, Spoken, Written
from voicebot.setup import Setup
from voicebot.stages import LIVE, Stages, Stopwatch
from voicebot.window import fitted

log = logging.getLogger("voicebot")


@dataclass
class _Answer:
    """One answer, as long as it is made or played."""

    info: h.ReplyInfo
    item: Item
    playback: Playback
    watch: Stopwatch
    written: str = ""
    begun: bool = False
    done: bool = False
    calls: list[Item] = field(default_factory=list)

    def heard(self) -> str:
        """What of it reached the user."""
        return self.playback.text_until(self.playback.heard_s()) if self.info.aloud else self.written


class Answering:
    """Raising the generation number makes everything older mute at once, then ends it."""

    def __init__(
        self,
        stages: Stages,
        settings: Settings,
        conversation: Conversation,
        emit: Callable[[h.Happening], None],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = stages
        self._settings = settings
        self._conversation = conversation
        self._emit = emit
        self._metrics = metrics
        self._clock = clock
        self._generation = 0
        self._task: asyncio.Task[None] | None = None
        self._answer: _Answer | None = None
        self._spoken: dict[str, Playback] = {}
        self._awaited: dict[str, asyncio.Event] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def making(self) -> bool:
        """Whether an answer is being made."""
        return self._task is not None

    @property
    def busy(self) -> bool:
        """Being made, or still being played at the other end."""
        return self.making or (self._answer is not None and self._clock() < self._answer.playback.ends)

    def awaits(self, item: Item) -> Callable[[], None]:
        """No answer begins before the returned function is called: the item's text is still to come."""
        event = self._awaited[item.id] = asyncio.Event()

        def done() -> None:
            event.set()
            self._awaited.pop(item.id, None)

        return done

    def begin(self, setup: Setup, *, remember: bool = True) -> None:
        """Answer now."""
        if self.making:
            raise AudioError(
                "conversation_already_has_active_response",
                "An answer is already being made.",
                rule="one at a time.",
                remedy="cancel it first, or wait for response.done.",
            )
        self._begin(setup, Stopwatch(spans=LIVE), None, remember)

    def begin_after(self, item: Item, setup: Setup, spoke_last: float) -> None:
        """Answer an item as soon as its words are known, if there are any."""
        watch = Stopwatch(spoke_last, LIVE)
        watch.mark("ended")
        self._begin(setup, watch, item, remember=True)

    def say(self, text: str, setup: Setup) -> None:
        """Speak without having been asked."""
        self._begin(setup, Stopwatch(spans=LIVE), None, True, text)

    def _begin(
        self, setup: Setup, watch: Stopwatch, item: Item | None, remember: bool, text: str | None = None
    ) -> None:
        watch.mark("ended")
        before = self._task
        self._task = asyncio.create_task(
            self._run(self._generation, setup, watch, item, remember, text, before)
        )
        self.tasks.add(self._task)
        self._task.add_done_callback(self._forget_task)

    def _forget_task(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if task is self._task:
            self._task = None
        if not task.cancelled() and (error := task.exception()):
            log.error("a bug in an answer", exc_info=error)

    def interrupt(self, reason: str) -> None:
        """End the answer that is made or played; memory keeps what was heard of it."""
        self._generation += 1
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        answer, self._answer = self._answer, None
        if answer is None:
            return
        playing = answer.info.aloud and self._clock() < answer.playback.ends
        if not answer.done:
            answer.item.text = answer.heard()
            self._finish(answer, "cancelled", answer.item.text, reason=reason)
        elif playing:
            answer.item.text = answer.heard()
        if playing and answer.begun:
            self._emit(h.Truncated(answer.info.item_id, round(answer.playback.heard_s() * 1000)))

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """Memory of an answer's speech ends there."""
        item, playback = self._conversation.find(item_id), self._spoken.get(item_id)
        if item is None or playback is None:
            raise AudioError(
                "item_not_found", f"There is no spoken item {item_id!r}.", rule="an answer of this session."
            )
        if audio_end_ms > playback.sent_s * 1000 + 1:
            sent_ms = round(playback.sent_s * 1000)
            raise AudioError(
                "audio_end_ms_too_large", f"audio_end_ms is {audio_end_ms}.", rule=f"at most {sent_ms}."
            )
        item.text = playback.text_until(audio_end_ms / 1000)
        self._emit(h.Truncated(item_id, audio_end_ms))

    async def _run(
        self,
        generation: int,
        setup: Setup,
        watch: Stopwatch,
        asked: Item | None,
        remember: bool,
        text: str | None,
        before: asyncio.Task[None] | None,
    ) -> None:
        engine = asyncio.create_task(self._stages.llm.prepare()) if text is None else None
        try:
            if before is not None:
                await _ended(before)
            while self._awaited:
                await next(iter(self._awaited.values())).wait()
            watch.mark("heard")
            if asked is None or asked.text:
                await self._reply(generation, setup, watch, remember, text, engine)
        finally:
            if engine is not None:
                engine.cancel()
                await asyncio.gather(engine, return_exceptions=True)

    async def _reply(
        self,
        generation: int,
        setup: Setup,
        watch: Stopwatch,
        remember: bool,
        text: str | None,
        engine: asyncio.Task[bool] | None,
    ) -> None:
        info = h.ReplyInfo(new_id("resp"), new_id("item"), setup.aloud, remember)
        item = Item("assistant", id=info.item_id)
        answer = self._answer = _Answer(info, item, Playback(self._clock), watch)
        self._emit(h.ReplyStarted(info))

        def pass_on(event: Written | Saying | Spoken) -> None:
            if generation == self._generation:
                self._pass_on(answer, event)

        reply = Reply(self._stages, watch, pass_on, aloud=setup.aloud, voice=setup.persona.voice)
        try:
            if engine is None:
                await reply.say(text or "")
            else:
                await self._ask(reply, setup, await engine)
        except (VoicebotError, BaseExceptionGroup) as error:
            cause = first_error(error) if isinstance(error, BaseExceptionGroup) else error
            if not isinstance(cause, VoicebotError):
                if generation == self._generation:
                    self._fail(answer, VoicebotError("internal_error", "The answer failed."))
                raise
            await self._apologise(generation, answer, cause, setup.persona.voice)
            if generation == self._generation:
                self._fail(answer, cause)
            return
        item.text = " ".join(reply.spoken) if setup.aloud else answer.written.strip()
        for call in reply.calls:
            made = Item("call", call.arguments, call_id=call.id, name=call.name)
            answer.calls.append(made)
            if remember:
                self._conversation.append(made)
        self._finish(answer, "incomplete" if reply.cut else "completed", item.text)

    async def _ask(self, reply: Reply, setup: Setup, system_role: bool) -> None:
        question = next((i.text for i in reversed(self._conversation.items) if i.kind == "user"), "")
        budget = setup.budget(question, self._settings.llm.max_tokens)
        llm = self._stages.llm
        messages = await fitted(
            self._conversation, llm, system_role=system_role, reserve=budget, prompt=setup.instructions
        )
        await reply.run(messages, Asking(budget, setup.tools, setup.tool_choice))

    def _pass_on(self, answer: _Answer, event: Written | Saying | Spoken) -> None:
        if not answer.begun:
            answer.begun = True
            previous = self._conversation.append(answer.item) if answer.info.remembered else None
            self._emit(h.ReplyItem(answer.info, previous))
        match event:
            case Written(text):
                answer.written += text
                self._emit(h.ReplyText(answer.info, text))
            case Saying(clause):
                answer.playback.clause(clause)
            case Spoken(pcm):
                answer.playback.sent(len(pcm) / 2 / self._stages.tts.sample_rate)
                self._emit(h.ReplyAudio(answer.info, pcm))

    async def _apologise(
        self, generation: int, answer: _Answer, cause: VoicebotError, voice: str | None
    ) -> None:
        """Nobody should wait in silence; not remembered, for the model did not say it."""
        apology = self._settings.conversation.apology
        if not answer.info.aloud or not apology or isinstance(cause, SpeechError):
            return
        try:
            async for pcm in self._stages.tts.speak(apology, voice):
                if generation != self._generation:
                    return
                if not answer.begun:
                    self._pass_on(answer, Written(apology))
                if not answer.playback.sent_s:
                    answer.playback.clause("")
                self._pass_on(answer, Spoken(pcm))
        except SpeechError as error:
            log.error("no voice to apologise: %s", error.code)

    def _fail(self, answer: _Answer, error: VoicebotError) -> None:
        log.error("answer failed: %s", error.code)
        answer.item.text = ""  # a failed answer is not remembered, as if it had not been tried
        self._finish(answer, "failed", "", error=error)

    def _finish(
        self,
        answer: _Answer,
        status: h.Status,
        text: str,
        *,
        reason: str = "",
        error: VoicebotError | None = None,
    ) -> None:
        answer.done = True
        if answer.info.aloud:
            self._spoken[answer.info.item_id] = answer.playback
            while len(self._spoken) > 2 * max(1, self._settings.conversation.rounds):
                del self._spoken[next(iter(self._spoken))]
        if status != "cancelled":
            self._task = None  # the next one may begin before this coroutine has ended
        answer.watch.mark("done")
        metrics = answer.watch.metrics()
        if (rest := answer.watch.unexplained_s()) is not None:
            metrics["unexplained_s"] = rest
        self._metrics.turn(status, metrics)
        if self._settings.conversation.log_words:
            log.info("answered (%s): %s", status, text)
        timing = " ".join(f"{name}={seconds:.2f}" for name, seconds in metrics.items())
        log.info("answer %s: %s", status, timing)
        self._emit(h.ReplyDone(answer.info, status, text, reason, error, tuple(answer.calls), metrics))


async def _ended(before: asyncio.Task[None]) -> None:
    """Wait for an earlier answer; whoever cancels the later one cancels both."""
    try:
        await asyncio.wait({before})
    except asyncio.CancelledError:
        before.cancel()
        raise
