"""Every CUDA kernel compiles for real GPUs, without one: NVRTC for each generation, nvcc where it is installed."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from voge.backends import kernels, nvrtc, sources

pytest.importorskip("cuda.bindings", reason="no cuda-bindings: this torch is built without CUDA, or brings none")
cuda_report = pytest.importorskip("tools.cuda_report", reason="no cuda-core")

ROOT = Path(__file__).parents[1]
UNITS = {unit.stem: unit for unit in sources.units()}
MATRIX = {"sm_90": sources.DTYPES} | dict.fromkeys(("sm_75", "sm_80", "sm_89", "sm_100", "sm_120"), ("f32",))
FEWEST_WARPS = 12  # that a multiprocessor must hold at once

WORDS = """
    __device__ __global__ __host__ __forceinline__ __noinline__ __launch_bounds__ __restrict__ __shared__ __align__
    __shfl_sync __shfl_up_sync __shfl_down_sync __shfl_xor_sync __ballot_sync __any_sync __all_sync
    __syncwarp __syncthreads __popc __popcll __clz __clzll __ffs __ffsll __brev
    atomicAdd atomicMin atomicMax atomicOr threadIdx blockIdx blockDim gridDim
    __CUDACC__ __CUDACC_RTC__ __VA_ARGS__
"""
DEVICE_WORD = re.compile(r"\b(?:__\w+|atomic\w+|asm|(?:thread|block|grid)(?:Idx|Dim)|cooperative_groups)\b")
PARAMETER = re.compile(r"(const )?(\w+)\s*\*?\s*(\w+)$")
TYPES = {"int32_t": "i32", "int64_t": "i64", "uint8_t": "u8", "double": "f64", "T": "T"}


@pytest.mark.parametrize("target", MATRIX)
@pytest.mark.parametrize("unit", UNITS)
def test_nvrtc_compiles_every_kernel_without_spills(unit, target):
    code, uses = cuda_report.compile_unit(UNITS[unit], MATRIX[target], target)
    assert code.startswith(b"\x7fELF")
    defined = {name for name, source in sources.kernels().items() if source.stem == unit}
    assert set(uses) == {f"voge_{name}_{dtype}" for name in defined for dtype in MATRIX[target]}
    for name, use in uses.items():
        double = name.endswith("_f64")
        assert double or use.spills == 0, f"{name} spills {use.spills} bytes on {target}"
        held = cuda_report.warps(use, int(target.removeprefix("sm_")))
        assert double or held >= FEWEST_WARPS, f"{name}: {use.registers} registers leave {held} warps on {target}"


@pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")
@pytest.mark.parametrize("unit", UNITS)
def test_nvcc_compiles_every_kernel(unit, tmp_path, monkeypatch):
    """With the build's own command; without optimisation, which NVRTC has done already."""
    monkeypatch.setenv("VOGE_CUDA_ARCHS", "90")
    monkeypatch.setenv("NVCCFLAGS", "-Xcicc -O0 -Xptxas -O0")
    commands = runpy.run_path(str(ROOT / "setup.py"))["cubin_commands"](tmp_path)
    cubin, command = next((cubin, command) for cubin, (source, command) in commands.items() if source.stem == unit)
    cubin.parent.mkdir(parents=True)
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0 and not done.stderr, done.stderr
    code = cubin.read_bytes()
    for name, source in sources.kernels().items():
        if source.stem == unit:
            assert all(f"voge_{name}_{dtype}\0".encode() in code for dtype in sources.DTYPES)


def test_the_table_has_every_kernel_s_parameters():
    """In order, by name and type; every kernel of the table exists once."""
    found = {}
    for unit in UNITS.values():
        text = re.sub(r"//.*", "", unit.read_text(encoding="utf-8"))
        for name, parameters in re.findall(r"^VOGE_KERNEL\(\s*(\w+)\s*,\s*\w+\s*,\s*\(([^)]*)\)", text, re.MULTILINE):
            assert name not in found, f"{name} is defined twice"
            found[name] = tuple(map(kind_of, parameters.split(",")))
    assert found == kernels.SIGNATURES
    assert found.keys() == sources.kernels().keys()


def kind_of(parameter):
    """Name and kind, as kernels.SIGNATURES has them."""
    const, kind, name = PARAMETER.match(" ".join(parameter.split())).groups()
    return name, f"{const or ''}{TYPES[kind]}{'*' * ('*' in parameter)}"


@pytest.mark.parametrize("path", [*UNITS.values(), *sources.folder().glob("cuda/*.h")], ids=lambda path: path.name)
def test_sources_use_only_what_every_compiler_and_the_emulator_have(path):
    text = re.sub(r"//.*", "", path.read_text(encoding="utf-8"))
    assert set(DEVICE_WORD.findall(text)) <= set(WORDS.split())
    for header in re.findall(r"#include\s+(\S+)", text):
        assert re.fullmatch(r'"(core|cuda)/\w+\.h"', header) and (sources.folder() / header.strip('"')).is_file(), (
            header
        )
    if path.name != "kernel.h":
        assert "__shared__" not in text and "extern" not in text


@pytest.mark.parametrize("path", list(sources.folder().glob("core/*.h")), ids=lambda path: path.name)
def test_core_includes_only_itself(path):
    text = path.read_text(encoding="utf-8")
    allowed = r'"core/\w+\.h"' if path.name != "portable.h" else r"<\w+>"
    assert all(re.fullmatch(allowed, header) for header in re.findall(r"#include\s+(\S+)", text))


def test_an_error_of_the_compiler_reaches_the_user(tmp_path):
    unit = tmp_path / "broken.cu"
    unit.write_text('extern "C" __global__ void broken(int* x) { *x = y; }', encoding="utf-8")
    with pytest.raises(Exception, match=r'broken\.cu\(1\): error: identifier "y" is undefined'):
        nvrtc.compiled(nvrtc.toolkit(), unit, ("f32",), "sm_90")


def test_the_report_is_a_line_a_kernel(capsys, monkeypatch):
    monkeypatch.setattr(sources, "units", lambda: [UNITS["reduce"]])
    cuda_report.main(["sm_90"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["sm_90", "registers", "stack", "spills", "shared", "warps"]
    kernel, *columns = next(line.split() for line in lines if "reduce_gaussians_f32" in line)
    assert kernel == "reduce_gaussians_f32" and 0 < int(columns[0]) < 256 and 0 < int(columns[-1]) <= 64
    assert lines[-1].startswith("compiled in")
