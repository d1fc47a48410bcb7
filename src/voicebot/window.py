"""The newest part of a conversation that fits into the engine's context, counted by the engine itself."""

from __future__ import annotations

from voicebot.conversation import Conversation, Message
from voicebot.errors import EngineError
from voicebot.llm import ChatModel

_AFTER_TRIMMING = 0.75
"""Trim below the limit, and the prefix stays the same (and in the engine's cache) for some turns."""


async def fitted(
    conversation: Conversation,
    llm: ChatModel,
    *,
    system_role: bool,
    reserve: int,
    prompt: str | None = None,
) -> list[Message]:
    """Messages that leave `reserve` tokens for the answer. Rounds that do not fit are forgotten for good."""
    messages = conversation.window(system_role=system_role, prompt=prompt)
    limit = await llm.context()
    if limit is None or _surely_fits(messages, limit - reserve):
        return messages
    used = await llm.count(messages)
    if used is None or used + reserve <= limit:
        return messages
    while used + reserve > _AFTER_TRIMMING * limit and conversation.drop_oldest_round():
        messages = conversation.window(system_role=system_role, prompt=prompt)
        used = await llm.count(messages) or 0
    if used + reserve > limit:
        raise EngineError(
            "context_overflow",
            f"The question and the system prompt take {used} tokens.",
            rule=f"with {reserve} for the answer (llm.max_tokens) at most {limit}, the engine's context.",
            remedy="say it shorter, or serve the model with a longer context.",
        )
    return messages


def _surely_fits(messages: list[Message], limit: int) -> bool:
    """No tokeniser makes more tokens than bytes; the template adds a few for each message."""
    return sum(len(str(message).encode()) + 16 for message in messages) <= limit
