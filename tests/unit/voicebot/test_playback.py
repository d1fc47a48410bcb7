"""What was heard of an answer."""

from __future__ import annotations

import pytest

from voicebot.playback import Playback


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def answer(clock: Clock) -> Playback:
    playback = Playback(clock)
    for text in ("One two three four.", "Five six."):
        playback.clause(text)
        playback.sent(1.0)
        playback.sent(1.0)
    return playback


@pytest.mark.parametrize(("after", "heard"), [(0, 0), (0.5, 0.5), (3, 3), (9, 4)])
def test_speech_is_played_at_its_own_pace_however_fast_it_was_sent(after: float, heard: float) -> None:
    clock = Clock()
    playback = answer(clock)
    clock.now += after
    assert playback.heard_s() == pytest.approx(heard)
    assert playback.ends == pytest.approx(104)


def test_a_gap_between_pieces_is_not_speech() -> None:
    clock = Clock()
    playback = Playback(clock)
    playback.clause("One.")
    playback.sent(1.0)
    clock.now += 5
    playback.clause("Two.")
    playback.sent(1.0)
    assert playback.heard_s() == pytest.approx(1)
    clock.now += 0.5
    assert playback.heard_s() == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, ""), (0.4, ""), (0.6, "One"), (1.9, "One two three"), (2.0, "One two three four."),
        (3.0, "One two three four. Five"), (4.0, "One two three four. Five six."),
        (9, "One two three four. Five six."),
    ],
)  # fmt: skip
def test_only_whole_words_count_as_heard(seconds: float, text: str) -> None:
    assert answer(Clock()).text_until(seconds) == text
