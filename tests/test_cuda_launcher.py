"""The launcher of the CUDA kernels without a GPU: cuda-core's own load and launch, against a driver that only takes
notes (tests/cuda_emulation/stub_driver.c), and every error that it explains."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from voge.backends import launcher, nvrtc, sources

ROOT = Path(__file__).parents[1]
STUB = Path(__file__).parent / "cuda_emulation" / "stub_driver.c"

pytest.importorskip("cuda.bindings", reason="no cuda-bindings: this torch is built without CUDA, or brings none")
pytest.importorskip("cuda.core", reason="no cuda-core")

PRELUDE = """
import ctypes, sys, threading, torch
from voge.backends import kernels, launcher, nvrtc, sources

stub = ctypes.CDLL("libcuda.so.1")

class Seen(ctypes.Structure):
    _fields_ = [(name, ctypes.c_int) for name in ("launches", "loads", "device")]
    _fields_ += [(name, ctypes.c_uint) for name in ("grid", "threads", "shared")]
    _fields_ += [("stream", ctypes.c_uint64), ("kernel", ctypes.c_char * 128), ("values", ctypes.c_uint64 * 16)]
    _fields_ += [(name, ctypes.c_int) for name in ("attribute", "attribute_value", "attribute_device")]

seen = Seen.in_dll(stub, "stub_seen")

def setting(name):
    return ctypes.c_int.in_dll(stub, f"stub_{name}")

def on(index, stream=0x70):
    return launcher.CudaLauncher(torch.device("cpu"), index, lambda: stream)

def sizes(kernel):  # so that the stub knows how many bytes each parameter has
    bytes_of = {"i32": 4}
    values = [bytes_of.get(kind, 8) for _, kind in kernels.SIGNATURES[kernel]]
    (ctypes.c_int * 16).in_dll(stub, "stub_sizes")[:] = values + [0] * (16 - len(values))

x, flag = torch.zeros(10), torch.zeros(1, dtype=torch.int32)
ARGUMENTS = (x, 10, 32, flag)
sizes("check_finite")
"""


@pytest.fixture(scope="module")
def stub(tmp_path_factory):
    """A folder with a libcuda.so.1."""
    if sys.platform != "linux" or not shutil.which("cc"):
        pytest.skip("the stub of the driver needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("stub")
    command = ["cc", "-shared", "-fPIC", "-O1", "-w", "-o", str(folder / "libcuda.so.1"), str(STUB), "-ldl"]
    subprocess.run(command, check=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def compiled(stub, tmp_path_factory):
    """A cache that two processes filled at the same time."""
    cache = tmp_path_factory.mktemp("cache")
    script = 'on(0).launch("check_finite_f32", 1, 32, ARGUMENTS)\nassert seen.launches == 1'
    for process in [start(script, stub, cache) for _ in range(2)]:
        assert process.wait(timeout=300) == 0, process.stderr.read()
    (entry,) = cache.iterdir()  # and no temporary file
    assert entry.name.startswith("bins.f32.sm_90.")
    return cache


def start(script, stub, cache, **env):
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {"LD_LIBRARY_PATH": str(stub), "VOGE_CACHE": str(cache), "PYTHONPATH": path, **env}
    command = [sys.executable, "-c", PRELUDE + script]
    return subprocess.Popen(command, env={**os.environ, **env}, stderr=subprocess.PIPE, text=True)


def run(script, stub, cache, **env):
    process = start(script, stub, cache, **env)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors


def test_a_launch_hands_over_everything(stub, compiled):
    run(
        """
