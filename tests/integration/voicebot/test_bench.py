"""Latency against the floor, and what speculation is worth: real Whisper, real voice, a paced engine."""

from __future__ import annotations

import json
import shutil
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
    """The JSON of `voicebot bench`; the silence that ends a turn is half a second."""
    config = configure(
        folder, model, engine.url, llm={"connect_timeout_s": 10, "model": engine.model},
        conversation={"silence_s": 0.5, **talk},
    )  # fmt: skip
    files = []
    for utterance in utterances:
        files.append(folder / utterance.path.name)
        shutil.copy(utterance.path, files[-1])
        files[-1].with_suffix(".txt").write_text(utterance.text, encoding="utf-8")
    out = folder / "bench.json"
    options = ("--config", config, "--turns", str(turns), "--json", out)
    done = command("bench", *files, *options, folder=folder, seconds=900)
    assert done.returncode == 0, done.stderr
    assert "against the floor: p50 " in done.stdout
    assert "word error rate: " in done.stdout
    print(done.stdout)
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_a_conversation_is_timed_against_its_floor(
    tmp_path: Path,
    whisper_tiny: Path,
    paced: Engine,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    """Three turns on one connection; a machine that is busy with something else gets further chances."""
    spoken = [human_speech[1], human_speech[4]]
    for _ in range(3):
        found = bench(tmp_path, whisper_tiny, paced, spoken, 3)
        each = found["each"]
        assert found["turns"] == len(each["transcripts"]) == 3
        assert each["references"] == [spoken[i % 2].text for i in range(3)]
        for name in ("stt_s", "llm_first_token_s", "first_clause_s", "tts_first_audio_s", "first_audio_s"):
            assert len(each["live"][name]) == len(each["floor"][name]) == 3
            for side in ("stages", "floor"):
                figures = found[side][name]
                assert 0 <= figures["p50"] <= figures["p95"] <= figures["max"]
        assert all(abs(rest) < 0.01 for rest in each["live"]["unexplained_s"]), (
            "the spans add up to the whole"
        )
        assert found["wer"]["live"] <= 0.4 and found["wer"]["bare"] <= 0.4
        if found["against_floor"]["p50"] <= 3:
            break
    record_property("bench_against_floor", found["against_floor"])
    record_property("bench_wer", found["wer"])
    assert found["against_floor"]["p50"] <= 3


@pytest.mark.long
def test_speculation_pays(
    tmp_path: Path,
    whisper_tiny: Path,
    paced: Engine,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    figures: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(3):
        for speculate, into in figures.items():
            found = bench(tmp_path, whisper_tiny, paced, human_speech, 5, speculate=speculate)
            into.append(found["stages"]["stt_s"]["p50"])
    record_property("stt_after_turn_s_with_and_without_speculation", figures)
    assert statistics.median(figures[True]) < statistics.median(figures[False])


@pytest.mark.long
def test_latency_against_the_floor(
    tmp_path: Path,
    whisper_base: Path,
    paced: Engine,
    human_speech: list[speech.Utterance],
    record_property: Callable[[str, object], None],
) -> None:
    ratios = [bench(tmp_path, whisper_base, paced, human_speech, 20)["against_floor"] for _ in range(3)]
    record_property("latency_against_floor", ratios)
    assert statistics.median(ratio["p50"] for ratio in ratios) <= 1.25
    assert statistics.median(ratio["p95"] for ratio in ratios) <= 1.6
