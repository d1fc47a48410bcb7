#!/usr/bin/env python3
"""Serves a depot to one host, read-only, for as long as a playbook runs.

usage: depot_server.py --root DEPOT --state FILE --owner PID [-- SSH ARGUMENT...]

A registry for Docker (/v2/…, manifests and blobs by digest) and the Hub's addresses for models
(/OWNER/NAME/resolve/REVISION/FILE), both with Range, on a port of 127.0.0.1. With an ssh command that port is
also one of the host's 127.0.0.1: the command gets `-R`, and is started again when it ends. Prints one line of
JSON, {"port": the host's} or {"error": TEXT}; ends with its owner, or by SIGTERM. FILE tells the bytes that
were sent: {"pid", "sent": {"images", "models"}}. Standard library alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

BLOB = re.compile(r"/v2/[a-z0-9._/-]+/(manifests|blobs)/sha256:([0-9a-f]{64})")
FILE = re.compile(r"/[^/]+/[^/]+/resolve/([0-9a-f]{40})/(.+)")
ALLOCATED = re.compile(r"Allocated port (\d+) for remote forward")
BLOCK = 8 << 20
PATIENCE = 60  # seconds that ssh gets to set the tunnel up
IDLE = 120  # seconds after which a silent connection is given up


class Counts:
    """Bytes sent, by kind, kept in a file."""

    def __init__(self, place: Path) -> None:
        self.place, self.lock = place, threading.Lock()
        self.sent = {"images": 0, "models": 0}
        self.add("images", 0)

    def add(self, kind: str, count: int) -> None:
        """So many more."""
        with self.lock:
            self.sent[kind] += count
            aside = self.place.with_suffix(".new")
            aside.write_text(json.dumps({"pid": os.getpid(), "sent": self.sent}) + "\n")
            aside.replace(self.place)


def find(root: Path, path: str) -> tuple[str, Path] | None:
    """Kind and place of what a path names; None for whatever is no part of a depot."""
    if blob := BLOB.fullmatch(path):
        place = root / "images/blobs/sha256" / blob[2]
        return ("images", place) if place.is_file() else None
    named = FILE.fullmatch(path)
    if not named or not set(named[2].split("/")).isdisjoint({"", ".", ".."}):
        return None
    for place in sorted((root / "models").glob(f"*/{named[1]}")):
        file = place / named[2]
        if file.is_file() and not file.is_symlink():
            return "models", file
    return None


def span(asked: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last; None when there are none such."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
    if not wanted:
        return 0, size
    begin, end = int(wanted[1]), min(int(wanted[2]) + 1, size) if wanted[2] else size
    return (begin, end) if begin < end else None


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD."""

    protocol_version = "HTTP/1.1"
    timeout = IDLE
    root: Path
    counts: Counts

    def do_HEAD(self) -> None:
        """The same without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        """A part of the depot, or 404."""
        path = unquote(urlsplit(self.path).path)
        if path in ("/v2", "/v2/"):
            return self._say(200, {})
        found = find(self.root, path)
        if not found:
            return self._say(
                404, {"errors": [{"code": "NAME_UNKNOWN", "message": f"{path} is not in the depot"}]}
            )
        kind, place = found
        with place.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            part = span(self.headers.get("Range"), size)
            if part is None:
                return self._say(416, {}, {"Content-Range": f"bytes */{size}"})
            begin, end = part
            head = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes"}
            if kind == "images":
                head["Docker-Content-Digest"] = f"sha256:{place.name}"
            if "/manifests/" in path:
                document = json.load(file)
                head["Content-Type"] = document.get("mediaType") or (
                    "application/vnd.oci.image."
                    + ("index" if "manifests" in document else "manifest")
                    + ".v1+json"
                )
            if end - begin < size:
                head["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
            self._head(206 if end - begin < size else 200, head | {"Content-Length": str(end - begin)})
            if self.command == "GET":
                self._send(file, begin, end, kind)
        return None

    def _send(self, file: Any, begin: int, end: int, kind: str) -> None:
        self.wfile.flush()
        while begin < end:
            sent = self.connection.sendfile(file, begin, min(BLOCK, end - begin))
            if not sent:  # the file has become shorter
                self.close_connection = True
                return
            begin += sent
            self.counts.add(kind, sent)

    def _say(self, code: int, body: object, head: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        told = {"Content-Type": "application/json", "Content-Length": str(len(data))}
        self._head(code, told | (head or {}))
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, code: int, head: dict[str, str]) -> None:
        self.send_response(code)
        self.send_header("Docker-Distribution-API-Version", "registry/2.0")
        for name, value in head.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Counts are kept, no log."""


class Server(ThreadingHTTPServer):
    """Threads end with the process; a client that is gone is no error."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show what is no lost connection."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Tunnel:
    """The ssh process that brings the port to the host."""

    def __init__(self, argv: list[str], port: int) -> None:
        self.argv, self.port, self.remote = argv, port, 0
        self.said: list[str] = []
        self.allocated = threading.Event()
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        forward = ["-N", "-R", f"127.0.0.1:{self.remote}:127.0.0.1:{self.port}"]
        argv = [self.argv[0], *forward, *self.argv[1:]]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, errors="replace")  # fmt: skip
        threading.Thread(target=self._read, args=(process,), daemon=True).start()
        return process

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr
        for line in process.stderr:
            self.said = [*self.said[-5:], line.strip()]
            if found := ALLOCATED.search(line):
                self.remote = int(found[1])
                self.allocated.set()

    def wait(self) -> str:
        """Until the host has the port; else why not."""
        deadline = time.monotonic() + PATIENCE
        while not self.allocated.wait(0.1):
            if self.process.poll() is not None or time.monotonic() > deadline:
                time.sleep(0.2)  # its last words
                return " ".join(self.said) or f"ssh set no tunnel up within {PATIENCE} s"
        return ""

    def mend(self) -> None:
        """Start it again, on the same port of the host, if it has ended."""
        if self.process.poll() is not None:
            time.sleep(2)
            self.process = self._start()

    def end(self) -> None:
        """Have it gone."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)


def began(pid: int) -> str:
    """When a process began, as far as is known (its number may be given again); empty when it is gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return "alive"


def main() -> None:
    """Serve until the owner is gone."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--owner", type=int, required=True)
    parser.add_argument("ssh", nargs="*")
    given = parser.parse_args()
    owner, ended = began(given.owner), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: ended.set())
    handler = type("Handler", (Handler,), {"root": given.root, "counts": Counts(given.state)})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    port = server.server_address[1]
    tunnel = Tunnel(given.ssh, port) if given.ssh else None
    try:
        if tunnel and (problem := tunnel.wait()):
            print(json.dumps({"error": problem}), flush=True)
            return
        print(json.dumps({"port": tunnel.remote if tunnel else port}), flush=True)
        while owner and began(given.owner) == owner and not ended.wait(0.5):
            if tunnel:
                tunnel.mend()
    finally:
        if tunnel:
            tunnel.end()


if __name__ == "__main__":
    main()
