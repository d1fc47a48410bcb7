"""The language model: a Protocol, and any OpenAI-compatible engine, streamed."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, cast

import httpx
import openai
from openai.types.chat import ChatCompletionChunk, ChatCompletionMessageParam

from voicebot.config import Llm
from voicebot.conversation import Message
from voicebot.errors import EngineError

_LOOK = "systemctl status vllm; journalctl -u vllm; then ask again."


@dataclass(frozen=True)
class ToolCall:
    """A part of a call of the client's tool; parts with one index belong together."""

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Asking:
    """What a request may ask for beside the configuration."""

    max_tokens: int | None = None
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: Any = "auto"


@dataclass(frozen=True)
class Piece:
    """Some text, and at the end why it ended (`stop`, `length`)."""

    text: str
    finish_reason: str | None = None
    calls: tuple[ToolCall, ...] = ()


_AS_CONFIGURED = Asking()


class ChatModel(Protocol):
    """Answers."""

    async def check(self) -> None:
        """Raise EngineError where it can't be used now."""
        ...

    async def prepare(self) -> bool:
        """Make sure that the engine is up; whether its template has a system role."""
        ...

    def stream(
        self, messages: Sequence[Message], asking: Asking = _AS_CONFIGURED
    ) -> AsyncGenerator[Piece, None]:
        """The answer as it is written; raises EngineError unless it came to its end."""
        ...

    async def context(self) -> int | None:
        """How many tokens a request may have, the answer's included; None where the engine does not say."""
        ...

    async def count(self, messages: Sequence[Message]) -> int | None:
        """How many tokens these messages are; None where the engine does not say."""
        ...

    async def close(self) -> None:
        """Close connections."""
        ...


