"""One live conversation: sound in, happenings out. Whatever is newer cancels what is older."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import soxr

from voicebot import happenings as h
from voicebot.answering import Answering
from voicebot.audio import SAMPLE_RATE, Recording
from voicebot.config import Settings
from voicebot.conversation import Conversation, Item, new_id
from voicebot.errors import AudioError, SpeechError
from voicebot.guess import Guess, Partials
from voicebot.listening import WIRE_RATE, Listener
from voicebot.metrics import Metrics
from voicebot.setup import Setup
from voicebot.stages import Stages
from voicebot.turns import Ended, Insisted, Paused, Resumed, Signal, Started, VoiceModel
from voicebot.turns.smart import TurnModel
from voicebot.turns.words import only_go_on, seem_finished

log = logging.getLogger("voicebot")

_YIELD_AFTER_WINDOWS = 32
_SHORTEST_COMMIT_S = 0.1
_MOST_PENDING = 16


@dataclass
class _Utterance:
    """A turn of the user's, from its first sound until it is an item."""

    item_id: str
    start: int
    guess: Guess
    pauses: int = 0
    announced: bool = False
    """Until then the client does not know of it: it may be no more than "mm-hm"."""


class Session:
    """Call everything from one event loop; `emit` is called at once, in order."""

    def __init__(
        self,
        stages: Stages,
        voices: VoiceModel,
        settings: Settings,
        setup: Setup,
        emit: Callable[[h.Happening], None],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stages = stages
        self._voices = voices
        self._settings = settings
        self.setup = setup
        self._emit = emit
        self._metrics = metrics
        prompt = setup.persona.instructions or settings.llm.system_prompt
        self.conversation = Conversation(prompt, settings.conversation.rounds)
        self._listener = Listener(voices.detector(), setup.rules, max_s=settings.limits.max_audio_seconds)
        self._answering = Answering(stages, settings, self.conversation, emit, metrics, clock)
        self._partials = Partials(stages.stt, settings.conversation.partials)
        self._utterance: _Utterance | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def talking(self) -> bool:
        """Whether an answer is being made, or still being played at the other end."""
        return self._answering.busy

    @property
    def engaged(self) -> bool:
        """Whether somebody speaks, is being understood, or is answered."""
        return self._utterance is not None or bool(self._tasks) or self._answering.busy

    def change(self, setup: Setup) -> None:
        """New settings from here on."""
        if setup.rules != self.setup.rules:
            self._forget_utterance()
            self._listener.obey(setup.rules)
        self.setup = setup

    async def hear(self, pcm: bytes) -> None:
        """24 kHz pcm16, cut anywhere."""
        overflowed = self._listener.overflowed
        for count, signals in enumerate(self._listener.feed(pcm), 1):
            for signal in signals:
                self._on(signal)
            self._look()
            if count % _YIELD_AFTER_WINDOWS == 0:
                await asyncio.sleep(0)
        if self._listener.overflowed and not overflowed:
            limit = self._settings.limits.max_audio_seconds
            raise AudioError(
                "audio_too_long",
                f"The input buffer is full: only its last {limit:g} s are kept.",
                rule=f"at most {limit:g} s between commits (limits.max_audio_seconds).",
                remedy="commit or clear it earlier.",
            )

    def greet(self) -> None:
        """Speak first, where the persona does."""
        if self.setup.persona.greeting and self.setup.answer:
            self._answering.say(self.setup.persona.greeting, self.setup)

    def commit(self) -> None:
        """End the user's turn now."""
        self._refuse_too_many()
        if self.setup.rules is not None:
            signals = self._listener.finish()
            if not signals:
                raise _nothing_to_commit(0.0)
            for signal in signals:
                self._on(signal)
            return
        if self._listener.buffered_s < _SHORTEST_COMMIT_S:
            raise _nothing_to_commit(self._listener.buffered_s)
        recording = self._listener.take_all()
        utterance = self._new_utterance(0)
        utterance.announced = True
        utterance.guess.begin(recording)
        self._become_item(utterance, recording, time.monotonic(), answer=False)

    def transcribe_into(self, item: Item, pcm: bytes) -> None:
        """Find the words of an item that the client made of sound."""
        self._refuse_too_many()
        samples = np.frombuffer(pcm[: len(pcm) // 2 * 2], "<i2").astype(np.float32) / 32768.0
        recording = Recording(soxr.resample(samples, WIRE_RATE, SAMPLE_RATE))
        utterance = self._new_utterance(0, item.id)
        utterance.guess.begin(recording)
        done = self._answering.awaits(item)
        self._start(self._transcribe(utterance, item, recording, done))

    def _refuse_too_many(self) -> None:
        if len(self._tasks) >= _MOST_PENDING:
            raise AudioError(
                "too_many_transcripts",
                f"{len(self._tasks)} transcripts of this session are not done yet.",
                rule=f"at most {_MOST_PENDING} at once.",
                remedy="wait for some of them.",
            )

    def clear(self) -> None:
        """Forget sound that is no item yet."""
        self._forget_utterance()
        self._listener.clear()

    def respond(self, setup: Setup | None = None, *, remember: bool = True) -> None:
        """Answer what was said last."""
        self._answering.begin(setup or self.setup, remember=remember)

    def cancel(self) -> None:
        """Stop the answer that is being made; what was already heard is kept."""
        if not self._answering.making:
            raise AudioError(
                "response_cancel_not_active", "There is no active response.", rule="cancel a running one."
            )
        self._answering.interrupt("client_cancelled")

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """The client says how much of an answer was heard."""
        self._answering.truncate(item_id, audio_end_ms)

    async def close(self) -> None:
        """Stop everything."""
        self._forget_utterance()
        self._answering.interrupt("closed")
        tasks = [*self._tasks, *self._answering.tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _on(self, signal: Signal) -> None:
        utterance = self._utterance
        match signal:
            case Started(sample):
                self._utterance = utterance = self._new_utterance(sample)
                if not self.talking:
                    self._announce(utterance)
            case Insisted() if utterance and not utterance.announced:
                self._announce(utterance)
            case Paused(start, end) if utterance:
                self._pause(utterance, self._listener.cut(start, end))
            case Resumed() if utterance:
                utterance.pauses += 1
                self._metrics.speculation("dropped", utterance.guess.started)
                utterance.guess.drop()
            case Ended() if utterance:
                self._utterance = None
                self._end(utterance, signal)

    def _pause(self, utterance: _Utterance, recording: Recording) -> None:
        if self._settings.conversation.speculate:
            utterance.guess.begin(recording)
        rules, turns = self.setup.rules, self._voices.turns
        if turns is not None and rules is not None and rules.unfinished_s is not None:
            self._start(self._ask_sound(turns, utterance, utterance.pauses, recording))

    async def _ask_sound(
        self, turns: TurnModel, utterance: _Utterance, pause: int, recording: Recording
    ) -> None:
        """Sooner than the words, the sound may tell that the turn is over."""
        finished = await turns.sounds_finished(recording)
        if finished and utterance is self._utterance and utterance.pauses == pause:
            self._listener.words_seem_finished(True)

    def _new_utterance(self, start: int, item_id: str = "") -> _Utterance:
        language = self.setup.persona.language
        item_id = item_id or new_id("item")

        def agreed(text: str) -> None:
            if utterance.announced:
                self._emit(h.Partial(item_id, text))

        guess = Guess(self._stages.stt, language, lambda _, text: self._guessed(utterance, text))
        self._partials.begin(language, agreed)
        utterance = _Utterance(item_id, start, guess)
        return utterance

    def _announce(self, utterance: _Utterance) -> None:
        utterance.announced = True
        self._emit(h.SpeechStarted(utterance.item_id, self._listener.to_ms(utterance.start)))
        if self.setup.interrupt and self.talking:
            self._metrics.barge_in()
            self._answering.interrupt("turn_detected")

    def _guessed(self, utterance: _Utterance, text: str) -> None:
        """Words of a pause: they may interrupt an answer, and tell whether more will come."""
        if utterance is self._utterance:
            if seem_finished(text):
                self._listener.words_seem_finished(True)
            if not utterance.announced and not only_go_on(text):
                self._announce(utterance)

    def _look(self) -> None:
        utterance = self._utterance
        if utterance is None or not self.setup.partials or utterance.guess.started:
            return
        samples = self._listener.sample - utterance.start
        if self._partials.due(samples / SAMPLE_RATE):
            self._partials.look(self._listener.cut(utterance.start, self._listener.sample))

    def _end(self, utterance: _Utterance, ended: Ended) -> None:
        self._partials.stop()
        now = time.monotonic()
        spoke_last = now - (ended.end - ended.last_voiced) / SAMPLE_RATE
        recording = self._listener.cut(ended.start, ended.end)
        if utterance.guess.started:
            self._metrics.speculation("used")
        else:
            utterance.guess.begin(recording)
        stopped = h.SpeechStopped(utterance.item_id, self._listener.to_ms(ended.end))
        if utterance.announced:
            self._emit(stopped)
            self._become_item(utterance, recording, spoke_last)
        else:
            self._start(self._unless_go_on(utterance, recording, stopped, spoke_last))

    async def _unless_go_on(
        self, utterance: _Utterance, recording: Recording, stopped: h.SpeechStopped, spoke_last: float
    ) -> None:
        """Something short during an answer: only its words tell whether it is a turn."""
        try:
            if only_go_on(await utterance.guess.text()):
                self._metrics.backchannel()
                return
        except SpeechError:
            return
        self._announce(utterance)
        self._emit(stopped)
        self._become_item(utterance, recording, spoke_last)

    def _become_item(
        self, utterance: _Utterance, recording: Recording, spoke_last: float, *, answer: bool = True
    ) -> None:
        item = Item("user", id=utterance.item_id)
        previous = self.conversation.append(item)
        self._emit(h.Committed(item, previous))
        done = self._answering.awaits(item)
        if answer and self.setup.answer:
            self._answering.begin_after(item, self.setup, spoke_last)
        self._start(self._transcribe(utterance, item, recording, done))

    async def _transcribe(
        self, utterance: _Utterance, item: Item, recording: Recording, done: Callable[[], None]
    ) -> None:
        try:
            item.text = await utterance.guess.text()
            if self._settings.conversation.log_words:
                log.info("heard: %s", item.text)
            self._emit(h.Transcribed(item.id, item.text, recording.seconds))
        except SpeechError as error:
            self._emit(h.NotTranscribed(item.id, error))
        finally:
            done()

    def _forget_utterance(self) -> None:
        if self._utterance is not None:
            self._utterance.guess.drop()
            self._partials.stop()
            self._utterance = None

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(partial(_forget, self._tasks))


def _forget(tasks: set[asyncio.Task[None]], task: asyncio.Task[None]) -> None:
    tasks.discard(task)
    if not task.cancelled() and (error := task.exception()):
        log.error("a bug in a session", exc_info=error)


def _nothing_to_commit(seconds: float) -> AudioError:
    return AudioError(
        "input_audio_buffer_commit_empty",
        f"The input buffer holds {seconds * 1000:.0f} ms of sound.",
        rule=f"at least {_SHORTEST_COMMIT_S * 1000:.0f} ms of it to commit"
        " (with turn detection: a turn that is going on).",
        remedy="append sound first.",
    )
