"""The page's files: all served, all local."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import httpx
import pytest

from tests.scripted import running
from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.live import VOICES
from voicebot import rest
from voicebot.config import Settings

WEB = Path(str(resources.files("voicebot") / "web"))


@pytest.fixture
def url(settings: Settings, fakes: Fakes) -> Iterator[str]:
    with running(rest.build(settings, fakes.stages(), VOICES)) as address:
        yield address


def test_every_file_that_the_page_names_is_served(url: str) -> None:
    index = httpx.get(url)
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'self'" in index.headers["content-security-policy"]
    named = set(re.findall(r'(?:src|href)="([\w.]+)"', index.text))
    for name in list(named):
        named |= set(re.findall(r'"(?:\./)?(\w+\.js)"', httpx.get(f"{url}/{name}").text))
    assert named == {path.name for path in WEB.iterdir()} - {"index.html"}
    for name in named:
        answer = httpx.get(f"{url}/{name}")
        assert answer.content == (WEB / name).read_bytes()
        assert answer.headers["content-type"].split(";")[0] in ("text/css", "text/javascript")


def test_nothing_comes_from_elsewhere() -> None:
    for path in WEB.iterdir():
        assert not re.search(r"https?://|//\w+\.\w+|@import", path.read_text(encoding="utf-8")), path


def test_every_control_can_be_named_and_reached(url: str) -> None:
    text = httpx.get(url).text
    assert '<html lang="en">' in text
    assert "tabindex" not in text
    for control in re.findall(r"<input[^>]*>", text):
        name = re.search(r'id="(\w+)"', control)
        assert name
        assert f'for="{name[1]}"' in text or re.search(rf"<label><input[^>]*id=\"{name[1]}\"", text)
