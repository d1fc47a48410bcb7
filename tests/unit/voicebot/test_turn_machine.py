"""The turn machine under any sound and any rules: its signals always make sense."""

from __future__ import annotations

from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from voicebot.turns import WINDOW, Ended, Endpointer, Insisted, Paused, Resumed, Signal, Started, TurnRules

_RULES = st.builds(
    TurnRules,
    silence_s=st.floats(0.1, 3),
    min_speech_s=st.floats(0, 3),
    threshold=st.floats(0.05, 0.95),
    pre_roll_s=st.floats(0, 1),
    speculate_s=st.floats(0, 1),
    interrupt_s=st.floats(0.1, 2),
    unfinished_s=st.none() | st.floats(0.1, 1.5),
    max_turn_s=st.floats(1, 10),
)
_STRETCH = st.tuples(st.integers(1, 60), st.sampled_from((0.0, 0.3, 0.45, 0.6, 0.9, 1.0)))
_HINT = st.sampled_from((None, None, None, True, False, "finish"))


@examples(deadline=None, database=None, derandomize=True)
@given(rules=_RULES, stretches=st.lists(st.tuples(_STRETCH, _HINT), max_size=30))
def test_signals_follow_their_grammar(
    rules: TurnRules, stretches: list[tuple[tuple[int, float], bool | str | None]]
) -> None:
    """Started (Insisted | Paused Resumed?)* Ended; no sample in two turns; none kept that is not needed."""
    machine = Endpointer(rules)
    open_ = insisted = paused = False
    now = start = free_from = needed = 0

    def check(signal: Signal) -> None:
        nonlocal open_, insisted, paused, start, free_from
        match signal:
            case Started(sample):
                assert not open_
                assert free_from <= sample < now
                assert sample >= needed, "what a turn begins with is still kept"
                open_, insisted, paused, start = True, False, False, sample
            case Insisted():
                assert open_ and not insisted
                insisted = True
            case Paused(begin, end):
                assert open_ and not paused
                assert (begin, end) == (start, now)
                paused = True
            case Resumed():
                assert open_ and paused
                paused = False
            case Ended(begin, end, last_voiced):
                assert open_
                assert (begin, end) == (start, now)
                assert start < last_voiced <= end
                open_, free_from = False, now

    for (count, probability), hint in stretches:
        for _ in range(count):
            needed = machine.oldest_needed
            now += WINDOW
            for signal in machine.feed(probability):
                check(signal)
            assert machine.speaking == open_
            assert 0 <= machine.oldest_needed <= now
        if hint == "finish":
            for signal in machine.finish():
                check(signal)
        elif hint is not None:
            machine.words_seem_finished(bool(hint))
    if open_:
        for signal in machine.finish():
            check(signal)
    assert not machine.speaking
    silence = [signal for _ in range(400) for signal in machine.feed(0.0)]
    assert silence == []
