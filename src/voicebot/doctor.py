"""`voicebot doctor`: everything the service needs, one line each: ok, or what to do."""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path

from voicebot import ask, client, config, health
from voicebot.audio import decode
from voicebot.config import Settings
from voicebot.conversation import Conversation
from voicebot.errors import ConfigError, VoicebotError
from voicebot.llm import OpenAIChat
from voicebot.loading import speech_to_text, text_to_speech
from voicebot.wer import word_error_rate

_PACKAGES = {"av": "av", "faster-whisper": "faster_whisper", "hibari-tts": "hibari", "openai": "openai"}
_MAX_WER = 0.25

Check = Callable[[Settings], str]


def examine(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Name, finding, and whether it is well, for each thing."""
    yield _judge("packages", _packages)
    settings: Settings | None = None
    try:
        settings = config.load(path)
        yield "config", str(path), True
    except VoicebotError as error:
        yield "config", str(error), False
    checks: dict[str, Check] = {
        "engine": _engine,
        "model": _model,
        "template": _template,
        "answer": _answer,
        "speech to text": _stt,
        "text to speech": _tts,
        "service": _service,
    }
    for name, check in checks.items():
        if settings is None:
            yield name, "not examined: it needs the configuration.", False
        else:
            yield _judge(name, partial(check, settings))


def _judge(name: str, check: Callable[[], str]) -> tuple[str, str, bool]:
    try:
        return name, check(), True
    except VoicebotError as error:
        return name, str(error), False


def _packages() -> str:
    try:
        for module in _PACKAGES.values():
            importlib.import_module(module)
        return ", ".join(f"{package} {metadata.version(package)}" for package in _PACKAGES)
    except ImportError as error:
        remedy = "install the service again (role voicebot)."
        raise ConfigError("packages", f"{error}.", rule="all locked packages.", remedy=remedy) from error


def _with_engine(settings: Settings, question: Callable[[OpenAIChat], Awaitable[str]]) -> str:
    """Ask the engine one thing, by a client of its own."""

    async def run() -> str:
        engine = OpenAIChat(settings.llm)
        try:
            return await question(engine)
        finally:
            await engine.close()

    return asyncio.run(run())


def _engine(settings: Settings) -> str:
    async def healthy(engine: OpenAIChat) -> str:
        await engine.prepare()
        return f"{settings.llm.base_url} is healthy"

    return _with_engine(settings, healthy)


def _model(settings: Settings) -> str:
    async def served(engine: OpenAIChat) -> str:
        models = await engine.models()
        if settings.llm.model not in models:
            what = f"llm.model is {settings.llm.model!r}, which the engine does not serve."
            rule = f"one of {', '.join(models) or 'none at all'}."
            raise ConfigError("llm_model", what, rule=rule, remedy="set llm.model to it.")
        return f"{settings.llm.model} is served"

    return _with_engine(settings, served)


def _template(settings: Settings) -> str:
    async def template(engine: OpenAIChat) -> str:
        if await engine.prepare():
            return "has a system role"
        return "has no system role: the system prompt goes with the first question of every window"

    return _with_engine(settings, template)


def _answer(settings: Settings) -> str:
    async def answer(engine: OpenAIChat) -> str:
        started = time.monotonic()
        words = Conversation("").window("Say hello.", system_role=False)
        text = "".join([piece.text async for piece in engine.stream(words)])
        return f"{len(text.split())} words in {time.monotonic() - started:.1f} s"

    short = settings.llm.model_copy(update={"max_tokens": 8})
    return _with_engine(settings.model_copy(update={"llm": short}), answer)


def _stt(settings: Settings) -> str:
    path, reference = ask.sample()
    recogniser = speech_to_text(settings.stt)
    with path.open("rb") as file:
        recording = decode(file, max_seconds=settings.limits.max_audio_seconds)
    started = time.monotonic()
    rate = word_error_rate(reference, asyncio.run(recogniser.transcribe(recording)))
    seconds = time.monotonic() - started
    recogniser.close()
    if rate > _MAX_WER:
        what = f"{settings.stt.model} gets {rate:.0%} of the sample's words wrong."
        remedy = "check stt.language (the sample is English), or choose a larger model."
        raise ConfigError("stt_wrong", what, rule=f"at most {_MAX_WER:.0%}.", remedy=remedy)
    return f"sample of {recording.seconds:.1f} s heard in {seconds:.1f} s, word error rate {rate:.2f}"


def _tts(settings: Settings) -> str:
    voice = text_to_speech(settings.tts)

    async def speak() -> int:
        return sum([len(pcm) async for pcm in voice.speak("Hello, this is a test.")])

    started = time.monotonic()
    spoken = asyncio.run(speak()) / 2 / voice.sample_rate
    seconds = time.monotonic() - started
    voice.close()
    return f"voice {settings.tts.voice}: {spoken:.1f} s of speech in {seconds:.2f} s"


def _service(settings: Settings) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.server.host, settings.server.host)
    url = f"http://{host}:{settings.server.port}"
    state = client.health(url)
    faults = [f"{name}: {text}" for name, text in state.items() if name != "status" and text != health.OK]
    if faults:
        remedy = "see the lines above; journalctl -u voicebot."
        raise ConfigError("service", f"{url} is not fit to answer ({'; '.join(faults)}).", remedy=remedy)
    return f"{url} is fit to answer"
