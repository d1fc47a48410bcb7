"""What was said so far, and the window of it that a request carries."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Literal, TypedDict


class Message(TypedDict):
    """One chat message."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True)
class Round:
    """A question and what was spoken in answer; unanswered questions leave no trace."""

    user: str
    assistant: str


class Conversation:
    """The last rounds; the system prompt is in every window, by whatever way the template allows."""

    def __init__(self, system_prompt: str, max_rounds: int = 5) -> None:
        self._system_prompt = system_prompt.strip()
        self._rounds: deque[Round] = deque(maxlen=max_rounds)

    def add(self, user: str, assistant: str) -> None:
        """Remember a finished round."""
        self._rounds.append(Round(user, assistant))

    def window(self, question: str, *, system_role: bool) -> list[Message]:
        """Messages for the next answer, beginning with a user turn where there is no system role."""
        messages: list[Message] = []
        for past in self._rounds:
            messages.append({"role": "user", "content": past.user})
            messages.append({"role": "assistant", "content": past.assistant})
        messages.append({"role": "user", "content": question})
        if not self._system_prompt:
            return messages
        if system_role:
            return [{"role": "system", "content": self._system_prompt}, *messages]
        first: Message = {"role": "user", "content": f"{self._system_prompt}\n\n{messages[0]['content']}"}
        return [first, *messages[1:]]
