"""Bad recordings: the message names the input, rule and remedy; a non-zero exit; nothing is written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.voicebot.conftest import Service, command
from tests.scripted import Engine
from voicebot.ask import sample

pytestmark = pytest.mark.lab

QUESTION = sample()[0].read_bytes()


def _hour(path: Path, rate: int, channels: int) -> None:
    """An hour of silence; a sparse file, so only its header is on disk."""
    frame = 2 * channels
    size = 3600 * rate * frame
    layout = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * frame, frame, 16)
    with path.open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt " + layout)
        file.write(b"data" + struct.pack("<I", size))
        file.truncate(44 + size)


MAKE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no samples": lambda path: path.write_bytes(QUESTION[:40] + struct.pack("<I", 0)),
    "truncated": lambda path: path.write_bytes(QUESTION[: len(QUESTION) // 2]),
    "text": lambda path: path.write_text("He was not an ill-disposed young man.\n" * 50),
    "an hour of narrow band": lambda path: _hour(path, 8000, 1),
    "an hour": lambda path: _hour(path, 16_000, 1),
    "an hour in CD quality": lambda path: _hour(path, 44_100, 2),
    "absent": lambda path: None,
}
SAYS = {
    "empty": "is empty (0 bytes)",
    "no samples": "holds no samples",
    "truncated": "is truncated: its header says 3.0 s, 1.5 s are there",
    "text": "is not audio that can be read",
    "an hour of narrow band": "lasts 3600 s",
    "an hour": "lasts 3600 s",
    "an hour in CD quality": "lasts 3600 s",
    "absent": "can't be read: No such file",
}
# The service limits bytes before it looks at seconds.
ASK_SAYS = SAYS | dict.fromkeys(["an hour", "an hour in CD quality"], "more than 64 MB")


@pytest.mark.parametrize("verb", ["ask", "transcribe"])
@pytest.mark.parametrize("kind", MAKE)
def test_refused_with_input_rule_and_remedy(
    kind: str, verb: str, service: Service, engine: Engine, tmp_path: Path
) -> None:
    recording = tmp_path / "question.wav"
    MAKE[kind](recording)
    before = [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in tmp_path.iterdir()]
    asked = len(engine.asked)
    where = ["--url", service.url] if verb == "ask" else ["--config", service.config]
    done = command(verb, recording.name, *where, folder=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    for words in (recording.name, (ASK_SAYS if verb == "ask" else SAYS)[kind], "Rule: ", "Remedy: "):
        assert words in done.stderr.splitlines()[0]
    assert "Traceback" not in done.stderr
    assert [(path, path.stat().st_size, path.stat().st_mtime_ns) for path in tmp_path.iterdir()] == before
    assert len(engine.asked) == asked, "the engine is not troubled"
