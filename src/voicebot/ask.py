"""`voicebot ask`: put a recorded question to the service, show and keep the answer as it comes."""

from __future__ import annotations

import base64
import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from voicebot.client import ServiceError, turn_events
from voicebot.errors import VoicebotError
from voicebot.wav import WavWriter
from voicebot.wer import word_error_rate

SPEECH_RATE = 24_000
_STAGES = {
    "decode_s": "recording read",
    "stt_s": "speech to text",
    "llm_first_token_s": "first word of the answer",
    "first_clause_s": "first clause written",
    "tts_first_audio_s": "first clause spoken",
    "first_audio_s": "question to first sound",
    "total_s": "whole turn",
}


@dataclass
class Answer:
    """What came of a question."""

    recording: str
    transcript: str = ""
    answer: str = ""
    status: str = "failed"
    metrics: dict[str, float] = field(default_factory=dict)
    client_first_audio_s: float | None = None
    audio: str | None = None
    audio_seconds: float = 0.0
    reference: str | None = None
    wer: float | None = None
    error: dict[str, str] | None = None


def sample() -> tuple[Path, str]:
    """The recorded question that comes with the package, and what is said in it."""
    data = resources.files("voicebot") / "data"
    return Path(str(data / "question.wav")), (data / "question.txt").read_text(encoding="utf-8").strip()


def ask(recording: Path, *, url: str, out: Path, reference: str | None = None, show: bool = True) -> Answer:
    """Run one turn. A failure is in `error`, not raised: what came before it is kept."""
    result = Answer(str(recording), reference=reference)
    started = time.monotonic()
    screen = _Screen(show)
    with closing(WavWriter(out, SPEECH_RATE)) as speech:
        try:
            with closing(turn_events(url, recording)) as events:
                for event in events:
                    _take(event, result, speech, screen, started)
        except VoicebotError as error:
            result.error = error.as_dict()
        except OSError as error:
            what = f"The spoken answer can't be written to {out}: {error.strerror}."
            result.error = ServiceError(
                "out_unwritable",
                what,
                remedy="name a writable file with --out.",
                kind="invalid_request_error",
            ).as_dict()
    if speech.seconds:
        result.audio, result.audio_seconds = str(out), round(speech.seconds, 2)
    if reference is not None and result.transcript:
        result.wer = round(word_error_rate(reference, result.transcript), 4)
    screen.end(result)
    return result


def _take(event: dict[str, Any], result: Answer, speech: WavWriter, screen: _Screen, started: float) -> None:
    match event["type"]:
        case "conversation.item.input_audio_transcription.completed":
            result.transcript = event["transcript"]
            screen.line("Heard", result.transcript)
        case "response.output_audio_transcript.delta":
            screen.more("Answer", event["delta"])
            result.answer += event["delta"]
        case "response.output_audio_transcript.done":
            result.answer = event["transcript"]
        case "response.output_audio.delta":
            if result.client_first_audio_s is None:
                result.client_first_audio_s = round(time.monotonic() - started, 4)
            speech.write(base64.b64decode(event["delta"]))
        case "error":
            result.error = event["error"]
        case "response.done":
            result.status = event["response"]["status"]
            result.metrics = event["metrics"]


class _Screen:
    """Plain lines; what the model writes can't command the terminal."""

    def __init__(self, show: bool) -> None:
        self._show = show
        self._open = False

    def more(self, label: str, text: str) -> None:
        """Go on with an open line."""
        prefix = "" if self._open else f"{label + ':':<9}"
        self._open = True
        self._write(prefix + text)

    def line(self, label: str, text: str) -> None:
        """One labelled line."""
        self._close()
        self._write(f"{label + ':':<9}{text}\n")

    def end(self, result: Answer) -> None:
        """Where the speech lies, and how long everything took."""
        self._close()
        if result.status == "incomplete":
            self.line("Note", "cut off at llm.max_tokens; the unfinished last sentence is not spoken.")
        if result.audio:
            part = " (what came of it)" if result.error else ""
            self.line("Spoken", f"{result.audio}, {result.audio_seconds:.1f} s{part}")
        if result.metrics:
            width = max(map(len, _STAGES.values()))
            self._write("\n" + f"{'stage':<{width}}  seconds\n")
            for name, label in _STAGES.items():
                if name in result.metrics:
                    self._write(f"{label:<{width}}  {result.metrics[name]:7.2f}\n")

    def _close(self) -> None:
        if self._open:
            self._open = False
            self._write("\n")

    def _write(self, text: str) -> None:
        if self._show:
            sys.stdout.write("".join(char for char in text if char.isprintable() or char == "\n"))
            sys.stdout.flush()


def write_json(result: Answer, target: str) -> None:
    """The result as JSON into a file, or to standard output for `-`."""
    text = json.dumps(vars(result), indent=2, ensure_ascii=False) + "\n"
    if target == "-":
        sys.stdout.write(text)
    else:
        Path(target).write_text(text, encoding="utf-8")
