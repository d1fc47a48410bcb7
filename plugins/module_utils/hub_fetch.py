"""Files of the Hub by HTTP Range: on from the byte where it stopped, equal to the pin or refused.

Standard library alone: this runs on the host, on the system's Python.
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, urlsplit

from ansible.module_utils.hub_pin import Refused, expected, explain

BLOCK = 1 << 20
SYNC = 64 << 20  # bytes after which the disk has them, whatever happens to the host
STALLED = 60  # seconds without a byte
LONGEST_PAUSE = 30.0
_FULL = (errno.ENOSPC, errno.EDQUOT)

Tell = Callable[..., None]  # (there, received=0, note=""): so many bytes more are there; what is waited for


class Again(Exception):
    """This request has failed, another may not; `pause` is what the Hub asked for, in seconds."""

    def __init__(self, why: str, pause: float = 0) -> None:
        super().__init__(why)
        self.pause = pause


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows, with the token only within the Hub: its content servers have no business with it."""

    def __init__(self) -> None:
        self.linked: Any = {}  # headers of the Hub's own answer, before it sent us elsewhere

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """The request to the new place; refused when it would leave https."""
        old, there = urlsplit(req.full_url), urlsplit(newurl)
        if old.scheme == "https" and there.scheme != "https":
            raise urllib.error.HTTPError(newurl, 502, "redirected from https to http", headers, fp)
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new and (old.scheme, old.netloc) != (there.scheme, there.netloc):
            new.remove_header("Authorization")
        self.linked = self.linked or headers
        return new


