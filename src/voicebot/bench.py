"""`voicebot bench`: a spoken conversation on one connection, its stages against the same ones called bare."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openai
import soxr
import uvicorn
from openai.resources.realtime.realtime import AsyncRealtimeConnection

from voicebot import app, rest
from voicebot.audio import SAMPLE_RATE, Recording, decode, pcm16
from voicebot.clauses import ClauseSplitter
from voicebot.config import Settings
from voicebot.conversation import Conversation
from voicebot.errors import VoicebotError
from voicebot.listening import WIRE_RATE
from voicebot.llm import Asking
from voicebot.realtime.agreement import base_rules
from voicebot.stages import Stages, Stopwatch
from voicebot.turns import WINDOW, VoiceModel
from voicebot.wer import word_error_rate, words

_PACKET_S = 0.02
_PATIENCE_S = 180.0
_TAIL_S = 0.1
_VOICE = 0.5
FLOOR = ("stt_s", "llm_first_token_s", "first_clause_s", "tts_first_audio_s", "first_audio_s")


@dataclass
class Result:
    """Seconds, one entry a turn. `wait_s` is the silence that ends a turn: `live` has it, `floor` not."""

    wait_s: float
    live: dict[str, list[float]] = field(default_factory=dict)
    floor: dict[str, list[float]] = field(default_factory=dict)
    transcripts: list[str] = field(default_factory=list)
    bare_transcripts: list[str] = field(default_factory=list)
    references: list[str] = field(default_factory=list)
    """What was said; empty where nobody wrote it down."""

    def ratio(self, quantile: float) -> float:
        """End of speech to first sound, the silence not counted, against the floor."""
        live = percentile(self.live["heard_at_client_s"], quantile) - self.wait_s
        return live / percentile(self.floor["first_audio_s"], quantile)

    def wer(self, heard: Sequence[str]) -> float | None:
        """Wrong words per word, over all turns whose words are known; None where none are."""
        known = [(said, text) for said, text in zip(self.references, heard, strict=True) if said]
        total = sum(len(words(said)) for said, _ in known)
        wrong = sum(word_error_rate(said, text) * len(words(said)) for said, text in known)
        return wrong / total if total else None

    def summary(self) -> dict[str, Any]:
        """p50, p95 and maximum of each stage, live and bare; their ratio; word error rates."""
        return {
            "turns": len(self.transcripts),
            "stages": {name: _figures(values) for name, values in self.live.items()},
            "floor": {name: _figures(values) for name, values in self.floor.items()},
            "against_floor": {"p50": round(self.ratio(0.5), 3), "p95": round(self.ratio(0.95), 3)},
            "wer": {"live": self.wer(self.transcripts), "bare": self.wer(self.bare_transcripts)},
        }


def _figures(values: Sequence[float]) -> dict[str, float]:
    figures = {"p50": percentile(values, 0.5), "p95": percentile(values, 0.95), "max": max(values)}
    return {name: round(value, 4) for name, value in figures.items()}


def percentile(values: Sequence[float], quantile: float) -> float:
    """Of a few values, between neighbours by distance."""
    return float(np.quantile(values, quantile))


def reference(recording: Path) -> str:
    """What is said in it: the text file beside it, of the same name; empty where there is none."""
    text = recording.with_suffix(".txt")
    return text.read_text(encoding="utf-8").strip() if text.is_file() else ""


async def run(settings: Settings, recordings: Sequence[Path], turns: int) -> Result:
    """Load everything, serve it on loopback, talk to it."""
    llm = settings.llm.model_copy(update={"temperature": 0.0})
    talk = settings.conversation.model_copy(update={"rounds": 0, "partials": "never"})
    settings = settings.model_copy(update={"llm": llm, "conversation": talk})
    stages, voices = await asyncio.to_thread(lambda: (app.load(settings), VoiceModel(talk.smart_turn)))
    spoken = [_trimmed(_read(path, settings), voices) for path in recordings]
    result = Result(base_rules(talk).silence_s)
    async with _serving(settings, stages, voices) as url, _connected(url) as connection:
        for number in range(turns):
            recording = spoken[number % len(spoken)]
            result.references.append(reference(recordings[number % len(spoken)]))
            # Taking turns at going first: the second asks the engine what it has just been asked.
            if number % 2:
                await _bare(settings, stages, recording, result)
            await _live(connection, recording, result)
            if not number % 2:
                await _bare(settings, stages, recording, result)
    return result


def _read(path: Path, settings: Settings) -> Recording:
    with path.open("rb") as file:
        return decode(file, name=str(path), max_seconds=settings.limits.max_audio_seconds)


def _trimmed(recording: Recording, voices: VoiceModel) -> Recording:
    """Up to shortly after the last voiced window: silence of the recording is no latency of ours."""
    detector = voices.detector()
    windows = [
        recording.samples[i : i + WINDOW] for i in range(0, len(recording.samples) - WINDOW + 1, WINDOW)
    ]
    voiced = [number for number, window in enumerate(windows) if detector.probability(window) >= _VOICE]
    end = (voiced[-1] + 1) * WINDOW + round(_TAIL_S * SAMPLE_RATE) if voiced else len(recording.samples)
    return Recording(recording.samples[:end])


@asynccontextmanager
async def _serving(settings: Settings, stages: Stages, voices: VoiceModel) -> AsyncIterator[str]:
    options = uvicorn.Config(rest.build(settings, stages, voices), port=0, log_config=None, access_log=False)
    server = uvicorn.Server(options)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        if serving.done():
            await serving
        await asyncio.sleep(0.01)
    yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


@asynccontextmanager
async def _connected(address: str) -> AsyncIterator[AsyncRealtimeConnection]:
    client = openai.AsyncOpenAI(
        base_url=f"http://{address}/v1", websocket_base_url=f"ws://{address}/v1", api_key="unused"
    )
    async with client.realtime.connect(model="voicebot") as connection:
        yield connection


async def _live(connection: AsyncRealtimeConnection, recording: Recording, result: Result) -> None:
    """Speak at the pace of speech, then be silent until the answer sounds; then stop it."""
    samples = soxr.resample(recording.samples, SAMPLE_RATE, WIRE_RATE)
    ended = asyncio.get_running_loop().create_future()
    speaking = asyncio.create_task(_speak(connection, pcm16(samples), ended))
    try:
        async with asyncio.timeout(_PATIENCE_S + recording.seconds):
            transcript = ""
            while True:
                event: Any = await connection.recv()
                if event.type == "conversation.item.input_audio_transcription.completed":
                    transcript = event.transcript
                elif event.type == "response.output_audio.delta":
                    heard = time.monotonic()
                    break
                elif event.type in ("response.done", "error"):
                    raise VoicebotError("bench_failed", f"No answer: {event.to_json()}")
            await connection.response.cancel()
            while event.type != "response.done":
                event = await connection.recv()
    finally:
        speaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await speaking
    result.transcripts.append(transcript)
    stages = {name: float(seconds) for name, seconds in event.response.metadata.items()}
    stages["heard_at_client_s"] = heard - await ended + _TAIL_S
    for name, seconds in stages.items():
        result.live.setdefault(name, []).append(seconds)


async def _speak(connection: AsyncRealtimeConnection, pcm: bytes, ended: asyncio.Future[float]) -> None:
    step = 2 * round(_PACKET_S * WIRE_RATE)
    due = time.monotonic()
    while True:
        packet, pcm = pcm[:step], pcm[step:]
        audio = base64.b64encode(packet.ljust(step, b"\0")).decode()
        await connection.input_audio_buffer.append(audio=audio)
        if not pcm and not ended.done():
            ended.set_result(time.monotonic())
        due += _PACKET_S
        await asyncio.sleep(max(0.0, due - time.monotonic()))


async def _bare(settings: Settings, stages: Stages, recording: Recording, result: Result) -> None:
    """Each stage alone, one after the other, up to the first sound."""
    watch = Stopwatch()
    watch.mark("decoded")
    question = await stages.stt.transcribe(recording)
    watch.mark("heard")
    result.bare_transcripts.append(question)
    role = await stages.llm.prepare()
    messages = Conversation(settings.llm.system_prompt).window(question, system_role=role)
    watch.mark("asked")
    clause = ""
    splitter = ClauseSplitter()
    async with aclosing(stages.llm.stream(messages, Asking())) as pieces:
        async for piece in pieces:
            if piece.text.strip():
                watch.mark("first_token")
            if found := splitter.feed(piece.text):
                clause = found[0]
                break
    clause = clause or "".join(splitter.finish()[:1])
    watch.mark("first_clause")
    async with aclosing(stages.tts.speak(clause)) as speech:
        await anext(speech, b"")
    watch.mark("first_audio")
    metrics = watch.metrics()
    for name in FLOOR:
        result.floor.setdefault(name, []).append(metrics.get(name, 0.0))


def table(result: Result) -> str:
    """For a person."""
    lines = [f"{'seconds':<24}{'p50':>8}{'p95':>8}{'max':>8}{'floor p50':>12}{'p95':>8}{'max':>8}"]
    summary = result.summary()
    for name, figures in summary["stages"].items():
        if name == "total_s":
            continue
        shown = [f"{name.removesuffix('_s'):<24}", *(f"{v:8.3f}" for v in figures.values())]
        if name in summary["floor"]:
            shown += ["    ", *(f"{v:8.3f}" for v in summary["floor"][name].values())]
        lines.append("".join(shown))
    ratios = summary["against_floor"]
    lines.append(
        f"\nend of speech to first sound, less {result.wait_s:g} s of silence, against the floor: "
        f"p50 {ratios['p50']:.2f}, p95 {ratios['p95']:.2f}"
    )
    live, bare = summary["wer"].values()
    if live is not None:
        lines.append(f"word error rate: {live:.3f}; of the bare recogniser {bare:.3f}")
    return "\n".join(lines)
