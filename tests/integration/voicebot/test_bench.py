"""Latency against the floor, and what speculation is worth: real Whisper, real voice, a paced engine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import speech
from tests.integration.voicebot.conftest import ANSWER, command, configure
from tests.scripted import Engine, chunk, running

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def paced() -> Iterator[Engine]:
    """First token after 0.15 s, then one each 0.06 s: a small model on a small machine."""
    words = [chunk(word) for word in ANSWER.replace(" ", "| ").split("|")]
    script: list[Any] = [
        0.15,
        *[step for word in words for step in (0.06, word)],
        chunk("", "stop"),
        "[DONE]",
    ]
    engine = Engine(script=script)
    with running(engine.app()) as url:
        engine.url = url
        yield engine


def bench(
    folder: Path, model: Path, engine: Engine, utterances: list[speech.Utterance], turns: int, **talk: Any
) -> dict[str, Any]:
    config = configure(folder, model, engine.url, conversation={"silence_s": 0.5, **talk})
    files = [utterance.path for utterance in utterances]
    out = folder / "bench.json"
    options = ("--config", config, "--turns", str(turns), "--json", out)
    done = command("bench", *files, *options, folder=folder, seconds=600)
    assert done.returncode == 0, done.stderr
    assert "against the floor: p50 " in done.stdout
    print(done.stdout)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_speculation_pays(
    tmp_path: Path,
    whisper_tiny: Path,
    paced: Engine,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    figures = {}
    for speculate in (True, False):
        found = bench(tmp_path, whisper_tiny, paced, [human_speech[1]], 2, speculate=speculate)
        assert len(found["live"]["stt_s"]) == len(found["floor"]["stt_s"]) == 2
        assert all(abs(rest) < 0.01 for rest in found["live"]["unexplained_s"])
        rates = [speech.word_error_rate(human_speech[1].text, text) for text in found["transcripts"]]
        assert max(rates) <= 0.4
        figures[speculate] = statistics.median(found["live"]["stt_s"])
    record_property("stt_after_turn_s_with_and_without_speculation", figures)
    assert figures[True] < figures[False] - 0.1


@pytest.mark.long
def test_latency_against_the_floor(
    tmp_path: Path,
    whisper_base: Path,
    paced: Engine,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    ratios: dict[float, list[float]] = {0.5: [], 0.95: []}
    for _ in range(3):
        found = bench(tmp_path, whisper_base, paced, human_speech, 10)
        for quantile, into in ratios.items():
            live, floor = (
                statistics.quantiles(found[side][name], n=20, method="inclusive")[round(20 * quantile) - 1]
                for side, name in (("live", "heard_at_client_s"), ("floor", "first_audio_s"))
            )
            into.append((live - found["wait_s"]) / floor)
    record_property("latency_against_floor", ratios)
    assert statistics.median(ratios[0.5]) <= 1.25
    assert statistics.median(ratios[0.95]) <= 1.6
