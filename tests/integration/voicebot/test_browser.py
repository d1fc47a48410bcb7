"""The page in Chromium: a recorded human is answered, interrupts, and sees where the time went."""

from __future__ import annotations

import wave
from pathlib import Path

import pytest

from tests import speech
from tests.integration.voicebot import browser
from tests.integration.voicebot.conftest import ANSWER, Start
from tests.integration.voicebot.test_live import pcm
from tests.lab import packages
from tests.scripted import Engine

pytestmark = [pytest.mark.lab, pytest.mark.long]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session", autouse=True)
def chromium() -> None:
    packages.install_missing("chromium")


@pytest.fixture
def microphone(tmp_path: Path, human_speech: list[speech.Utterance]) -> Path:
    """A question, then a sentence every three seconds of silence, so that one of them meets an answer."""
    path = tmp_path / "microphone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        for number in range(12):
            file.writeframes(bytes(48_000) + pcm(human_speech[1 if number == 0 else 4]) + bytes(2 * 48_000))
    return path


async def test_talking_to_the_page(
    start: Start, whisper_tiny: Path, engine: Engine, microphone: Path, tmp_path: Path
) -> None:
    service = start(whisper_tiny, engine.url)
    async with browser.opened(service.url, microphone, tmp_path) as page:
        await page.value("document.getElementById('start').click()")
        await page.until("document.querySelector('#talk .user:not(.going)')", 180)
        heard = await page.value("document.querySelector('#talk .user').textContent")
        assert speech.word_error_rate("he was not an ill disposed young man", heard) <= 0.4
        await page.until("document.querySelector('#talk .assistant')", 180)
        await page.until("document.querySelectorAll('#turns details[open] dt').length === 7", 180)
        await page.until("document.querySelector('#talk .unheard')", 180)
        kept = await page.value(
            "document.querySelector('#talk .assistant:has(.unheard)').firstChild.textContent"
        )
        assert ANSWER.startswith(kept.strip())
        await page.until("document.querySelectorAll('#turns details').length >= 2", 180)
        assert await page.value("document.querySelectorAll('#turns details[open]').length") == 1
        await page.screenshot(ROOT / "reports/page.png")
        for width in (320, 420):
            await page.resize(width, 900)
            assert await page.value("document.documentElement.scrollWidth <= innerWidth"), (
                f"fit for {width} px"
            )
        small = await page.value(
            "[...document.querySelectorAll('button, #text')]"
            ".filter((b) => b.getBoundingClientRect().height < 44).map((b) => b.id)"
        )
        assert small == [], "large enough for a thumb"
        await page.screenshot(ROOT / "reports/page-phone.png")
        await page.value("document.getElementById('start').click()")
        assert await page.value("document.getElementById('state').textContent") == "not connected"
    service.stop()


async def test_everything_is_reached_by_tab(
    start: Start, whisper_tiny: Path, engine: Engine, microphone: Path, tmp_path: Path
) -> None:
    service = start(whisper_tiny, engine.url)
    async with browser.opened(service.url, microphone, tmp_path) as page:
        reached = []
        for _ in range(12):
            await page.key("Tab", 9)
            reached.append(await page.value("document.activeElement.id || document.activeElement.tagName"))
        assert {"start", "manual"} <= set(reached), "what is not connected yet is disabled"
        await page.value("document.getElementById('start').focus()")
        await page.key("Enter", 13, text="\r")
        await page.until("!document.getElementById('text').disabled", 180)
        await page.value("document.getElementById('start').focus()")
        reached = []
        for _ in range(12):
            await page.key("Tab", 9)
            reached.append(
                await page.value("document.activeElement.id || document.activeElement.textContent")
            )
        assert {"manual", "forget", "text", "Send"} <= set(reached)
    service.stop()


async def test_push_to_talk_by_keyboard(
    start: Start, whisper_tiny: Path, engine: Engine, microphone: Path, tmp_path: Path
) -> None:
    service = start(whisper_tiny, engine.url)
    async with browser.opened(service.url, microphone, tmp_path) as page:
        await page.value("document.getElementById('manual').click()")
        await page.value("document.getElementById('start').click()")
        await page.until("!document.getElementById('hold').disabled", 180)
        await page.value("document.getElementById('hold').focus()")
        key = {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32}
        await page.call("Input.dispatchKeyEvent", type="keyDown", **key)
        assert await page.value("document.getElementById('state').textContent") == "you speak"
        await page.value("new Promise((done) => setTimeout(done, 6000))")
        assert not await page.value("document.querySelector('#talk .user')"), (
            "nothing ends the turn but the key"
        )
        await page.call("Input.dispatchKeyEvent", type="keyUp", **key)
        await page.until("document.querySelector('#talk .user:not(.going)')", 180)
        await page.until("document.querySelector('#talk .assistant')", 180)
    service.stop()