class OpenAIChat:
    """vLLM by the `openai` client; vLLM's own routes beside /v1 tell about health and template."""

    def __init__(self, settings: Llm) -> None:
        self._settings = settings
        self._root = settings.base_url.rstrip("/").removesuffix("/v1")
        connect = settings.connect_timeout_s
        # No retries: a person waits. No proxies from the environment: the engine is near.
        self._chat = openai.AsyncOpenAI(
            base_url=settings.base_url,
            api_key="unused",
            max_retries=0,
            timeout=openai.Timeout(settings.first_token_timeout_s, connect=connect),
            http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
        )
        self._plain = httpx.AsyncClient(timeout=httpx.Timeout(connect, read=2 * connect), trust_env=False)
        self._system_role: bool | None = None
        self._context: int | None = None

    async def check(self) -> None:
        """By its /health."""
        await self.prepare()

    async def prepare(self) -> bool:
        """Ask /health, and once per engine how its template takes a system prompt."""
        try:
            # A frozen engine still accepts connections: it too has to be told within 2 s.
            patience = self._settings.connect_timeout_s
            answer = await self._plain.get(f"{self._root}/health", timeout=patience)
        except httpx.HTTPError as error:
            self._unreachable(error)
        if answer.status_code != httpx.codes.OK:
            self._system_role = self._context = None
            what = f"The engine at {self._root} is not healthy: /health answers {answer.status_code}."
            raise EngineError("engine_unhealthy", what, rule="/health answers 200.", remedy=_LOOK)
        if self._system_role is None:
            self._system_role = await self._has_system_role()
        return self._system_role

    async def _has_system_role(self) -> bool:
        """A template has a system role if it accepts one, and a longer prompt makes more tokens."""
        counts = []
        for prompt in ("Hi.", "Be brief, be polite, and answer what was asked."):
            messages = [{"role": "system", "content": prompt}, {"role": "user", "content": "Hi."}]
            body = {"model": self._settings.model, "messages": messages}
            try:
                answer = await self._plain.post(f"{self._root}/tokenize", json=body)
            except httpx.HTTPError as error:
                self._unreachable(error)
            if answer.status_code != httpx.codes.OK:
                return False  # refused, or no such route: folded into the user's turn it works everywhere
            counts.append(answer.json().get("count"))
        return bool(counts[0] != counts[1])

    async def models(self) -> list[str]:
        """Names that the engine serves."""
        try:
            answer = await self._plain.get(f"{self._settings.base_url.rstrip('/')}/models")
            return [str(model["id"]) for model in answer.json()["data"]]
        except httpx.HTTPError as error:
            self._unreachable(error)
        except (ValueError, LookupError, TypeError) as error:
            self._failed("engine_failed", "has no list of models at /models under llm.base_url", error)

    async def context(self) -> int | None:
        """max_model_len of the model in the engine's list, asked once per engine."""
        if self._context is None:
            try:
                answer = await self._plain.get(f"{self._settings.base_url.rstrip('/')}/models")
                models = {model["id"]: model for model in answer.json()["data"]}
                self._context = models[self._settings.model].get("max_model_len") or 0
            except httpx.HTTPError as error:
                self._unreachable(error)
            except (ValueError, LookupError, TypeError, AttributeError):
                self._context = 0
        return self._context or None

    async def count(self, messages: Sequence[Message]) -> int | None:
        """By the engine's /tokenize, its template included."""
        body = {"model": self._settings.model, "messages": list(messages)}
        try:
            answer = await self._plain.post(f"{self._root}/tokenize", json=body)
            return int(answer.json()["count"]) if answer.status_code == httpx.codes.OK else None
        except httpx.HTTPError as error:
            self._unreachable(error)
        except (ValueError, LookupError, TypeError):
            return None

    async def stream(
        self, messages: Sequence[Message], asking: Asking = _AS_CONFIGURED
    ) -> AsyncGenerator[Piece, None]:
        """The answer; its end is only believed with a finish_reason, which a cut stream never has."""
        try:
            async with aclosing(self._pieces(messages, asking)) as pieces:
                async for piece in pieces:
                    yield piece
        except openai.APITimeoutError as error:
            if "connect" in type(error.__cause__).__name__.lower():
                self._unreachable(error)
            seconds = self._settings.first_token_timeout_s
            self._failed("engine_slow", f"was silent for {seconds:g} s (llm.first_token_timeout_s)", error)
        except openai.APIStatusError as error:
            reason = error.body.get("message", "") if isinstance(error.body, dict) else ""
            self._failed("engine_refused", f"answered {error.status_code}: {reason or error.message}", error)
        except openai.APIConnectionError as error:
            if (
                isinstance(error.__cause__, ConnectionError)
                or "connect" in type(error.__cause__).__name__.lower()
            ):
                self._unreachable(error)
            self._failed("engine_cut", "broke off in the middle of its answer", error)
        except openai.APIError as error:
            self._failed("engine_failed", f"broke off with an error: {error.message}", error)
        except ValueError as error:
            self._failed("engine_failed", "sent something that is not a chat answer", error)

    async def _pieces(self, messages: Sequence[Message], asking: Asking) -> AsyncGenerator[Piece, None]:
        tools: Any = {"tools": list(asking.tools), "tool_choice": asking.tool_choice} if asking.tools else {}
        stream: openai.AsyncStream[ChatCompletionChunk] = await self._chat.chat.completions.create(
            model=self._settings.model,
            messages=cast(list[ChatCompletionMessageParam], list(messages)),
            max_tokens=asking.max_tokens or self._settings.max_tokens,
            temperature=self._settings.temperature,
            stream=True,
            **tools,
        )
        finished = False
        async with stream:
            if "text/event-stream" not in stream.response.headers.get("content-type", ""):
                self._failed("engine_failed", f"answered {_error_in(await stream.response.aread())}", None)
            async for chunk in stream:
                for choice in chunk.choices[:1]:
                    finished = finished or choice.finish_reason is not None
                    calls = choice.delta.tool_calls or []
                    parts = [(c.index, c.id, c.function) for c in calls]
                    yield Piece(
                        choice.delta.content or "",
                        choice.finish_reason,
                        tuple(
                            ToolCall(index, key or "", (f and f.name) or "", (f and f.arguments) or "")
                            for index, key, f in parts
                        ),
                    )
        if not finished:
            self._failed("engine_cut", "broke off in the middle of its answer", None)

    def _unreachable(self, cause: Exception) -> NoReturn:
        self._system_role = self._context = None  # another model may be behind it when it comes back
        raise EngineError(
            "engine_unreachable",
            f"The engine at {self._root} can't be reached ({type(cause).__name__}).",
            rule="it accepts a connection and answers /health, each within "
            f"{self._settings.connect_timeout_s:g} s (llm.connect_timeout_s).",
            remedy=_LOOK,
        ) from cause

    def _failed(self, code: str, what: str, cause: Exception | None) -> NoReturn:
        self._system_role = self._context = None
        raise EngineError(code, f"The engine at {self._root} {what}.", remedy=_LOOK) from cause

    async def close(self) -> None:
        """Close connections."""
        await self._plain.aclose()
        await self._chat.close()


def _error_in(body: bytes) -> str:
    """What an error body says, without its wrapping."""
    try:
        data: Any = json.loads(body)
        error = data.get("error", data)
        return str(error.get("message", error) if isinstance(error, dict) else error)
    except (ValueError, AttributeError):
        return body[:200].decode(errors="replace")
