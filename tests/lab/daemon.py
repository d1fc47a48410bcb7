"""The lab's own Docker engine and network, side by side with any other on the machine."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab.proc import Service, locked, remove_tree, run, say, wait_for
from tests.lab.settings import LabError, Settings

CLAMP = Path(__file__).resolve().parent / "spark" / "runc-clamp"
CAP_SYS_RESOURCE = 24


def needs_clamp(status: str | None = None) -> bool:
    """True where root may not raise limits: there runc must be asked for less (see spark/runc-clamp)."""
    text = status if status is not None else Path("/proc/self/status").read_text()
    bounding = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapBnd"))
    return not bounding >> CAP_SYS_RESOURCE & 1


def service(settings: Settings) -> Service:
    """The Docker engine as a process."""
    return Service(settings.run / "dockerd.started", f"{settings.run}/docker.sock")


def docker(settings: Settings, *argv: str | Path, check: bool = True) -> str:
    """Runs the docker client against the lab's engine; its output."""
    return run(["docker", "--host", settings.docker_host, *argv], check=check).stdout.strip()


def answers(settings: Settings) -> bool:
    """Whether the engine answers."""
    return run(["docker", "--host", settings.docker_host, "version"], check=False).returncode == 0


def free_subnet(lab_id: str, taken: set[str]) -> str:
    """First three numbers of a /24: from the lab's id, or the next one that nobody has."""
    start = int(lab_id, 16) % 254
    for step in range(254):
        candidate = f"172.31.{(start + step) % 254 + 1}"
        if candidate not in taken:
            return candidate
    raise LabError(
        "every 172.31.X.0/24 is in use. Remedy: `python -m tests.lab down` in clones that are done"
    )


def taken_subnets(but: str) -> set[str]:
    """The 172.31.X that other interfaces or routes of this machine use."""
    links = json.loads(run(["ip", "-json", "-4", "address"]).stdout)
    routes = json.loads(run(["ip", "-json", "-4", "route"]).stdout)
    used = [a["local"] for link in links if link.get("ifname") != but for a in link.get("addr_info", [])]
    used += [r["dst"] for r in routes if r.get("dev") != but]
    return {".".join(u.split(".")[:3]) for u in used if u.startswith("172.31.")}


def up(settings: Settings) -> bool:
    """Engine, network and rules are there afterwards. True if anything was missing."""
    engine = service(settings)
    if engine.pid and not settings.file.exists():
        say(f"an engine of this lab runs, but {settings.state} is gone: starting afresh")
        tear_down(settings)
    changed = False
    if not (engine.pid and answers(settings)):
        _start(settings, engine)
        changed = True
    with locked(settings.run_base / "lock" / "spark-voicebot-subnet.lock"):
        names = docker(settings, "network", "ls", "--format", "{{.Name}}").split()
        if settings.bridge not in names:
            _make_network(settings)
            changed = True
    if needs_repair := docker_subnet(settings) != settings.facts().get("subnet"):
        settings.learn(subnet=docker_subnet(settings))
    settings.learn(
        id=settings.id, docker_host=settings.docker_host, network=settings.bridge, prefix=settings.prefix
    )
    return _add_rules(settings) or needs_repair or changed


def _start(settings: Settings, engine: Service) -> None:
    engine.stop()
    settings.state.mkdir(parents=True, exist_ok=True)
    settings.run.mkdir(parents=True, exist_ok=True)
    for stale in ("docker.sock", "dockerd.pid"):
        (settings.run / stale).unlink(missing_ok=True)
    config = settings.run / "daemon.json"
    clamp = {"runtimes": {"clamp": {"path": str(CLAMP)}}, "default-runtime": "clamp"}
    config.write_text(json.dumps(clamp if needs_clamp() else {}))
    log = settings.state / "dockerd.log"
    argv: list[str | Path] = ["dockerd", "--config-file", config, "--host", settings.docker_host]
    argv += ["--data-root", settings.state / "docker", "--exec-root", settings.run / "exec"]
    argv += [
        "--pidfile",
        settings.run / "dockerd.pid",
        "--bridge=none",
        "--iptables=false",
        "--userland-proxy=false",
    ]
    # a containerd of the machine, where there is one, is shared: hence names of our own
    argv += [
        f"--containerd-namespace={settings.bridge}",
        f"--containerd-plugins-namespace={settings.bridge}-plugins",
    ]
    engine.start(argv, log)
    wait_for("dockerd", lambda: answers(settings), 60, log)


def _make_network(settings: Settings) -> None:
    subnet = settings.facts().get("subnet", "").removesuffix(".0/24")
    taken = taken_subnets(but=settings.bridge)
    if not subnet or subnet in taken:
        subnet = free_subnet(settings.id, taken)
    bridge = f"com.docker.network.bridge.name={settings.bridge}"
    docker(settings, "network", "create", "--subnet", f"{subnet}.0/24", "--opt", bridge, settings.bridge)


def docker_subnet(settings: Settings) -> str:
    """The subnet as the engine knows it."""
    return docker(settings, "network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", settings.bridge)


def _add_rules(settings: Settings) -> bool:
    """Routes the hosts outwards. Own rules: two engines that manage iptables would reset each other's."""
    note = ["-m", "comment", "--comment", settings.bridge]
    outwards = ["-s", f"{settings.subnet}.0/24", "!", "-o", settings.bridge, "-j", "MASQUERADE"]
    wanted = [("nat", "POSTROUTING", outwards)]
    wanted += [("filter", "FORWARD", [side, settings.bridge, "-j", "ACCEPT"]) for side in ("-i", "-o")]
    added = False
    for table, chain, rule in wanted:
        if run(["iptables", "-w", "-t", table, "-C", chain, *rule, *note], check=False).returncode:
            run(["iptables", "-w", "-t", table, "-I", chain, *rule, *note])
            added = True
    return added


def _drop_rules(settings: Settings) -> None:
    for table in ("nat", "filter"):
        for line in run(["iptables", "-w", "-t", table, "-S"]).stdout.splitlines():
            if line.startswith("-A ") and f"--comment {settings.bridge} " in f"{line} ".replace('"', ""):
                run(["iptables", "-w", "-t", table, "-D", *line.replace('"', "").split()[1:]])


def tear_down(settings: Settings) -> bool:
    """Removes containers, volumes, network, engine and their debris. True if there was anything."""
    engine = service(settings)
    containerd = Service(settings.run / "exec" / "containerd" / "containerd.pid", f"{settings.run}/exec")
    found = settings.run.exists() or settings.state.exists()
    if not engine.pid and containerd.pid:
        say("the engine was killed, its containers may still run: starting it once more to remove them")
        _start(settings, engine)
    if engine.pid:
        if names := docker(settings, "ps", "-aq", check=False).split():
            docker(settings, "rm", "--force", "--volumes", *names, check=False)
        engine.stop()
    containerd.stop()
    if found:
        _drop_rules(settings)
    if run(["ip", "link", "show", settings.bridge], check=False).returncode == 0:
        run(["ip", "link", "delete", settings.bridge])
    for place in (settings.state / "docker", settings.run):
        remove_tree(place)
    return found
