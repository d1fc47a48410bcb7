"""The shipped word error rate agrees with jiwer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import speech
from voicebot.wer import word_error_rate

SENTENCE = st.lists(
    st.sampled_from(["he", "was", "not", "ill", "well", "young"]), min_size=1, max_size=8
).map(" ".join)


@given(SENTENCE, SENTENCE)
def test_it_equals_jiwer(reference: str, heard: str) -> None:
    assert word_error_rate(reference, heard) == pytest.approx(speech.word_error_rate(reference, heard))


def test_case_punctuation_and_hyphens_make_no_difference() -> None:
    assert word_error_rate("and mister john was ill disposed", "And Mr. John was ill-disposed.") == 0
    assert word_error_rate("it's so", "It\u2019s so!") == 0
    assert word_error_rate("one two", "") == 1
    assert word_error_rate("", "") == 0
