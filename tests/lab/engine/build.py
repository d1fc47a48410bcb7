"""Builds the engine image into a folder: one layer, configuration and manifest, as a registry stores them."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.lab import packages
from tests.lab.cache import cached, key_of
from tests.lab.engine import elf, site
from tests.lab.proc import run, say
from tests.lab.registry import MANIFEST

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE.parent / "requirements-engine.txt"
SUITE = "bookworm"  # has the Python 3.11 that the wheels are for
PACKAGES = ("ca-certificates", "curl", "libgomp1", "libnuma1", "procps", "python3")
PLATFORM = (
    *("--python-version", "3.11", "--implementation", "cp"),
    *(word for minor in range(36, 4, -1) for word in ("--platform", f"manylinux_2_{minor}_x86_64")),
    *(word for old in ("2014", "2010", "1") for word in ("--platform", f"manylinux{old}_x86_64")),
)
VLLM = """#!/usr/bin/python3
import sys

from vllm.entrypoints.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
"""
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "PYTHONUNBUFFERED": "1",
    "NVIDIA_VLLM_VERSION": "25.11",
    "NVIDIA_BUILD_ID": "lab",
    "VLLM_VERSION": "0.11.0",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "all",  # 0.11 crashes without
    "OMP_NUM_THREADS": "2",
    "OMP_WAIT_POLICY": "PASSIVE",
    "TORCHDYNAMO_DISABLE": "1",  # there is no compiler inside
    "TORCHINDUCTOR_CACHE_DIR": "/root/.cache/vllm/inductor",
}


def key() -> str:
    """The key of everything the image is made of."""
    sources = [p for p in HERE.iterdir() if p.suffix in (".py", ".sh")]
    return key_of([*sources, REQUIREMENTS], SUITE, *PACKAGES)


def image() -> tuple[Path, bool]:
    """The folder of the built image, and whether it was built now."""
    return cached("engine", key(), build)


def build(out: Path) -> None:
    """Root file system, packages, stand-ins, byte code; then one compressed layer."""
    root, wheels = out / "root", out / "wheels"
    with ThreadPoolExecutor() as pool:
        base = pool.submit(packages.bootstrap, SUITE, root, PACKAGES)
        fetched = pool.submit(packages.download, REQUIREMENTS, wheels, PLATFORM)
        base.result()
        say("engine: base ready")
        found = fetched.result()
    say(f"engine: {len(found)} wheels downloaded")
    place = root / "usr/local/lib/python3.11/dist-packages"
    site.unpack(found, place)
    shutil.rmtree(wheels)
    lib = place / "torch/lib"
    symbols, libraries = elf.stub_torch_cuda(lib), elf.stub_cuda_libraries(lib)
    say(f"engine: {symbols} symbols and {len(libraries)} libraries stubbed")
    site.strip(place)
    site.mend_metadata(place, HERE / "linear_plugin.py")
    _furnish(root)
    # halves the start time. Byte code that does not look at times, for the layer's are all alike. A few files
    # are templates and no valid Python, hence no check of the exit code
    compile_all = ["python3", "-m", "compileall", "-q", "-j0", "--invalidation-mode", "unchecked-hash"]
    run(["chroot", root, *compile_all, "/usr/local/lib/python3.11/dist-packages"], check=False)
    say("engine: byte code ready")
    _pack(root, out)
    shutil.rmtree(root)


def _furnish(root: Path) -> None:
    vllm = root / "usr/local/bin/vllm"
    vllm.write_text(VLLM)
    vllm.chmod(0o755)
    (root / "usr/bin/python").symlink_to("python3")
    entrypoint = root / "opt/nvidia/nvidia_entrypoint.sh"
    entrypoint.parent.mkdir(parents=True)
    shutil.copy(HERE / "entrypoint.sh", entrypoint)
    entrypoint.chmod(0o755)
    (root / "workspace").mkdir()
    for litter in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
        shutil.rmtree(root / litter)
        (root / litter).mkdir()
    (root / "etc/apt/sources.list").unlink()


def _pack(root: Path, out: Path) -> None:
    layer = out / "layer"
    plain = hashlib.sha256()
    tar = ["tar", "-C", str(root), "--numeric-owner", "--sort=name", "--mtime=@1700000000", "-cf", "-", "."]
    with layer.open("wb") as sink:
        reader = subprocess.Popen(tar, stdout=subprocess.PIPE)
        packer = subprocess.Popen(["pigz", "-3", "-n"], stdin=subprocess.PIPE, stdout=sink)
        assert reader.stdout and packer.stdin
        while chunk := reader.stdout.read(1 << 20):
            plain.update(chunk)
            packer.stdin.write(chunk)
        packer.stdin.close()
        for process in (reader, packer):
            if process.wait():
                raise subprocess.CalledProcessError(process.returncode, process.args)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": "2025-11-30T00:00:00Z",
        "config": {
            "Env": [f"{k}={v}" for k, v in ENVIRONMENT.items()],
            "Entrypoint": ["/opt/nvidia/nvidia_entrypoint.sh"],
            "WorkingDir": "/workspace",
            "ExposedPorts": {"8000/tcp": {}},
            "Labels": {"spark-voicebot.lab": "vLLM on CPU; no NVIDIA software inside"},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{plain.hexdigest()}"]},
        "history": [{"created": "2025-11-30T00:00:00Z", "created_by": "tests/lab/engine"}],
    }
    (out / "config").write_text(json.dumps(config))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(out / "config", "application/vnd.docker.container.image.v1+json"),
        "layers": [_blob(layer, "application/vnd.docker.image.rootfs.diff.tar.gzip")],
    }
    (out / "manifest.json").write_text(json.dumps(manifest))
    (out / "digest").write_text(
        f"sha256:{hashlib.sha256((out / 'manifest.json').read_bytes()).hexdigest()}\n"
    )


def _blob(path: Path, kind: str) -> dict[str, str | int]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    path.rename(path.with_name(f"sha256-{digest}"))
    return {
        "mediaType": kind,
        "size": path.with_name(f"sha256-{digest}").stat().st_size,
        "digest": f"sha256:{digest}",
    }
