"""The service and its command as processes of their own, on real speech models and a scripted engine."""

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
from typing import Any

import pytest
import yaml

import voicebot
from tests.scripted import Engine, chunk, free_port, running

START_WITHIN_S = 180
ROOT = Path(__file__).parents[3]
ANSWER = "The Spark is a small computer for your desk. It listens, thinks and speaks, all by itself."


@pytest.fixture(scope="session")
def whisper_base(speech_models: Path) -> Path:
    return speech_models / "whisper-base"


@pytest.fixture(scope="session")
def whisper_tiny(speech_models: Path) -> Path:
    return speech_models / "whisper-tiny.en"


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """Answers word by word; its template refuses a system role, as Mistral's does."""
    words = [chunk(word) for word in ANSWER.replace(" ", "| ").split("|")]
    scripted = Engine(script=[*words, chunk("", "stop"), "[DONE]"], system_role="refused")
    with running(scripted.app()) as url:
        scripted.url = url
        yield scripted


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
        return self.process.wait(60)


Start = Callable[..., Service]
"""Model, engine, and what of `llm` is configured otherwise."""


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start services with a given speech model and engine; all end with the session."""
    with ExitStack() as stack:
        yield lambda model, engine, **llm: stack.enter_context(
            serving(tmp_path_factory.mktemp("service"), model, engine, llm)
        )


@pytest.fixture(scope="session")
def service(start: Start, whisper_base: Path, engine: Engine) -> Service:
    """A service that is fit to answer."""
    return start(whisper_base, engine.url)


def configure(folder: Path, model: Path, engine: str, **sections: dict[str, Any]) -> Path:
    """A configuration file for a service on a free port."""
    settings: dict[str, Any] = {
        "server": {"port": free_port()},
        "stt": {"model": str(model)},
        "llm": {"base_url": f"{engine}/v1", "model": "m"},
        "wyoming": {"enabled": True, "port": free_port()},
    }
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | section
    path = folder / "config.yml"
    path.write_text(yaml.safe_dump(settings))
    return path


@contextmanager
def serving(folder: Path, model: Path, engine: str, llm: dict[str, Any]) -> Iterator[Service]:
    """`voicebot serve` as a process, ready."""
    # The scripted engine shares two cores with everything else: it may be late.
    config = configure(folder, model, engine, llm={"connect_timeout_s": 10} | llm)
    port = yaml.safe_load(config.read_text())["server"]["port"]
    log = folder / "service.log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, log.open("wb") as output:
        notify.bind(str(folder / "notify"))
        told = environment() | {"NOTIFY_SOCKET": str(folder / "notify")}
        command = [sys.executable, "-m", "voicebot", "serve", "--config", str(config)]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=told)
        try:
            notify.settimeout(START_WITHIN_S)
            ready = [notify.recv(100)]
            yield Service(f"http://127.0.0.1:{port}", process, log, config, ready)
        except TimeoutError:
            pytest.fail(f"not ready within {START_WITHIN_S} s: {log.read_text()}")
        finally:
            process.terminate()
            process.wait(60)


def command(*arguments: str | Path, folder: Path, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """Run `voicebot` with these arguments in a folder."""
    argv = [sys.executable, "-m", "voicebot", *arguments]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=seconds, check=False, cwd=folder, env=environment()
    )


def environment() -> dict[str, str]:
    """Of processes that run this source tree."""
    return {**os.environ, "PYTHONPATH": str(Path(voicebot.__file__).parents[1])}


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Until it holds, or fail."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)
