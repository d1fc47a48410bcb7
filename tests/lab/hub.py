"""A stand-in for the Hugging Face hub: enough for the real `hf download`; it can fail on order.

    ROOT/OWNER/NAME/REVISION/files...   REVISION is 40 hex digits
    ROOT/OWNER/NAME/refs/main           a text file that holds a revision
    ROOT/faults.json                    what goes wrong (see Faults), read at every request

In tests: `with HubServer(root) as hub: ... hub.url, hub.requests`. Alone: `python -m tests.lab.hub --help`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LFS_MIN = (
    1 << 20
)  # from here on a file is an LFS file (ETag: sha256); below it is a git blob (ETag: git's sha1)
CHUNK = 1 << 16
_API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(/.*)?)?")
_FILE = re.compile(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)")
_DATE = "2024-01-01T00:00:00.000Z"
_printing = threading.Lock()
_sums: dict[tuple[str, int, int], Sums] = {}


@dataclass(frozen=True)
class Sums:
    """What a repository says of a file."""

    size: int
    git_oid: str
    sha256: str

    @property
    def lfs(self) -> bool:
        """Whether the hub keeps it as a large file."""
        return self.size >= LFS_MIN

    @property
    def etag(self) -> str:
        """The identity that a client sees."""
        return self.sha256 if self.lfs else self.git_oid


def sums(path: Path) -> Sums:
    """Hashes a file, once for each state of it."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _sums:
        sha, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % stat.st_size)
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
                git.update(block)
        _sums[key] = Sums(stat.st_size, git.hexdigest(), sha.hexdigest())
    return _sums[key]


@dataclass(frozen=True)
class Faults:
    """What goes wrong."""

    status: int = 0  # every answer is this error
    corrupt: tuple[str, ...] = ()  # of these files the first byte sent is flipped
    cut_after: int = 0  # of a large file the connection ends after so many bytes, every time
    corrupt_first: int = 0  # only in so many answers (each file); 0: in all
    rate: float = 0  # bytes a second
    busy: int = 0  # so many answers are 503 with Retry-After
    ignore_range: bool = False  # a Range is answered with the whole file
    no_range: bool = False  # a Range is answered with 416
    short: int = 0  # of a large file the Hub has so many bytes alone
    redirect: str = ""  # files are at this address, as on a content server
    accept_token: str = ""  # besides the one it was started with


def read_faults(root: Path) -> Faults:
    """The faults ordered now."""
    try:
        given = json.loads((root / "faults.json").read_text())
    except FileNotFoundError:
        return Faults()
    return Faults(**(given | {"corrupt": tuple(given.get("corrupt", ()))}))


