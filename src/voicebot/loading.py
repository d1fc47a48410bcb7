"""Which ears and which voice a configuration means."""

from __future__ import annotations

from collections.abc import Iterable

from voicebot.config import Stt, Tts
from voicebot.remote import RemoteSpeech, RemoteVoice
from voicebot.stt import FasterWhisper, SpeechToText
from voicebot.tts import HibariVoice, TextToSpeech


def speech_to_text(settings: Stt) -> SpeechToText:
    """Loaded and warm, or a client of a server."""
    return RemoteSpeech(settings) if settings.url else FasterWhisper(settings)


def text_to_speech(settings: Tts, others: Iterable[str] = ()) -> TextToSpeech:
    """Loaded and warm, or a client of a server; `others` are the voices of personas."""
    return RemoteVoice(settings) if settings.url else HibariVoice(settings, others)
