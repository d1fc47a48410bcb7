"""Chromium, headless, with a recording as its microphone; driven by its own DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import websockets

_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run",
    "--disable-background-networking",
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream",
    "--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0", "--window-size=420,900",
)  # fmt: skip


class Page:
    """One tab."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self._ids = itertools.count(1)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A DevTools command's result."""
        number = next(self._ids)
        await self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer: dict[str, Any] = json.loads(await self._socket.recv())
            if answer.get("id") == number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    async def value(self, expression: str) -> Any:
        """Of JavaScript, as if the user had clicked."""
        how = {"awaitPromise": True, "userGesture": True, "returnByValue": True}
        result = await self.call("Runtime.evaluate", expression=expression, **how)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float) -> None:
        """Wait for JavaScript to be truthy; what the page shows is in the failure."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.value(f"!!({expression})"):  # noqa: ASYNC110 (seen from outside)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            shown = await self.value("document.body.innerText")
            raise AssertionError(f"not within {seconds:g} s: {expression}; the page shows: {shown}") from None

    async def key(self, name: str, code: int, text: str = "") -> None:
        """Pressed and let go."""
        pressed = {"key": name, "code": name, "windowsVirtualKeyCode": code}
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    async def resize(self, width: int, height: int) -> None:
        """As a phone of that many CSS pixels."""
        size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        await self.call("Emulation.setDeviceMetricsOverride", **size)

    async def screenshot(self, path: Path) -> None:
        """As the user sees it."""
        shot = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(shot["data"]))


@asynccontextmanager
async def opened(url: str, microphone: Path, folder: Path) -> AsyncIterator[Page]:
    """The page at `url`, in a browser that hears the WAV once."""
    arguments = [
        *_FLAGS,
        f"--use-file-for-fake-audio-capture={microphone}%noloop",
        f"--user-data-dir={folder}/profile",
    ]
    process = await asyncio.create_subprocess_exec(
        "chromium",
        *arguments,
        "about:blank",
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    try:
        root = await _devtools(process)
        async with httpx.AsyncClient(trust_env=False) as http:
            tab = (await http.put(f"{root}/json/new?{url}")).json()
        async with websockets.connect(tab["webSocketDebuggerUrl"], max_size=None) as socket:
            page = Page(socket)
            await page.until("location.href !== 'about:blank' && document.readyState === 'complete'", 30)
            yield page
    finally:
        process.terminate()
        await process.wait()


async def _devtools(process: asyncio.subprocess.Process) -> str:
    assert process.stderr
    async with asyncio.timeout(60):
        async for line in process.stderr:
            if b"DevTools listening on ws://" in line:
                return "http://" + line.decode().split("ws://")[1].split("/")[0]
    raise AssertionError("chromium ended")
