"""Is each stage fit to answer?"""

from __future__ import annotations

from voicebot.errors import EngineError
from voicebot.turn import Stages

OK = "ok"


async def check(stages: Stages) -> dict[str, str]:
    """`ok`, or what is wrong, for each stage and for the whole."""
    try:
        await stages.llm.prepare()
        llm = OK
    except EngineError as error:
        llm = str(error)
    parts = {"stt": stages.stt.fault or OK, "llm": llm, "tts": stages.tts.fault or OK}
    status = OK if all(state == OK for state in parts.values()) else "unavailable"
    return {"status": status, **parts}
