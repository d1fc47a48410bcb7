"""Errors that a person reads: what is wrong, the rule it breaks, the remedy."""

from __future__ import annotations


class VoicebotError(Exception):
    """Base of all expected failures; `code` is stable and meant for programs."""

    kind = "server_error"
    status = 500

    def __init__(self, code: str, what: str, *, rule: str = "", remedy: str = "") -> None:
        parts = [what, f"Rule: {rule}" if rule else "", f"Remedy: {remedy}" if remedy else ""]
        super().__init__(" ".join(part for part in parts if part))
        self.code = code

    def as_dict(self) -> dict[str, str]:
        """The error object of the OpenAI APIs."""
        return {"type": self.kind, "code": self.code, "message": str(self)}


class ConfigError(VoicebotError):
    """The configuration, or something it names, is wrong."""

    kind = "config_error"


class AudioError(VoicebotError):
    """The recording can't be used."""

    kind = "invalid_request_error"
    status = 400


class TooLargeError(AudioError):
    """The request's body exceeds the limit."""

    status = 413


class EngineError(VoicebotError):
    """The LLM engine is away, refuses, or broke off."""

    status = 502


class SpeechError(VoicebotError):
    """Speech recognition or synthesis failed."""


class BusyError(SpeechError):
    """Too much is asked at once."""

    status = 503


def first_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error behind a failed TaskGroup: the first expected one, else the first of any kind."""
    leaves: list[BaseException] = []
    pending: list[BaseException] = [group]
    while pending:
        error = pending.pop(0)
        if isinstance(error, BaseExceptionGroup):
            pending.extend(error.exceptions)
        else:
            leaves.append(error)
    return next((leaf for leaf in leaves if isinstance(leaf, VoicebotError)), leaves[0])
