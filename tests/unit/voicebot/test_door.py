"""The door: strangers, old keys, foreign pages, bodies without an end; and those who may come in."""

from __future__ import annotations

import base64
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import websockets
from websockets.sync.client import connect

from tests.unit.voicebot.conftest import Fakes
from tests.unit.voicebot.house import PATIENCE_S, House, exchange, open_house, until, with_, write_keys
from voicebot import serving
from voicebot.ask import sample
from voicebot.config import Settings

KEY = "correct-horse"
BEARER = {"Authorization": f"Bearer {KEY}"}
HTTP = httpx.Client(timeout=PATIENCE_S, trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
QUESTION = sample()[0].read_bytes()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return write_keys(tmp_path / "keys", kitchen=KEY)


@pytest.fixture
def house(fakes: Fakes, settings: Settings, keys: Path) -> Iterator[House]:
    with open_house(fakes, with_(settings, server={"keys": keys}, limits={"max_body_mb": 1})) as open_:
        yield open_


def post(house: House, **headers: str) -> httpx.Response:
    return HTTP.post(f"{house.url}/v1/turns", content=QUESTION, headers=headers)


def handshake(house: House, subprotocols: Any = None, **headers: str) -> int:
    """The status that a WebSocket's handshake is answered with."""
    url = house.url.replace("http", "ws") + "/v1/realtime"
    try:
        with connect(
            url, additional_headers=headers, subprotocols=subprotocols, open_timeout=PATIENCE_S
        ) as socket_:
            assert "session.created" in socket_.recv(PATIENCE_S)
            return 101
    except websockets.InvalidStatus as refused:
        return refused.response.status_code


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {KEY}"},
        {"Authorization": f"Bearer {KEY} "[:-2]},
    ],
)
def test_a_stranger_gets_nothing(house: House, fakes: Fakes, headers: dict[str, str]) -> None:
    for path in ("/v1/turns", "/v1/models", "/v1/audio/speech", "/metrics", "/nothing", "/v1/realtime"):
        for method in ("GET", "POST"):
            answer = HTTP.request(method, house.url + path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
    assert handshake(house, **headers) == 401
    assert fakes.stt.calls == 0


def test_who_shows_a_key_comes_in(house: House) -> None:
    assert post(house, **BEARER).status_code == 200
    assert handshake(house, **BEARER) == 101
    subprotocols = ["realtime", f"openai-insecure-api-key.{KEY}"]
    assert handshake(house, subprotocols) == 101
    assert handshake(house, ["realtime", "openai-insecure-api-key.wrong"]) == 401
    client = openai.OpenAI(base_url=f"{house.url}/v1", api_key=KEY, max_retries=0)
    assert "voicebot" in {model.id for model in client.models.list()}
    url = house.url.replace("http", "ws") + "/v1/realtime"
    with connect(url, subprotocols=subprotocols) as told:  # type: ignore[arg-type]
        assert told.subprotocol == "realtime", "a key is not sent back"


def test_what_is_public_tells_strangers_nothing(house: House) -> None:
    for path in ("/", "/page.js", "/page.css"):
        assert HTTP.get(house.url + path).status_code == 200
    assert HTTP.get(f"{house.url}/health").json() == {"status": "ok"}
    assert set(HTTP.get(f"{house.url}/health", headers=BEARER).json()) == {"status", "stt", "llm", "tts"}


def test_a_key_is_replaced_while_the_service_runs(house: House, keys: Path) -> None:
    url = house.url.replace("http", "ws") + "/v1/realtime"
    with connect(url, additional_headers=BEARER) as inside:
        write_keys(keys, kitchen="new")
        assert post(house, **BEARER).status_code == 401
        assert handshake(house, **BEARER) == 401
        assert post(house, Authorization="Bearer new").status_code == 200
        inside.recv(PATIENCE_S)
        inside.send('{"type": "input_audio_buffer.clear"}')
        assert "input_audio_buffer.cleared" in inside.recv(PATIENCE_S)


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("https://evil.example", None, 403),
        ("null", None, 403),
        ("http://[", None, 403),
        ("http://localhost", None, 403),
        ("own", None, 101),
        ("http://evil.example:8080", "evil.example:8080", 403),  # DNS rebinding
        ("http://localhost:8080", "localhost:8080", 101),
        ("http://spark.home", None, 101),
    ],
)
def test_pages(fakes: Fakes, settings: Settings, origin: str, host: str | None, status: int) -> None:
    with open_house(fakes, with_(settings, server={"origins": ["spark.home"]})) as house:
        headers = {"Origin": house.url if origin == "own" else origin} | ({"Host": host} if host else {})
        assert HTTP.get(f"{house.url}/v1/models", headers=headers).status_code == (
            200 if status == 101 else 403
        )
        headers["Host"] = host or f"127.0.0.1:{house.port}"
        request = [
            "GET /v1/realtime HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()),
            "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
            f"Sec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}", "", "",
        ]  # fmt: skip
        with socket.create_connection(("127.0.0.1", house.port), PATIENCE_S) as client:
            client.sendall("\r\n".join(request).encode())
            assert client.recv(65536).split()[1] == str(status).encode()


