"""The live service against the lab's real vLLM: latency over the floor, what speculation is worth, barge-in."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests import speech
from tests.integration.voicebot.conftest import serving
from tests.integration.voicebot.test_bench import bench
from tests.integration.voicebot.test_live import talking, until
from tests.scripted import Engine

pytestmark = [pytest.mark.lab, pytest.mark.long]
RUNS, TURNS, BARGE_INS = 3, 20, 20
AT_ONCE_S = 0.1


@pytest.fixture
def model(engine: str) -> str:
    """The name that the engine serves."""
    return str(httpx.get(f"{engine}/v1/models", timeout=30).json()["data"][0]["id"])


def test_latency_against_the_floor_and_speculation(
    engine: str,
    model: str,
    speech_models: Path,
    human_speech: list[speech.Utterance],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """Median of three runs of twenty turns, temperature 0, half a second of silence taken off both sides."""
    whisper, real = speech_models / "whisper-base", Engine(url=engine, model=model)
    runs: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for _ in range(RUNS):
        for speculate, into in runs.items():
            into.append(bench(tmp_path, whisper, real, human_speech, TURNS, speculate=speculate))
    ratios = {
        name: statistics.median(run["against_floor"][name] for run in runs[True]) for name in ("p50", "p95")
    }
    first = {
        speculate: statistics.median(run["stages"]["heard_at_client_s"]["p50"] for run in found)
        for speculate, found in runs.items()
    }
    record_property("latency_against_floor", ratios)
    record_property("first_audio_s_with_and_without_speculation", first)
    record_property("wer", [run["wer"] for run in runs[True]])
    assert ratios["p50"] <= 1.25
    assert ratios["p95"] <= 1.6
    assert first[True] < first[False]
    live, bare = (statistics.median(run["wer"][side] for run in runs[True]) for side in ("live", "bare"))
    assert live <= bare


async def test_barge_ins_end_the_answer_and_the_engines_request(
    engine: str,
    model: str,
    speech_models: Path,
    human_speech: list[speech.Utterance],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    took, engine_s = [], []
    options = {"model": model, "max_tokens": 400, "system_prompt": "Tell a very long story, without end."}
    with serving(tmp_path, speech_models / "whisper-base", engine, options) as service:
        async with talking(service) as (connection, microphone), httpx.AsyncClient() as http:
            for _ in range(2 * BARGE_INS):
                microphone.say(human_speech[1])
                await until(connection, "response.output_audio.delta")
                microphone.say(human_speech[4])
                events = await until(connection, "input_audio_buffer.speech_started")
                began = time.monotonic()
                # An answer that was whole already is only cut in its playback: no request is left to end.
                if not any(event.type == "response.done" for event in events):
                    assert (await until(connection, "response.done"))[-1].response.status == "cancelled"
                    took.append(time.monotonic() - began)
                    await _idle(http, engine)
                    engine_s.append(time.monotonic() - began)
                await until(connection, "response.output_audio.delta")
                await connection.response.cancel()
                await until(connection, "response.done")
                if len(took) == BARGE_INS:
                    break
    record_property("barge_in_to_answer_ended_s", took)
    record_property("barge_in_to_engine_idle_s", engine_s)
    assert len(took) == BARGE_INS
    assert max(took) <= AT_ONCE_S


async def _idle(http: httpx.AsyncClient, engine: str) -> None:
    """Until the engine works on nothing."""
    async with asyncio.timeout(60):
        while True:
            metrics = (await http.get(f"{engine}/metrics", timeout=30)).text
            if not any(map(float, re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", metrics, re.M))):
                return
            await asyncio.sleep(0.05)
