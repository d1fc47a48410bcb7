"""Speech to text and text to speech by URL: any server of the OpenAI audio API."""

from __future__ import annotations

import io
import wave
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import httpx
import numpy as np

from voicebot.audio import SAMPLE_RATE, Recording, pcm16
from voicebot.clauses import speakable
from voicebot.config import Stt, Tts
from voicebot.errors import SpeechError
from voicebot.stt import Segment, Word

_CONNECT_S = 2.0
_SILENCE_S = 60.0
_RATE = 24_000
"""What the OpenAI API calls pcm."""
_SURE = ("temperature", "avg_logprob", "compression_ratio", "no_speech_prob")


class _Server:
    """One address; errors are told in one way."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.failed = False
        timeout = httpx.Timeout(_SILENCE_S, connect=_CONNECT_S)
        self.http = httpx.AsyncClient(timeout=timeout, trust_env=False)

    async def check(self, code: str) -> None:
        """Raise SpeechError unless it answers; servers without a list of models say 404, which will do."""
        try:
            answer = await self.http.get(f"{self.url}/models", timeout=_CONNECT_S)
        except httpx.HTTPError as error:
            raise self.unreachable(code, error) from error
        if answer.is_server_error:
            raise self.refused(code, answer.status_code, answer.content)

    def unreachable(self, code: str, error: Exception) -> SpeechError:
        self.failed = True
        what = f"{self.url} can't be reached ({type(error).__name__})."
        return SpeechError(code, what, remedy="start it, or correct the url.")

    def refused(self, code: str, status: int, body: bytes) -> SpeechError:
        try:
            reason = str(httpx.Response(status, content=body).json()["error"]["message"])
        except (ValueError, LookupError, TypeError):
            reason = body[:200].decode(errors="replace")
        self.failed = True
        return SpeechError(code, f"{self.url} answered {status}: {reason}")


class RemoteSpeech:
    """POST {url}/audio/transcriptions."""

    def __init__(self, settings: Stt) -> None:
        self._settings = settings
        self._server = _Server(str(settings.url))
        self._waiting = 0

    async def check(self) -> None:
        """It answers; what failed last is tried with silence."""
        await self._server.check("stt_failed")
        if self._server.failed:
            await self.transcribe(Recording(np.zeros(SAMPLE_RATE, np.float32)))

    @property
    def waiting(self) -> int:
        """Calls that are not answered yet."""
        return self._waiting

    @property
    def working_s(self) -> float:
        """Nothing of it is this process's work."""
        return 0.0

    def check_language(self, language: str) -> None:
        """The server knows its languages, and refuses others."""

    async def transcribe(
        self, recording: Recording, *, language: str | None = None, partial: bool = False
    ) -> str:
        """The words said."""
        return str((await self._post(recording, language, "json")).get("text", "")).strip()

    async def segments(
        self,
        recording: Recording,
        *,
        language: str | None = None,
        words: bool = False,
        told: Callable[[Segment], None] = lambda _: None,
    ) -> list[Segment]:
        """The words said, with times."""
        answer = await self._post(recording, language, "verbose_json", words=words)
        try:
            found = _segments(answer)
        except (LookupError, TypeError, ValueError) as error:
            what = f"{self._server.url} sent no verbose_json."
            raise SpeechError("stt_failed", what) from error
        for segment in found:
            told(segment)
        return found

    async def _post(
        self, recording: Recording, language: str | None, form: str, *, words: bool = False
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "model": str(self._settings.model),
            "language": language or self._settings.language,
            "response_format": form,
        }
        if words:
            fields["timestamp_granularities[]"] = ["word", "segment"]
        self._waiting += 1
        try:
            answer = await self._server.http.post(
                f"{self._server.url}/audio/transcriptions",
                data=fields,
                files={"file": ("speech.wav", _wav(recording), "audio/wav")},
            )
            if answer.status_code != httpx.codes.OK:
                raise self._server.refused("stt_failed", answer.status_code, answer.content)
            found: dict[str, Any] = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise self._server.unreachable("stt_failed", error) from error
        finally:
            self._waiting -= 1
        self._server.failed = False
        return found

    def close(self) -> None:
        """Connections end with the process."""


class RemoteVoice:
    """POST {url}/audio/speech, streamed as pcm."""

    sample_rate = _RATE

    def __init__(self, settings: Tts) -> None:
        self._settings = settings
        self._server = _Server(str(settings.url))

    async def check(self) -> None:
        """It answers; what failed last is tried with a word."""
        await self._server.check("tts_failed")
        if self._server.failed:
            async with aclosing(self.speak("Ready.")) as speech:
                async for _ in speech:
                    pass

    async def speak(self, clause: str, voice: str | None = None) -> AsyncGenerator[bytes, None]:
        """PCM of one clause, as it arrives."""
        text = speakable(clause)
        if not text:
            return
        asked = {
            "model": self._settings.model,
            "voice": voice or self._settings.voice,
            "speed": self._settings.speed,
            "response_format": "pcm",
            "input": text,
        }
        try:
            async with self._server.http.stream(
                "POST", f"{self._server.url}/audio/speech", json=asked
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise self._server.refused("tts_failed", answer.status_code, await answer.aread())
                odd = b""
                async for piece in answer.aiter_bytes():
                    whole = odd + piece
                    even = len(whole) // 2 * 2
                    odd = whole[even:]
                    if even:
                        yield whole[:even]
        except httpx.HTTPError as error:
            raise self._server.unreachable("tts_failed", error) from error
        self._server.failed = False

    def close(self) -> None:
        """Connections end with the process."""


def _segments(answer: dict[str, Any]) -> list[Segment]:
    """Of verbose_json; its words stand beside its segments."""
    words = [Word(w["start"], w["end"], w["word"].strip()) for w in answer.get("words") or ()]
    found = []
    for told in answer.get("segments") or ():
        start, end = told["start"], told["end"]
        own, words = [w for w in words if w.start < end], [w for w in words if w.start >= end]
        sure = {name: told[name] for name in _SURE if name in told}
        tokens = tuple(told.get("tokens") or ())
        found.append(Segment(start, end, told["text"].strip(), tuple(own), tokens, **sure))
    return found


def _wav(recording: Recording) -> bytes:
    container = io.BytesIO()
    with wave.open(container, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes(pcm16(recording.samples))
    return container.getvalue()
