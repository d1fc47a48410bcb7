"""What makes a container look like a DGX Spark: each stand-in run as the program it is."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.base_image import PARTS
from tests.lab.daemon import needs_clamp

UNLIMITED = 2**64 - 1  # as docker writes it
WITHOUT, WITH = "000001fffeffffff", "000001ffffffffff"
Program = Callable[..., subprocess.CompletedProcess[str]]


def smi(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["sh", PARTS / "nvidia-smi", *options], capture_output=True, text=True, timeout=20)


def ctk(*options: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, PARTS / "nvidia-ctk", *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("query", "form", "said"),
    [
        ("name,driver_version", "csv,noheader", "NVIDIA GB10, 580.95.05\n"),
        ("gpu_name,memory.total,compute_cap", "csv,noheader,nounits", "NVIDIA GB10, [N/A], 12.1\n"),
        ("power.draw,utilization.gpu", "csv,noheader", "4.62 W, 0 %\n"),
        ("power.draw,utilization.gpu", "csv,noheader,nounits", "4.62, 0\n"),
        ("index, name", "csv", "index, name\n0, NVIDIA GB10\n"),
    ],
)
def test_nvidia_smi_answers_queries(query: str, form: str, said: str) -> None:
    done = smi(f"--query-gpu={query}", f"--format={form}")
    assert (done.returncode, done.stdout) == (0, said)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--query-gpu=nmae", "--format=csv"], 'Field "nmae" is not a valid field to query.'),
        (["--query-gpu=name"], '"--format=" switch is missing'),
    ],
)
def test_nvidia_smi_refuses_what_the_real_one_refuses(options: list[str], said: str) -> None:
    done = smi(*options)
    assert done.returncode == 2
    assert said in done.stdout


def test_nvidia_smi_lists_the_one_gpu_and_draws_its_table() -> None:
    uuid = smi("--query-gpu=uuid", "--format=csv,noheader").stdout.strip()
    assert smi("-L").stdout == f"GPU 0: NVIDIA GB10 (UUID: {uuid})\n"
    assert uuid in ctk("cdi", "list").stdout
    table = smi().stdout
    assert "Driver Version: 580.95.05" in table and "CUDA Version: 13.0" in table and "NVIDIA GB10" in table
    assert "DRIVER version      : 580.95.05" in smi("--version").stdout
    assert smi("--query-compute-apps=pid,used_memory", "--format=csv,noheader").stdout == ""


def test_the_release_file_is_read_as_a_shell_reads_it() -> None:
    command = f'. {PARTS}/dgx-release && echo "$DGX_NAME|$DGX_OTA_VERSION"'
    done = subprocess.run(["sh", "-eu", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout == "DGX Spark|7.3.1\n"


def test_nvidia_ctk_shows_the_merged_file_and_writes_none_on_a_dry_run(tmp_path: Path) -> None:
    config = tmp_path / "docker/daemon.json"
    argv = ("runtime", "configure", "--runtime=docker", f"--config={config}", "--dry-run")
    fragment = {"runtimes": {"nvidia": {"args": [], "path": "nvidia-container-runtime"}}}
    assert json.loads(ctk(*argv).stdout) == fragment
    assert list(tmp_path.iterdir()) == []
    config.parent.mkdir()
    config.write_text(own := '{"log-driver": "journald", "runtimes": {"other": {"path": "other"}}}')
    runtimes = {"other": {"path": "other"}} | fragment["runtimes"]
    merged = json.loads(ctk(*argv).stdout)
    assert merged == {"log-driver": "journald", "runtimes": runtimes}
    assert config.read_text() == own


def test_nvidia_ctk_writes_without_it(tmp_path: Path) -> None:
    config = tmp_path / "docker/daemon.json"
    done = ctk("runtime", "configure", f"--config={config}", "--set-as-default")
    assert (done.returncode, done.stdout) == (0, "")
    assert json.loads(config.read_text())["default-runtime"] == "nvidia"
    assert f"Wrote updated config to {config}" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["runtime", "configure", "--runtime=containerd"], "runtime containerd is not supported"),
        (["cdi", "generate"], "not implemented: cdi generate"),
    ],
)
def test_nvidia_ctk_never_pretends(options: list[str], said: str) -> None:
    done = ctk(*options)
    assert done.returncode == 1
    assert said in done.stderr


def test_nvidia_ctk_has_a_version() -> None:
    assert ctk("--version").stdout.startswith("NVIDIA Container Toolkit CLI version 1.18.0\n")


@pytest.fixture
def runc(tmp_path: Path) -> Path:
    """A program in runc's place: says how it was called, ends with 7."""
    program = tmp_path / "bin/runc"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "runc:$*"\nexit 7\n')
    program.chmod(0o755)
    return program


def process() -> dict[str, Any]:
    """The part of an OCI bundle that asks for too much."""
    return {
        "args": ["/sbin/init"],
        "capabilities": {
            "bounding": ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"],
            "effective": ["CAP_SYS_RESOURCE", "CAP_NET_ADMIN"],
            "ambient": None,
        },
        "rlimits": [
            {"type": "RLIMIT_MEMLOCK", "hard": UNLIMITED, "soft": UNLIMITED},
            {"type": "RLIMIT_NOFILE", "hard": 1 << 40, "soft": 64},
            {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
        ],
        "oomScoreAdj": -500,
    }


def limit() -> None:
    """What the machine's root has, in the child."""
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 16))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 512))


