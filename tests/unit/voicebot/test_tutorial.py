"""Each defect of the tutorial: its logic has it, ours does not."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

import ctranslate2
import pytest
import yaml

from plugins.filter.engine import disk_needs
from tests.unit.voicebot import tutorial
from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.live import Live, sound
from tests.unit.voicebot.tutorial import Tutorial
from voicebot import app, session
from voicebot import happenings as h
from voicebot.config import Server, Settings, Stt, parse
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
        self.loads = 0
        self.while_writing: Callable[[], None] = lambda: None
        self.tutorial = Tutorial(self.transcribe, self.ask, lambda: self.now, self.load)

    def load(self) -> None:
        self.loads += 1

    def transcribe(self, frames: int) -> str:
        self.heard.append(frames)
        self.now += self.stt_takes
        return "my password is swordfish"

    def ask(self, messages: Sequence[dict[str, str]], cap: int) -> str:
        self.asked.append(list(messages))
        self.caps.append(cap)
        self.while_writing()
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
    world: World, fakes: Fakes, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    """The tutorial prints a whole answer, and never speaks."""
    before: list[str] = []
    world.while_writing = lambda: before.append(capsys.readouterr().out)
    world.say()
    assert "Bot:" not in before[0]
    assert "Bot: an answer" in capsys.readouterr().out

    fakes.llm = FakeLlm([Piece("First clause. And"), 600.0])
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    await live.until(h.ReplyAudio)
    assert fakes.tts.spoken == ["First clause."]
    await live.session.close()


async def test_5_speech_interrupts_an_answer(world: World, fakes: Fakes, settings: Settings) -> None:
    """The tutorial hears what was said meanwhile once its answer is there: the request runs to its end."""
    world.while_writing = lambda: world.tick(30)
    world.say()
    assert (len(world.asked), world.now > 30) == (1, True)

    fakes.llm = FakeLlm([Piece("First clause. And"), 600.0])
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    await live.until(h.ReplyAudio)
    await live.say(0.8)
    assert (await live.until(h.ReplyDone)).status == "cancelled"
    await live.wait(fakes.llm.cancelled.is_set)
    await live.session.close()


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


def test_9_what_is_offered_can_be_had() -> None:
    with pytest.raises(ValueError, match="gpu"):
        ctranslate2.get_supported_compute_types(tutorial.DEVICES[1])
    can = ctranslate2.get_supported_compute_types("cpu")
    assert set(tutorial.COMPUTE_TYPES) - can >= {"int4"}

    device, compute = (get_args(Stt.model_fields[name].annotation) for name in ("device", "compute_type"))
    assert not {*device, *compute} & {"gpu", "int4"}
    for name, offered in (("gpu", device), ("int4", compute)):
        field = "device" if offered == device else "compute_type"
        with pytest.raises(ConfigError, match=f"stt.{field} is '{name}'. Rule: "):
            parse({"stt": {"model": "/m", field: name}}, "config")


async def test_10_models_are_loaded_once(world: World, fakes: Fakes, settings: Settings) -> None:
    for _ in range(3):
        world.say()
    assert world.loads == 3

    assert inspect.getsource(app).count("speech_to_text(") == 1
    assert "speech_to_text(" not in inspect.getsource(session)
    stages = fakes.stages()
    for _ in range(3):
        live = Live(fakes, settings)
        await turn(live)
        assert live.session._stages.stt is stages.stt, "the one that every session shares"


def test_10_nothing_heavy_is_unused() -> None:
    assert set(tutorial.IMPORTS) - set(tutorial.USED) == {"torch"}

    locked = (ROOT / "requirements/voicebot.txt").read_text(encoding="utf-8")
    assert not re.search(r"^(torch|sounddevice|webrtcvad)==", locked, re.M)
    assert len(re.findall(r"^[\w.-]+==", locked, re.M)) <= 45
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src").rglob("*.py"))
    for name in ("av", "faster_whisper", "hibari", "httpx", "numpy", "openai", "pydantic", "soxr"):
        assert re.search(rf"^\s*(?:import|from) {name}\b", code, re.M), f"{name} is required, and unused"


def test_11_the_disk_that_is_needed_is_said() -> None:
    catalogue, chosen = (
        yaml.safe_load((ROOT / f"playbooks/group_vars/all/{name}.yml").read_text(encoding="utf-8"))
        for name in ("catalog", "choices")
    )
    image = catalogue["catalog"]["images"][chosen["vllm_image"]]
    models = [catalogue["catalog"]["models"][chosen[name]] for name in ("vllm_model", "stt_model")]
    pinned = {"name": "x", "ref": "x@sha256:0", "revision": "0"}
    needs = disk_needs({**image, **pinned}, [{**model, **pinned} for model in models], "/srv/models")
    assert sum(need["gb"] for need in needs) > tutorial.DISK_GB, "a disk that it calls large enough fills up"
    assert [need["path"] for need in needs] == ["/var/lib/docker", "/srv/models", "/srv/models"]


def careless(options: str) -> set[str]:
    """What a container started so lacks."""
    rules = {
        "a name": r"--name[ =]\S",
        "life after a crash or a reboot": r"--restart[ =](?!no)\S|--rm .*systemd",
        "a port on loopback only": r"-p 127\.0\.0\.1:",
        "a digest": r"@sha256:",
    }
    return {name for name, rule in rules.items() if not re.search(rule, options)}


def test_12_the_engine_is_named_supervised_gated_and_on_loopback() -> None:
    assert len(careless(tutorial.DOCKER_RUN)) == 4

    role = ROOT / "roles/vllm"
    tasks = yaml.safe_load((role / "tasks/container.yml").read_text(encoding="utf-8"))
    (container, *_) = [
        t["community.docker.docker_container"] for t in tasks if "community.docker.docker_container" in t
    ]
    assert container["name"]
    assert all(port.startswith("127.0.0.1:") for port in container["published_ports"])
    unit = (role / "templates/etc/systemd/system/vllm.service.j2").read_text(encoding="utf-8")
    assert re.search(r"^Restart=always$", unit, re.M)
    assert re.search(r"^WantedBy=", unit, re.M), "up again after a reboot"
    assert "/health" in (role / "tasks/ready.yml").read_text(encoding="utf-8")
    assert Server().host == "127.0.0.1"
    pins = (ROOT / "inventory/local/pins.yml").read_text(encoding="utf-8")
    assert re.search(r"digest:", pins), "preflight refuses an image without one"
