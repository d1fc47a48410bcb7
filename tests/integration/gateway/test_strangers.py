"""Every route of vLLM and the voicebot, asked for by strangers and those who may: makes the docs' table."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.integration.gateway.house import ROOT, House, until

pytestmark = pytest.mark.lab

ALLOWED = {
    "GET /v1/models", "POST /v1/chat/completions", "POST /v1/completions", "POST /tokenize",
    "POST /v1/audio/transcriptions", "POST /v1/audio/speech",
}  # fmt: skip
WEBSOCKET = "GET /v1/realtime"
# vLLM 0.11's own routes, with those that flags, development mode or task types add; then the voicebot's.
SERVED = """
GET /health, GET /load, GET /ping, POST /ping, GET /metrics, GET /version, GET /server_info
GET /docs, GET /redoc, GET /openapi.json, GET /docs/oauth2-redirect
POST /tokenize, POST /detokenize, GET /tokenizer_info
GET /v1/models, POST /v1/chat/completions, POST /v1/completions
POST /v1/responses, GET /v1/responses/1, POST /v1/responses/1/cancel
POST /v1/embeddings, POST /pooling, POST /classify, POST /score, POST /v1/score
POST /rerank, POST /v1/rerank, POST /v2/rerank
POST /v1/audio/transcriptions, POST /v1/audio/translations, POST /invocations
POST /v1/load_lora_adapter, POST /v1/unload_lora_adapter
POST /scale_elastic_ep, POST /is_scaling_elastic_ep, POST /reset_prefix_cache, POST /collective_rpc
POST /sleep, POST /wake_up, GET /is_sleeping, POST /start_profile, POST /stop_profile
GET /v1/realtime, POST /v1/audio/speech, POST /v1/turns
"""
ROUTES = re.split(r", |\n", SERVED.strip())
# Other ways to write a path, and other methods on the allowed ones.
TRICKS = [
    "POST /v1/models", "GET /tokenize", "PUT /v1/completions", "DELETE /v1/models", "OPTIONS /v1/models",
    "HEAD /v1/models", "GET /", "GET /v1/models/", "GET //v1/models", "GET /V1/models", "GET /v1/%6dodels",
    "GET /v1/models/../../metrics", "GET /v1/models%2f..%2f..%2fmetrics", "GET /v1/models;/metrics",
    "GET /tokenize/../metrics", "GET /state",
    "GET /page.js", "POST /v1/realtime", "GET /v1/realtime/", "GET /v1/audio/speech", "GET /ready/voice/x",
]  # fmt: skip
DOCS = ROOT / "docs/gateway.md"
Ask = Callable[[str], str]


def asker(url: str, context: ssl.SSLContext | None, key: str = "") -> Ask:
    """Asks for a route as one client; the status, or "no TLS"."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    client = httpx.Client(base_url=url, headers=headers, verify=context or False, timeout=30)

    def ask(route: str) -> str:
        method, path = route.split(" ", 1)
        request = client.build_request(method, "/", json={} if method == "POST" else None)
        request.url = httpx.URL(url).copy_with(raw_path=path.encode())  # as it stands, nothing made straight
        try:
            return str(client.send(request).status_code)
        except (httpx.ReadError, httpx.ConnectError, httpx.RemoteProtocolError):
            return "no TLS"

    return ask


def foreign(folder: Path) -> ssl.SSLContext:
    """Trusts the house's CA, and shows a certificate of the same name by another one."""
    pair = folder / "foreign.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-days", "2", "-subj", "/CN=gate", "-addext", "extendedKeyUsage=clientAuth",
         "-keyout", pair, "-out", f"{pair}.crt"],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(cafile=folder / "ca/ca.crt")
    context.check_hostname = False
    context.load_cert_chain(f"{pair}.crt", pair)
    return context


@pytest.fixture
def askers(house: House) -> dict[str, Ask]:
    """Who asks, by the table's columns."""

    def edge(certificate: str) -> ssl.SSLContext:
        context = house.trust(certificate)
        context.check_hostname = False  # the address stands in no edge's certificate
        return context

    at_edge = f"https://127.0.0.1:{house.sparks[0].edge_port}"
    at_gate = f"https://localhost:{house.ports['gateway']}"
    return {
        "edge: no certificate": asker(at_edge, edge("")),
        "edge: another CA's": asker(at_edge, foreign(house.folder)),
        "edge: another edge's": asker(at_edge, edge("spark-b-edge.pem")),
        "edge: a gateway's": asker(at_edge, edge("gate-client.pem")),
        "gateway: no key": asker(at_gate, house.trust()),
        "gateway: wrong key": asker(at_gate, house.trust(), "0" * 32),
        "gateway: right key": asker(at_gate, house.trust(), next(house.free_keys)),
    }


def expected(route: str) -> list[str]:
    passes = "426" if route == WEBSOCKET else "200" if route in ALLOWED else "404"
    return ["no TLS"] * 3 + [passes] + ["401"] * 2 + [passes]


