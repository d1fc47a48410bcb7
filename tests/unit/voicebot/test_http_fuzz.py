"""The HTTP API under schemathesis: whatever is sent, no status of 500 and above."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as examples
from schemathesis import GenerationMode

from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.house import PATIENCE_S, House, open_house, with_
from voicebot.config import Settings

_TEXT: dict[str, Any] = {"type": "string"}
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_SPEECH = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": _TEXT, "model": _TEXT, "voice": _TEXT, "response_format": {"enum": ["wav", "pcm", "mp3"]},
        "speed": {"type": "number"},
    },
}  # fmt: skip
_FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {
        "file": _BINARY, "model": _TEXT, "language": _TEXT, "prompt": _TEXT,
        "temperature": {"type": "number"}, "stream": {"type": "boolean"},
        "response_format": {"enum": ["json", "text", "srt", "vtt", "verbose_json", "x"]},
    },
}  # fmt: skip


def _post(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    body = {"required": True, "content": {kind: {"schema": schema}}}
    return {"post": {"requestBody": body, "responses": {"default": {"description": "any"}}}}


_GET = {"get": {"responses": {"default": {"description": "any"}}}}
DESCRIPTION = {
    "openapi": "3.0.3",
    "info": {"title": "voicebot", "version": "1"},
    "paths": {
        "/": _GET,
        "/health": _GET,
        "/metrics": _GET,
        "/v1/models": _GET,
        "/v1/turns": _post("application/octet-stream", _BINARY),
        "/v1/audio/transcriptions": _post("multipart/form-data", _FORM),
        "/v1/audio/speech": _post("application/json", _SPEECH),
    },
}
SCHEMA: Any = schemathesis.openapi.from_dict(DESCRIPTION)
FOUND = [result.ok() for result in SCHEMA.get_all_operations()]
OPERATIONS = {f"{operation.method.upper()} {operation.path}": operation for operation in FOUND}


@pytest.fixture
def house(fakes: Fakes, settings: Settings) -> Iterator[House]:
    with open_house(fakes, with_(settings, limits={"requests_per_minute": 10**9})) as open_:
        yield open_


@pytest.mark.parametrize("count", [30, pytest.param(300, marks=pytest.mark.long)], ids=["short", "long"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_no_request_is_a_server_error(house: House, name: str, count: int) -> None:
    operation = OPERATIONS[name]
    structured = name.startswith("POST /v1/audio")  # bytes can't be of a wrong type
    modes = [GenerationMode.POSITIVE, *([GenerationMode.NEGATIVE] if structured else [])]
    for mode in modes:

        @examples(
            max_examples=count // len(modes), deadline=None, derandomize=True, database=None,
            phases=[Phase.generate], suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            answer = case.call(base_url=house.url, timeout=PATIENCE_S)
            assert answer.status_code < 500, (case.body, answer.text)

        ask()
