"""A live conversation: turns, speculation, barge-in, memory, and going on after failures."""

from __future__ import annotations

import asyncio

import pytest

from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.live import RULES, Live, LoudIsVoice, sound
from voicebot import happenings as h
from voicebot.audio import Recording
from voicebot.config import Conversing, Limits, Persona, Settings
from voicebot.errors import AudioError, EngineError, SpeechError
from voicebot.llm import Piece, ToolCall
from voicebot.setup import Setup
from voicebot.turns.rules import semantic


async def test_a_turn(fakes: Fakes, settings: Settings) -> None:
    live = Live(fakes, settings)
    await live.pause(0.5)
    await live.say()
    await live.pause()
    done = await live.until(h.ReplyDone)
    assert [type(x) for x in live.happened] == [
        h.SpeechStarted, h.SpeechStopped, h.Committed, h.Transcribed, h.ReplyStarted,
        *[type(x) for x in live.happened[5:-1]], h.ReplyDone,
    ]  # fmt: skip
    started, stopped = live.of(h.SpeechStarted)[0], live.of(h.SpeechStopped)[0]
    assert started.at_ms == pytest.approx(200, abs=64)
    assert stopped.at_ms == pytest.approx(1800, abs=64)
    assert (done.status, done.text) == ("completed", "Hello there. How are you?")
    assert live.window()[1:] == ["user: what is a spark", "assistant: Hello there. How are you?"]
    await live.session.close()


async def test_spans_add_up_to_the_first_sound_and_the_rest_is_shown(
    fakes: Fakes, settings: Settings
) -> None:
    fakes.llm = FakeLlm([0.05, Piece("One"), 0.05, Piece(" two. Three", "stop")])
    fakes.stt.delay = 0.05
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    metrics = (await live.until(h.ReplyDone)).metrics
    parts = ["endpoint_s", "stt_s", "prompt_s", "llm_first_token_s", "first_clause_s", "tts_first_audio_s"]
    assert set(parts) < set(metrics)
    whole = sum(metrics[part] for part in parts) + metrics["unexplained_s"]
    assert whole == pytest.approx(metrics["first_audio_s"], abs=1e-3)
    assert abs(metrics["unexplained_s"]) < 0.005
    assert 'voicebot_stage_seconds_count{stage="first_audio"} 1' in live.metrics.text()