@dataclass
class Hub:
    """The repositories and who may read them."""

    root: Path
    token: str = ""
    gated: frozenset[str] = frozenset()  # readable with the token
    denied: frozenset[str] = frozenset()  # not even then
    requests: list[dict[str, Any]] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    echo = False

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self._error(404, "not in this stand-in")

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        faults = read_faults(self.hub.root)
        if faults.status:
            return self._error(faults.status, "injected fault")
        if sum(r["status"] == 503 for r in self.hub.requests) < faults.busy:
            return self._json(503, {}, {"Retry-After": "0"})
        given = self._given()
        if given and given not in (self.hub.token, faults.accept_token):
            return self._error(401, "Invalid credentials in Authorization header")
        if path == "/api/whoami-v2":
            return self._whoami(given)
        found = _API.fullmatch(path) or _FILE.fullmatch(path)
        if not found or ".." in path:
            return self._error(404, "Not Found")
        repository, what, revision, rest = found[1], found[2], found[3] or "main", (found[4] or "").strip("/")
        home = self.hub.root / repository
        if not home.is_dir():
            return self._error(404 if given else 401, "Repository not found", "RepoNotFound")
        if what == "resolve" and repository in self.hub.denied:
            return self._error(
                403, f"Access to model {repository} is restricted: not in the authorized list.", "GatedRepo"
            )
        if what == "resolve" and repository in self.hub.gated and not given:
            return self._error(
                401, f"Access to model {repository} is restricted. Please log in.", "GatedRepo"
            )
        if (ref := home / "refs" / revision).is_file():
            revision = ref.read_text().strip()
        base = home / revision
        if not re.fullmatch(r"[0-9a-f]{40}", revision) or not base.is_dir():
            return self._error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files = {str(p.relative_to(base)): p for p in sorted(base.rglob("*")) if p.is_file()}
        if what == "tree":
            listed = {n: p for n, p in files.items() if not rest or n.startswith(f"{rest}/")}
            return self._json(200, [_entry(n, sums(p)) for n, p in listed.items()])
        if what == "resolve":
            if rest not in files:
                return self._error(404, "Entry not found", "EntryNotFound")
            return self._file(files[rest], rest, revision, faults)
        return self._json(200, self._info(repository, revision, files))

    def _given(self) -> str:
        return (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()

    def _whoami(self, given: str) -> None:
        if not given:
            return self._error(401, "Invalid user token.")
        token = {"type": "access_token", "accessToken": {"displayName": "lab", "role": "read"}}
        return self._json(200, {"type": "user", "name": "lab", "fullname": "lab", "orgs": [], "auth": token})

    def _info(self, repository: str, revision: str, files: dict[str, Path]) -> dict[str, Any]:
        blobs = "blobs=" in self.path
        siblings = [{"rfilename": n} | (_blob(sums(p)) if blobs else {}) for n, p in files.items()]
        limited = "manual" if repository in self.hub.gated | self.hub.denied else False
        names = {"_id": "0" * 24, "id": repository, "modelId": repository, "author": repository.split("/")[0]}
        state: dict[str, Any] = {
            "private": False,
            "disabled": False,
            "gated": limited,
            "downloads": 0,
            "likes": 0,
            "tags": [],
        }
        return {
            **names,
            **state,
            "sha": revision,
            "siblings": siblings,
            "createdAt": _DATE,
            "lastModified": _DATE,
        }

    def _json(self, code: int, body: object, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        head = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _error(self, code: int, message: str, kind: str = "") -> None:
        self._json(
            code, {"error": message}, {"X-Error-Message": message} | ({"X-Error-Code": kind} if kind else {})
        )

    def _file(self, path: Path, name: str, revision: str, faults: Faults) -> None:
        known = sums(path)
        head = {"X-Repo-Commit": revision, "Accept-Ranges": "bytes", "ETag": f'"{known.etag}"'}
        if known.lfs:
            head |= {"X-Linked-Size": str(known.size), "X-Linked-ETag": f'"{known.sha256}"'}
        if faults.redirect:
            return self._json(302, {}, head | {"Location": f"{faults.redirect}{self.path}"})
        start, code, size = 0, 200, min(known.size, faults.short or known.size)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if asked and not faults.ignore_range:
            start, code = int(asked[1]), 206
            if start >= size or faults.no_range:
                return self._json(416, {}, {"Content-Range": f"bytes */{size}"})
            head["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.send_response(code)
        head |= {"Content-Type": "application/octet-stream", "Content-Length": str(size - start)}
        for key, value in head.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            before = sum(r["method"] == "SENT" and r["path"].endswith(name) for r in self.hub.requests)
            corrupt = name in faults.corrupt and not 0 < faults.corrupt_first <= before
            self._send(path, (start, size), faults, corrupt=corrupt, cut=faults.cut_after if known.lfs else 0)
        return None

    def _send(self, path: Path, span: tuple[int, int], faults: Faults, *, corrupt: bool, cut: int) -> None:
        sent, (start, end) = 0, span
        try:
            with path.open("rb") as stream:
                stream.seek(start)
                while block := stream.read(min(CHUNK, end - start - sent)):
                    if corrupt and not sent:
                        block = bytes([block[0] ^ 255]) + block[1:]
                    self.wfile.write(block)
                    sent += len(block)
                    if faults.rate:
                        time.sleep(len(block) / faults.rate)
                    if cut and sent >= cut:
                        self.close_connection = True
                        self.wfile.flush()
                        self.connection.shutdown(socket.SHUT_RDWR)
                        return
        finally:
            self._log("SENT", 200, sent=sent)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self._log(self.command, int(code))

    def _log(self, method: str, status: int, **more: int) -> None:
        entry = {
            "method": method,
            "path": unquote(urlsplit(self.path).path),
            "status": status,
            "range": self.headers.get("Range"),
            "token": ("refused" if status == 401 else "accepted") if self._given() else None,
            **more,
        }
        self.hub.requests.append(entry)
        if self.echo:
            with _printing:
                print(json.dumps(entry), flush=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing but requests is logged: clients that hang up are what this server is for."""


def _entry(path: str, known: Sums) -> dict[str, Any]:
    lfs = {"lfs": {"oid": known.sha256, "size": known.size, "pointerSize": 134}} if known.lfs else {}
    return {"type": "file", "path": path, "size": known.size, "oid": known.git_oid, **lfs}


def _blob(known: Sums) -> dict[str, Any]:
    lfs = {"lfs": {"sha256": known.sha256, "size": known.size, "pointerSize": 134}} if known.lfs else {}
    return {"size": known.size, "blobId": known.git_oid, **lfs}


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is no error here; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class HubServer:
    """The stand-in as a server, for tests in a thread of theirs."""

    def __init__(
        self, root: Path, host: str = "127.0.0.1", port: int = 0, *, echo: bool = False, **access: Any
    ) -> None:
        self.hub = Hub(root.resolve(), **access)
        handler = type("Handler", (_Handler,), {"hub": self.hub, "echo": echo})
        self._server = _Server((host, port), handler)
        self.url = f"http://{host}:{self._server.server_address[1]}"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """What was asked of it: method, path, status, range; with method SENT, an answer's bytes."""
        return self.hub.requests

    def faults(self, **faults: Any) -> None:
        """Orders faults (the fields of Faults); none without arguments."""
        order_faults(self.hub.root, faults)

    def serve(self) -> None:
        """Serves until the process ends."""
        self._server.serve_forever()

    def __enter__(self) -> HubServer:
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        ).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def order_faults(root: Path, faults: dict[str, Any]) -> None:
    """Writes the faults where a hub on this root reads them; unknown names are refused."""
    Faults(**faults)
    partial = root / ".faults.json"
    partial.write_text(json.dumps(faults))
    partial.replace(root / "faults.json")


def main() -> None:
    """Serves a root on an address until the process ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab.hub", description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--token", default="")
    parser.add_argument("--gated", action="append", default=[], metavar="OWNER/NAME")
    parser.add_argument("--denied", action="append", default=[], metavar="OWNER/NAME")
    given = parser.parse_args()
    access = {"token": given.token, "gated": frozenset(given.gated), "denied": frozenset(given.denied)}
    HubServer(given.root, given.host, given.port, echo=True, **access).serve()


if __name__ == "__main__":
    main()
