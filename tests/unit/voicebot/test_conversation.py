"""Windows: the system prompt is in each, and the template gets the roles it allows."""

from __future__ import annotations

import pytest

from voicebot.conversation import Conversation


def talk(rounds: int, system_prompt: str = "Be kind.") -> Conversation:
    conversation = Conversation(system_prompt, max_rounds=5)
    for number in range(rounds):
        conversation.add(f"q{number}", f"a{number}")
    return conversation


@pytest.mark.parametrize("rounds", [0, 1, 5, 9])
def test_folded_into_the_first_user_turn_of_every_window(rounds: int) -> None:
    window = talk(rounds).window("now", system_role=False)
    assert [m["role"] for m in window] == ["user", "assistant"] * min(rounds, 5) + ["user"]
    assert window[0]["content"].startswith("Be kind.\n\n")
    assert sum("Be kind." in m["content"] for m in window) == 1
    assert window[-1]["content"].endswith("now")


@pytest.mark.parametrize("rounds", [0, 1, 9])
def test_a_system_role_is_used_where_there_is_one(rounds: int) -> None:
    window = talk(rounds).window("now", system_role=True)
    assert window[0] == {"role": "system", "content": "Be kind."}
    assert [m["role"] for m in window[1:]] == ["user", "assistant"] * min(rounds, 5) + ["user"]


def test_the_oldest_rounds_are_forgotten_first() -> None:
    window = talk(9).window("now", system_role=True)
    assert [m["content"] for m in window[1:3]] == ["q4", "a4"]


def test_a_window_leaves_no_trace() -> None:
    conversation = talk(0)
    conversation.window("never answered", system_role=False)
    assert conversation.window("now", system_role=False) == [{"role": "user", "content": "Be kind.\n\nnow"}]


def test_no_system_prompt() -> None:
    assert talk(0, "  ").window("now", system_role=True) == [{"role": "user", "content": "now"}]