nvrtc.compiled = None  # the cache has it
gpu = on(1, 0x1234)
assert gpu.card == (9, 0) and gpu.shared_limit == 232448
gpu.launch("check_finite_f32", 5, 64, (x, 1 << 40, -3, flag), shared=1024)
assert (seen.kernel, seen.grid, seen.threads, seen.shared) == (b"voge_check_finite_f32", 5, 64, 1024)
assert (seen.device, seen.stream, seen.launches, seen.loads) == (1, 0x1234, 1, 1)
assert seen.values[:4] == [x.data_ptr(), 1 << 40, 2**32 - 3, flag.data_ptr()]
gpu.launch("check_finite_f32", 1, 32, (None, 0, 0, flag))
assert seen.values[0] == 0 and (seen.launches, seen.loads) == (2, 1)
gpu.launch("check_finite_f32", 0, 32, ARGUMENTS)
assert seen.launches == 2

# Doubles are doubles.
kernels.SIGNATURES["check_rays"] = (("by", "f64"),)
sizes("check_rays")
gpu.launch("check_rays_f32", 1, 32, (0.1,))
assert ctypes.c_double.from_buffer(seen.values).value == 0.1

# torch's default stream is the handle 0.
on(0, 0).launch("check_finite_f32", 1, 32, ARGUMENTS)
assert (seen.stream, seen.device) == (0, 0)
""",
        stub,
        compiled,
    )


def test_contexts_shared_memory_and_graphs(stub, compiled):
    run(
        """
nvrtc.compiled = None
from cuda.bindings import driver

def current():
    return int(driver.cuCtxGetCurrent()[1])

first, second = on(0), on(1)
assert current() == 0  # making one leaves the thread as it was

# While a graph is captured nothing can be loaded; afterwards, and when it is loaded already, all is well.
setting("capturing").value = 1
try:
    first.launch("check_finite_f32", 1, 32, ARGUMENTS)
    raise AssertionError("a kernel was loaded during a capture")
except RuntimeError as error:
    assert "warm up" in str(error) and "check_finite_f32" in str(error)
setting("capturing").value = 0
first.launch("check_finite_f32", 1, 32, ARGUMENTS)
setting("capturing").value = 1
first.launch("check_finite_f32", 1, 32, ARGUMENTS)
setting("capturing").value = 0
assert seen.launches == 2

# Each GPU has its own module; a thread gets back the context it had, or none.
second.launch("check_finite_f32", 1, 32, ARGUMENTS)
assert (seen.device, seen.loads, current()) == (1, 2, 0)
devices = []

def elsewhere():
    driver.cuCtxSetCurrent(first._context)
    for gpu in (second, first):
        gpu.launch("check_finite_f32", 1, 32, ARGUMENTS)
        devices.append((seen.device, current() == int(first._context)))

thread = threading.Thread(target=elsewhere)
thread.start(), thread.join()
assert devices == [(1, True), (0, True)], devices

# More than 48 KB of shared memory are asked for, once a size, on the right device.
second.launch("check_finite_f32", 1, 32, ARGUMENTS, shared=48 * 1024)
assert seen.attribute == 0
second.launch("check_finite_f32", 1, 32, ARGUMENTS, shared=100_000)
assert (seen.attribute, seen.attribute_value, seen.attribute_device) == (8, 100_000, 1)
seen.attribute = 0
second.launch("check_finite_f32", 1, 32, ARGUMENTS, shared=90_000)
assert (seen.attribute, seen.shared) == (0, 90_000)

for wrong in ({"grid": 2**31}, {"grid": -1}, {"shared": 300_000}):
    try:
        second.launch("check_finite_f32", **{"grid": 1, "threads": 32, "arguments": ARGUMENTS} | wrong)
        raise AssertionError(wrong)
    except ValueError as error:
        assert str(error).startswith(next(iter(wrong)))
try:
    second.launch("check_finite_f32", 1, 32, ARGUMENTS[:3])
    raise AssertionError("an argument is missing")
except TypeError:
    pass
setting("launch_status").value = 700
try:
    second.launch("check_finite_f32", 1, 32, ARGUMENTS)
    raise AssertionError("a launch that failed")
except Exception as error:
    assert "CUDA_ERROR_ILLEGAL_ADDRESS" in str(error) or "STUB_ERROR" in str(error), error
