"""What the service tells of itself when it is asked to describe itself."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata

from wyoming.info import (
    AsrModel,
    AsrProgram,
    Attribution,
    HandleModel,
    HandleProgram,
    Info,
    TtsProgram,
    TtsVoice,
)

from voicebot.config import Settings
from voicebot.errors import ConfigError
from voicebot.stt import SpeechToText

# What Whisper knows; a model that knows less says so itself.
_LANGUAGES = [
    "af", "am", "ar", "as", "az", "ba", "be", "bg", "bn", "bo", "br", "bs", "ca", "cs", "cy", "da",
    "de", "el", "en", "es", "et", "eu", "fa", "fi", "fo", "fr", "gl", "gu", "ha", "haw", "he", "hi",
    "hr", "ht", "hu", "hy", "id", "is", "it", "ja", "jw", "ka", "kk", "km", "kn", "ko", "la", "lb",
    "ln", "lo", "lt", "lv", "mg", "mi", "mk", "ml", "mn", "mr", "ms", "mt", "my", "ne", "nl", "nn",
    "no", "oc", "pa", "pl", "ps", "pt", "ro", "ru", "sa", "sd", "si", "sk", "sl", "sn", "so", "sq",
    "sr", "su", "sv", "sw", "ta", "te", "tg", "th", "tk", "tl", "tr", "tt", "uk", "ur", "uz", "vi",
    "yi", "yo", "yue", "zh",
]  # fmt: skip
_WHISPER = Attribution("OpenAI, SYSTRAN", "https://github.com/SYSTRAN/faster-whisper")


def describe(settings: Settings, stt: SpeechToText) -> Info:
    """Programs, models and voices with their languages, makers and versions."""
    persona = settings.persona(settings.conversation.persona)
    spoken = persona.language or settings.stt.language
    heard = [language for language in _LANGUAGES if _takes(stt, language)]
    if _takes(stt, "none"):  # a server that does not say
        heard = [spoken]
    mine = Attribution("spark-voicebot", settings.llm.base_url)
    model = settings.llm.model.rstrip("/").rpartition("/")[2]
    return Info(
        asr=[
            AsrProgram(
                "faster-whisper", _WHISPER, True, "Speech to text on this host", _version("faster-whisper"),
                models=[
                    AsrModel(settings.stt.model.name, _WHISPER, True, settings.stt.model.name, None, heard)
                ],
                supports_transcript_streaming=True,
            )
        ],
        handle=[
            HandleProgram(
                "voicebot", mine, True, "Answers by a language model", _version("spark-voicebot"),
                models=[HandleModel(model, mine, True, model, None, heard)],
                supports_handled_streaming=True,
            )
        ],
        tts=[
            TtsProgram(
                settings.tts.engine, _voice_maker(settings), True, "Text to speech on this host",
                None if settings.tts.url else _version("hibari-tts"),
                voices=[
                    TtsVoice(
                        name, _voice_maker(settings), True, name, None,
                        [spoken if settings.tts.url else "en"],
                    )
                    for name in voices(settings)
                ],
                supports_synthesize_streaming=True,
            )
        ],
    )  # fmt: skip


def voices(settings: Settings) -> Iterable[str]:
    """Those that may be asked for, the default first."""
    return dict.fromkeys([settings.tts.voice, *settings.voices()])


def _voice_maker(settings: Settings) -> Attribution:
    if settings.tts.url:
        return Attribution(settings.tts.model, settings.tts.url)
    return Attribution("Maureese Williams", "https://github.com/MMWilliams/hibari")


def _takes(stt: SpeechToText, language: str) -> bool:
    try:
        stt.check_language(language)
    except ConfigError:
        return False
    return True


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
