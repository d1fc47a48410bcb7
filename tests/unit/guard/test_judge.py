"""Verdicts on drawn timelines: see timeline.py for the letters."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm_guard.config import Judgement

from tests.unit.guard.timeline import Timeline

FREEZE = 30  # seconds within which a frozen engine must be found


def test_a_start_is_loading_until_a_completion_came_back() -> None:
    assert Timeline().play("aaallllli" + "iii") == "lllllllll" + "RRR"


def test_an_idle_engine_is_probed_now_and_then_and_stays_ready() -> None:
    line = Timeline()
    assert line.play("i" * 62) == "l" + "R" * 61
    assert 8 <= line.probes <= 13


def test_a_frozen_idle_engine_is_restarted_and_ready_again_after_a_probe() -> None:
    line = Timeline()
    assert line.play("iiiiii") == "lRRRRR"
    seen = line.play("f" * FREEZE)
    verdict = seen.index("r")
    assert set(seen[:verdict]) == {"R", "S"} and verdict < 24
    assert line.play("|" + "l" * 10 + "iii") == "l" * 11 + "RR"


def test_a_frozen_busy_engine_is_found_too() -> None:
    line = Timeline()
    line.play("ii" + "b" * 60)
    assert line.probes == 1  # the first one; none while it progressed
    assert line.play("f" * FREEZE).index("r") < 24


def test_a_frozen_server_is_found_too() -> None:
    line = Timeline()
    line.play("iiii")
    assert line.play("s" * FREEZE).index("r") < 24


@pytest.mark.parametrize("alive", ["b", "p", "i", "bp", "pppppppppb", "bi", "pi", "wwwwwwwwwwp"])
def test_no_verdict_on_an_engine_that_works(alive: str) -> None:
    line = Timeline()
    line.play("ii")
    assert set(line.play(alive * (600 // len(alive)))) == {"R"}


def test_steps_shorter_than_a_verdict_are_no_freeze() -> None:
    """One step of a slow engine may hold every metric for longer than a probe waits."""
    line = Timeline()
    line.play("ii")
    assert set(line.play(("f" * 15 + "p") * 30)) == {"R", "S"}
    assert line.restarts_at == []


def test_a_step_longer_than_a_verdict_is_no_freeze_while_the_processor_is_busy() -> None:
    line = Timeline()
    line.play("ii")
    assert set(line.play(("w" * 120 + "p") * 5)) == {"R"}
    assert line.play("f" * 32).index("r") <= 30


@pytest.mark.parametrize("step", range(20))
def test_a_freeze_in_the_middle_of_a_long_step_is_found_in_time(step: int) -> None:
    line = Timeline()
    line.play("ii" + "w" * (20 + step))
    assert line.play("f" * 32).index("r") < FREEZE


def test_work_that_shows_nothing_is_believed_for_a_while_only() -> None:
    line = Timeline(Judgement(stall_limit_s=100))
    line.play("ii")
    assert 100 < line.play("w" * 150).index("r") < 130


def test_where_work_cannot_be_seen_metrics_and_probes_decide() -> None:
    line = Timeline()
    line.sees_work = False
    line.play("ii")
    assert line.play("w" * FREEZE).index("r") < 24


def test_no_verdict_in_a_cold_start() -> None:
    line = Timeline()
    assert set(line.play("a" * 20 + "l" * 600 + "f" * 200)) == {"l"}  # f: the first completion compiles
    assert line.play("ii")[-1] == "R"


def test_a_load_beyond_its_limit_is_said_but_not_restarted() -> None:
    line = Timeline(Judgement(start_limit_s=100))
    assert line.play("l" * 200) == "l" * 100 + "o" * 100
    assert line.play("iii")[-1] == "R"


def test_healthy_but_never_completing_is_a_verdict_after_the_start_limit() -> None:
    line = Timeline(Judgement(start_limit_s=100))
    seen = line.play("l" * 10 + "f" * 150)
    assert "r" in seen and 100 < seen.index("r") < 130


def test_no_verdict_on_an_engine_stopped_on_purpose() -> None:
    line = Timeline()
    line.play("iiii")
    assert line.play("-" * 300) == "-" * 300
    assert line.play("|" + "l" * 5 + "iii")[-1] == "R"


def test_a_unit_that_systemd_gave_up_is_said_and_left_to_people() -> None:
    line = Timeline()
    line.play("iiii")
    assert line.play("!" * 300) == "!" * 300
    assert line.restarts_at == []
    assert line.play("|" + "l" * 5 + "iii")[-1] == "R"


def test_a_restart_by_others_is_loading_again() -> None:
    line = Timeline()
    line.play("iiii" + "f" * 15)
    assert line.play("|llll") == "llll"
    assert line.restarts_at == []


def test_a_core_that_wakes_up_before_the_verdict_is_left_alone() -> None:
    line = Timeline()
    line.play("iiii")
    assert line.play("f" * 16 + "i" * 30).endswith("R" * 28)
    assert line.restarts_at == []


def test_hands_off_when_the_budget_is_spent_and_ready_when_it_answers() -> None:
    line = Timeline(restarts=0)
    line.play("iiii")
    seen = line.play("f" * 300)
    assert set(seen[FREEZE:]) == {"H"}
    before = line.probes
    line.restarts_left = 1  # a new day: a run handed off stays so
    assert set(line.play("f" * 120)) == {"H"}
    assert line.probes - before <= 4
    assert line.play("i" * 40)[-1] == "R"


def test_budget_of_three_then_hands_off() -> None:
    line = Timeline(restarts=3)
    for _ in range(4):
        line.play("|" + "l" * 5 + "iiii" + "f" * FREEZE)
    assert len(line.restarts_at) == 3
    assert line.judge.state.value == "hands_off"


def test_a_failed_restart_is_tried_again_after_a_while_and_never_ready_meanwhile() -> None:
    line = Timeline(restarts=2)
    line.restart_works = False
    line.play("iiii")
    seen = line.play("f" * 100)
    after = seen[seen.index("r") :]
    assert set(after[1:31]) == {"W", "r"} and set(after[35:]) == {"H"}
    assert line.restarts_at[1] - line.restarts_at[0] == 30


def test_a_dead_core_is_failing_at_once_and_restarted_if_its_server_stays() -> None:
    line = Timeline()
    line.play("iiii")
    seen = line.play("d" * 80)
    assert seen.index("F") <= 8
    assert 60 < seen.index("r") < 75


def test_a_refused_port_is_failing_within_seconds() -> None:
    line = Timeline()
    line.play("iiii")
    assert line.play("llll")[2:] == "FF"


def test_an_engine_that_refuses_the_probe_is_failing_not_wedged() -> None:
    line = Timeline()
    line.play("iiii")
    seen = line.play("e" * 300)
    assert seen[-1] == "F" and line.restarts_at == []
    assert line.play("i" * 10)[-1] == "R"


def test_without_metrics_no_verdict_but_failing() -> None:
    line = Timeline()
    line.play("iiii")
    seen = line.play("x" * 300)
    assert seen[-1] == "F" and line.restarts_at == []


def test_a_guard_that_begins_beside_a_busy_engine_says_ready_by_its_tokens() -> None:
    assert Timeline(age=5000).play("b" * 10) == "l" + "R" * 9
    prefilling = Timeline(age=5000)
    assert set(prefilling.play("p" * 10)) == {"l"}


def test_after_a_restart_flowing_tokens_are_no_proof() -> None:
    line = Timeline()
    line.play("iiii")
    assert line.play("|" + "b" * 20 + "i" * 3)[:20] == "l" * 20


def test_a_guard_that_begins_beside_a_frozen_engine_finds_it() -> None:
    seen = Timeline(age=5000).play("f" * 100)
    assert 60 < seen.index("r") < 90


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("bpiw"), st.integers(1, 40)), max_size=30))
def test_whatever_a_working_engine_does_it_is_ready(parts: list[tuple[str, int]]) -> None:
    line = Timeline()
    line.play("ii")
    assert set(line.play("".join(c * n for c, n in parts))) <= {"R"}


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([*"bpiw-!a", "|l"]), st.integers(1, 40)), max_size=20),
    st.sampled_from("fs"),
)
def test_whatever_happened_before_a_frozen_engine_is_found_in_time(
    parts: list[tuple[str, int]], freeze: str
) -> None:
    line = Timeline()
    line.play("".join(c[:-1] + c[-1] * n for c, n in parts))  # only a new start loads
    assert line.restarts_at == []
    line.play("|" + "l" * 5 + "iii")
    assert line.play(freeze * FREEZE).index("r") < 24
