"""Client of a running service."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from voicebot import config
from voicebot.errors import AudioError, VoicebotError

CONNECT_TIMEOUT_S = 1.0
_SILENCE_S = 180.0


class ServiceError(VoicebotError):
    """The service is away, refused, or broke off; `kind` and `code` are its own where it said so."""

    def __init__(
        self, code: str, what: str, *, rule: str = "", remedy: str = "", kind: str = "server_error"
    ) -> None:
        super().__init__(code, what, rule=rule, remedy=remedy)
        self.kind = kind


def turn_events(url: str, recording: Path) -> Generator[dict[str, Any], None, None]:
    """Send a recording; the events of the turn as they come. Raises where the service does not finish it."""
    timeout = httpx.Timeout(_SILENCE_S, connect=CONNECT_TIMEOUT_S)
    ended = False
    try:
        with (
            recording.open("rb") as body,
            httpx.Client(timeout=timeout, trust_env=False, headers=_key_for(url)) as http,
            http.stream("POST", f"{url.rstrip('/')}/v1/turns", content=body) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise _refusal(url, recording, answer.status_code, answer.read())
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    event: dict[str, Any] = json.loads(line.removeprefix("data: "))
                    ended = ended or event["type"] == "response.done"
                    yield event
    except OSError as error:
        raise AudioError(
            "file_unreadable",
            f"{recording} can't be read: {error.strerror}.",
            rule="a file that you may read.",
            remedy="check the path.",
        ) from error
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise _unreachable(url, error) from error
    except (httpx.HTTPError, ValueError) as error:
        raise _broken(url) from error
    if not ended:
        raise _broken(url)


def health(url: str) -> dict[str, str]:
    """What GET /health says, healthy or not."""
    timeout = httpx.Timeout(5.0, connect=CONNECT_TIMEOUT_S)
    try:
        with httpx.Client(timeout=timeout, trust_env=False, headers=_key_for(url)) as http:
            state: dict[str, str] = http.get(f"{url.rstrip('/')}/health").json()
            return state
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise _unreachable(url, error) from error


def _key_for(url: str) -> dict[str, str]:
    """$VOICEBOT_KEY; else, for a service of this host alone, the one that it left for its users."""
    key = config.client_key()
    if not key and config.is_loopback(urlsplit(url).hostname or ""):
        with contextlib.suppress(OSError):
            key = config.LOCAL_KEY.read_text(encoding="ascii").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}


def _unreachable(url: str, error: Exception) -> ServiceError:
    return ServiceError(
        "service_unreachable",
        f"No voicebot answers at {url} ({type(error).__name__}).",
        rule=f"it accepts a connection within {CONNECT_TIMEOUT_S:g} s.",
        remedy="systemctl status voicebot; journalctl -u voicebot; or name another one with --url.",
    )


def _broken(url: str) -> ServiceError:
    what = f"The voicebot at {url} broke off before the turn was done."
    return ServiceError("service_cut", what, remedy="journalctl -u voicebot; then ask again.")


def _refusal(url: str, recording: Path, status: int, body: bytes) -> ServiceError:
    try:
        error = json.loads(body)["error"]
        # The service knows no file names: it got bytes.
        return ServiceError(error["code"], f"{recording}: {error['message']}", kind=error["type"])
    except (ValueError, LookupError, TypeError):
        what = f"{url} answered {status}, not as a voicebot does."
        return ServiceError("service_unreachable", what, remedy="name the voicebot with --url.")
