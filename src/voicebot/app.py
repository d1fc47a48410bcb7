"""Composition root: settings → stages → server."""

from __future__ import annotations

import contextlib
import logging
import os
import sys

from voicebot import config, rest
from voicebot.admission import Admission
from voicebot.config import Settings
from voicebot.keys import Keys
from voicebot.llm import OpenAIChat
from voicebot.loading import speech_to_text, text_to_speech
from voicebot.serving import Server, bind
from voicebot.stages import Stages
from voicebot.systemd import Watchdog
from voicebot.turns import VoiceModel
from voicebot.wyoming import server as wyoming

log = logging.getLogger("voicebot")

_LONGEST_CALL = 3.0
"""Of a recording's greatest length: whoever hears more slowly does not get on."""


def load(settings: Settings) -> Stages:
    """Load and warm up everything, once."""
    voice = text_to_speech(settings.tts, settings.voices())
    return Stages(speech_to_text(settings.stt), OpenAIChat(settings.llm), voice)


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM; what is being said gets some seconds to end."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for library in ("httpx", "httpx2", "openai", "faster_whisper", "uvicorn"):
        logging.getLogger(library).setLevel(logging.WARNING)
    where = settings.server
    keys = Keys(where.keys) if where.keys else None
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(bind(where.host, where.port))
        secured = (
            stack.enter_context(bind(where.tls.host, where.tls.port, "server.tls")) if where.tls else None
        )
        home = wyoming.bind(settings)
        stages = load(settings)
        admission = Admission(settings.limits.max_sessions)
        voices = VoiceModel(settings.conversation.smart_turn)
        application = rest.build(settings, stages, voices, home, keys=keys, admission=admission)
        longest_s = _LONGEST_CALL * max(60.0, settings.limits.max_audio_seconds)
        watchdog = Watchdog(lambda: stages.stt.working_s, longest_s)
        server = Server(application, settings, admission, watchdog, secured)
        if keys:
            _leave_key(keys)
        server.run(sockets=[listener])


def _leave_key(keys: Keys) -> None:
    """Tools of this host find one where only they look."""
    folder = config.runtime_directory()
    if folder is None:
        return
    path = folder / config.LOCAL_KEY.name
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(keys.add_local())
