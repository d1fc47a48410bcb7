"""The server: connections, each with one request in work at a time."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from wyoming.error import Error
from wyoming.event import Event, Eventable
from wyoming.ping import Pong
from wyoming.tts import SynthesizeStopped

from voicebot.config import Settings
from voicebot.errors import AudioError, ConfigError, VoicebotError
from voicebot.stages import Stages
from voicebot.wyoming import wire
from voicebot.wyoming.discovery import announced
from voicebot.wyoming.ear import Ear
from voicebot.wyoming.info import describe, voices
from voicebot.wyoming.memory import Memory, Remembered
from voicebot.wyoming.work import LONGEST_TEXT, Dictation, Work, clauses_of

log = logging.getLogger("voicebot")

_LINGER_S = 5.0
_ENDING_S = 5.0


def bind(settings: Settings) -> socket.socket | None:
    """Take the port, before the models load; None where the server is off. Raises ConfigError."""
    mine = settings.wyoming
    if not mine.enabled:
        return None
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in mine.host else socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((mine.host, mine.port))
        return listener
    except OSError as error:
        raise ConfigError(
            "port_taken",
            f"Wyoming's server can't listen on {mine.host}:{mine.port} ({error.strerror or error}).",
            rule="wyoming.host is an address of this host and wyoming.port is free.",
            remedy=f"find who has it (ss -ltnp 'sport = :{mine.port}'), or set wyoming.port.",
        ) from error


@asynccontextmanager
async def serving(listener: socket.socket | None, settings: Settings, stages: Stages) -> AsyncIterator[None]:
    """Serve on it meanwhile; requests in work get some seconds to end."""
    if listener is None:
        yield
        return
    server = Server(settings, stages)
    listening = await asyncio.start_server(server.serve, sock=listener, limit=wire.LONGEST_LINE)
    host, port = listener.getsockname()[:2]
    log.info("wyoming: ready on %s", (host, port))
    try:
        async with announced(settings.wyoming, host, port):
            yield
    finally:
        listening.close()
        await server.end()


class Server:
    """What connections share."""

    def __init__(self, settings: Settings, stages: Stages) -> None:
        self.settings = settings
        self.info = describe(settings, stages.stt)
        self.work = Work(settings, stages)
        self.memory = Memory(self.work.conversation)
        self._connections: dict[asyncio.Task[None], Connection] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it leaves."""
        task: asyncio.Task[None] | None = asyncio.current_task()
        assert task is not None
        connection = Connection(self, reader, writer)
        most = self.settings.wyoming.max_connections
        if len(self._connections) >= 2 * most:
            writer.transport.abort()
            return
        self._connections[task] = connection
        try:
            await connection.run(refused=len(self._connections) > most)
        finally:
            del self._connections[task]

    async def end(self) -> None:
        """Idle connections at once, the others within some seconds."""
        for task, connection in list(self._connections.items()):
            if connection.job is None:
                task.cancel()
        if jobs := [connection.job for connection in self._connections.values() if connection.job]:
            await asyncio.wait(jobs, timeout=_ENDING_S)
        tasks = list(self._connections)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Connection:
    """One client. It is read while its request is in work: who leaves gets nothing more made."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.job: asyncio.Task[None] | None = None
        """The request in work."""
        self._server = server
        self._reader = reader
        self._writer = writer
        self._idle_s = server.settings.wyoming.idle_s
        self._own: Remembered = server.memory.new()
        self._language: str | None = None
        self._ear: Ear | None = None
        self._dictation: Dictation | None = None

    async def run(self, *, refused: bool) -> None:
        """Until the client leaves, is idle for too long, or breaks a rule: then it is told, and let go."""
        try:
            if refused:
                rule = f"at most {self._server.settings.wyoming.max_connections} (wyoming.max_connections)."
                raise AudioError("too_many_connections", "Too many connections.", rule=rule)
            while (event := await self._next()) is not None:
                await self._take(event)
        except VoicebotError as error:
            log.info("wyoming: refused: %s", error.code)
            await self._refuse(error)
        except (OSError, TimeoutError):
            log.info("wyoming: a client went away, or does not read")
        finally:
            if self.job is not None:
                self.job.cancel()
                await asyncio.gather(self.job, return_exceptions=True)
            if self._writer.transport.get_write_buffer_size():  # nobody reads it
                self._writer.transport.abort()
            self._writer.close()

    async def _next(self) -> Event | None:
        reading = asyncio.create_task(wire.read(self._reader))
        try:
            while True:
                waiting: set[asyncio.Task[Any]] = {reading} | ({self.job} if self.job else set())
                done, _ = await asyncio.wait(
                    waiting, timeout=self._idle_s, return_when=asyncio.FIRST_COMPLETED
                )
                if self.job in done:
                    await self._finish()
                elif reading in done:
                    return reading.result()
                elif self.job is None or self._dictation is not None:
                    raise AudioError("idle", f"Nothing came for {self._idle_s:g} s.", rule="wyoming.idle_s.")
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError, VoicebotError, OSError):
                await reading

    async def _take(self, event: Event) -> None:
        data = event.data
        match event.type:
            case "describe":
                await self._send(self._server.info)
            case "ping":
                await self._send(Pong(wire.optional(data, "text")))
            case "transcribe":
                self._language = (wire.optional(data, "language") or "").partition("-")[0].lower() or None
            case "audio-start":
                self._ear = Ear(data, self._server.settings.limits.max_audio_seconds)
            case "audio-chunk":
                self._ear = self._ear or Ear(data, self._server.settings.limits.max_audio_seconds)
                self._ear.feed(event.payload or b"")
            case "audio-stop":
                await self._heard()
            case "transcript":
                await self._asked(event)
            case "synthesize" if self._dictation is None:  # else: once more, for servers that know only this
                text = wire.text_of(data, LONGEST_TEXT)
                await self._begin(self._server.work.say(clauses_of(text), self._voice(event), self._send))
            case "synthesize-start":
                await self._dictated(Dictation(self._voice(event)))
            case "synthesize-chunk" if self._dictation:
                self._dictation.feed(wire.text_of(data, LONGEST_TEXT))
            case "synthesize-stop" if self._dictation:
                self._dictation.finish()
                self._dictation = None
            case "synthesize-chunk" | "synthesize-stop":
                raise wire.bad_event(f"{event.type} came alone.", "after synthesize-start.")
            case _:
                pass  # as the protocol wants it

    async def _heard(self) -> None:
        ear, self._ear = self._ear, None
        if ear is None:
            raise wire.bad_event("audio-stop came alone.", "after audio-start.")
        language, self._language = self._language, None
        await self._begin(self._server.work.transcribe(ear.recording(), language, self._send))

    async def _asked(self, event: Event) -> None:
        question = wire.text_of(event.data, LONGEST_TEXT).strip()
        if not question:
            raise wire.bad_event("`text` is empty.", "a question.")
        name = wire.optional(wire.mapping(event.data, "context"), "conversation_id")
        remembered = self._server.memory.named(name[:128]) if name else self._own
        await self._begin(self._server.work.converse(remembered, question, self._send))

    async def _dictated(self, dictation: Dictation) -> None:
        async def work() -> None:
            await self._server.work.say(dictation.clauses(), dictation.voice, self._send)
            await self._send(SynthesizeStopped())

        await self._begin(work())
        self._dictation = dictation

    def _voice(self, event: Event) -> str | None:
        name = wire.optional(wire.mapping(event.data, "voice"), "name")
        known = voices(self._server.settings)
        if name and name not in known:
            raise AudioError("voice", f"There is no voice {name[:64]!r}.", rule=f"one of {', '.join(known)}.")
        return name

    async def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            if self._dictation is not None:
                raise wire.bad_event("Another request came amid a text.", "synthesize-stop first.")
            await self._finish()
        except BaseException:
            work.close()
            raise
        self.job = asyncio.create_task(work)

    async def _finish(self) -> None:
        """Wait for the request in work; its error is this connection's."""
        if self.job is not None:
            await self.job
            self.job = None

    async def _send(self, event: Eventable) -> None:
        await wire.write(self._writer, event)

    async def _refuse(self, error: VoicebotError) -> None:
        """Say why, then read on for a moment: what is unread when a connection is closed resets it."""
        with suppress(OSError, TimeoutError):
            await self._send(Error(str(error), error.code))
            self._writer.write_eof()
            async with asyncio.timeout(_LINGER_S):
                while await self._reader.read(wire.LONGEST_LINE):
                    pass
