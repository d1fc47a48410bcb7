"""Steady streamed load through a gateway, in which every request is accounted for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import httpx

ASK = {
    "model": "/models/mistral-7b",
    "messages": [{"role": "user", "content": "Tell a story."}],
    "max_tokens": 40,
    "ignore_eos": True,
    "stream": True,
}


@dataclass(frozen=True)
class Answer:
    """One request: when it began (monotonic), and what was wrong with it; empty for a whole stream."""

    began: float
    flaw: str


def ask(client: httpx.Client) -> str:
    """What is wrong with one streamed answer; empty for one that ends with [DONE]."""
    try:
        with client.stream("POST", "/v1/chat/completions", json=ASK) as stream:
            if stream.status_code != 200:
                return f"{stream.status_code} {stream.read()[:200]!r}"
            lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
    except httpx.HTTPError as error:
        return repr(error)
    if any('"error"' in line for line in lines):
        return f"an error within the stream: {lines[-2:]}"
    return "" if lines and lines[-1] == "data: [DONE]" else f"cut after {len(lines)} lines"


class Load:
    """Context manager: `askers` at a time ask, and wait `pause_s` after each answer."""

    def __init__(self, client: Callable[[], httpx.Client], askers: int = 2, pause_s: float = 1.5) -> None:
        self.answers: list[Answer] = []
        self._client, self._pause_s, self._over = client, pause_s, threading.Event()
        self._askers = [threading.Thread(target=self._go_on, daemon=True) for _ in range(askers)]

    def _go_on(self) -> None:
        with self._client() as client:
            while not self._over.is_set():
                began = time.monotonic()
                self.answers.append(Answer(began, ask(client)))
                self._over.wait(self._pause_s)

    def flawed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.flaw]

    def whole(self) -> int:
        return len(self.answers) - len(self.flawed())

    def __enter__(self) -> Load:
        for asker in self._askers:
            asker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for asker in self._askers:
            asker.join(600)