class StayHere(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: for the question whether the Hub would give a file, one means yes."""

    def redirect_request(self, *_: Any) -> None:
        """Answer with the redirection itself."""


class Part:
    """A file that grows, and the hash of what it holds: whatever ends the process, a prefix of the whole."""

    def __init__(self, path: Path, pin: dict[str, Any], tell: Tell) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.pin, self.tell = path, pin, tell
        self.file: IO[bytes] = path.open("a+b", buffering=0)
        self.hash: Any = None
        self.size = self.synced = self.received = 0
        self.restart(keep=os.fstat(self.file.fileno()).st_size <= pin["size"])

    def restart(self, keep: bool = False) -> None:
        """Begin anew; or, to keep what is there, hash it."""
        self.tell(-self.size)
        self.hash = hashlib.sha256() if "sha256" in self.pin else hashlib.sha1(usedforsecurity=False)
        if "git_oid" in self.pin:
            self.hash.update(b"blob %d\0" % self.pin["size"])
        self.size = self.synced = 0
        if not keep:
            self.file.truncate(0)
        self.file.seek(0)
        while block := self.file.read(BLOCK):
            self._count(block, 0)

    def _count(self, block: bytes, received: int) -> None:
        self.hash.update(block)
        self.size += len(block)
        self.received += received
        self.tell(len(block), received)

    def append(self, block: bytes) -> None:
        """Write to the end; a full disk is refused, and keeps what is there."""
        try:
            written = 0
            while written < len(block):
                written += self.file.write(block[written:])
            if self.size + written - self.synced >= SYNC:
                os.fdatasync(self.file.fileno())
                # memory is shared with the GPU here: a cache of what nobody reads yet would count as used
                os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                self.synced = self.size + written
        except OSError as error:
            what = "the disk is full" if error.errno in _FULL else str(error)
            raise Refused(
                f"{self.path} cannot be written: {what}; {self.size / 1e9:.2f} of "
                f"{self.pin['size'] / 1e9:.2f} GB are there and kept. Rule: the whole model fits. Remedy: "
                "free space there, or set model_store_root to a larger disk; the next run goes on from here."
            ) from error
        self._count(block, len(block))

    def sum(self) -> str:
        """The hash of what is there, as the pin would say it; refused if the disk lost some of it."""
        there = self.path.stat().st_size
        if there != self.size:
            raise Refused(
                f"{self.path} has {there} bytes, {self.size} were written. Rule: the disk keeps what is "
                "written. Remedy: see dmesg and the disk; nothing else may write there. Then run again."
            )
        return str(self.hash.hexdigest())


@dataclass(frozen=True)
class Hub:
    """A repository at a revision, and how patiently it is asked.

    tries: requests without a byte more than ever before, one after another, until it is given up;
    pause: seconds after the first of them, then twice as long each time.
    """

    endpoint: str
    repository: str
    revision: str
    token: str = field(default="", repr=False)
    tries: int = 6
    pause: float = 1.0

    def refused(self, said: str) -> Refused:
        """Why there is no file, in words for an operator; a Hub that echoes the token is not quoted."""
        said = said.replace(self.token, "(token)") if self.token else said
        what = f"{self.repository} at {self.revision[:12]}"
        return Refused(explain(what, self.endpoint, said, self.repository))

    def _request(self, name: str, method: str = "GET", start: int = 0) -> urllib.request.Request:
        url = f"{self.endpoint}/{self.repository}/resolve/{self.revision}/{quote(name)}"
        request = urllib.request.Request(url, method=method)
        request.add_header("User-Agent", "spark-voicebot")
        request.add_header("Accept-Encoding", "identity")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if start:
            request.add_header("Range", f"bytes={start}-")
        return request

    def _opener(self, *handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
        return urllib.request.build_opener(*handlers)

    def probe(self, name: str) -> None:
        """Refuse if the Hub would not give a file now."""
        try:
            self._opener(StayHere()).open(self._request(name, "HEAD"), timeout=10).close()
        except urllib.error.HTTPError as error:
            if error.code >= 400:
                raise self.refused(said(error)) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise self.refused(f"Connection failed: {getattr(error, 'reason', error)}") from None

    def fetch(self, name: str, pin: dict[str, Any], target: Path, tell: Tell) -> int:
        """Have `target` equal to the pin: what it holds is kept if it fits. Returns bytes received."""
        received, wrong, got = 0, 0, ""
        while wrong < 2:  # a file that came wrong is fetched once more, from its first byte
            part = Part(target, pin, tell)
            with part.file:
                wrong += part.size == 0  # what an earlier run left may be wrong, too: that is not counted
                self._complete(name, part)
                received += part.received
                if (got := part.sum()) == expected(pin):
                    return received
                part.restart()
            target.unlink()
        raise Refused(
            f"{name} of {self.repository} came wrong twice: wanted {expected(pin)}, got {got}. Rule: its "
            "hash is the pin's. Remedy: see what lies between this host and "
            f"{self.endpoint} (proxy, mirror); if the pin is wrong, pin it anew."
        )

    def _complete(self, name: str, part: Part) -> None:
        best, failures = part.size, 0
        while part.size < part.pin["size"]:
            try:
                self._receive(name, part)
            except Again as error:
                failures = 0 if part.size > best else failures + 1
                if failures >= self.tries:
                    raise self.refused(f"{error} ({name}, {failures} times in a row)") from None
                pause = min(max(error.pause, self.pause * 2.0**failures), LONGEST_PAUSE)
                part.tell(0, note=f"{error}; again in {pause:.0f} s")
                time.sleep(pause)
            best = max(best, part.size)

    def _receive(self, name: str, part: Part) -> None:
        """Append what one request gives."""
        start, size = part.size, part.pin["size"]
        redirects = Redirects()
        try:
            request = self._request(name, start=start)
            with self._opener(redirects).open(request, timeout=STALLED) as answer:
                self._check_linked(name, part.pin, redirects.linked or answer.headers)
                if start and answer.status != 206:
                    part.restart()  # it ignores Range, and tells the file from its beginning
                elif start and not _begins_at(answer.headers.get("Content-Range", ""), start):
                    part.restart()
                    raise Again(f"the Hub sent {answer.headers.get('Content-Range')}, not from byte {start}")
                while part.size < size and (block := answer.read1(BLOCK)):
                    part.append(block[: size - part.size])
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is there does not fit what the Hub has
                part.restart()
            elif error.code < 500 and error.code not in (408, 429):
                raise self.refused(said(error)) from None
            after = error.headers.get("Retry-After", "")
            raise Again(said(error), float(after) if after.isdigit() else 0) from None
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Again(f"Connection failed: {getattr(error, 'reason', error)}") from None
        if part.size < size:
            raise Again(f"Connection ended after {part.size} of {size} bytes")

    def _check_linked(self, name: str, pin: dict[str, Any], headers: Any) -> None:
        """Refuse before the download what the Hub itself says is another file."""
        told = {
            "size": headers.get("X-Linked-Size") or "",
            "sha256": (headers.get("X-Linked-ETag") or "").removeprefix("W/").strip('"'),
        }
        for key, value in told.items():
            if re.fullmatch(r"\d+|[0-9a-f]{64}", value) and key in pin and value != str(pin[key]):
                raise Refused(
                    f"{name} of {self.repository} has {key} {value} on the Hub; wanted {pin[key]}. Rule: the "
                    "Hub has what is pinned. Remedy: pin it anew, or correct model_store_endpoint."
                )


def _begins_at(content_range: str, start: int) -> bool:
    return content_range.startswith(f"bytes {start}-")


def said(error: urllib.error.HTTPError) -> str:
    """What an answer that is an error tells, in one line."""
    code, text = (error.headers.get(f"X-Error-{part}", "") for part in ("Code", "Message"))
    return f"{error.code} {error.reason} {code} {text}".strip()
