"""Stand-ins for GPU libraries, so that PyPI's torch (a CUDA build) loads on a machine without a GPU.

Two kinds: the CUDA libraries of the nvidia-* wheels (4 GB, not installed) and torch's own GPU half (1 GB).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.lab.proc import run

NO_DEVICE = 100  # cudaErrorNoDevice
_CUDA_LIBRARY = re.compile(r"lib(cu|nv|nccl)")
_CUDA_SYMBOL = re.compile(
    r"_*(cuda|cublas|cudnn|cufft|curand|cusparse|cusolver|nccl|cupti|nvrtc|cuFile|nvJitLink|nvtx|cu[A-Z])"
)
_TYPE_INFO = """.section .data.rel,"aw"
.balign 8
.type {0},@object
.size {0},16
{0}: .quad _ZTVN10__cxxabiv117__class_type_infoE+16
.quad .Lname_{0}
.Lname_{0}: .asciz "{1}"
.text"""


def _undefined(library: Path) -> Iterable[tuple[str, str]]:
    """(symbol, version) pairs that a library wants from others."""
    for line in run(["nm", "-D", "--undefined-only", library]).stdout.splitlines():
        fields = line.split()
        if len(fields) > 1 and fields[0] in "Uw":
            name, _, version = fields[-1].partition("@")
            yield name, version.lstrip("@")


def _defined(library: Path) -> dict[str, tuple[str, int]]:
    """What a library offers: kind and size by symbol."""
    found = {}
    for line in run(["nm", "-D", "-S", "--defined-only", library]).stdout.splitlines():
        fields = line.split()
        found[fields[-1].partition("@")[0]] = (fields[-2], int(fields[1], 16) if len(fields) == 4 else 0)
    return found


def _link(library: Path, source: str, suffix: str, *options: str) -> None:
    text = library.with_name(f"stub.{suffix}")
    text.write_text(source)
    run(["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", "-nostdlib", "-o", library, text, *options])
    text.unlink()


def stub_cuda_libraries(lib: Path) -> list[str]:
    """Makes each CUDA library that torch's libraries want and lack: every function answers "no device"."""
    needed: set[str] = set()
    versioned: dict[str, set[str]] = defaultdict(set)
    plain: set[str] = set()
    offered: set[str] = set()
    libraries = sorted(lib.glob("*.so*"))
    for path in libraries:
        needed |= set(re.findall(r"NEEDED.*\[(.*?)\]", run(["readelf", "-d", path]).stdout))
        for name, version in _undefined(path):
            (versioned[version] if version else plain).add(name)
        offered |= set(_defined(path))
    made = sorted(n for n in needed - {p.name for p in libraries} if _CUDA_LIBRARY.match(n))
    for soname in made:
        stem = soname.split(".so")[0]
        by_version = {v: names - offered for v, names in versioned.items() if v.startswith(stem)}
        begins = ("cuda",) if stem == "libcudart" else (stem.removeprefix("lib").lower(),)
        names = {
            n for n in plain - offered if _CUDA_SYMBOL.match(n) and n.lower().lstrip("_").startswith(begins)
        }
        names = names.union(*by_version.values())
        code = "".join(
            f"int {n}(void){{return {NO_DEVICE if n.startswith('cuda') else 0};}}\n" for n in sorted(names)
        )
        script = lib / "stub.map"
        script.write_text(
            "".join(
                f"{v} {{ global: {' '.join(f'{n};' for n in sorted(names))} }};\n"
                for v, names in by_version.items()
                if names
            )
        )
        versions = [f"-Wl,--version-script={script}"] if script.stat().st_size else []
        _link(lib / soname, code or "int _none;", "c", f"-Wl,-soname,{soname}", *versions)
        script.unlink()
    return made


def stub_torch_cuda(lib: Path) -> int:
    """Replaces torch's GPU half by the few symbols its Python half wants; how many those are."""
    library = lib / "libtorch_cuda.so"
    have = _defined(library)
    users = ("libtorch_python.so", "libtorch.so")
    wanted = sorted({name for user in users for name, _ in _undefined(lib / user)} & set(have))
    # functions answer the address of a zeroed page: non-null for a "T& get()", and false for a bool
    lines = [".bss", ".balign 4096", ".Lpage: .zero 4096", ".text"]
    for name in wanted:
        kind, size = have[name]
        lines.append(f".globl {name}")
        if kind in "TtWi":
            lines += [f".type {name},@function", f"{name}: lea .Lpage(%rip),%rax", "ret"]
        elif name.startswith("_ZTI"):  # type information: typeid() must hash and compare
            lines.append(_TYPE_INFO.format(name, name[4:]))
        else:
            lines += [
                ".data",
                ".balign 16",
                f".type {name},@object",
                f".size {name},{size}",
                f"{name}: .zero {max(size, 16)}",
                ".text",
            ]
    lines.append('.section .note.GNU-stack,"",@progbits')
    library.unlink()
    (lib / "libtorch_cuda_linalg.so").unlink(missing_ok=True)
    _link(library, "\n".join(lines) + "\n", "s", f"-Wl,-soname,{library.name}")
    return len(wanted)