async def test_the_final_transcript_begins_in_the_silence(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.delay = 0.01
    live = Live(fakes, settings, partials=False)
    await live.say()
    await live.pause(0.3)
    await live.wait(lambda: fakes.stt.calls == 1)
    assert live.of(h.SpeechStopped) == []
    await live.pause(0.4)
    await live.until(h.ReplyDone)
    assert fakes.stt.calls == 1, "what was begun early is used, not done again"
    assert 'voicebot_speculations_total{fate="used"} 1' in live.metrics.text()


async def test_a_transcript_begun_too_early_is_dropped(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.script = ["half", "half and half"]
    live = Live(fakes, settings, partials=False)
    await live.say()
    await live.pause(0.3)
    await live.say()
    await live.pause()
    await live.until(h.ReplyDone)
    assert [t.text for t in live.of(h.Transcribed)] == ["half and half"]
    assert fakes.stt.heard[-1].seconds > 1.8
    assert 'voicebot_speculations_total{fate="dropped"} 1' in live.metrics.text()


async def test_without_speculation(fakes: Fakes, settings: Settings) -> None:
    quiet = settings.model_copy(update={"conversation": Conversing(speculate=False)})
    live = Live(fakes, quiet, partials=False)
    await live.say()
    await live.pause(0.3)
    assert fakes.stt.calls == 0
    await live.pause(0.4)
    await live.until(h.ReplyDone)


async def test_partials_are_what_two_looks_agree_on(fakes: Fakes, settings: Settings) -> None:
    talk = settings.conversation.model_copy(update={"partials": "always"})
    live = Live(fakes, settings.model_copy(update={"conversation": talk}))
    for text in ("the quick brown box", "the quick brown fox jumps", "the quick brown fox jumped over"):
        fakes.stt.text = text
        await live.say(1.3)
    await live.pause()
    await live.until(h.ReplyDone)
    given = "".join(p.text for p in live.of(h.Partial)).split()
    assert given == ["the", "quick", "brown", "fox", "jumped", "over"][: len(given)]
    assert len(given) >= 4


async def test_a_slow_recogniser_is_not_asked_for_partials_again(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.delay = 0.6
    live = Live(fakes, settings, answer=False)
    await live.say(1.5)
    await live.wait(lambda: fakes.stt.calls == 1)
    await asyncio.sleep(0.7)  # the look takes so long
    await live.say(5)
    assert fakes.stt.calls == 1


async def test_yes_is_answered_where_nobody_else_speaks(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.text = "Yes."
    live = Live(fakes, settings)
    await live.say(0.3)
    await live.pause()
    assert (await live.until(h.ReplyDone)).status == "completed"


async def test_answers_that_may_not_be_interrupted_come_one_after_the_other(
    fakes: Fakes, settings: Settings
) -> None:
    fakes.llm = FakeLlm([0.4, Piece("One.", "stop")])
    live = Live(fakes, settings, interrupt=False)
    for _ in range(2):
        await live.say()
        await live.pause()
    await live.until(h.ReplyDone, 2)
    assert [r.status for r in live.of(h.ReplyDone)] == ["completed", "completed"]
    fakes.llm.pieces = [600.0]
    for _ in range(2):
        await live.say()
        await live.pause()
    await live.until(h.ReplyStarted, 3)
    live.session.cancel()
    assert (await live.until(h.ReplyDone, 3)).status == "cancelled"
    await asyncio.wait_for(asyncio.to_thread(fakes.llm.cancelled.wait), 60)
    await live.wait(lambda: not live.session.talking)


async def test_nothing_heard_is_not_answered(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.text = ""
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    await live.until(h.Transcribed)
    await live.wait(lambda: not live.session.talking)
    assert live.of(h.ReplyStarted) == []
    assert fakes.llm.windows == []


async def test_slow_recognition_merges_no_turns(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.delay = 0.3
    fakes.stt.script = ["first", "second"]
    live = Live(fakes, settings, partials=False, answer=False)
    for _ in range(2):
        await live.session.hear(sound(0.8) + sound(0.7, 0))
    await live.until(h.Transcribed, 2)
    assert [t.text for t in live.of(h.Transcribed)] == ["first", "second"]
    assert len(live.of(h.SpeechStopped)) == 2


@pytest.mark.parametrize("size", [1, 7, 960, 1_000_000])
async def test_packets_of_any_size(fakes: Fakes, settings: Settings, size: int) -> None:
    live = Live(fakes, settings, answer=False, partials=False)
    pcm = sound(0.2, 0) + sound(0.4) + sound(0.6, 0)
    for start in range(0, len(pcm), size):
        await live.session.hear(pcm[start : start + size])
    await live.until(h.Transcribed)
    assert live.of(h.SpeechStarted)[0].at_ms == pytest.approx(0, abs=64)
    assert fakes.stt.calls == 1
    assert fakes.stt.heard[0].seconds == pytest.approx(0.2 + 0.4 + 0.1, abs=0.1)


FAULTS = [EngineError("engine_cut", "cut"), EngineError("engine_refused", "400: too long")]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda e: str(e.code))
@pytest.mark.parametrize("before", [(), (Piece("Well, let me see. I"),)], ids=["at once", "midway"])
async def test_a_failing_engine_is_apologised_for_and_the_session_goes_on(
    fakes: Fakes, settings: Settings, fault: EngineError, before: tuple[Piece, ...]
) -> None:
    fakes.llm = FakeLlm([*before, 0.05, fault])
    live = Live(fakes, settings, partials=False)
    await live.say()
    await live.pause()
    done = await live.until(h.ReplyDone)
    assert done.status == "failed"
    assert done.error is fault
    assert fakes.tts.spoken[-1].startswith("Sorry, ")
    live.clock.now += 60
    fakes.llm.pieces = [Piece("Better now.", "stop")]
    await live.say()
    await live.pause()
    assert (await live.until(h.ReplyDone, 2)).status == "completed"
    assert fakes.stt.calls == 2, "each turn's sound is transcribed once"
    assert live.window()[1:] == ["user: what is a spark\nwhat is a spark", "assistant: Better now."]


async def test_an_engine_that_is_down(fakes: Fakes, settings: Settings) -> None:
    fakes.llm.down = EngineError("engine_unreachable", "down")
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    done = await live.until(h.ReplyDone)
    assert (done.status, done.error) == ("failed", fakes.llm.down)
    assert live.of(h.ReplyAudio)


async def test_a_voice_that_fails(fakes: Fakes, settings: Settings) -> None:
    fakes.tts.error = SpeechError("tts_failed", "no voice")
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    assert (await live.until(h.ReplyDone)).status == "failed"
    fakes.tts.error = None
    await live.say()
    await live.pause()
    assert (await live.until(h.ReplyDone, 2)).status == "completed"


async def test_ears_that_fail(fakes: Fakes, settings: Settings) -> None:
    fakes.stt.error = SpeechError("stt_failed", "no ears")
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    assert (await live.until(h.NotTranscribed)).error is fakes.stt.error
    fakes.stt.error = None
    await live.say()
    await live.pause()
    assert (await live.until(h.ReplyDone)).status == "completed"


async def test_push_to_talk(fakes: Fakes, settings: Settings) -> None:
    live = Live(fakes, settings, rules=None)
    with pytest.raises(AudioError, match="holds 0 ms of sound"):
        live.session.commit()
    await live.say(0.5)
    await live.pause(2)
    assert live.happened == []
    live.session.commit()
    await live.until(h.Transcribed)
    live.session.respond()
    with pytest.raises(AudioError, match="already being made"):
        live.session.respond()
    assert (await live.until(h.ReplyDone)).status == "completed"
    assert fakes.stt.heard[0].seconds == pytest.approx(2.5, abs=0.1)
    await live.say(0.5)
    live.session.clear()
    with pytest.raises(AudioError, match="holds 0 ms"):
        live.session.commit()


async def test_push_to_talk_has_a_limit(fakes: Fakes, settings: Settings) -> None:
    tight = settings.model_copy(update={"limits": Limits(max_audio_seconds=2)})
    live = Live(fakes, tight, rules=None)
    with pytest.raises(AudioError, match="only its last 2 s are kept"):
        await live.session.hear(sound(3))
    await live.session.hear(sound(1))
    live.session.commit()
    await live.until(h.Transcribed)
    assert fakes.stt.heard[0].seconds == pytest.approx(2, abs=0.1)


async def test_a_semantic_turn_ends_early_on_finished_words(fakes: Fakes, settings: Settings) -> None:
    rules = semantic(RULES, "medium")
    for text, stops in (("What is a Spark?", 1), ("What is the", 0)):
        fakes.stt.text = text
        live = Live(fakes, settings, rules=rules, answer=False, partials=False)
        await live.say()
        await live.pause(0.5)
        assert len(live.of(h.SpeechStopped)) == stops
        await live.pause(1)
        assert len(live.of(h.SpeechStopped)) == 1


async def test_a_persona(fakes: Fakes, settings: Settings) -> None:
    persona = settings.persona("customer-service").model_copy(update={"language": "de", "voice": "emma"})
    live = Live(fakes, settings, persona=persona)
    live.session.greet()
    assert (await live.until(h.ReplyDone)).text == "Hello, how can I help you?"
    live.clock.now += 60
    await live.say()
    await live.pause()
    await live.until(h.ReplyDone, 2)
    (window,) = fakes.llm.windows
    assert window[0]["content"].startswith("You are a professional customer support assistant.")
    assert window[1] == {"role": "assistant", "content": "Hello, how can I help you?"}
    assert fakes.llm.asked[0].max_tokens == 64, "max(64, 5 tokens for each of 4 words)"
    assert set(fakes.stt.languages) == {"de"}
    assert set(fakes.tts.voices) == {"emma"}


def test_budgets() -> None:
    setup = Setup(None, Persona(tokens_per_word=5, max_tokens=512))
    assert [setup.budget("word " * n, 256) for n in (1, 20, 500)] == [64, 100, 512]
    assert Setup(None).budget("word", 256) == 256


async def test_a_tool(fakes: Fakes, settings: Settings) -> None:
    parts = [ToolCall(0, "c1", "clock", ""), ToolCall(0, "", "", '{"a":1}')]
    fakes.llm = FakeLlm([*(Piece("", None, (part,)) for part in parts), Piece("", "tool_calls")])
    live = Live(fakes, settings, tools=({"type": "function", "name": "clock"},))
    await live.say()
    await live.pause()
    done = await live.until(h.ReplyDone)
    (call,) = done.calls
    assert (call.name, call.call_id, call.text) == ("clock", "c1", '{"a":1}')
    assert fakes.llm.asked[0].tools
    assert "assistant: " in live.window()[-1]


async def test_a_sound_that_is_finished_ends_a_semantic_turn_sooner(
    fakes: Fakes, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Turns:
        asked = 0

        async def sounds_finished(self, _recording: Recording) -> bool:
            self.asked += 1
            return True

    turns = Turns()
    monkeypatch.setattr(LoudIsVoice, "turns", turns)
    fakes.stt.text = "What is the"  # the words alone would make it wait for 1.2 s
    live = Live(fakes, settings, rules=semantic(RULES, "medium"), answer=False, partials=False)
    await live.say()
    await live.pause(0.5)
    assert turns.asked == 1
    assert len(live.of(h.SpeechStopped)) == 1