assert current() == 0

setting("version").value = 12040
try:
    on(0)
    raise AssertionError("the driver is too old")
except RuntimeError as error:
    assert "supports CUDA 12.4" in str(error) and "newer driver" in str(error)
""",
        stub,
        compiled,
    )


def test_cards_that_are_too_old_or_too_new(stub, tmp_path):
    """An older GPU is refused by name; of a newer one the driver gets PTX."""
    run(
        """
setting("major").value, setting("minor").value = 5, 0
try:
    on(0).launch("check_finite_f32", 1, 32, ARGUMENTS)
    raise AssertionError("compute capability 5.0")
except RuntimeError as error:
    assert "compute capability 5.0" in str(error)
setting("major").value = 99
on(1).launch("check_finite_f64", 1, 32, (x.double(), 10, 32, flag))
assert seen.kernel == b"voge_check_finite_f64"
""",
        stub,
        tmp_path,
    )
    (entry,) = tmp_path.iterdir()
    assert ".f64.compute_" in entry.name and entry.suffix == ".ptx"


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_or_unwritable_cache_only_costs_time(damage, tmp_path, monkeypatch):
    compilations = []

    def compiled(tools, unit, dtypes, target, logs=None, **options):
        compilations.append((unit.stem, dtypes, target))
        return b"\x7fELF" + bytes(100)

    monkeypatch.setattr(nvrtc, "compiled", compiled)
    monkeypatch.setenv("VOGE_CACHE", str(tmp_path / "voge"))
    if damage is None:
        (tmp_path / "voge").write_text("not a folder")
    unit = sources.kernels()["project"]
    tools = nvrtc.toolkit()
    expected = nvrtc.Code("cubin", b"\x7fELF" + bytes(100))
    for _ in range(2):
        assert nvrtc.code(tools, unit, "f32", (9, 0)) == expected
    assert len(compilations) == (1 if damage is not None else 2)
    assert compilations[0] == (unit.stem, ("f32",), "sm_90")
    if damage is not None:
        (entry,) = (tmp_path / "voge").iterdir()
        entry.write_bytes(damage)
        assert nvrtc.code(tools, unit, "f32", (9, 0)) == expected
        assert nvrtc.code(tools, unit, "f32", (9, 0)) == expected
        assert len(compilations) == 2


def test_what_is_compiled_for_a_card():
    known = [75, 80, 86, 89, 90, 100, 103, 120]
    for card, target in {(9, 0): "sm_90", (8, 7): "sm_86", (10, 1): "sm_100", (12, 1): "sm_120"}.items():
        assert nvrtc.architecture(card, "13.0", known) == target
    assert nvrtc.architecture((11, 0), "13.0", known) == "compute_103"
    assert nvrtc.architecture((13, 0), "13.0", known) == "compute_120"
    with pytest.raises(RuntimeError, match=r"compute capability 7\.0; CUDA 13\.0 compiles for 7\.5 and later"):
        nvrtc.architecture((7, 0), "13.0", known)


def test_sources_in_a_package_and_a_built_cubin(tmp_path, monkeypatch):
    """What a build puts into the package is used in place of NVRTC, until the sources change."""
    build = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(tmp_path / "lib")]
    subprocess.run(build, cwd=ROOT, check=True, timeout=300, capture_output=True)
    packaged = runpy.run_path(str(tmp_path / "lib" / "voge" / "backends" / "sources.py"))
    assert packaged["folder"]() == tmp_path / "lib" / "voge" / "csrc"
    assert packaged["digest"]() == sources.digest()
    assert packaged["kernels"]().keys() == sources.kernels().keys()

    monkeypatch.setattr(sources, "PACKAGE", tmp_path / "voge")
    unit = sources.kernels()["project"]
    tools = nvrtc.toolkit()._replace(nvrtc=None)  # must not be asked
    for minor in (0, 6):
        path = sources.cubin(unit, 80 + minor)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"cubin %d" % minor)
    assert nvrtc.code(tools, unit, "f64", (8, 9)) == nvrtc.Code("cubin", b"cubin 6")
    assert nvrtc.code(tools, unit, "f64", (8, 0)) == nvrtc.Code("cubin", b"cubin 0")
    monkeypatch.setattr(sources, "digest", lambda: "0" * 32)
    with pytest.raises(AttributeError):
        nvrtc.code(tools, unit, "f64", (8, 9))


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
def test_nvcc_builds_what_the_launcher_loads(stub, tmp_path, monkeypatch):
    monkeypatch.setenv("VOGE_CUDA_ARCHS", "90")
    setup = runpy.run_path(str(ROOT / "setup.py"))
    commands = setup["cubin_commands"](tmp_path / "voge")
    assert {source for source, _ in commands.values()} == set(sources.units())
    cubin, command = next((cubin, command) for cubin, (source, command) in commands.items() if source.stem == "bins")
    cubin.parent.mkdir(parents=True)
    subprocess.run(command, check=True, timeout=300, cwd=tmp_path)
    script = f"""
