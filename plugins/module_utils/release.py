"""What a host remembers of its releases: one JSON file, replaced as a whole or not at all.

    {format: 1, current: ID, previous: ID or "",
     releases: [{id, release, wheels, gate, confirmed}],              the newest confirmation last
     failures: [{id, release, at, task, reason, restored, downtime_s}],  the newest last
     open: {id, at} or {}}                                            a switch that has begun, not gated yet

A release is the playbooks' dict `release`: {engine, models, voicebot}; times are UTC, ISO 8601.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FORMAT = 1
FAILURES = 20  # failed attempts that are remembered
OMITTED = ("environment",)  # of an engine: counts where it is not empty
UNDECIDING = ("golden", "memory")  # of an engine: how it is judged, and what this host has for it
REASON = 8000  # characters of a reason
Entry = dict[str, Any]


class LedgerError(Exception):
    """A message for the operator: what, rule, remedy."""


def release_id(release: Mapping[str, Any]) -> str:
    """The release's name: a hash of what decides how it behaves."""
    engine = {key: value for key, value in release["engine"].items() if value or key not in OMITTED}
    decides = {
        "engine": {key: engine[key] for key in engine if key not in UNDECIDING},
        "models": sorted([model["name"], model["revision"]] for model in release["models"]),
        "voicebot": {key: release["voicebot"].get(key) for key in ("id", "settings")},
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:12]