def test_only_the_allowed_pass_and_only_with_certificate_and_key(
    house: House, askers: dict[str, Ask]
) -> None:
    answers = {route: [ask(route) for ask in askers.values()] for route in ROUTES + TRICKS}
    assert answers == {route: expected(route) for route in answers}
    passed = {route for spark in house.sparks for route, _, _ in spark.asked}
    assert passed == ALLOWED
    assert len(ROUTES) == 45

    head = ["route", *askers]
    rows = [head, ["---"] * len(head), *([f"`{route}`", *answers[route]] for route in ROUTES)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    text = DOCS.read_text(encoding="utf-8")
    made = re.sub(r"(?s)(<!-- routes -->\n).*(\n<!-- end -->)", lambda m: m[1] + table + m[2], text)
    if os.environ.get("UPDATE_DOCS"):
        DOCS.write_text(made, encoding="utf-8")
    assert made == text, "docs/gateway.md is behind: UPDATE_DOCS=1 pytest tests/integration/gateway"


def test_readiness_is_for_gateways_and_is_the_guards(house: House, askers: dict[str, Ask]) -> None:
    spark = house.sparks[0]
    assert askers["edge: a gateway's"]("GET /ready") == "200"
    spark.drain.touch()
    assert askers["edge: a gateway's"]("GET /ready") == "404"
    spark.wedge()
    assert askers["edge: a gateway's"]("GET /ready") == "503"
    refused = {who: ask("GET /ready") for who, ask in askers.items() if who != "edge: a gateway's"}
    assert list(refused.values()) == ["no TLS"] * 3 + ["401"] * 2 + ["404"]
    assert askers["edge: a gateway's"]("GET /ready/voice") == "503"
    assert askers["gateway: right key"]("GET /ready/voice") == "404"


def test_a_check_goes_only_after_the_guard_has_said_all(house: House) -> None:
    """Otherwise the guard's journal would fill with broken connections."""
    visits = [spark.visits for spark in house.sparks]
    for spark in house.sparks:
        spark.cut_off.clear()
    until(lambda: all(s.visits >= v + 4 for s, v in zip(house.sparks, visits, strict=True)), "four checks")
    assert [spark.cut_off for spark in house.sparks] == [[], []]


def test_a_gateway_speaks_to_no_edge_of_another_name_or_ca(house: House) -> None:
    """What the gateway's own client would do, with its CA file and its check of the name."""
    for port, name in ((house.sparks[0].edge_port, "spark-b"), (house.sparks[1].edge_port, "spark-a")):
        done = subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", house.folder / "ca/ca.crt",
             "-verify_hostname", name, "-verify_return_error"],
            input="", capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1 and "hostname mismatch" in done.stderr.lower(), done.stderr
    config = (house.folder / "gate/haproxy.cfg").read_text(encoding="utf-8")
    servers = [line.split() for line in config.splitlines() if line.strip().startswith("server ")]
    assert [line[line.index("verifyhost") + 1] for line in servers] == [line[1] for line in servers]
    assert "ssl verify required ca-file" in config


def test_only_the_ports_that_are_said_listen(house: House) -> None:
    pids = {pid for proxy in house.proxies for pid in (proxy.process.pid, *proxy.workers())}
    listing = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout
    open_ports = {
        int(line.split()[3].rsplit(":", 1)[1])
        for line in listing.splitlines()
        if pids & {int(pid) for pid in re.findall(r"pid=(\d+)", line)}
    }
    config = "".join(proxy.config.read_text(encoding="utf-8") for proxy in house.proxies)
    metrics = {int(port) for port in re.findall(r"bind 127\.0\.0\.1:(\d+)\n", config)}
    assert len(metrics) == 3
    assert open_ports == metrics | {s.edge_port for s in house.sparks} | {house.ports["gateway"]}
    assert 'gateway_address: "*"' in (ROOT / "roles/gateway/defaults/main.yml").read_text(encoding="utf-8")


def test_logs_know_the_name_and_neither_key_nor_prompt(house: House) -> None:
    owner, key = list(house.keys.items())[-1]
    with house.client(key) as client:
        url = f"/v1/completions?{key}"
        assert client.post(url, json={"prompt": "my secret"}).status_code == 200
        assert client.get(f"/nowhere?{key}").status_code == 404
    told = (
        f"key={owner} POST /v1/completions 200",
        f"key={owner} GET /nowhere 404",
        'gateway="gate" POST /v1/completions 200',
    )
    until = time.monotonic() + 20
    while True:  # a proxy writes its line when it has let go of the request, after its client has the answer
        log = "".join(proxy.log.read_text(encoding="utf-8") for proxy in house.proxies)
        if all(line in log for line in told):
            break
        assert time.monotonic() < until, log[-4000:]
        time.sleep(0.05)
    assert key not in log and "secret" not in log
    (headers,) = [
        h for s in house.sparks for route, h, _ in s.asked if route.startswith("POST /v1/completions")
    ]
    assert "authorization" not in {name.lower() for name in headers}
    keys = house.folder / "gate/keys.map"
    assert keys.stat().st_mode & 0o777 == 0o640 and key not in keys.read_text(encoding="utf-8")