from pathlib import Path

sources.folder()
sources.PACKAGE = Path({str(tmp_path / "voge")!r})
nvrtc.compiled = None
for dtype in sources.DTYPES:
    on(0).launch(f"check_finite_{{dtype}}", 1, 32, (x.to(kernels.FLOATS[dtype]), 10, 32, flag))
    assert seen.kernel == f"voge_check_finite_{{dtype}}".encode()
"""
    run(script, stub, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_architectures_without_nvcc_are_an_error(monkeypatch):
    monkeypatch.setenv("VOGE_CUDA_ARCHS", "80 90")
    monkeypatch.setenv("NVCC", "no-such-nvcc")
    setup = runpy.run_path(str(ROOT / "setup.py"))
    with pytest.raises(SystemExit, match="no-such-nvcc was not found"):
        setup["cubin_commands"](ROOT)
    monkeypatch.delenv("VOGE_CUDA_ARCHS")
    assert setup["cubin_commands"](ROOT) == {}


@pytest.mark.parametrize(
    ("version", "missing", "message"),
    [
        (None, None, "needs a torch with CUDA"),
        ("12.4", "cuda.bindings", r"not installed; torch .* pip install 'cuda-bindings==12\.\*'"),
        ("13.0", "cuda.bindings", r"not installed; torch .* pip install 'cuda-bindings==13\.\*'"),
        ("11.8", None, r"cuda-bindings \d+\S* is installed; torch .* pip install 'cuda-bindings==11\.\*'"),
        (torch.version.cuda, "cuda.core", r"pip install 'cuda-core>=1\.0,<2'"),
    ],
)
def test_missing_packages_are_named_with_their_command(version, missing, message, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", version)
    if missing:
        monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message):
        nvrtc.toolkit()


@pytest.mark.parametrize(
    ("major", "package"), [(12, r"nvidia-cuda-nvrtc-cu12==12\.\*"), (13, r"nvidia-cuda-nvrtc==13\.\*")]
)
def test_a_missing_nvrtc_is_named_with_its_command(major, package):
    class Missing:
        def nvrtcVersion(self):
            raise RuntimeError("not found")

    with pytest.raises(ImportError, match=f"pip install '{package}'"):
        nvrtc.compiler(nvrtc.toolkit()._replace(nvrtc=Missing(), major=major))


def test_a_full_gpu_says_what_to_lower():
    with (
        pytest.raises(torch.cuda.OutOfMemoryError, match=r"lower max_hits.*tried to allocate"),
        launcher.memory_advice(),
    ):
        raise torch.cuda.OutOfMemoryError("tried to allocate 3 GiB")


def test_sources_that_are_missing_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PACKAGE", tmp_path)
    sources.folder.cache_clear()
    with pytest.raises(FileNotFoundError, match="install voge again"):
        sources.folder()
    sources.folder.cache_clear()
