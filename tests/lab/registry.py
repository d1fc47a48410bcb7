"""A TLS registry that answers to nvcr.io, and the push of an image that lies in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import requests

from tests.lab.proc import Service, run, wait_for
from tests.lab.settings import REGISTRY_NAME, Settings

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"


def service(settings: Settings) -> Service:
    """The registry as a process."""
    return Service(settings.run / "registry.pid", str(settings.run / "registry.yml"))


def up(settings: Settings) -> bool:
    """The registry answers afterwards. True if it had to be started."""
    key = settings.state / "registry.key"
    if not settings.registry_ca.exists():
        names = f"subjectAltName=DNS:{REGISTRY_NAME},IP:{settings.gateway}"
        what = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "3650",
            "-subj",
            "/CN=lab registry",
        ]
        run([*what, "-addext", names, "-keyout", key, "-out", settings.registry_ca])
    settings.learn(
        registry={"address": settings.gateway, "ca": str(settings.registry_ca), "name": REGISTRY_NAME}
    )
    process = service(settings)
    if process.pid:
        return False
    config = settings.run / "registry.yml"
    tls = {"certificate": str(settings.registry_ca), "key": str(key)}
    store = {"filesystem": {"rootdirectory": str(settings.state / "registry")}, "delete": {"enabled": True}}
    http = {"addr": f"{settings.gateway}:443", "tls": tls}
    config.write_text(
        json.dumps({"version": "0.1", "log": {"level": "warn"}, "storage": store, "http": http})
    )
    log = settings.state / "registry.log"
    process.start(["docker-registry", "serve", config], log)
    wait_for("registry", lambda: _answers(settings), 20, log)
    return True


def _session(settings: Settings) -> requests.Session:
    session = requests.Session()
    session.verify = str(settings.registry_ca)
    session.trust_env = False  # the machine's proxy has no business here
    return session


def _answers(settings: Settings) -> bool:
    try:
        return _session(settings).get(f"https://{settings.gateway}/v2/", timeout=5).ok
    except requests.ConnectionError:
        return False


def digest_of(settings: Settings, repository: str, tag: str) -> str:
    """The digest behind a tag, empty if the registry has no such tag."""
    url = f"https://{settings.gateway}/v2/{repository}/manifests/{tag}"
    answer = _session(settings).head(url, headers={"Accept": MANIFEST}, timeout=10)
    return str(answer.headers["Docker-Content-Digest"]) if answer.ok else ""


def push(settings: Settings, image: Path, repository: str, tag: str) -> bool:
    """Uploads what lies in the folder `image` (see engine/build.py). True if the registry lacked it."""
    manifest = (image / "manifest.json").read_bytes()
    described = json.loads(manifest)
    wanted = (image / "digest").read_text().strip()
    if digest_of(settings, repository, tag) == wanted:
        return False
    base = f"https://{settings.gateway}/v2/{repository}"
    with _session(settings) as session:
        for blob in (described["config"], *described["layers"]):
            if session.head(f"{base}/blobs/{blob['digest']}", timeout=10).ok:
                continue
            begun = session.post(f"{base}/blobs/uploads/", timeout=10)
            begun.raise_for_status()
            with (image / blob["digest"].replace(":", "-")).open("rb") as stream:
                sent = session.put(
                    begun.headers["Location"],
                    params={"digest": blob["digest"]},
                    data=stream,
                    headers={"Content-Type": "application/octet-stream"},
                    timeout=300,
                )
            sent.raise_for_status()
        named = session.put(
            f"{base}/manifests/{tag}", data=manifest, headers={"Content-Type": MANIFEST}, timeout=30
        )
        named.raise_for_status()
    return True
