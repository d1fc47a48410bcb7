"""Clauses: where speech may pause, and what is never torn apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voicebot.clauses import ClauseSplitter, speakable


def split(text: str) -> list[str]:
    splitter = ClauseSplitter()
    return splitter.feed(text) + splitter.finish()


@pytest.mark.parametrize(
    ("text", "clauses"),
    [
        ("Hello. How are you?", ["Hello.", "How are you?"]),
        ("Pi is 3.14 and e is 2.72. Good.", ["Pi is 3.14 and e is 2.72.", "Good."]),
        ("It costs 1,000 dollars at 10:30. Yes.", ["It costs 1,000 dollars at 10:30.", "Yes."]),
        ("Ask Dr. Smith or Mrs. Jones. Then go.", ["Ask Dr. Smith or Mrs. Jones.", "Then go."]),
        ("Fruit, e.g. Apples, i.e. Red ones.", ["Fruit, e.g. Apples,", "i.e. Red ones."]),
        ("The U.S. Army and J. K. Rowling. End.", ["The U.S. Army and J. K. Rowling.", "End."]),
        ("So do I. The answer is no. Yes!", ["So do I.", "The answer is no.", "Yes!"]),
        ("See approx. five of them. Ok.", ["See approx. five of them.", "Ok."]),
        ("Yahoo! is a name. Really?! Sure.", ["Yahoo! is a name.", "Really?!", "Sure."]),
        ('He said "Stop!" Then he left.', ['He said "Stop!"', "Then he left."]),
        ("1. First thing\n2. Second thing\n", ["1. First thing", "2. Second thing"]),
        ("Visit example.com/a.b today. Bye.", ["Visit example.com/a.b today.", "Bye."]),
        ("Wait... what? Oh.", ["Wait... what?", "Oh."]),
        ("", []),
        (" \n \n ", []),
    ],
)
def test_sentences(text: str, clauses: list[str]) -> None:
    assert split(text) == clauses


def test_the_first_clause_is_short_and_later_ones_are_not() -> None:
    text = (
        "A reduced instruction set computer, or RISC, uses few and simple instructions, "
        "each of which takes the same time, so that they can overlap. Done."
    )
    assert split(text) == [
        "A reduced instruction set computer,",
        "or RISC, uses few and simple instructions, each of which takes the same time,",
        "so that they can overlap.",
        "Done.",
    ]
    assert split("Yes, it is so.") == ["Yes, it is so."]


def test_a_clause_is_there_as_soon_as_the_next_word_begins() -> None:
    splitter = ClauseSplitter()
    assert splitter.feed("Hello.") == []
    assert splitter.feed(" ") == []
    assert splitter.feed("H") == ["Hello."]


def test_endless_text_is_cut_between_words() -> None:
    clauses = split("word " * 200)
    assert all(len(clause) <= 250 for clause in clauses)
    assert " ".join(clauses).split() == ["word"] * 200


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("It is good. It is bett", ["It is good."]),
        ("It is good. It is better.", ["It is good.", "It is better."]),
        ("It is a long sentence that never comes to an en", ["It is a long sentence that never comes to an"]),
        ("Well yes indeed, it is a lo", ["Well yes indeed,", "it is a"]),
        ("Onewor", []),
    ],
)
def test_a_token_cap_never_ends_in_half_a_word(text: str, spoken: list[str]) -> None:
    splitter = ClauseSplitter()
    assert splitter.feed(text) + splitter.finish(cut=True) == spoken


WORDS = st.lists(
    st.one_of(
        st.sampled_from(
            ["Dr.", "e.g.", "3.14", "1,000", "U.S.", "go.", "yes,", "no!", "I.", "\n", "—", "1.", "...", "A"]
        ),
        st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=8),
    ),
    max_size=40,
)


@given(WORDS, st.data())
def test_no_character_is_lost_and_deltas_make_no_difference(words: list[str], data: st.DataObject) -> None:
    text = " ".join(words)
    whole = split(text)
    assert "".join("".join(whole).split()) == "".join(text.split())
    splitter = ClauseSplitter()
    pieces: list[str] = []
    rest = text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        pieces += splitter.feed(rest[:size])
        rest = rest[size:]
    assert pieces + splitter.finish() == whole


@given(WORDS)
def test_words_stay_whole(words: list[str]) -> None:
    text = " ".join(words)
    assert [word for clause in split(text) for word in clause.split()] == text.split()


@pytest.mark.parametrize(
    ("clause", "said"),
    [
        ("**RISC** is *simple*, see `mov`.", "RISC is simple, see mov."),
        ("## Heading", "Heading"),
        ("- an item", "an item"),
        ("_really_ snake_case C# 5 * 3", "really snake_case C# 5 * 3"),
        ("Great 😀👍🏽!", "Great !"),
        ("***", ""),
        ("Crème brûlée, naïve.", "Crème brûlée, naïve."),
    ],
)
def test_markup_and_pictures_are_not_read_out(clause: str, said: str) -> None:
    assert speakable(clause) == said
