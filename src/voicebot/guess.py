"""Transcripts begun before the turn is over, and partial ones while it goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from voicebot.audio import Recording
from voicebot.errors import SpeechError
from voicebot.stt import SpeechToText

_FIRST_LOOK_S = 1.0
_NEXT_LOOK_S = 0.8
_SLOW_LOOK_S = 0.5


class Guess:
    """The transcript of one utterance, tried in each pause; speech that goes on makes a try worthless."""

    def __init__(self, stt: SpeechToText, language: str | None, told: Callable[[Guess, str], None]) -> None:
        """`told` gets each try's text as soon as it is there, while it still counts."""
        self._stt = stt
        self._language = language
        self._told = told
        self._try: asyncio.Task[str] | None = None
        self.tries = 0

    @property
    def started(self) -> bool:
        """Whether a try is there, done or not."""
        return self._try is not None

    def begin(self, recording: Recording) -> None:
        """Transcribe what may be the whole utterance."""
        self.drop()
        self.tries += 1
        task = asyncio.create_task(self._stt.transcribe(recording, language=self._language))
        self._try = task
        task.add_done_callback(self._done)

    def drop(self) -> None:
        """Speech went on."""
        if self._try is not None:
            self._try.cancel()
            self._try = None

    async def text(self) -> str:
        """The transcript."""
        assert self._try is not None
        return await self._try

    def _done(self, task: asyncio.Task[str]) -> None:
        if task is self._try and not task.cancelled() and task.exception() is None:
            self._told(self, task.result())


class Partials:
    """Looks at an utterance as it grows; words are given out once two looks in a row agree on them."""

    def __init__(self, stt: SpeechToText, mode: Literal["auto", "always", "never"]) -> None:
        """One for a session. `auto` ends with the first slow look: looks delay final transcripts."""
        self._stt = stt
        self._mode = mode
        self._look: asyncio.Task[None] | None = None
        self.begin(None, lambda _: None)

    def begin(self, language: str | None, agreed: Callable[[str], None]) -> None:
        """A new utterance."""
        self.stop()
        self._language = language
        self._agreed = agreed
        self._before: list[str] = []
        self._given = 0
        self._next = _FIRST_LOOK_S

    def due(self, seconds: float) -> bool:
        """Whether it is time for a look at an utterance of so many seconds."""
        willing = self._mode != "never" and self._look is None and self._stt.waiting == 0
        return willing and seconds >= self._next

    def look(self, recording: Recording) -> None:
        """Take a look."""
        self._look = asyncio.create_task(self._transcribe(recording))

    async def _transcribe(self, recording: Recording) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            text = await self._stt.transcribe(recording, language=self._language, partial=True)
        except SpeechError:
            text = ""  # the final transcript will tell
        words = text.split()
        same = 0
        while same < min(len(words), len(self._before)) and words[same] == self._before[same]:
            same += 1
        if same > self._given:
            self._agreed(" ".join(words[self._given : same]) + " ")
            self._given = same
        self._before = words
        took = loop.time() - began
        if self._mode == "auto" and took > _SLOW_LOOK_S:
            self._mode = "never"
        self._next = recording.seconds + max(_NEXT_LOOK_S, 2 * took)
        self._look = None

    def stop(self) -> None:
        """No more looks at this utterance."""
        if self._look is not None:
            self._look.cancel()
            self._look = None
        self._next = float("inf")
