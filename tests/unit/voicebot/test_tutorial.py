"""Each defect of the tutorial: its logic has it, ours does not."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.live import Live, sound
from tests.unit.voicebot.tutorial import Tutorial
from voicebot import app, session
from voicebot import happenings as h
from voicebot.config import Settings, parse
from voicebot.conversation import Conversation
from voicebot.errors import ConfigError, EngineError
from voicebot.llm import Piece
from voicebot.turns import PRESETS
from voicebot.window import fitted

ROOT = Path(__file__).parents[3]


class World:
    """A clock, and what the tutorial's loop asked of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stt_takes = 0.0
        self.heard: list[int] = []
        self.asked: list[list[dict[str, str]]] = []
        self.caps: list[int] = []
        self.down = False
        self.tutorial = Tutorial(self.transcribe, self.ask, lambda: self.now)

    def transcribe(self, frames: int) -> str:
        self.heard.append(frames)
        self.now += self.stt_takes
        return "my password is swordfish"

    def ask(self, messages: Sequence[dict[str, str]], cap: int) -> str:
        self.asked.append(list(messages))
        self.caps.append(cap)
        if self.down:
            raise ConnectionError("refused")
        return "an answer"

    def tick(self, seconds: float) -> None:
        self.now += seconds

    def say(self, seconds: float = 2.5, silence: float = 1.5) -> None:
        self.tutorial.play(seconds, True, self.tick)
        self.tutorial.play(silence, False, self.tick)


@pytest.fixture
def world() -> World:
    return World()


async def turn(live: Live, count: int = 1, seconds: float = 0.8) -> h.ReplyDone:
    """A spoken turn, and its answer played to the end."""
    await live.say(seconds)
    await live.pause()
    done = await live.until(h.ReplyDone, count)
    live.clock.now += 600
    return done


async def test_1_the_system_prompt_is_in_every_turn(world: World, fakes: Fakes, settings: Settings) -> None:
    for _ in range(7):
        world.say()
    assert ["Be kind." in str(asked) for asked in world.asked] == [True] * 6 + [False]

    live = Live(fakes, settings)
    for count in range(1, 8):
        await turn(live, count)
    assert all(settings.llm.system_prompt in str(window) for window in fakes.llm.windows)


async def test_2_sound_is_transcribed_once_whatever_fails(
    world: World, fakes: Fakes, settings: Settings
) -> None:
    world.down = True
    world.say(silence=3)
    assert len(world.heard) > 10, "again on each silent frame"

    fakes.llm.down = EngineError("engine_unreachable", "down")
    live = Live(fakes, settings, partials=False)
    await live.say()
    await live.pause(5)
    await live.until(h.ReplyDone)
    assert fakes.stt.calls == 1


async def test_3_slow_stages_merge_no_turns(world: World, fakes: Fakes, settings: Settings) -> None:
    world.stt_takes = 10.0
    world.say()
    for seconds, voiced in ((2.5, True), (1.5, False), (2.5, True), (1.5, False)):
        world.tutorial.play(seconds, voiced, lambda _: None)  # queued meanwhile: read without waiting
    world.tutorial.play(1.5, False, world.tick)
    assert len(world.heard) == 2, "three turns were said"

    fakes.stt.delay = 0.1
    live = Live(fakes, settings, answer=False, partials=False)
    await live.session.hear((sound(0.8) + sound(0.7, 0)) * 3)
    await live.until(h.Transcribed, 3)
    assert len(live.of(h.SpeechStopped)) == 3


@pytest.mark.parametrize("preset", list(PRESETS))
async def test_4_yes_can_be_said_and_pauses_are_heard(
    world: World, fakes: Fakes, settings: Settings, preset: str
) -> None:
    world.say(0.4, silence=5)
    assert world.heard == []

    live = Live(fakes, settings, rules=PRESETS[preset], answer=False, partials=False)
    await live.say(0.4)
    await live.pause(2.2)
    await live.until(h.Transcribed)
    await live.pause(0.5)
    for _ in range(2):
        await live.say(0.6)
        await live.pause(0.4)
    await live.pause(2)
    await live.until(h.Transcribed, 2)
    assert fakes.stt.heard[-1].seconds >= 0.3 + 0.6 + 0.4 + 0.6, "the pause, and what was before the voice"