@pytest.fixture
def clamp(tmp_path: Path, runc: Path) -> Program:
    """Runs the script as it is, but for two places: runc's, and where the kernel tells the capabilities."""

    def run(bounding: str, *argv: str | Path) -> subprocess.CompletedProcess[str]:
        (tmp_path / "status").write_text(f"Name:\tpython3\nCapBnd:\t{bounding}\n")
        code = (PARTS / "runc-clamp").read_text()
        for place, other in (("/usr/sbin/runc", runc), ("/proc/self/status", tmp_path / "status")):
            assert code.count(f'"{place}"') == 1
            code = code.replace(f'"{place}"', f'"{other}"')
        (tmp_path / "clamp").write_text(code)
        return subprocess.run(
            [sys.executable, tmp_path / "clamp", *argv],
            capture_output=True, text=True, preexec_fn=limit, timeout=20,
        )  # fmt: skip

    return run


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/config.json").write_text(json.dumps({"ociVersion": "1.2.0", "process": process()}))
    return tmp_path / "bundle"


CLAMPED = {
    "args": ["/sbin/init"],
    "capabilities": {"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_NET_ADMIN"], "ambient": []},
    "rlimits": [
        {"type": "RLIMIT_MEMLOCK", "hard": 1 << 16, "soft": 1 << 16},
        {"type": "RLIMIT_NOFILE", "hard": 512, "soft": 64},
        {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
    ],
    "oomScoreAdj": 0,
}


@pytest.mark.parametrize("form", [["--bundle", "{}"], ["--bundle={}"], ["-b", "{}"]])
def test_without_the_capability_a_container_asks_for_what_there_is(
    clamp: Program, bundle: Path, form: list[str]
) -> None:
    argv = ["--root", "/r", "create", *(word.format(bundle) for word in form), "name"]
    done = clamp(WITHOUT, *argv)
    assert (done.returncode, done.stdout) == (7, f"runc:{' '.join(argv)}\n"), done.stderr
    expected = {"ociVersion": "1.2.0", "process": CLAMPED}
    assert json.loads((bundle / "config.json").read_text()) == expected


def test_without_it_a_command_in_a_container_too(clamp: Program, tmp_path: Path) -> None:
    (tmp_path / "process.json").write_text(json.dumps(process()))
    assert clamp(WITHOUT, "exec", "--process", tmp_path / "process.json", "name").returncode == 7
    assert json.loads((tmp_path / "process.json").read_text()) == CLAMPED


def test_with_the_capability_nothing_is_changed(clamp: Program, bundle: Path) -> None:
    before = (bundle / "config.json").read_bytes()
    assert clamp(WITH, "create", "--bundle", bundle, "name").returncode == 7
    assert (bundle / "config.json").read_bytes() == before


def test_other_commands_are_passed_on_untouched(clamp: Program, bundle: Path) -> None:
    before = (bundle / "config.json").read_bytes()
    done = clamp(WITHOUT, "delete", "--bundle", bundle, "name")
    assert done.stdout == f"runc:delete --bundle {bundle} name\n"
    assert (bundle / "config.json").read_bytes() == before


def test_script_and_lab_agree_about_this_machine() -> None:
    lines = (PARTS / "runc-clamp").read_text().splitlines()
    code = "\n".join([*lines[: lines.index("argv = sys.argv[1:]")], "print(lacks_capability())"])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(needs_clamp())


@pytest.mark.skipif(not Path("/usr/sbin/runc").exists(), reason="no runc on this machine")
def test_it_becomes_the_real_runc() -> None:
    real, mine = (
        subprocess.run([*argv, "--version"], capture_output=True, text=True, check=True, timeout=20).stdout
        for argv in (["/usr/sbin/runc"], [sys.executable, str(PARTS / "runc-clamp")])
    )
    assert real == mine and "runc version" in mine


def nvidia_runtime(runc: Path, *argv: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, PARTS / "nvidia-container-runtime", *argv]
    env = {"PATH": f"{runc.parent}:/usr/bin:/bin"}
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=20)


@pytest.mark.parametrize(
    ("variables", "hooks"),
    [
        (["PATH=/bin", "NVIDIA_VISIBLE_DEVICES=all"], 1),
        (["NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_VISIBLE_DEVICES=0"], 1),
        (["NVIDIA_VISIBLE_DEVICES=void"], 0),
        (["NVIDIA_VISIBLE_DEVICES="], 0),
        (["PATH=/bin"], 0),
    ],
)
def test_the_runtime_hooks_in_where_a_container_asks_for_a_gpu(
    tmp_path: Path, runc: Path, variables: list[str], hooks: int
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"process": {"env": variables}}))
    for _ in range(2):  # the hook of `--gpus` may be there already
        done = nvidia_runtime(runc, "create", "--bundle", tmp_path, "name")
        assert (done.returncode, done.stdout) == (7, f"runc:create --bundle {tmp_path} name\n"), done.stderr
    found = json.loads(config.read_text()).get("hooks", {}).get("prestart", [])
    assert [hook["path"] for hook in found] == ["/usr/bin/nvidia-container-runtime-hook"] * hooks


def test_the_runtime_tells_its_version_and_runcs(runc: Path) -> None:
    said = nvidia_runtime(runc, "--version").stdout.splitlines()
    assert said[0].startswith("NVIDIA Container Runtime version 1.18.0")
    assert said[1] == "runc:--version"
