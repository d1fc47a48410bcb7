"""Turns out of probabilities: on the audio clock, whatever the processing takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from voicebot.audio import SAMPLE_RATE
from voicebot.turns import (
    PRESETS,
    WINDOW,
    Ended,
    Endpointer,
    Insisted,
    Paused,
    Resumed,
    Signal,
    Started,
    TurnRules,
)
from voicebot.turns.rules import INCOMPLETE_CAP_S, semantic
from voicebot.turns.words import only_go_on, seem_finished

WINDOW_S = WINDOW / SAMPLE_RATE


def feed(endpointer: Endpointer, seconds: float, probability: float) -> list[Signal]:
    return [s for _ in range(round(seconds / WINDOW_S)) for s in endpointer.feed(probability)]


def listen(rules: TurnRules, *parts: tuple[float, float]) -> list[Signal]:
    endpointer = Endpointer(rules)
    return [signal for seconds, probability in parts for signal in feed(endpointer, seconds, probability)]


def kinds(signals: list[Signal]) -> list[type[Signal]]:
    return [type(signal) for signal in signals]


@pytest.mark.parametrize(
    ("name", "min_speech", "silence"),
    [("commands", 0.8, 0.6), ("conversation", 1.0, 1.0), ("long_form", 2.0, 2.0)],
)
def test_presets_have_the_tutorials_numbers_and_hear_a_yes(
    name: str, min_speech: float, silence: float
) -> None:
    rules = PRESETS[name]
    assert (rules.min_speech_s, rules.silence_s) == (min_speech, silence)
    signals = listen(rules, (1.0, 0.01), (0.3, 0.95), (silence + 0.5, 0.01))
    assert kinds(signals) == [Started, Paused, Ended]
    ended = signals[-1]
    assert isinstance(ended, Ended)
    assert (ended.end - ended.last_voiced) / SAMPLE_RATE == pytest.approx(silence, abs=2 * WINDOW_S)


def test_the_pre_roll_is_kept() -> None:
    started = listen(TurnRules(pre_roll_s=0.3), (1.0, 0.01), (0.3, 0.95))[0]
    assert isinstance(started, Started)
    assert started.sample / SAMPLE_RATE == pytest.approx(0.7, abs=2 * WINDOW_S)


def test_a_pause_within_a_turn_is_part_of_it() -> None:
    signals = listen(PRESETS["conversation"], (0.5, 0.0), (1, 0.9), (0.7, 0.1), (1, 0.9), (2, 0.0))
    assert kinds(signals) == [Started, Insisted, Paused, Resumed, Paused, Ended]
    ended = signals[-1]
    assert isinstance(ended, Ended)
    assert (ended.end - ended.start) / SAMPLE_RATE == pytest.approx(0.3 + 2.7 + 1.0, abs=0.1)


@pytest.mark.parametrize("burst", [(0.06, 0.99), (0.4, 0.6)])
def test_clicks_and_doubtful_bursts_are_no_turn(burst: tuple[float, float]) -> None:
    assert listen(PRESETS["conversation"], *[(0.5, 0.01), burst, (1.5, 0.01)] * 4) == []


def test_long_doubtful_voice_is_a_turn() -> None:
    signals = listen(PRESETS["conversation"], (0.5, 0.0), (1.2, 0.6), (2, 0.0))
    assert kinds(signals)[0] is Started


def test_a_pause_does_not_reset_what_it_takes_to_interrupt() -> None:
    """ "Wait … stop that": each word alone is short."""
    rules = TurnRules(interrupt_s=0.6)
    assert Insisted not in kinds(listen(rules, (0.4, 0.9), (0.4, 0.0)))
    assert Insisted in kinds(listen(rules, (0.4, 0.9), (0.4, 0.0), (0.3, 0.9)))


def test_two_turns_do_not_share_a_sample() -> None:
    rules = replace(PRESETS["commands"], silence_s=0.1, pre_roll_s=0.3)
    ends = [
        s for s in listen(rules, *[(0.5, 0.9), (0.15, 0.0)] * 4, (1, 0.0)) if isinstance(s, (Ended, Started))
    ]
    for ended, started in zip(ends[1::2], ends[2::2], strict=False):
        assert isinstance(ended, Ended)
        assert isinstance(started, Started)
        assert started.sample >= ended.end


def test_nobody_holds_the_floor_for_ever() -> None:
    signals = listen(TurnRules(max_turn_s=3), (10, 0.95))
    lengths = [s.end - s.start for s in signals if isinstance(s, Ended)]
    assert len(lengths) == 3
    assert max(lengths) <= 3 * SAMPLE_RATE + WINDOW


@pytest.mark.parametrize("eagerness", ["high", "medium", "auto", "low"])
def test_words_that_seem_finished_shorten_the_wait(eagerness: str) -> None:
    rules = semantic(PRESETS["long_form"], eagerness)  # type: ignore[arg-type]
    waits = {}
    for finished in (True, False):
        endpointer = Endpointer(rules)
        feed(endpointer, 1, 0.9)
        feed(endpointer, rules.speculate_s + WINDOW_S, 0.0)
        endpointer.words_seem_finished(finished)
        (ended,) = [s for s in feed(endpointer, 3, 0.0) if isinstance(s, Ended)]
        waits[finished] = (ended.end - ended.last_voiced) / SAMPLE_RATE
    assert waits[True] < waits[False] <= INCOMPLETE_CAP_S + 2 * WINDOW_S


def test_a_hint_is_for_one_pause_only() -> None:
    rules = semantic(PRESETS["conversation"], "medium")
    endpointer = Endpointer(rules)
    feed(endpointer, 1, 0.9)
    feed(endpointer, 0.2, 0.0)
    endpointer.words_seem_finished(True)
    feed(endpointer, 1, 0.9)
    assert [s for s in feed(endpointer, 0.6, 0.0) if isinstance(s, Ended)] == []


@pytest.mark.parametrize("text", ["Mm-hm.", "Yeah, right.", "Uh-huh", "Okay.", "", "I see."])
def test_go_on(text: str) -> None:
    assert only_go_on(text)


@pytest.mark.parametrize("text", ["Stop.", "No.", "Wait!", "Okay, stop.", "Yes but why"])
def test_not_go_on(text: str) -> None:
    assert not only_go_on(text)


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("What time is it?", True), ("Yes.", True), ("I would like to", False), ("And then the.", False),
        ("Well...", False), ("Set a timer for", False), ("", False),
    ],
)  # fmt: skip
def test_seem_finished(text: str, finished: bool) -> None:
    assert seem_finished(text) is finished
