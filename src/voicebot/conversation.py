"""What was said so far, and the window of it that a request carries."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict
from uuid import uuid4

Kind = Literal["system", "user", "assistant", "call", "output"]


class Message(TypedDict, total=False):
    """One chat message."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str
    tool_calls: list[dict[str, Any]]
    tool_call_id: str


def new_id(kind: str) -> str:
    """An identifier like those of the OpenAI APIs: item_…"""
    return f"{kind}_{uuid4().hex[:24]}"


@dataclass
class Item:
    """Something that was said, or a client's tool that was called. Empty text leaves no trace in a window."""

    kind: Kind
    text: str = ""
    id: str = field(default_factory=lambda: new_id("item"))
    call_id: str = ""
    """Of a tool's call (text: its arguments) and of its output."""
    name: str = ""
    """The tool's name."""


class Conversation:
    """The last rounds; the system prompt is in every window, by whatever way the template allows."""

    def __init__(self, system_prompt: str, max_rounds: int = 5) -> None:
        self.system_prompt = system_prompt.strip()
        self.items: list[Item] = []
        self._max_rounds = max_rounds

    def add(self, user: str, assistant: str) -> None:
        """Remember a finished round."""
        self.append(Item("user", user))
        self.append(Item("assistant", assistant))

    def append(self, item: Item, *, after: str | None = None) -> str | None:
        """Insert after the named item ("root": at the beginning), or at the end; the id of the one before."""
        place = len(self.items)
        if after == "root":
            place = 0
        elif after is not None:
            place = next(i for i, known in enumerate(self.items, 1) if known.id == after)
        self.items.insert(place, item)
        previous = self.items[place - 1].id if place else None
        while len(self._rounds()) > self._max_rounds + 1:  # the rounds, and the question to come
            self.drop_oldest_round()
        return previous

    def find(self, item_id: str) -> Item | None:
        """The item with this id."""
        return next((item for item in self.items if item.id == item_id), None)

    def delete(self, item_id: str) -> None:
        """Forget one item."""
        self.items = [item for item in self.items if item.id != item_id]

    def drop_oldest_round(self) -> bool:
        """Forget the oldest round for good; False where only the last one is left."""
        rounds = self._rounds()
        if len(rounds) < 2:
            return False
        del self.items[: rounds[1]]
        return True

    def window(
        self, question: str | None = None, *, system_role: bool, prompt: str | None = None
    ) -> list[Message]:
        """Messages for the next answer; they alternate and begin with a user: every template takes that."""
        items = list(self.items)
        if question is not None:
            items.append(Item("user", question))
            rounds = self._rounds(items)
            items = items[rounds[max(0, len(rounds) - self._max_rounds - 1)] if len(rounds) > 1 else 0 :]
        messages: list[Message] = []
        for item in items:
            _add(messages, _message(item))
        prompt = self.system_prompt if prompt is None else prompt.strip()
        if not prompt:
            return messages[1:] if messages and messages[0]["role"] == "assistant" else messages
        if system_role:
            return [{"role": "system", "content": prompt}, *messages]
        if not messages or messages[0]["role"] != "user":
            return [{"role": "user", "content": prompt}, *messages]
        return [{"role": "user", "content": f"{prompt}\n\n{messages[0]['content']}"}, *messages[1:]]

    def _rounds(self, items: list[Item] | None = None) -> list[int]:
        """Where each round begins: at a user's words that follow something else."""
        items = self.items if items is None else items
        return [
            place
            for place, item in enumerate(items)
            if place == 0 or (item.kind == "user" and items[place - 1].kind not in ("user", "system"))
        ]


def _message(item: Item) -> Message:
    if item.kind == "call":
        function = {"name": item.name, "arguments": item.text or "{}"}
        call = {"id": item.call_id, "type": "function", "function": function}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    if item.kind == "output":
        return {"role": "tool", "content": item.text, "tool_call_id": item.call_id}
    # Few templates take a system message in the middle.
    return {"role": "assistant" if item.kind == "assistant" else "user", "content": item.text}


def _add(messages: list[Message], new: Message) -> None:
    """Append; what the same side says twice in a row becomes one message."""
    if new["role"] != "tool" and not new["content"] and "tool_calls" not in new:
        return
    last = messages[-1] if messages else None
    if last is None or new["role"] == "tool" or last["role"] != new["role"]:
        messages.append(new)
        return
    last["content"] = "\n".join(text for text in (last["content"], new["content"]) if text)
    if "tool_calls" in new:
        last["tool_calls"] = last.get("tool_calls", []) + new["tool_calls"]
