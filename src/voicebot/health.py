"""Is each stage fit to answer?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from voicebot.errors import VoicebotError
from voicebot.stages import Stages

OK = "ok"
PATIENCE_S = 5.0
"""Seconds that each stage has for its answer."""
_FRESH_S = 2.0


class Health:
    """Asks all stages at once, and not again for two seconds: whoever asks often costs nothing."""

    def __init__(self, stages: Stages, clock: Callable[[], float] = time.monotonic) -> None:
        self._stages = stages
        self._clock = clock
        self._asked: asyncio.Task[dict[str, str]] | None = None
        self._stale = 0.0

    async def check(self) -> dict[str, str]:
        """`ok`, or what is wrong, for each stage and for the whole. Within PATIENCE_S, whatever hangs."""
        if self._asked is None or (self._asked.done() and self._clock() >= self._stale):
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)  # shared: one that leaves must not take it from others

    async def _ask(self) -> dict[str, str]:
        stt, llm, tts = await asyncio.gather(
            _verdict(self._stages.stt.check),
            _verdict(self._stages.llm.check),
            _verdict(self._stages.tts.check),
        )
        parts = {"stt": stt, "llm": llm, "tts": tts}
        self._stale = self._clock() + _FRESH_S
        return {"status": OK if set(parts.values()) == {OK} else "unavailable", **parts}


async def _verdict(check: Callable[[], Awaitable[object]]) -> str:
    try:
        async with asyncio.timeout(PATIENCE_S):
            await check()
    except VoicebotError as error:
        return str(error)
    except TimeoutError:
        return f"It did not answer within {PATIENCE_S:g} s."
    return OK
