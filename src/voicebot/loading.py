"""Which ears and which voice a configuration means."""

from __future__ import annotations

from voicebot.config import Stt, Tts
from voicebot.remote import RemoteSpeech, RemoteVoice
from voicebot.stt import FasterWhisper, SpeechToText
from voicebot.tts import HibariVoice, TextToSpeech


def speech_to_text(settings: Stt) -> SpeechToText:
    """Loaded and warm, or a client of a server."""
    return RemoteSpeech(settings) if settings.url else FasterWhisper(settings)


def text_to_speech(settings: Tts) -> TextToSpeech:
    """Loaded and warm, or a client of a server."""
    return RemoteVoice(settings) if settings.url else HibariVoice(settings)
