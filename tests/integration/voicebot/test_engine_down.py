"""Asking while the engine is away: said at once, the recording kept."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest

from tests.integration.voicebot.conftest import Start, command
from tests.scripted import free_port
from voicebot.ask import sample

pytestmark = pytest.mark.lab


@contextmanager
def nobody() -> Iterator[int]:
    """A port where nothing listens."""
    yield free_port()


@contextmanager
def frozen() -> Iterator[int]:
    """A stopped process: the kernel still accepts connections for it, nobody answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@contextmanager
def full() -> Iterator[int]:
    """A listener whose backlog is full: connecting hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("engine_that_is", [nobody, frozen, full])
def test_it_is_said_at_once_and_the_recording_is_kept(
    engine_that_is: Callable[[], AbstractContextManager[int]],
    start: Start,
    whisper_tiny: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    question = tmp_path / "question.wav"
    shutil.copy(sample()[0], question)
    with engine_that_is() as port:
        service = start(whisper_tiny, f"http://127.0.0.1:{port}", connect_timeout_s=1)
        state = httpx.get(f"{service.url}/health", timeout=60).json()
        assert state["stt"] == state["tts"] == "ok"
        assert "can't be reached" in state["llm"]
        began = time.monotonic()
        asked = command("ask", question.name, "--url", service.url, folder=tmp_path)
        seconds = time.monotonic() - began
        service.stop()
    record_property("engine_down_said_after_s", round(seconds, 2))
    assert asked.returncode == 4
    for words in (f"http://127.0.0.1:{port} can't be reached", "Rule: ", "Remedy: systemctl status vllm"):
        assert words in asked.stderr
    assert f"Your recording is kept: {question}" in asked.stderr
    assert question.read_bytes() == sample()[0].read_bytes()
    assert list(tmp_path.iterdir()) == [question], "nothing is written"
    assert seconds < 10, "most of it is the command's own start; unbounded, it would be minutes"
