"""The steps of the lab, each idempotent, and the order they are taken in."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.lab import base_image, daemon, inventory, models, packages, registry
from tests.lab.engine import build
from tests.lab.proc import Service, locked, say, wait_for
from tests.lab.settings import ENGINE_REPOSITORY, ENGINE_TAG, HUB_PORT, LabError, Settings

Step = Callable[[Settings], bool]
PLAYBOOK = "playbooks/lab.yml"


def deps(settings: Settings) -> bool:
    """Debian packages that the lab needs on this machine."""
    packages.check_platform()
    return bool(packages.install_missing())


def engine_image(settings: Settings) -> bool:
    """The engine image is in the registry."""
    image, built = build.image()
    pushed = registry.push(settings, image, ENGINE_REPOSITORY, ENGINE_TAG)
    return built or pushed


def hub_service(settings: Settings) -> Service:
    """The Hub stand-in as a process."""
    return Service(settings.run / "hub.pid", f"tests.lab.hub --root {settings.hub_root}")


def hub(settings: Settings) -> bool:
    """The Hub stand-in answers on the lab's network."""
    settings.hub_root.mkdir(parents=True, exist_ok=True)
    log = settings.state / "hub.log"
    url = f"http://{settings.gateway}:{HUB_PORT}"
    settings.learn(hub_url=url, hub_root=str(settings.hub_root), hub_log=str(log))
    process = hub_service(settings)
    if process.pid:
        return False
    argv = [sys.executable, "-m", "tests.lab.hub", "--root", str(settings.hub_root)]
    process.start([*argv, "--host", settings.gateway, "--port", str(HUB_PORT)], log, cwd=settings.root)
    wait_for("hub", lambda: _accepts(settings.gateway, HUB_PORT), 20, log)
    return True


def _accepts(address: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((address, port)) == 0


STEPS: dict[str, Step] = {
    "deps": deps,
    "daemon": daemon.up,
    "registry": registry.up,
    "hub": hub,
    "engine-image": engine_image,
    "models": models.up,
    "base-image": base_image.up,
}
SLOW = ("engine-image", "models", "base-image")


def up(settings: Settings, hosts: int) -> bool:
    """Services first, then the slow builds side by side, then the playbook for the hosts."""
    with locked(settings.lock):
        changed = [STEPS[name](settings) for name in STEPS if name not in SLOW]
        with ThreadPoolExecutor() as pool:
            changed += pool.map(lambda name: STEPS[name](settings), SLOW)
    say("services, image and models are ready; now the hosts")
    return make_hosts(settings, lab_hosts=hosts) or any(changed)


def make_hosts(settings: Settings, **variables: Any) -> bool:
    """Runs the part of playbooks/lab.yml that makes hosts; true if it changed anything."""
    argv = [
        sys.executable,
        "-m",
        "ansible",
        "playbook",
        PLAYBOOK,
        "--tags",
        "lab_hosts",
        "-e",
        json.dumps(variables),
    ]
    done = subprocess.run(
        argv, cwd=settings.root, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    if done.returncode:
        raise LabError(f"{PLAYBOOK} ended with {done.returncode}:\n{done.stdout}")
    return "changed=0 " not in done.stdout


def down(settings: Settings) -> bool:
    """Nothing of this lab is left but the cache."""
    stopped = [hub_service(settings).stop(), registry.service(settings).stop()]
    found = daemon.tear_down(settings)
    inventory.remove(settings)
    shutil.rmtree(settings.state, ignore_errors=True)
    return found or any(stopped)


def status(settings: Settings) -> str:
    """What runs, a line each."""
    services = {
        "dockerd": daemon.service(settings),
        "registry": registry.service(settings),
        "hub": hub_service(settings),
    }
    lines = [
        f"{name:10}{f'pid {service.pid}' if service.pid else 'down'}" for name, service in services.items()
    ]
    if services["dockerd"].pid:
        form = "{{.Names}}\t{{.Status}}"
        lines += daemon.docker(settings, "ps", "--all", "--format", form).splitlines()
    return "\n".join(lines)
