"""How the gateway hands conversations to the Sparks' voicebots, and what happens when one of them leaves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.integration.gateway.calls import Record, calling
from tests.integration.gateway.house import CHAT, House, until
from tests.integration.gateway.spark import Spark

pytestmark = pytest.mark.lab


@pytest.fixture
def key(house: House) -> str:
    return next(house.free_keys)


def named(house: House, name: str) -> Spark:
    return next(spark for spark in house.sparks if spark.name == name)


def other(house: House, name: str) -> str:
    return next(spark.name for spark in house.sparks if spark.name != name)


def refused(house: House, key: str, record: Record) -> int:
    """The status that a call is refused with."""
    with pytest.raises(InvalidStatus) as caught, calling(house, key, record=record):
        pass
    return caught.value.response.status_code


@pytest.mark.parametrize("browser", [False, True])
def test_a_conversation_passes_and_the_key_does_not(
    house: House, key: str, browser: bool, record_property: Record
) -> None:
    with calling(house, key, browser=browser, record=record_property) as call:
        assert call.connection.subprotocol == ("realtime" if browser else None)
        assert all(call.echoes("x" * size) for size in (1, 1000, 200_000))
    ((route, headers, _),) = named(house, call.spark).asked
    assert route == "GET /v1/realtime" and headers["upgrade"] == "websocket"
    assert key not in str(headers) and "authorization" not in headers and "origin" not in headers


@pytest.mark.parametrize("browser", [False, True])
def test_a_stranger_gets_no_conversation(house: House, browser: bool) -> None:
    with pytest.raises(InvalidStatus) as caught, calling(house, "0" * 32, browser=browser):
        pass
    assert caught.value.response.status_code == 401
    assert house.asked() == [0, 0]


def test_recordings_and_speech_pass(house: House, client: httpx.Client) -> None:
    for route in ("/v1/audio/transcriptions", "/v1/audio/speech"):
        answer = client.post(route, content=b"x" * 300_000)
        assert (answer.status_code, answer.json()["bytes"]) == (200, 300_000)
    assert client.get("/v1/realtime").status_code == 426
    assert client.get("/").status_code == client.get("/page.js").status_code == 404
    assert sum(house.asked()) == 2


def test_who_calls_again_gets_to_the_same_spark_and_many_share_both(
    house: House, key: str, record_property: Record
) -> None:
    def where(session: str) -> str:
        # One that is still ending counts: a Spark that has more than its share would not get the next.
        until(lambda: house.conversations() == 0, "the last one has ended")
        with calling(house, key, session, record=record_property) as call:
            return call.spark

    first = [where(f"caller-{number}") for number in range(12)]
    assert [where(f"caller-{number}") for number in range(12)] == first
    assert set(first) == {"spark-a", "spark-b"}


def test_many_begin_at_once(house: House, key: str, record_property: Record) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(12) as pool:
        begun = [
            pool.submit(stack.enter_context, calling(house, key, f"at-once-{n}", record=record_property))
            for n in range(12)
        ]
        calls = [future.result() for future in begun]
        assert all(call.echoes(f"caller {number}") for number, call in enumerate(calls))
        counts = [[call.spark for call in calls].count(spark.name) for spark in house.sparks]
        assert min(counts) >= 2, "nobody has all of them"


def test_a_drained_spark_ends_its_conversations_and_begins_none(
    house: House, key: str, record_property: Record
) -> None:
    with calling(house, key, record=record_property) as call:
        drained = named(house, call.spark)
        drained.drain.touch()
        until(lambda: house.states("voices")[drained.name] == "NOLB", "drained")
        assert call.echoes("still here")
        for _ in range(3):
            with calling(house, key, record=record_property) as new:
                assert new.spark == other(house, drained.name)
        named(house, other(house, drained.name)).drain.touch()
        until(lambda: set(house.states("voices").values()) == {"NOLB"}, "both drained")
        assert refused(house, key, record_property) == 503
        drained.drain.unlink()
        until(lambda: house.states("voices")[drained.name] == "UP", "undrained")
        with calling(house, key, record=record_property) as new:
            assert new.spark == drained.name
        assert call.echoes("to the end")


def test_a_spark_without_voicebot_answers_and_has_no_conversations(
    house: House, client: httpx.Client, key: str, record_property: Record
) -> None:
    silent, speaking = house.sparks
    silent.voice.stop()
    try:
        until(lambda: house.states("voices")[silent.name] == "DOWN", "no conversations there")
        assert house.states()[silent.name] == "UP"
        for number in range(4):
            with calling(house, key, f"caller-{number}", record=record_property) as call:
                assert call.spark == speaking.name
        assert {client.post(CHAT, json={}).json() for _ in range(6)} == {silent.name, speaking.name}
    finally:
        silent.voice.start()
    until(lambda: house.states("voices")[silent.name] == "UP", "conversations again")


def test_a_wedged_engine_gets_no_conversation_and_none_is_cut(
    house: House, key: str, record_property: Record
) -> None:
    with calling(house, key, record=record_property) as call:
        named(house, call.spark).wedge()
        until(lambda: house.states("voices")[call.spark] == "DOWN", "down")
        with calling(house, key, record=record_property) as new:
            assert new.spark == other(house, call.spark)
        assert call.echoes("not cut")


def test_a_reload_cuts_no_conversation(house: House, key: str, record_property: Record) -> None:
    with calling(house, key, record=record_property) as call:
        for proxy in house.proxies:
            proxy.reload()
            running = 0 if proxy is house.gateway else 1  # the new process has none yet
            until(lambda: house.conversations() == running, "the last one has ended")  # noqa: B023
            with calling(house, key, record=record_property) as new:
                assert new.spark == call.spark
        assert call.echoes("through three reloads")
        assert len(house.gateway.workers()) == 2
    until(lambda: len(house.gateway.workers()) == 1, "the old process has ended")
