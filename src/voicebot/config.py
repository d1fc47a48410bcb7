"""Settings: typed, checked, read from one YAML file. The only reader of configuration and environment."""

from __future__ import annotations

import difflib
import ipaddress
import os
from functools import cache
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails

from voicebot.errors import ConfigError

DEFAULT_PATH = Path("/etc/voicebot/config.yml")
ENVIRONMENT_VARIABLE = "VOICEBOT_CONFIG"
KEY_VARIABLE = "VOICEBOT_KEY"
LOCAL_KEY = Path("/run/voicebot/key")
"""Made anew at each start of a service with keys, for its own host's tools; its user and root may read it."""

SYSTEM_PROMPT = (
    "You are a helpful voice assistant. Your answers are spoken aloud: "
    "reply in a few short sentences of plain text, without lists, markup or code."
)

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^/]+(/.*)?$")]


def is_loopback(host: str) -> bool:
    """Whether only this host reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Section):
    """A second listener, for other hosts; its files are PEM."""

    host: Text = "0.0.0.0"
    port: int = Field(default=8444, ge=1, le=65535)
    certificate: Path
    key: Path


class Server(_Section):
    """Where the service listens, and who may come in."""

    host: Text = "127.0.0.1"
    port: int = Field(default=8080, ge=1, le=65535)
    tls: Tls | None = None
    keys: Path | None = None
    origins: tuple[Text, ...] = ()
    trust_network: bool = False
    drain_s: float = Field(default=10.0, ge=0, le=60)

    @model_validator(mode="after")
    def _closed_by_default(self) -> Self:
        if not self.trust_network and not is_loopback(self.host):
            raise ValueError(
                "server.host is a loopback address, since it speaks without TLS"
                " (server.tls listens for other hosts; server.trust_network: true gives this up)"
            )
        if not self.trust_network and self.tls and not is_loopback(self.tls.host) and not self.keys:
            raise ValueError("server.tls needs server.keys (server.trust_network: true gives this up)")
        return self


class Stt(_Section):
    """Speech to text: a CTranslate2 Whisper model in a local directory, or a server's model by its name."""

    model: Path
    url: Url | None = None
    device: Literal["cpu", "cuda", "auto"] = "cpu"
    compute_type: Literal[
        "default", "auto", "int8", "int8_float32", "int8_float16", "int8_bfloat16",
        "int16", "float16", "bfloat16", "float32",
    ] = "int8"  # fmt: skip
    cpu_threads: int = Field(default=0, ge=0)
    language: Text = "en"
    beam_size: int = Field(default=1, ge=1, le=16)


class Llm(_Section):
    """The engine: an OpenAI-compatible server."""

    base_url: Url = "http://127.0.0.1:8000/v1"
    model: Text = "/models/mistral-7b"
    system_prompt: str = SYSTEM_PROMPT
    max_tokens: int = Field(default=256, ge=1)
    temperature: float = Field(default=0.7, ge=0, le=2)
    connect_timeout_s: float = Field(default=1.0, gt=0)
    first_token_timeout_s: float = Field(default=60.0, gt=0)


class Persona(_Section):
    """Who the assistant is; what is left out stays as configured elsewhere."""

    instructions: str | None = None
    greeting: str = ""
    voice: Text | None = None
    language: Text | None = None
    max_tokens: int | None = Field(default=None, ge=1)
    min_tokens: int = Field(default=64, ge=1)
    tokens_per_word: int | None = Field(default=None, ge=1)


class Conversing(_Section):
    """Turn taking and memory of live conversations."""

    preset: Literal["commands", "conversation", "long_form"] = "conversation"
    silence_s: float | None = Field(default=None, ge=0.1, le=10)
    min_speech_s: float | None = Field(default=None, ge=0, le=10)
    threshold: float | None = Field(default=None, gt=0.05, lt=1)
    interrupt_s: float | None = Field(default=None, ge=0.1, le=10)
    smart_turn: Path | None = None
    speculate: bool = True
    partials: Literal["auto", "always", "never"] = "auto"
    rounds: int = Field(default=5, ge=0)
    persona: Text = "assistant"
    apology: str = "Sorry, I can't answer right now. Please try again."
    log_words: bool = False


class Tts(_Section):
    """Text to speech."""

    engine: Literal["hibari"] = "hibari"
    url: Url | None = None
    model: str = ""
    voice: Text = "heart"
    speed: float = Field(default=1.0, ge=0.5, le=2.0)

    @model_validator(mode="after")
    def _model_of_url(self) -> Self:
        if self.url and not self.model:
            raise ValueError("tts.url needs tts.model, the name that the server knows")
        return self


class Wyoming(_Section):
    """Home Assistant's way in. The protocol has no authentication: whoever reaches the port may use it."""

    enabled: bool = False
    host: Text = "127.0.0.1"
    port: int = Field(default=10300, ge=1, le=65535)
    trust_network: bool = False
    discovery: bool = True
    max_connections: int = Field(default=16, ge=1)
    idle_s: float = Field(default=300.0, gt=0)

    @model_validator(mode="after")
    def _only_here_or_trusted(self) -> Self:
        try:
            loopback = ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            raise ValueError(f"wyoming.host is an IP address, and {self.host!r} is none") from None
        if not loopback and not self.trust_network:
            raise ValueError(
                "a host other than loopback needs wyoming.trust_network: true, "
                "for everybody on that network may then talk to the service"
            )
        return self