async def test_5_the_first_clause_is_spoken_while_the_rest_is_written(
    fakes: Fakes, settings: Settings
) -> None:
    """The tutorial prints a whole answer, and never speaks."""
    fakes.llm = FakeLlm([Piece("First clause. And"), 0.3, Piece(" then more.", "stop")])
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    await live.until(h.ReplyAudio)
    assert [t.text for t in live.of(h.ReplyText)] == ["First clause. And"]
    await live.until(h.ReplyDone)


async def test_6_a_cap_ends_an_answer_at_a_sentence(world: World, fakes: Fakes, settings: Settings) -> None:
    world.say()
    assert world.caps == [64], "and what the model had not finished by then is cut inside a word"

    fakes.llm = FakeLlm([Piece("It is good. It is bett", "length")])
    done = await turn(Live(fakes, settings))
    assert (done.status, done.text) == ("incomplete", "It is good.")
    assert fakes.tts.spoken == ["It is good."]


async def test_7_history_is_trimmed_by_tokens(world: World, fakes: Fakes) -> None:
    for _ in range(6):
        world.say()
    assert len(world.asked[-1]) == 11, "five rounds, however long"

    fakes.llm.context_length = 120
    talk = Conversation("Be kind.", max_rounds=50)
    for number in range(20):
        talk.add(f"question {number}", "a long answer of seven words altogether")
        await fitted(talk, fakes.llm, system_role=True, reserve=40)
    messages = await fitted(talk, fakes.llm, system_role=True, reserve=40)
    assert (await fakes.llm.count(messages) or 0) <= 80
    assert messages[0] == {"role": "system", "content": "Be kind."}
    assert messages[-1]["content"].startswith("a long answer")
    assert len(messages) < 20


async def test_7_the_prompts_beginning_stays_the_same_for_some_turns(fakes: Fakes) -> None:
    fakes.llm.context_length = 160
    talk = Conversation("Be kind.", max_rounds=50)
    firsts = []
    for number in range(24):
        talk.add(f"question {number}", "a long answer of seven words altogether")
        firsts.append((await fitted(talk, fakes.llm, system_role=True, reserve=40))[1]["content"])
    changes = sum(a != b for a, b in itertools.pairwise(firsts))
    assert 2 <= changes <= 12


async def test_7_what_fits_nowhere_is_said(fakes: Fakes) -> None:
    fakes.llm.context_length = 60
    talk = Conversation("Be kind.")
    talk.add("word " * 90, "")
    with pytest.raises(EngineError, match="at most 60, the engine's context"):
        await fitted(talk, fakes.llm, system_role=True, reserve=40)


async def test_8_what_is_said_is_not_printed(
    world: World,
    fakes: Fakes,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    world.say()
    assert "swordfish" in capsys.readouterr().out

    fakes.stt.text = "my password is swordfish"
    with caplog.at_level("DEBUG"):
        await turn(Live(fakes, settings))
    printed = capsys.readouterr()
    assert "swordfish" not in printed.out + printed.err + caplog.text


@pytest.mark.parametrize(("field", "value"), [("device", "gpu"), ("compute_type", "int4")])
def test_9_what_the_recogniser_cannot_do_is_refused(field: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"stt.{field} is '{value}'. Rule: "):
        parse({"stt": {"model": "/m", field: value}}, "config")


def test_10_models_are_loaded_once_and_nothing_heavy_is_unused() -> None:
    assert inspect.getsource(app).count("speech_to_text(") == 1
    assert "speech_to_text(" not in inspect.getsource(session)
    locked = (ROOT / "requirements/voicebot.txt").read_text(encoding="utf-8")
    assert not re.search(r"^(torch|sounddevice|webrtcvad)==", locked, re.M)
