"""The engine's client: streaming, the template's manners, and everything that counts as a failure."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tests.scripted import Broken, Engine, chunk, free_port
from voicebot.config import Llm
from voicebot.conversation import Message
from voicebot.errors import EngineError
from voicebot.llm import OpenAIChat

QUESTION: list[Message] = [{"role": "user", "content": "Hi."}]


@pytest.fixture
async def chat(engine: Engine) -> AsyncIterator[OpenAIChat]:
    client = OpenAIChat(Llm(base_url=f"{engine.url}/v1", model="m", max_tokens=7, connect_timeout_s=30))
    yield client
    await client.close()


async def text(chat: OpenAIChat) -> str:
    return "".join([piece.text async for piece in chat.stream(QUESTION)])


async def failure(chat: OpenAIChat) -> EngineError:
    with pytest.raises(EngineError) as caught:
        await text(chat)
    assert "Remedy: " in str(caught.value)
    return caught.value


async def test_the_answer_streams(chat: OpenAIChat, engine: Engine) -> None:
    pieces = [piece async for piece in chat.stream(QUESTION)]
    assert "".join(piece.text for piece in pieces) == "Hello there. How are you?"
    assert pieces[-1].finish_reason == "stop"
    [request] = engine.asked
    assert request["messages"] == QUESTION
    assert (request["model"], request["max_tokens"], request["stream"]) == ("m", 7, True)


@pytest.mark.parametrize(("manner", "has"), [("rendered", True), ("ignored", False), ("refused", False)])
async def test_the_template_tells_whether_it_has_a_system_role(
    chat: OpenAIChat, engine: Engine, manner: str, has: bool
) -> None:
    engine.system_role = manner
    assert await chat.prepare() is has
    asked = engine.tokenized
    assert await chat.prepare() is has
    assert engine.tokenized == asked, "asked once, not in every turn"


async def test_the_template_is_asked_again_after_a_failure(chat: OpenAIChat, engine: Engine) -> None:
    assert await chat.prepare() is True
    engine.healthy = 503
    with pytest.raises(EngineError, match="/health answers 503"):
        await chat.prepare()
    engine.healthy, engine.system_role = 200, "refused"
    assert await chat.prepare() is False


async def test_an_error_chunk_is_a_failure(chat: OpenAIChat, engine: Engine) -> None:
    engine.script = [chunk("Hel"), {"error": {"message": "EngineCore died", "code": 500}}, "[DONE]"]
    error = await failure(chat)
    assert error.code == "engine_failed"
    assert "EngineCore died" in str(error)


@pytest.mark.parametrize(
    "script", [[chunk("Hel")], [chunk("Hel"), "[DONE]"], [], [chunk("Hel"), Broken], [Broken]]
)
async def test_a_stream_that_stops_short_is_a_failure(
    chat: OpenAIChat, engine: Engine, script: list[object]
) -> None:
    engine.script = script
    assert (await failure(chat)).code == "engine_cut"


async def test_rubbish_is_a_failure(chat: OpenAIChat, engine: Engine) -> None:
    engine.script = [chunk("Hel"), "not json"]
    assert (await failure(chat)).code == "engine_failed"


@pytest.mark.parametrize(
    ("response", "code", "words"),
    [
        (JSONResponse({"error": {"message": "no such task"}}), "engine_failed", "no such task"),
        (PlainTextResponse("<html>"), "engine_failed", "<html>"),
        (JSONResponse({"error": {"message": "too long"}}, 400), "engine_refused", "400: too long"),
        (JSONResponse({"error": {"message": "no model"}}, 404), "engine_refused", "404: no model"),
        (JSONResponse({"error": "Unauthorized"}, 401), "engine_refused", "401"),
        (PlainTextResponse("oops", 500), "engine_refused", "500"),
    ],
)
async def test_error_bodies(
    chat: OpenAIChat, engine: Engine, response: Response, code: str, words: str
) -> None:
    engine.response = response
    error = await failure(chat)
    assert error.code == code
    assert words in str(error)
    assert len(engine.asked) == 1, "nothing is tried again in silence"


@pytest.mark.parametrize("script", [[600.0, *[chunk("late", "stop")]], [chunk("Hel"), 600.0]])
async def test_a_silent_engine_is_given_up(engine: Engine, script: list[object]) -> None:
    engine.script = script
    chat = OpenAIChat(Llm(base_url=f"{engine.url}/v1", model="m", first_token_timeout_s=0.3))
    error = await failure(chat)
    await chat.close()
    assert error.code == "engine_slow"
    assert "silent for 0.3 s" in str(error)


async def test_an_engine_that_is_down_is_said_at_once() -> None:
    chat = OpenAIChat(Llm(base_url=f"http://127.0.0.1:{free_port()}/v1"))
    began = time.monotonic()
    with pytest.raises(EngineError) as caught:
        await chat.prepare()
    assert caught.value.code == "engine_unreachable"
    assert (await failure(chat)).code == "engine_unreachable"
    assert time.monotonic() - began < 10
    await chat.close()


async def test_an_engine_that_swallows_connections_is_said_within_two_seconds() -> None:
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        address = deaf.getsockname()
        fillers = [socket.socket() for _ in range(3)]  # fill the backlog, so that connecting hangs
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        chat = OpenAIChat(Llm(base_url=f"http://127.0.0.1:{address[1]}/v1"))
        began = time.monotonic()
        with pytest.raises(EngineError) as caught:
            await chat.prepare()
        assert caught.value.code == "engine_unreachable"
        assert time.monotonic() - began < 10
        await chat.close()
        for filler in fillers:
            filler.close()


async def test_leaving_the_stream_cancels_the_request(chat: OpenAIChat, engine: Engine) -> None:
    engine.script = [chunk("Hel"), 0.1, *[step for _ in range(50) for step in (chunk("x"), 0.1)]]
    stream = chat.stream(QUESTION)
    await anext(stream)
    await stream.aclose()
    assert await asyncio.to_thread(engine.abandoned.wait, 2)


async def test_proxies_of_the_environment_are_not_used(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    chat = OpenAIChat(Llm(base_url=f"{engine.url}/v1", model="m"))
    assert await chat.models() == ["m"]
    assert await text(chat) == "Hello there. How are you?"
    await chat.close()
