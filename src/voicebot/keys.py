"""Bearer keys: only their hashes are known, from a file that is read again when it changes."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
from pathlib import Path

from voicebot.errors import ConfigError

log = logging.getLogger("voicebot")

_LINE = re.compile(r"(?P<name>[\w.@-]{1,64})\s+(?P<hash>[0-9a-f]{64})", re.ASCII)


class Keys:
    """Who may come in. A file that can't be read lets nobody in; a bad line keeps out its own holder."""

    def __init__(self, path: Path) -> None:
        """Raise ConfigError for a file that is wrong: at the start there is somebody who reads it."""
        self._path = path
        self._local = ""
        self._stamp = self._look()
        self._hashes, wrong = self._read()
        if wrong:
            raise ConfigError(
                "keys", wrong,
                rule="lines of a name and the SHA-256 of a key, in lower-case hex; # begins a comment.",
                remedy=f'printf "%s %s\\n" NAME "$(printf %s "$KEY" | sha256sum | cut -c1-64)" >> {path}',
            )  # fmt: skip

    def add_local(self) -> str:
        """A new key for tools of this host, valid as long as this process."""
        key = secrets.token_hex(32)
        self._local = _hashed(key)
        return key

    def holder(self, key: str) -> str | None:
        """The name that a key belongs to. Takes as long for a wrong key as for a right one."""
        self._refresh()
        shown, found = _hashed(key), None
        for name, known in [*self._hashes, ("local", self._local)]:
            if hmac.compare_digest(shown, known):
                found = name
        return found

    def _refresh(self) -> None:
        stamp = self._look()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        self._hashes, wrong = self._read()
        if wrong:
            log.error("keys: %s", wrong)
        log.info("keys: %d read from %s", len(self._hashes), self._path)

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self) -> tuple[list[tuple[str, str]], str]:
        """The hashes by name, and what is wrong with the file; never what stands in it."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            return [], f"{self._path} can't be read ({error.strerror})."
        found, wrong = [], []
        for number, line in enumerate(text.splitlines(), 1):
            if not (content := line.partition("#")[0].strip()):
                continue
            if match := _LINE.fullmatch(content):
                found.append((match["name"], match["hash"]))
            else:
                wrong.append(str(number))
        return found, f"{self._path} has no key in line {', '.join(wrong)}." if wrong else ""


def _hashed(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