def now() -> str:
    """This moment, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def shortened(text: str) -> str:
    """A long reason without its middle: first comes what happened, last the end of the log."""
    if len(text) <= REASON:
        return text
    return f"{text[: REASON // 4]}\n[…]\n{text[-(REASON - REASON // 4) :]}"


class Ledger:
    """The ledger at `path`; an absent one is empty."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {"format": FORMAT, "current": "", "previous": "", "releases": []}
        self.data |= {"failures": [], "open": {}}
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError) as error:
            raise self._refusal(f"cannot be read: {error}") from error
        try:
            self.data = json.loads(text)
        except ValueError as error:
            raise self._refusal(f"is no JSON: {error}") from error
        if flaw := self._flaw():
            raise self._refusal(flaw)
        self.data.setdefault("open", {})  # one that was written before switches were

    def _refusal(self, flaw: str) -> LedgerError:
        return LedgerError(
            f"The ledger {self.path} {flaw}. Rule: it is as a run of site.yml has written it. Remedy: "
            f"restore it from a backup, or move it away (mv {self.path} {self.path}.broken): the next "
            "site.yml then begins a new one, which knows no earlier release to go back to."
        )

    def _flaw(self) -> str:
        data = self.data
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            return f"is not of format {FORMAT}"
        lists = [data.get(name) for name in ("releases", "failures")]
        if not all(
            isinstance(entries, list) and all(isinstance(e, dict) for e in entries) for entries in lists
        ):
            return "has no lists `releases` and `failures` of dicts"
        switch = data.get("open", {})
        if not isinstance(switch, dict) or (switch and not {"id", "at"} <= set(switch)):
            return f"has as open switch {switch!r}, without id and at"
        for entry in data["releases"]:
            try:
                right = entry["id"] == release_id(entry["release"])
            except (KeyError, TypeError, AttributeError):
                right = False
            if not right:
                return f"has an entry {entry.get('id')!r} whose content is not what its id says"
        ids = {entry["id"] for entry in data["releases"]}
        for name in ("current", "previous"):
            if data.get(name) != "" and data.get(name) not in ids:
                return f"names as {name} {data.get(name)!r}, of which it has no entry"
        return ""

    def entry(self, name: str) -> Entry | None:
        """The entry of an id; None if there is none."""
        return next((entry for entry in self.entries if entry["id"] == name), None)

    @property
    def entries(self) -> list[Entry]:
        """The confirmed releases, the newest last."""
        found: list[Entry] = self.data["releases"]
        return found

    @property
    def current(self) -> Entry | None:
        """What was confirmed last."""
        return self.entry(self.data["current"])

    @property
    def previous(self) -> Entry | None:
        """What served before that."""
        return self.entry(self.data["previous"])

    def target(self, wanted: str) -> Entry:
        """The entry that a rollback asks for: an id or its beginning, or "" for the previous release."""
        known = ", ".join(entry["id"] for entry in self.data["releases"]) or "none"
        if not wanted:
            if entry := self.previous:
                return entry
            raise LedgerError(
                f"There is no previous release in {self.path}. Rule: a rollback goes to a release that has "
                f"passed its gate on this host. Remedy: rollback_to one of: {known}."
            )
        found = [entry for entry in self.entries if entry["id"].startswith(wanted)]
        if len(found) != 1:
            how = "names more than one release" if found else "is no release"
            raise LedgerError(
                f"rollback_to {wanted!r} {how} in {self.path}. Rule: one that has passed its gate on this "
                f"host. Remedy: one of: {known}."
            )
        return found[0]

    def begin(self, release: Mapping[str, Any]) -> bool:
        """A switch to `release` begins; whether that is news: it does not serve, nor has begun already."""
        name, switch = release_id(release), self.data["open"]
        if name == (switch.get("id") if switch else self.data["current"]):
            return False
        self.data["open"] = {"id": name, "at": now()}
        return True

    def confirm(self, release: Mapping[str, Any], wheels: Mapping[str, str], gate: list[Entry]) -> None:
        """`release` has passed its gate: it is the current one from now on."""
        name = release_id(release)
        self.data["open"] = {}
        if self.data["current"] == name:  # gated again: the first gate's figures stay
            return
        entry = {
            "id": name,
            "release": dict(release),
            "wheels": dict(wheels),
            "gate": gate,
            "confirmed": now(),
        }
        if self.data["current"]:
            self.data["previous"] = self.data["current"]
        if self.data["previous"] == name:
            self.data["previous"] = ""
        self.data["current"] = name
        self.data["releases"] = [e for e in self.data["releases"] if e["id"] != name] + [entry]

    def fail(self, release: Mapping[str, Any], task: str, reason: str) -> Entry:
        """`release` was tried, and `task` has failed."""
        attempt: Entry = {"id": release_id(release), "release": dict(release), "at": now(), "task": task}
        attempt |= {"reason": shortened(reason), "restored": "", "downtime_s": None}
        self.data["failures"] = [*self.data["failures"], attempt][-FAILURES:]
        return attempt

    def kept(self, keep: int) -> list[Entry]:
        """The newest `keep` entries, with the current and the previous one whatever their age."""
        last = [entry["id"] for entry in self.data["releases"]][-keep:]
        named = {*last, self.data["current"], self.data["previous"]}
        return [entry for entry in self.data["releases"] if entry["id"] in named]

    def forget(self, keep: int) -> bool:
        """Drop the entries over `keep`, and what failed attempts were made of; whether there was any."""
        kept = self.kept(keep)
        stale = [attempt for attempt in self.data["failures"] if "release" in attempt]
        changed = len(kept) != len(self.data["releases"]) or bool(stale)
        self.data["releases"] = kept
        for attempt in stale:
            del attempt["release"]
        return changed

    def write(self) -> None:
        """Replace the file; root alone may read it."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self.path.parent, prefix=".ledger-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as stream:
                json.dump(self.data, stream, indent=1)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(self.path)  # mkstemp has made it 0600
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)  # power may go at any moment
        finally:
            os.close(directory)


def named(entries: Iterable[Mapping[str, Any]]) -> dict[str, set[Any]]:
    """What releases are made of: images by reference, models by (name, revision), voicebots by id."""
    found: dict[str, set[Any]] = {"images": set(), "models": set(), "voicebots": set()}
    for entry in entries:
        if release := entry.get("release"):
            found["images"].add(release["engine"]["image"])
            found["models"] |= {(model["name"], model["revision"]) for model in release["models"]}
            found["voicebots"].add(release["voicebot"].get("id"))
    return found
