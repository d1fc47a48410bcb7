"""What a session runs by; a client may change it between two turns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from voicebot.config import Persona
from voicebot.turns import TurnRules


@dataclass(frozen=True)
class Setup:
    """One session's settings."""

    rules: TurnRules | None
    """None: the client commits (push-to-talk)."""
    persona: Persona = field(default_factory=Persona)
    interrupt: bool = True
    """Whether speech interrupts an answer."""
    answer: bool = True
    """Whether the end of a turn brings an answer."""
    aloud: bool = True
    partials: bool = True
    max_tokens: int | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: Any = "auto"
    instructions: str | None = None
    """For one answer, instead of the conversation's."""

    def budget(self, question: str, configured: int) -> int:
        """Tokens that an answer may have: the persona's share of the question's length, within limits."""
        persona = self.persona
        limit = self.max_tokens or persona.max_tokens or configured
        if persona.tokens_per_word is None:
            return limit
        return min(limit, max(persona.min_tokens, persona.tokens_per_word * len(question.split())))
