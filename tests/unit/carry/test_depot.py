"""A depot is filled from a registry by digest, once, on from where it stopped, and serves what it has."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from tests.lab import packages
from tests.lab.proc import wait_for
from tests.unit.carry.parts import (
    depot_layout,
    digest,
    have,
    image,
    image_pull_from,
    index_of,
    lay_out,
    served,
)
from tests.unit.deploy.snapshot import hub_pin, hub_snapshot
from tests.unit.deploy.snapshot import run as snapshot

NAME = "registry.example/owner/engine"
REVISION = "c" * 40


def answer(url: str, **headers: str) -> tuple[int, bytes]:
    """Status and content; an error is an answer, too."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as got:
            return got.status, got.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The registry that Docker's makers publish, empty, on a free port."""
    packages.install_missing()
    log, config = tmp_path / "registry.log", tmp_path / "registry.yml"
    store = {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}
    config.write_text(json.dumps({"version": "0.1", "storage": store, "http": {"addr": "127.0.0.1:0"}}))

    def port() -> str:
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", log.read_text(errors="replace"))
        return found[1] if found else ""

    with log.open("wb") as out:
        process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=out, stderr=out)
    try:
        wait_for("registry", lambda: port() != "", 60, log)
        yield f"http://127.0.0.1:{port()}"
    finally:
        process.terminate()
        process.wait(60)


def push(url: str, repository: str, blobs: dict[str, bytes], tag: str = "") -> None:
    """Upload an image, its manifest last; `blobs` may be an index alone."""
    *rest, (name, manifest) = blobs.items()
    with requests.Session() as session:
        session.trust_env = False
        for blob, data in rest:
            begun = session.post(f"{url}/v2/{repository}/blobs/uploads/", timeout=60)
            session.put(
                begun.headers["Location"], params={"digest": blob}, data=data, timeout=60
            ).raise_for_status()
        kind = {"Content-Type": json.loads(manifest)["mediaType"]}
        there = f"{url}/v2/{repository}/manifests/{tag or name}"
        session.put(there, data=manifest, headers=kind, timeout=60).raise_for_status()


def test_image_comes_by_digest_once_and_only_for_the_architectures_asked_for(
    registry: str, tmp_path: Path
) -> None:
    images = {"arm64": image(1), "amd64": image(2, "amd64")}
    for blobs in images.values():
        push(registry, "owner/engine", blobs)
    top = index_of(images)
    push(registry, "owner/engine", {digest(top): top})
    depot, reference = tmp_path / "depot", f"{NAME}@{digest(top)}"
    assert have(depot, reference, registry, check=True)["lacks"] == [digest(top)]
    assert not (depot / "images").exists()
    first = have(depot, reference, registry)
    assert first["changed"] and first["received"] == len(top) + sum(map(len, images["arm64"].values()))
    layout = depot / "images/blobs/sha256"
    assert {f"sha256:{p.name}" for p in layout.iterdir()} == {digest(top), *images["arm64"]}
    [entry] = json.loads((depot / "images/index.json").read_text())["manifests"]
    assert entry["digest"] == digest(top) and entry["mediaType"].endswith("index.v1+json")
    again = have(depot, reference, "http://127.0.0.1:9")  # nobody is asked
    assert again == {"changed": False, "lacks": [], "received": 0}
    with pytest.raises(hub_pin.Refused, match="nothing for riscv64"):
        have(depot, reference, registry, architectures=["riscv64"])


def test_layer_goes_on_where_it_stopped_and_a_damaged_part_comes_again(registry: str, tmp_path: Path) -> None:
    blobs = image(3)
    push(registry, "owner/engine", blobs)
    _, layer, manifest = blobs
    depot = tmp_path / "depot"
    partial = depot / "images/.partial" / layer.removeprefix("sha256:")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(blobs[layer][:700_000])
    got = have(depot, f"{NAME}@{manifest}", registry)
    assert got["received"] == sum(map(len, blobs.values())) - 700_000
    place = depot / "images/blobs/sha256" / layer.removeprefix("sha256:")
    assert place.read_bytes() == blobs[layer]
    place.write_bytes(blobs[layer][:10])
    assert have(depot, f"{NAME}@{manifest}", registry)["lacks"] == [layer]
    assert place.read_bytes() == blobs[layer]


def test_what_the_registry_lacks_is_refused_with_its_words(registry: str, tmp_path: Path) -> None:
    missing = f"{NAME}@sha256:{'0' * 64}"
    for check in (True, False):
        with pytest.raises(hub_pin.Refused, match="404") as caught:
            have(tmp_path / "depot", missing, registry, check=check)
        assert "Remedy: " in str(caught.value)
    with pytest.raises(hub_pin.Refused, match="Remedy: name the registry"):
        have(tmp_path / "depot", missing.removeprefix("registry.example/"), registry)


def test_token_for_anybody_is_asked_for_and_only_sent_to_the_registry(tmp_path: Path) -> None:
    """As public images are given out by most registries."""
    blobs = image(4, size=1000)
    seen: list[tuple[str, str | None]] = []

    class Shy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            if self.path.startswith("/token?"):
                return self.say(200, b'{"token": "for-anybody"}')
            if self.headers.get("Authorization") != "Bearer for-anybody":
                realm = f"http://{self.headers['Host']}/token"
                return self.say(401, b"", f'Bearer realm="{realm}",service="here"')
            return self.say(200, blobs[self.path.rsplit("/", 1)[1]])

        def say(self, code: int, data: bytes, challenge: str = "") -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            if challenge:
                self.send_header("WWW-Authenticate", challenge)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Shy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        reference = f"{NAME}@{list(blobs)[-1]}"
        assert have(tmp_path / "depot", reference, f"http://127.0.0.1:{server.server_address[1]}")["changed"]
        server.shutdown()
    scopes = {path for path, _ in seen if path.startswith("/token?")}
    assert scopes == {"/token?service=here&scope=repository%3Aowner%2Fengine%3Apull"}


