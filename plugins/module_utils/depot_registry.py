"""Images out of a registry, over its HTTP API: manifests by digest, blobs on from where they stopped."""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from ansible.module_utils.depot_layout import MANIFEST_MOST, MANIFESTS, Layout, chosen, is_index, parse, parts
from ansible.module_utils.hub_fetch import STALLED, Hub, said
from ansible.module_utils.hub_pin import Refused


@dataclass(frozen=True)
class Registry(Hub):  # type: ignore[misc]
    """A registry's repository; `revision`: an image's digest, `ca`: authorities beside the system's."""

    ca: str = ""

    def refused(self, said: str) -> Refused:
        """Why there is no such part, in words for an operator."""
        return Refused(
            f"{self.repository}@{self.revision} cannot be fetched from {self.endpoint}: "
            f"{' '.join(said.split())[:400]}. "
            "Rule: the registry gives what is pinned to anybody who asks, or to a token of its own. Remedy: "
            "check the network, the pin, and depot_registries; what is there already is kept."
        )

    def _opener(self, *handlers: urllib.request.BaseHandler) -> urllib.request.OpenerDirector:
        context = ssl.create_default_context()
        if self.ca:
            context.load_verify_locations(self.ca)
        return urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), *handlers)

    def _request(self, name: str, method: str = "GET", start: int = 0) -> urllib.request.Request:
        request = urllib.request.Request(f"{self.endpoint}/v2/{self.repository}/{name}", method=method)
        request.add_header("User-Agent", "spark-voicebot")
        request.add_header("Accept-Encoding", "identity")
        if name.startswith("manifests/"):
            request.add_header("Accept", ", ".join(MANIFESTS))
        if token := self._bearer():  # asked anew for each request: it is short-lived, a layer is long
            request.add_header("Authorization", f"Bearer {token}")
        if start:
            request.add_header("Range", f"bytes={start}-")
        return request

    def _bearer(self) -> str:
        """A token for anybody, if the registry wants one."""
        try:
            self._opener().open(f"{self.endpoint}/v2/", timeout=STALLED).close()
            return ""
        except urllib.error.HTTPError as error:
            if error.code != 401:
                raise
            challenge = dict(re.findall(r'(\w+)="([^"]*)"', error.headers.get("WWW-Authenticate", "")))
        if not challenge.get("realm", "").startswith(
            "https://" if self.endpoint.startswith("https") else "http"
        ):
            raise self.refused(f"401, and a challenge without an address: {challenge}")
        query = {"service": challenge.get("service", ""), "scope": f"repository:{self.repository}:pull"}
        with self._opener().open(f"{challenge['realm']}?{urlencode(query)}", timeout=STALLED) as answer:
            given = json.load(answer)
        return str(given.get("token") or given.get("access_token", ""))

    def manifest(self, digest: str) -> bytes:
        """A manifest or index as it is, equal to its digest."""
        for attempt in range(self.tries):
            try:
                with self._opener().open(self._request(f"manifests/{digest}"), timeout=STALLED) as answer:
                    data: bytes = answer.read(MANIFEST_MOST)
                parse(data, digest)
                return data
            except urllib.error.HTTPError as error:
                problem = said(error)
                if error.code < 500 and error.code not in (408, 429):
                    raise self.refused(problem) from None
            except (OSError, ValueError, http.client.HTTPException) as error:
                problem = f"Connection failed: {getattr(error, 'reason', error)}"
            time.sleep(self.pause * 2**attempt)
        raise self.refused(problem)


@dataclass
class Copy:
    """An image on its way into a layout; `received`: bytes out of the network so far."""

    registry: Registry
    layout: Layout
    architectures: list[str]  # as images say it
    received: int = 0

    def run(self, begin: Callable[[int], None], tell: Callable[..., None]) -> None:
        """Have all parts there. `begin` gets the bytes that the layers will be, `tell` what Part tells."""
        digest = self.registry.revision
        top = self._manifest(digest)
        images = [top]
        if is_index(top):
            images = [self._manifest(one) for one in chosen(top, self.architectures, digest)]
        wanted = {part["digest"]: part for image in images for part in parts(image)}
        missing = [part for part in wanted.values() if not self.layout.complete(part)]
        begin(sum(part["size"] for part in missing))
        for part in missing:
            self._blob(part["digest"], part["size"], tell)

    def _manifest(self, digest: str) -> dict[str, Any]:
        known = self.layout.manifest(digest)
        if known is None:
            data = self.registry.manifest(digest)
            self.received += len(data)
            self.layout.write(self.layout.blob(digest), data)
            known = parse(data, digest)
        return dict(known)

    def _blob(self, digest: str, size: int, tell: Callable[..., None]) -> None:
        target = self.layout.blob(digest)
        partial: Path = self.layout.root / ".partial" / target.name
        pin = {"size": size, "sha256": target.name}
        self.received += self.registry.fetch(f"blobs/{digest}", pin, partial, tell)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
