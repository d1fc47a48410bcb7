"""A conversation for a process that has no network but loopback: `python -m … CONFIG RECORDING PORT`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import uvicorn

from tests.integration.voicebot.conftest import ANSWER
from tests.scripted import Engine, chunk
from voicebot import bench, config


def main() -> None:
    """Prints what was heard, and which routes there are."""
    settings, recording, port = config.load(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    words = [chunk(word) for word in ANSWER.replace(" ", "| ").split("|")]
    engine = Engine(script=[*words, chunk("", "stop"), "[DONE]"])
    server = uvicorn.Server(uvicorn.Config(engine.app(), port=port, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        result = asyncio.run(bench.run(settings, [recording], 1))
    finally:
        server.should_exit = True
        thread.join()
    routes = subprocess.run(["ip", "route", "show"], check=True, capture_output=True, text=True).stdout
    print(json.dumps({"heard": result.transcripts, "routes": routes, "turns": len(engine.asked)}))


main()
