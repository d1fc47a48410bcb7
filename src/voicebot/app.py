"""Composition root: settings → stages → server."""

from __future__ import annotations

import logging
import socket
import sys

import uvicorn

from voicebot import config, rest
from voicebot.config import Settings
from voicebot.errors import ConfigError
from voicebot.llm import OpenAIChat
from voicebot.loading import speech_to_text, text_to_speech
from voicebot.stages import Stages
from voicebot.turns import VoiceModel
from voicebot.wyoming import server as wyoming

log = logging.getLogger("voicebot")

_STOP_WITHIN_S = 10


def load(settings: Settings) -> Stages:
    """Load and warm up everything, once."""
    voice = text_to_speech(settings.tts, settings.voices())
    return Stages(speech_to_text(settings.stt), OpenAIChat(settings.llm), voice)


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM; running answers get some seconds to end."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for library in ("httpx", "httpx2", "openai", "faster_whisper"):
        logging.getLogger(library).setLevel(logging.WARNING)
    listener = _bind(settings.server.host, settings.server.port)
    home = wyoming.bind(settings)
    voices = VoiceModel(settings.conversation.smart_turn)
    application = rest.build(settings, load(settings), voices, home)
    options = uvicorn.Config(
        application, log_config=None, access_log=False, server_header=False,
        timeout_graceful_shutdown=_STOP_WITHIN_S,
    )  # fmt: skip
    _Server(options).run(sockets=[listener])


def _bind(host: str, port: int) -> socket.socket:
    """Take the port before the models load; connections are refused until the server listens."""
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener:
            listener.close()
        raise ConfigError(
            "port_taken",
            f"The service can't listen on {host}:{port} ({error.strerror}).",
            rule="server.host is an address of this host and server.port is free.",
            remedy=f"find who has it (ss -ltnp 'sport = :{port}'), or set server.port.",
        ) from error
    return listener


class _Server(uvicorn.Server):
    """Tells systemd when it really serves, and when it stops."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            tell_systemd("READY=1")
            log.info("ready on %s", ", ".join(str(s.getsockname()[:2]) for s in sockets or []))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        tell_systemd("STOPPING=1")
        await super().shutdown(sockets=sockets)


def tell_systemd(state: str) -> None:
    """sd_notify, where there is a systemd that listens."""
    path = config.notify_socket()
    if not path:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect("\0" + path[1:] if path.startswith("@") else path)
        channel.sendall(state.encode())
