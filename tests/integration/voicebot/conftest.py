"""Real models, and the service as a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

import voicebot

START_WITHIN_S = 90


def _named_by(variable: str, what: str) -> str:
    value = os.environ.get(variable)
    if not value:
        pytest.fail(f"{variable} is not set. Rule: it names {what}. Remedy: make test, or set it by hand.")
    return value


@pytest.fixture(scope="session")
def whisper_base() -> Path:
    return Path(_named_by("VOICEBOT_TEST_WHISPER_BASE", "a directory with Whisper base for CTranslate2"))


@pytest.fixture(scope="session")
def whisper_tiny() -> Path:
    return Path(_named_by("VOICEBOT_TEST_WHISPER_TINY", "a directory with Whisper tiny.en for CTranslate2"))


@pytest.fixture(scope="session")
def engine_url() -> str:
    return _named_by(
        "VOICEBOT_TEST_ENGINE_URL", "an engine's OpenAI address, such as http://127.0.0.1:8000/v1"
    )


@dataclass
class Service:
    """A running voicebot."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    config: Path
    notified: list[bytes]

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


Start = Callable[[Path, str], Service]


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start services with a given speech model and engine; all end with the session."""
    with ExitStack() as stack:
        yield lambda model, engine: stack.enter_context(
            _service(tmp_path_factory.mktemp("service"), model, engine)
        )


@contextmanager
def _service(folder: Path, model: Path, engine: str) -> Iterator[Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "config.yml"
    settings = {
        "server": {"port": port},
        "stt": {"model": str(model)},
        "llm": {"base_url": engine, "max_tokens": 64, "temperature": 0},
    }
    config.write_text(yaml.safe_dump(settings))
    log = folder / "service.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("wb") as output:
        notify.bind(str(folder / "notify"))
        source = str(Path(voicebot.__file__).parents[1])
        environment = {**os.environ, "PYTHONPATH": source, "NOTIFY_SOCKET": str(folder / "notify")}
        command = [sys.executable, "-m", "voicebot", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            notify.settimeout(START_WITHIN_S)
            told = [notify.recv(100)]
            yield Service(f"http://127.0.0.1:{port}", process, log, config, told)
        except TimeoutError:
            pytest.fail(f"not ready within {START_WITHIN_S} s: {log.read_text()}")
        finally:
            process.terminate()
            process.wait(20)


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Until it holds, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


def health_seconds(url: str) -> float:
    """How long /health takes."""
    began = time.monotonic()
    httpx.get(f"{url}/health", timeout=10)
    return time.monotonic() - began
