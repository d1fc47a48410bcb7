"""Speech into an answer: what interrupts, what does not, and what is remembered of the answer."""

from __future__ import annotations

import asyncio

import pytest

from tests.scripted import Engine, chunk
from tests.unit.voicebot.conftest import FakeLlm, Fakes
from tests.unit.voicebot.live import Live
from voicebot import happenings as h
from voicebot.config import Llm, Settings
from voicebot.errors import AudioError
from voicebot.llm import OpenAIChat, Piece


async def speaking(fakes: Fakes, settings: Settings) -> Live:
    """An answer has been going on for a second: "One two three four." takes 1.9 s."""
    fakes.llm = FakeLlm([Piece("One two three four. And five"), 600.0])
    fakes.tts.samples_a_character = 2400
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    await live.until(h.ReplyAudio)
    live.clock.now += 1.0
    return live


async def test_speech_interrupts_and_memory_keeps_what_was_heard(fakes: Fakes, settings: Settings) -> None:
    live = await speaking(fakes, settings)
    await live.say(0.7)
    await live.until(h.ReplyDone)
    assert live.of(h.ReplyDone)[0].status == "cancelled"
    assert live.of(h.Truncated)[0].audio_end_ms == pytest.approx(1000, abs=10)
    await asyncio.wait_for(asyncio.to_thread(fakes.llm.cancelled.wait), 60)
    assert live.window()[-1] == "assistant: One two"
    fakes.llm = FakeLlm()
    heard_before = len(live.of(h.ReplyAudio))
    await asyncio.sleep(0.05)
    assert len(live.of(h.ReplyAudio)) == heard_before, "nothing of the old answer comes after"
    assert "voicebot_barge_ins_total 1" in live.metrics.text()


async def test_what_the_client_says_about_playback_counts_more(fakes: Fakes, settings: Settings) -> None:
    live = await speaking(fakes, settings)
    await live.say(0.7)
    item = (await live.until(h.ReplyDone)).reply.item_id
    live.session.truncate(item, 1500)
    assert live.window()[-1] == "assistant: One two three"
    live.session.truncate(item, 100)
    assert live.window()[-1] == "user: what is a spark"
    with pytest.raises(AudioError, match=r"audio_end_ms is 99999\. Rule: at most 1900\."):
        live.session.truncate(item, 99_999)
    with pytest.raises(AudioError, match="no spoken item"):
        live.session.truncate("item_none", 0)


async def test_an_answer_that_is_only_being_played_is_interrupted_too(
    fakes: Fakes, settings: Settings
) -> None:
    fakes.tts.samples_a_character = 2400
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    await live.until(h.ReplyDone)
    live.clock.now += 0.7
    assert live.session.talking
    await live.say(0.7)
    assert live.of(h.Truncated)[0].audio_end_ms == pytest.approx(700, abs=10)
    assert live.window()[-1] == "assistant: Hello"


@pytest.mark.parametrize("text", ["Mm-hm.", "Yeah.", ""])
async def test_going_on_is_no_interruption(fakes: Fakes, settings: Settings, text: str) -> None:
    live = await speaking(fakes, settings)
    fakes.stt.text = text
    before = len(live.happened)
    await live.say(0.4)
    await live.pause()
    await live.wait(lambda: "voicebot_backchannels_total 1" in live.metrics.text())
    assert live.happened[before:] == []
    assert live.session.talking


async def test_one_short_word_that_means_it_interrupts(fakes: Fakes, settings: Settings) -> None:
    live = await speaking(fakes, settings)
    fakes.stt.text = "Stop."
    await live.say(0.3)
    await live.pause(0.2)
    assert (await live.until(h.ReplyDone)).status == "cancelled"


async def test_clicks_do_not_interrupt(fakes: Fakes, settings: Settings) -> None:
    live = await speaking(fakes, settings)
    for _ in range(5):
        await live.say(0.03)
        await live.pause(0.6)
    assert live.of(h.ReplyDone) == []


async def test_a_barge_in_ends_the_engines_request(fakes: Fakes, settings: Settings, engine: Engine) -> None:
    engine.script = [chunk("First one. And"), *[step for _ in range(6000) for step in (0.1, chunk(" x"))]]
    fakes.llm = OpenAIChat(Llm(base_url=f"{engine.url}/v1", model="m"))  # type: ignore[assignment]
    live = Live(fakes, settings)
    await live.say()
    await live.pause()
    await live.until(h.ReplyAudio)
    await live.say(0.7)
    assert (await live.until(h.ReplyDone)).status == "cancelled"
    assert await asyncio.to_thread(engine.abandoned.wait, 60)
    await fakes.llm.close()