def test_a_body_too_large_is_refused_and_the_reason_arrives(house: House) -> None:
    """Whoever has sent megabytes hears why, whether its length was told or not, with a key or without."""
    pieces = [bytes(100_000)] * 50
    chunked = b"".join(b"186a0\r\n" + piece + b"\r\n" for piece in pieces) + b"0\r\n\r\n"
    for key, status in ((KEY, 413), ("wrong", 401)):
        head = f"POST /v1/turns HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        told = f"{head}Content-Length: 5000000\r\n\r\n".encode() + b"".join(pieces)
        untold = f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunked
        for request in (told, untold):
            answered, body = exchange(house.port, request)
            assert answered == status
            assert body["error"]["code"] in ("body_too_large", "invalid_api_key")
    assert post(house, **BEARER).status_code == 200


def test_a_body_that_never_ends_is_cut(fakes: Fakes, settings: Settings, monkeypatch: Any) -> None:
    monkeypatch.setattr("voicebot.door._LINGER_MB", 1)
    with open_house(fakes, with_(settings, limits={"max_body_mb": 0.1})) as house:
        sent = 0
        with (
            socket.create_connection(("127.0.0.1", house.port), PATIENCE_S) as client,
            pytest.raises(OSError),
        ):
            client.sendall(b"POST /v1/turns HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            while sent < 500_000_000:
                client.sendall(b"186a0\r\n" + bytes(100_000) + b"\r\n")
                sent += 100_000
        assert post(house).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for(fakes: Fakes, settings: Settings) -> None:
    with open_house(fakes, with_(settings, limits={"max_upload_seconds": 0.2})) as house:
        head = b"POST /v1/turns HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nRIFF"
        assert exchange(house.port, head)[0] == 408


def test_too_often(fakes: Fakes, settings: Settings, keys: Path) -> None:
    with open_house(
        fakes, with_(settings, server={"keys": keys}, limits={"requests_per_minute": 5})
    ) as house:
        statuses = [HTTP.get(f"{house.url}/v1/models").status_code for _ in range(8)]
        assert statuses[0] == 401
        assert statuses[-1] == 429
        answer = HTTP.get(f"{house.url}/v1/models", headers=BEARER)
        assert answer.status_code == 200, "a key has a rate of its own"


def test_security_headers(house: House) -> None:
    for path in ("/", "/health", "/v1/models"):
        headers = HTTP.get(house.url + path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_connections_that_say_nothing(fakes: Fakes, settings: Settings, monkeypatch: Any) -> None:
    """200 of one address: most are refused, the others end; another address is served meanwhile."""
    monkeypatch.setattr(serving, "_REQUEST_WITHIN_S", 1.0)
    limited = with_(settings, limits={"max_connections": 60, "max_connections_per_address": 50})
    with open_house(fakes, limited) as house:
        idle = [
            socket.create_connection(("127.0.0.1", house.port), PATIENCE_S, ("127.0.0.2", 0))
            for _ in range(200)
        ]
        try:
            assert post(house).status_code == 200
            answers = [_all_of(client) for client in idle]
        finally:
            for client in idle:
                client.close()
        assert sum(b"503" in answer for answer in answers) >= 150
        until(lambda: not house.server.server_state.connections)
        assert post(house).status_code == 200


def _all_of(client: socket.socket) -> bytes:
    """What comes until the other side ends it, by whatever way."""
    answer = b""
    with suppress(ConnectionError):
        while piece := client.recv(1000):
            answer += piece
    return answer


def test_200_at_once(house: House) -> None:
    """Strangers who all ask: each is answered or cut off, and those with a key are served meanwhile."""
    strangers = [
        socket.create_connection(("127.0.0.1", house.port), PATIENCE_S, ("127.0.0.2", 0)) for _ in range(200)
    ]
    try:
        for stranger in strangers:
            with suppress(OSError):
                stranger.sendall(b"GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        served = [post(house, **BEARER).status_code for _ in range(5)]
        answers = [_all_of(stranger) for stranger in strangers]
    finally:
        for stranger in strangers:
            stranger.close()
    assert served == [200] * 5
    statuses = {answer.split()[1] for answer in answers if answer}
    assert b"401" in statuses
    assert statuses <= {b"401", b"503"}
    until(lambda: not house.server.server_state.tasks)


def test_tls(fakes: Fakes, settings: Settings, keys: Path, tmp_path: Path) -> None:
    """Beside the plain listener on loopback; a new certificate is taken without a restart."""
    certificate, key = tmp_path / "tls.crt", tmp_path / "tls.key"

    def issue(name: str) -> None:
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", key, "-out", certificate, "-days", "2", "-subj", f"/CN={name}",
             "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1"],
            check=True, capture_output=True,
        )  # fmt: skip

    issue("first")
    tls = {"host": "127.0.0.1", "certificate": certificate, "key": key}
    with open_house(fakes, with_(settings, server={"keys": keys, "tls": tls})) as house:
        port = house.server.servers[-1].sockets[0].getsockname()[1]
        trust = ssl.create_default_context(cafile=str(certificate))
        url = f"https://127.0.0.1:{port}/v1/models"
        assert httpx.get(url, verify=trust).status_code == 401
        assert httpx.get(url, verify=trust, headers=BEARER).status_code == 200
        assert HTTP.get(f"{house.url}/v1/models", headers=BEARER).status_code == 200
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{port}/health")
        time.sleep(0.01)  # its time of change must differ
        issue("second")

        def renewed() -> bool:
            try:
                fresh = ssl.create_default_context(cafile=str(certificate))
                return httpx.get(url, verify=fresh, headers=BEARER).status_code == 200
            except httpx.TransportError:
                return False

        until(renewed)
