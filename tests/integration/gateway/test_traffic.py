"""How the gateway shares requests among Sparks, and what a client sees when one of them leaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from tests.integration.gateway.house import CHAT, RATE, House, until
from tests.integration.gateway.spark import Spark

pytestmark = pytest.mark.lab


class Stream:
    """A streamed answer under way, read event by event."""

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self.lines = (line for line in response.iter_lines() if line)

    def event(self) -> dict[str, Any]:
        """The next event."""
        return dict(json.loads(next(self.lines).removeprefix("data: ")))

    def rest(self) -> list[str]:
        return list(self.lines)


@contextmanager
def streaming(client: httpx.Client, steps: int = 2) -> Iterator[Stream]:
    with client.stream("POST", CHAT, json={"steps": steps}) as response:
        yield Stream(response)


def where(client: httpx.Client, times: int = 1) -> list[str]:
    """Ask so often, one after another; which Sparks answered."""
    answers = [client.post(CHAT, json={}) for _ in range(times)]
    assert [a.status_code for a in answers] == [200] * times, [a.text for a in answers]
    return [answer.json() for answer in answers]


def other(house: House, name: str) -> Spark:
    return next(spark for spark in house.sparks if spark.name != name)


def named(house: House, name: str) -> Spark:
    return next(spark for spark in house.sparks if spark.name == name)


def test_events_pass_one_by_one(house: House, client: httpx.Client) -> None:
    """The engine sends the next event only after the client has read the one before."""
    with streaming(client, steps=20) as stream:
        for number in range(20):
            event = stream.event()
            assert event["number"] == number
            named(house, event["spark"]).step.release()
        assert stream.rest() == ["data: [DONE]"]


def test_fewest_connections_first(house: House, client: httpx.Client) -> None:
    with streaming(client) as first:
        busy = first.event()["spark"]
        assert where(client, 5) == [other(house, busy).name] * 5
        with streaming(client) as second:
            assert second.event()["spark"] == other(house, busy).name
            for spark in house.sparks:
                spark.step.release()
            assert first.rest()[-1] == second.rest()[-1] == "data: [DONE]"


def test_a_short_spike_waits_and_a_long_one_gets_503(house: House, client: httpx.Client) -> None:
    with ExitStack() as stack:
        running = [stack.enter_context(streaming(client)) for _ in range(4)]  # 2 on each Spark
        assert sorted(s.event()["spark"] for s in running) == ["spark-a"] * 2 + ["spark-b"] * 2
        refused = client.post(CHAT, json={})
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
        assert refused.json()["error"]["message"] == "No Spark is free or ready."
        assert house.asked() == [2, 2]
        late: list[str] = []
        waiting = threading.Thread(target=lambda: late.extend(where(client)))
        waiting.start()
        until(lambda: 'haproxy_backend_current_queue{proxy="sparks"} 1' in metrics(house), "one waits")
        house.sparks[0].step.release(2)
        waiting.join()
        assert late == ["spark-a"]
        house.sparks[1].step.release(2)
        assert [s.rest()[-1] for s in running] == ["data: [DONE]"] * 4


def metrics(house: House) -> str:
    return httpx.get(f"http://127.0.0.1:{house.ports['metrics']}/metrics").text


def test_each_key_has_its_rate(house: House, client: httpx.Client) -> None:
    statuses: list[int] = []
    while set(statuses) <= {200}:  # a slow machine stays below the rate for a while
        refused = client.get("/v1/models")
        statuses.append(refused.status_code)
        assert len(statuses) < 10 * RATE["requests"]
    assert len(statuses) > RATE["requests"]
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == str(RATE["seconds"])
    assert refused.json()["error"]["type"] == "rate_limit"
    with house.client(next(house.free_keys)) as neighbour:
        assert neighbour.get("/v1/models").status_code == 200
    until(lambda: client.get("/v1/models").status_code == 200, "let in again", 3 * RATE["seconds"])


@contextmanager
def one_stream_on_each(house: House, client: httpx.Client) -> Iterator[tuple[Spark, Stream]]:
    """One stream on each Spark, so that new requests go to either. The first Spark, and its stream."""
    with streaming(client) as first, streaming(client) as second:
        streams = {stream.event()["spark"]: stream for stream in (first, second)}
        assert len(streams) == 2
        assert set(where(client, 4)) == set(streams)
        yield house.sparks[0], streams["spark-a"]


def test_drain_ends_what_runs_and_takes_no_more(house: House, client: httpx.Client) -> None:
    with one_stream_on_each(house, client) as (drained, stream):
        drained.drain.touch()
        until(lambda: house.states()[drained.name] != "UP", "drained")
        seen = len(drained.asked)
        assert where(client, 6) == [other(house, drained.name).name] * 6
        assert len(drained.asked) == seen
        drained.step.release()
        assert stream.rest()[-1] == "data: [DONE]"
        drained.drain.unlink()
        until(lambda: house.states()[drained.name] == "UP", "undrained")
        assert drained.name in where(client, 4)
        other(house, drained.name).step.release()


def test_a_verdict_is_heard_within_five_seconds(
    house: House, client: httpx.Client, record_property: Any
) -> None:
    with one_stream_on_each(house, client) as (wedged, stream):
        with house.client(next(house.free_keys)) as asking:
            began = time.monotonic()
            wedged.wedge()
            until(lambda: (where(asking), house.states()[wedged.name] == "DOWN")[1], "down")
            last = max(when for _, _, when in wedged.asked)
            assert began < last <= began + 5, "asked on until the gateway had heard of it, and no longer"
            record_property("seconds_to_the_last_request", round(last - began, 2))
            seen = len(wedged.asked)
            assert where(asking, 6) == [other(house, wedged.name).name] * 6
            assert len(wedged.asked) == seen
        for spark in house.sparks:
            spark.step.release()
        assert stream.rest()[-1] == "data: [DONE]"  # what ran there is not cut by the verdict


def test_a_reload_cuts_no_stream_and_loses_no_request(house: House, client: httpx.Client) -> None:
    answers: list[int] = []
    done = threading.Event()

    def ask() -> None:
        with house.client(next(house.free_keys)) as asking:
            while not done.is_set():
                answers.append(asking.post(CHAT, json={}).status_code)
                time.sleep(0.4)  # below the rate

    with streaming(client, steps=3) as stream:
        name = stream.event()["spark"]
        asking = threading.Thread(target=ask)
        asking.start()
        for proxy in house.proxies:
            proxy.reload()
            served = len(answers)
            until(lambda: len(answers) > served + 1, "requests after the reload")  # noqa: B023
        named(house, name).step.release()
        assert stream.event()["number"] == 1
        assert len(house.gateway.workers()) == 2  # the old one lives for this stream
        named(house, name).step.release()
        assert stream.rest()[-1] == "data: [DONE]"
    client.close()
    done.set()
    asking.join()
    assert set(answers) == {200}
    until(lambda: len(house.gateway.workers()) == 1, "the old process has ended")


def test_what_no_engine_saw_is_sent_elsewhere(house: House, client: httpx.Client) -> None:
    """The engine's port is closed, its guard has not noticed: 40 kB of prompt go to the other Spark."""
    house.sparks[0].stop()
    try:
        answers = [client.post(CHAT, json={"prompt": "x" * 40_000}) for _ in range(6)]
        assert [(a.status_code, a.json()) for a in answers] == [(200, "spark-b")] * 6
        house.sparks[1].stop()
        try:
            refused = client.post(CHAT, json={})
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "overloaded")
        finally:
            house.sparks[1].start()
    finally:
        house.sparks[0].start()


def test_an_edge_that_is_gone_loses_no_request(house: House, client: httpx.Client) -> None:
    house.edge_a.end()
    try:
        assert where(client, 6) == ["spark-b"] * 6
    finally:
        house.edge_a.start()


def test_an_edge_that_hangs_loses_no_request_and_is_left_out(house: House, client: httpx.Client) -> None:
    """As a host without power would: connections are opened to it, and nothing comes back."""
    with house.edge_a.hanging():
        assert where(client, 6) == ["spark-b"] * 6
        until(lambda: house.states()["spark-a"] == "DOWN", "left out")


@pytest.mark.parametrize(("cut", "status"), [("before", 502), ("after", 200)])
def test_what_an_engine_saw_is_never_sent_twice(
    house: House, client: httpx.Client, cut: str, status: int
) -> None:
    with client.stream("POST", CHAT, json={"cut": cut}) as response:
        assert response.status_code == status
        if cut == "after":
            with pytest.raises(httpx.RemoteProtocolError):
                list(response.iter_lines())
    assert sum(house.asked()) == 1