class Limits(_Section):
    """What the service accepts."""

    max_audio_seconds: float = Field(default=120.0, gt=0)
    max_body_mb: float = Field(default=64.0, gt=0)
    max_upload_seconds: float = Field(default=120.0, gt=0)
    max_decode_seconds: float = Field(default=30.0, gt=0)
    max_sessions: int = Field(default=8, ge=1)
    max_session_minutes: float = Field(default=60.0, gt=0)
    max_idle_minutes: float = Field(default=10.0, gt=0)
    max_frame_mb: float = Field(default=8.0, gt=0)
    max_outgoing_mb: float = Field(default=8.0, gt=0)
    max_connections: int = Field(default=256, ge=1)
    max_connections_per_address: int = Field(default=64, ge=1)
    requests_per_minute: int = Field(default=600, ge=1)
    ping_seconds: float = Field(default=20.0, gt=0)


class Settings(_Section):
    """The whole configuration."""

    server: Server = Server()
    stt: Stt
    llm: Llm = Llm()
    tts: Tts = Tts()
    limits: Limits = Limits()
    conversation: Conversing = Conversing()
    wyoming: Wyoming = Wyoming()
    personas: dict[str, Persona] = Field(default_factory=dict)

    def voices(self) -> list[str]:
        """Those that personas speak with, beside tts.voice."""
        return [persona.voice for persona in self.personas.values() if persona.voice]

    def persona(self, name: str) -> Persona:
        """By its name: one of this configuration's, or of the package's."""
        everybody = _bundled_personas() | self.personas
        if name not in everybody:
            raise ConfigError(
                "persona",
                f"The persona {name!r} is unknown.",
                rule=f"one of {', '.join(sorted(everybody))}.",
                remedy="add it to `personas`, or name one of them.",
            )
        return everybody[name]


@cache
def _bundled_personas() -> dict[str, Persona]:
    text = (resources.files("voicebot") / "data" / "personas.yml").read_text(encoding="utf-8")
    return {name: Persona.model_validate(fields) for name, fields in yaml.safe_load(text).items()}


def default_path() -> Path:
    """$VOICEBOT_CONFIG, else /etc/voicebot/config.yml."""
    return Path(os.environ.get(ENVIRONMENT_VARIABLE) or DEFAULT_PATH)


def notify_socket() -> str | None:
    """Where systemd waits to hear that the service is ready."""
    return os.environ.get("NOTIFY_SOCKET")


def watchdog_s() -> float:
    """Within how many seconds systemd wants a sign of life; 0 where it does not ask for one."""
    mine = os.environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
    return int(os.environ.get("WATCHDOG_USEC", "0")) / 1e6 if mine else 0.0


def runtime_directory() -> Path | None:
    """Of the service's own, where systemd made one."""
    name = os.environ.get("RUNTIME_DIRECTORY")
    return Path(name) if name else None


def client_key() -> str:
    """What a client of this package shows to a service; empty for none."""
    return os.environ.get(KEY_VARIABLE, "")


def load(path: Path) -> Settings:
    """Read and check a configuration file."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "config_unreadable",
            f"The configuration {path} can't be read: {error.strerror}.",
            rule="a YAML file that this user may read.",
            remedy=f"name another one with --config or ${ENVIRONMENT_VARIABLE}.",
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = " ".join(str(error).split())
        raise ConfigError(
            "config_syntax", f"{path} is not YAML: {where}.", rule="UTF-8 YAML.", remedy="correct that line."
        ) from error
    return parse({} if data is None else data, str(path))


def parse(data: object, origin: str) -> Settings:
    """Check already loaded settings; `origin` names them in errors."""
    if not isinstance(data, dict):
        raise ConfigError(
            "config_syntax",
            f"{origin} holds a {type(data).__name__}.",
            rule="a mapping of sections.",
            remedy=f"write sections: {', '.join(Settings.model_fields)}.",
        )
    try:
        settings = Settings.model_validate(data)
        settings.persona(settings.conversation.persona)
        return settings
    except ValidationError as error:
        found = [_explain(detail, data) for detail in error.errors()]
        raise ConfigError("config_invalid", f"{origin}: " + "\n".join(found)) from error


def _explain(detail: ErrorDetails, data: dict[Any, Any]) -> str:
    """One pydantic finding as what, rule, remedy."""
    location = detail["loc"]
    key = ".".join(str(part) for part in location)
    known = _known_keys(location[:-1])
    if detail["type"] == "extra_forbidden":
        name = str(location[-1])
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5) or _elsewhere(name)
        section = ".".join(str(part) for part in location[:-1]) or "the top level"
        remedy = f"did you mean {near[0]}?" if near else "remove it."
        return f"{key} is not a setting. Rule: {section} knows {', '.join(known)}. Remedy: {remedy}"
    if detail["type"] == "missing":
        return f"{key} is missing. Rule: it has no default. Remedy: set {key}."
    rule = detail["msg"].removeprefix("Value error, ").replace("Input should", "it should", 1)
    return f"{key} is {detail['input']!r}. Rule: {rule}. Remedy: set {key} to such a value."


def _known_keys(section: tuple[int | str, ...]) -> list[str]:
    model: Any = Settings
    for part in section:
        model = model.model_fields[part].annotation if hasattr(model, "model_fields") else get_args(model)[1]
        if get_origin(model) in (Union, UnionType):
            model = get_args(model)[0]
    return list(getattr(model, "model_fields", ()))


def _elsewhere(name: str) -> list[str]:
    """The setting's full name, when it was written in the wrong section."""
    paths = {f"{section}.{key}": key for section in Settings.model_fields for key in _known_keys((section,))}
    near = difflib.get_close_matches(name, paths.values(), n=1, cutoff=0.8)
    return [path for path, key in paths.items() if key in near][:1]
