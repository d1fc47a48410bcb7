"""Places, rates, and the drain."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from voicebot.admission import Admission, BusyError, Rate


def test_one_too_many_is_refused_until_somebody_leaves() -> None:
    admission = Admission(2)
    with admission.place():
        with admission.place():
            with pytest.raises(BusyError, match=r"2 conversations.*limits.max_sessions") as refused:
                admission.place().__enter__()
            assert (refused.value.status, refused.value.code) == (503, "too_many_sessions")
        with admission.place():
            assert admission.taken == 2
    assert admission.taken == 0


def test_rate() -> None:
    now = 0.0
    rate = Rate(60, lambda: now)
    assert [rate.wait_s("a") for _ in range(60)] == [0.0] * 60
    assert rate.wait_s("a") == pytest.approx(1.0)
    assert rate.wait_s("b") == 0.0
    now = 1.5
    assert rate.wait_s("a") == 0.0
    assert rate.wait_s("a") == pytest.approx(0.5)


def test_rate_remembers_a_bounded_number_of_callers() -> None:
    rate = Rate(1)
    for caller in range(5000):
        rate.wait_s(str(caller))
    assert len(rate._buckets) == 4096


@dataclass(eq=False)
class Talker:
    """Speaks until told otherwise."""

    engaged: bool = True
    ends: list[tuple[int, str]] = field(default_factory=list)
    told: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))
        self.told.set()


async def test_the_silent_go_at_once_the_others_when_they_have_finished() -> None:
    admission = Admission(2)
    silent, talking = Talker(engaged=False), Talker()
    with admission.seated(talking):
        with admission.seated(silent):
            draining = asyncio.create_task(admission.drain(60))
            await asyncio.wait_for(silent.told.wait(), 60)
        assert silent.ends[0] == (1001, "the service is stopping")
        assert not talking.ends
        with pytest.raises(BusyError, match="stopping"):
            admission.place().__enter__()
        talking.engaged = False
        await asyncio.wait_for(talking.told.wait(), 60)
    await asyncio.wait_for(draining, 60)


async def test_the_drain_has_an_end() -> None:
    admission = Admission(1)
    talking = Talker()
    with admission.seated(talking):
        await asyncio.wait_for(admission.drain(0.1), 60)
    assert talking.ends
