"""docs/realtime.md lists every event of the `openai` package, and claims what the code takes and sends."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from openai.types import realtime as rt
from openai.types.realtime.realtime_client_event import RealtimeClientEvent
from openai.types.realtime.realtime_server_event import RealtimeServerEvent

from voicebot import realtime
from voicebot.realtime.server import _CLIENT_EVENTS

DOC = Path(__file__).parents[3] / "docs/realtime.md"
CODE = Path(realtime.__file__).parent


def kinds(union: Any) -> dict[str, str]:
    """Each event's type by the name of its class."""
    (members, *_) = get_args(union)
    return {m.__name__: get_args(m.model_fields["type"].annotation)[0] for m in get_args(members)}


def listed(head: str) -> dict[str, bool]:
    """The events of a table, and whether they are claimed."""
    _, _, rest = DOC.read_text(encoding="utf-8").partition(f"| {head} | | |\n")
    table = rest.partition("\n\n")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (yes|no) \|", table, re.M)
    assert len(rows) == len(dict(rows)) == table.count("\n"), "a row each, and nothing else"
    return {name: claim == "yes" for name, claim in rows}


def sent() -> set[str]:
    """Server events whose class the code names."""
    known = kinds(RealtimeServerEvent)
    code = "".join(path.read_text(encoding="utf-8") for path in CODE.glob("*.py"))
    return {
        known[name] for name in re.findall(r"\brt(?:\.realtime_server_event)?\.(\w+)", code) if name in known
    }


@pytest.mark.parametrize(
    ("head", "union"), [("client event", RealtimeClientEvent), ("server event", RealtimeServerEvent)]
)
def test_every_event_is_listed(head: str, union: Any) -> None:
    assert set(listed(head)) == set(kinds(union).values())


def test_what_is_claimed_is_taken() -> None:
    claimed = {name for name, yes in listed("client event").items() if yes}
    assert claimed == set(_CLIENT_EVENTS)
    assert all(kinds(RealtimeClientEvent)[made.__name__] == name for name, made in _CLIENT_EVENTS.items())


def test_what_is_claimed_is_sent() -> None:
    assert {name for name, yes in listed("server event").items() if yes} == sent()
    assert rt.RealtimeErrorEvent.__name__ in kinds(RealtimeServerEvent)