def test_one_depot_fills_another_and_ends_with_its_owner(tmp_path: Path) -> None:
    blobs = image(5)
    lay_out(tmp_path / "a", blobs)
    reference = f"{NAME}@{list(blobs)[-1]}"
    owner = subprocess.Popen(["sleep", "600"])
    state = tmp_path / "state.json"
    try:
        with served(tmp_path / "a", state, owner.pid) as url:
            assert have(tmp_path / "b", reference, url)["received"] == sum(map(len, blobs.values()))
            wait_for(
                "counts",
                lambda: json.loads(state.read_text())["sent"]["images"] == sum(map(len, blobs.values())),
                60,
            )
            owner.kill()
            owner.wait(60)
            wait_for("the server's end", lambda: not listens(url), 60)
    finally:
        owner.kill()
        owner.wait(60)


def listens(url: str) -> bool:
    try:
        return answer(f"{url}/v2/")[0] == 200
    except OSError:
        return False


def test_serves_ranges_and_nothing_beside_the_depot(tmp_path: Path) -> None:
    blobs = image(6, size=1000)
    depot, (_, layer, manifest) = tmp_path / "depot", blobs
    lay_out(depot, blobs)
    (tmp_path / "secret").write_text("secret")
    (depot / "models/m" / REVISION).mkdir(parents=True)
    (depot / "models/m" / f"{REVISION}.json").write_text("a record")
    (depot / "models/m" / REVISION / "link").symlink_to(tmp_path / "secret")
    with served(depot, tmp_path / "state.json") as url:
        blob = f"{url}/v2/owner/engine/blobs/{layer}"
        assert answer(blob) == (200, blobs[layer])
        assert answer(blob, Range="bytes=990-") == (206, blobs[layer][990:])
        assert answer(blob, Range="bytes=0-9") == (206, blobs[layer][:10])
        assert answer(blob, Range="bytes=1000-")[0] == 416
        assert answer(f"{url}/v2/owner/engine/manifests/{manifest}") == (200, blobs[manifest])
        for path in (
            "/", "/index.html", "/v2/owner/engine/manifests/latest", f"/v2/x/blobs/sha256:{'0' * 64}",
            f"/a/b/resolve/{REVISION}/../{REVISION}.json", f"/a/b/resolve/{REVISION}/%2e%2e/{REVISION}.json",
            f"/a/b/resolve/{REVISION}/link", "/../secret", "/v2/x/blobs/../../../secret",
        ):  # fmt: skip
            assert answer(url + path)[0] == 404, path


def test_model_store_takes_its_files_from_a_depot(tmp_path: Path) -> None:
    home = tmp_path / "depot/models/m" / REVISION
    (home / "deep").mkdir(parents=True)
    pins = {}
    for name, data in (("config.json", b"{}"), ("deep/model.safetensors", bytes(3 << 20))):
        (home / name).write_bytes(data)
        pins[name] = {"size": len(data), "sha256": digest(data).removeprefix("sha256:")}
    state = tmp_path / "state.json"
    with served(tmp_path / "depot", state) as url:
        wanted = {
            "root": str(tmp_path / "host"),
            "name": "m",
            "repository": "owner/model",
            "revision": REVISION,
        }
        options = {**wanted, "files": pins, "endpoint": url}
        assert snapshot(options)["received"] == 2 + (3 << 20)
        wait_for("counts", lambda: json.loads(state.read_text())["sent"]["models"] == 2 + (3 << 20), 60)
    assert "probe" in hub_snapshot.ARGUMENTS
    shut = {**options, "root": str(tmp_path / "other"), "probe": False}
    assert snapshot(shut, check=True)["changed"], "a closed depot is no reason to refuse in check mode"


def test_manifests_that_lie_are_refused() -> None:
    data = list(image(7, size=10).values())[-1]
    assert depot_layout.parse(data, digest(data))["schemaVersion"] == 2
    for wrong in (b"{}", b"[]", b"no json", data.replace(b"sha256:", b"../../../")):
        with pytest.raises(hub_pin.Refused):
            depot_layout.parse(wrong, digest(wrong))
    with pytest.raises(hub_pin.Refused, match="has the digest"):
        depot_layout.parse(data, f"sha256:{'0' * 64}")


def test_way_to_the_depot_is_taken_back_to_the_letter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of names only; the lab's Spark has the firewall as well."""
    monkeypatch.setattr(image_pull_from, "iptables", lambda *argv: "")
    hosts = tmp_path / "hosts"
    text = "127.0.0.1 localhost\n10.0.0.1\tnvcr.io other # note\n10.0.0.2 nvcr.io.example\n"
    hosts.write_text(text)
    detour = image_pull_from.Detour("nvcr.io", 40123, hosts)
    for _ in range(2):
        detour.open()
    lines = hosts.read_text().splitlines()
    named = [line.split()[0] for line in lines if "nvcr.io" in line.partition("#")[0].split()]
    assert named[0] == "127.83.0.1" and "10.0.0.1" not in named
    assert detour.close() and not detour.close()
    assert hosts.read_text() == text
