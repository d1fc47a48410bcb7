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
        await page.until("document.querySelector('#talk .user:not(.going)')", 60)
        heard = await page.value("document.querySelector('#talk .user').textContent")
        assert speech.word_error_rate("he was not an ill disposed young man", heard) <= 0.4
        await page.until("document.querySelector('#talk .assistant')", 60)
        await page.until("document.querySelectorAll('#stages dt').length === 7", 60)
        await page.until("document.querySelector('#talk .unheard')", 90)
        kept = await page.value(
            "document.querySelector('#talk .assistant:has(.unheard)').firstChild.textContent"
        )
        assert ANSWER.startswith(kept.strip())
        await page.screenshot(ROOT / "reports/page.png")
        assert await page.value("document.documentElement.scrollWidth <= innerWidth"), "fit for a phone"
        await page.value("document.getElementById('start').click()")
        assert await page.value("document.getElementById('state').textContent") == "not connected"
    service.stop()


async def test_push_to_talk_by_keyboard(
    start: Start, whisper_tiny: Path, engine: Engine, microphone: Path, tmp_path: Path
) -> None:
    service = start(whisper_tiny, engine.url)
    async with browser.opened(service.url, microphone, tmp_path) as page:
        await page.value("document.getElementById('manual').click()")
        await page.value("document.getElementById('start').click()")
        await page.until("!document.getElementById('hold').disabled", 60)
        await page.value("document.getElementById('hold').focus()")
        key = {"key": " ", "code": "Space", "windowsVirtualKeyCode": 32}
        await page.call("Input.dispatchKeyEvent", type="keyDown", **key)
        assert await page.value("document.getElementById('state').textContent") == "you speak"
        await page.value("new Promise((done) => setTimeout(done, 6000))")
        assert not await page.value("document.querySelector('#talk .user')"), (
            "nothing ends the turn but the key"
        )
        await page.call("Input.dispatchKeyEvent", type="keyUp", **key)
        await page.until("document.querySelector('#talk .user:not(.going)')", 60)
        await page.until("document.querySelector('#talk .assistant')", 60)
    service.stop()
