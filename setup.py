"""Builds the native module voge._cpu; everything else about the package stands in pyproject.toml.

No torch takes part. The kernels are compiled once per instruction set (csrc/cpu/isa_*.cpp, each with its own flags) and
one of them is chosen at run time, so nothing here ties the module to the machine that builds it. CXX, CXXFLAGS and
LDFLAGS are honoured.

The CUDA sources go into the package as they are, to be compiled when they are first used. VOGE_CUDA_ARCHS="80 90"
compiles them here, with nvcc (NVCC, NVCCFLAGS), for these architectures.
"""

from __future__ import annotations

import os
import runpy
import shlex
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pybind11
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CUDA = runpy.run_path(str(ROOT / "voge" / "backends" / "sources.py"))
FLAGS = [
    *("-std=c++17", "-O3", "-DNDEBUG", "-fPIC", "-pthread", "-Wall", "-Wextra"),
    *(
        "-fno-math-errno",
        "-fno-trapping-math",
        "-ffp-contract=fast",
    ),  # never -ffast-math: NaN and infinity are checked for
    *("-fvisibility=hidden", "-fvisibility-inlines-hidden"),
]
AVX2 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
AVX512 += ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # g++ 12 warns about its own header
X86_KERNELS = {"isa_avx2": AVX2, "isa_avx512": AVX512}  # stem of the file in csrc/cpu -> its own flags


def find_compiler() -> list[str]:
    """The C++ compiler as the start of a command line: $CXX, else g++, else clang++."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++"]
    for candidate in candidates:
        command = shlex.split(candidate)
        if shutil.which(command[0]):
            return command
    tried = ", ".join(candidates)
    raise SystemExit(f"voge needs a C++17 compiler ({tried} not found). On Debian or Ubuntu: sudo apt-get install g++")


def run(command: list[str]) -> None:
    """Runs a command; what the compiler has to say is on the screen already, so that no traceback follows."""
    status = subprocess.run(command).returncode
    if status:
        raise SystemExit(f"failed with status {status}: {shlex.join(command)}")


def compile_commands(compiler: list[str], folder: Path) -> dict[Path, tuple[Path, list[str]]]:
    """Object file -> (source, the command that makes it), for every source that belongs on this target."""
    target = subprocess.run([*compiler, "-dumpmachine"], capture_output=True, text=True, check=True).stdout
    x86 = target.startswith("x86_64")
    headers = Path(sysconfig.get_path("include"))
    if not (headers / "Python.h").exists():
        raise SystemExit(f"voge needs Python.h ({headers}). On Debian or Ubuntu: sudo apt-get install python3-dev")
    foreign = [pybind11.get_include(), str(headers)]
    includes = [f"-I{ROOT / 'csrc'}", *(f"-isystem{path}" for path in foreign)]
    defines = ["-DVOGE_HAVE_AVX2", "-DVOGE_HAVE_AVX512"] if x86 else []
    common = [*compiler, *FLAGS, *defines, *includes, *shlex.split(os.environ.get("CXXFLAGS", ""))]
    commands = {}
    for source in sorted([*ROOT.glob("csrc/cpu/*.cpp"), *ROOT.glob("csrc/bindings/*.cpp")]):
        own = X86_KERNELS.get(source.stem, [])
        if own and not x86:
            continue
        obj = folder / source.parent.name / f"{source.stem}.o"
        commands[obj] = (source, [*common, *own, "-c", str(source), "-o", str(obj)])
    return commands


def cubin_commands(package: Path) -> dict[Path, tuple[Path, list[str]]]:
    """The same for the CUDA kernels' machine code, inside the package; none without VOGE_CUDA_ARCHS."""
    wanted = os.environ.get("VOGE_CUDA_ARCHS", "").replace(",", " ").split()
    if not wanted:
        return {}
    compiler = shlex.split(os.environ.get("NVCC", "nvcc"))
    if not shutil.which(compiler[0]):
        raise SystemExit(f"VOGE_CUDA_ARCHS is set, but {compiler[0]} was not found: unset it, or name nvcc in NVCC")
    options = [f"-std={CUDA['STANDARD']}", "-I", str(ROOT / "csrc"), *shlex.split(os.environ.get("NVCCFLAGS", ""))]
    commands = {}
    for architecture in wanted:
        for unit in CUDA["units"]():
            cubin = CUDA["cubin"](unit, int(architecture), package)
            target = f"-arch=sm_{architecture}"
            commands[cubin] = (unit, [*compiler, *options, target, "-cubin", str(unit), "-o", str(cubin)])
    return commands


def ninja_file(
    commands: dict[Path, tuple[Path, list[str]]],
    link: list[str],
    module: Path,
    cubins: dict[Path, tuple[Path, list[str]]],
) -> str:
    """The same commands as a build.ninja, with dependencies on headers."""

    def escape(path: Path) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    def shell(command: list[str]) -> str:
        return shlex.join(command).replace("$", "$$")

    lines = ["ninja_required_version = 1.3"]
    lines += [
        "rule compile",
        "  command = $run -MMD -MF $out.d",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = compile $in",
    ]
    lines += ["rule link", f"  command = {shell(link)}", "  description = link $out"]
    for obj, (source, command) in (commands | cubins).items():
        lines += [f"build {escape(obj)}: compile {escape(source)}", f"  run = {shell(command)}"]
    lines += [f"build {escape(module)}: link {' '.join(map(escape, commands))}", ""]
    return "\n".join(lines)


class BuildNative(build_ext):
    """Compiles csrc/ in parallel: with ninja, which rebuilds only what changed, else all of it, one compiler a core."""

    def build_extension(self, ext: Extension) -> None:
        compiler = find_compiler()
        module = Path(self.get_ext_fullpath(ext.name)).resolve()
        folder = Path(self.build_temp).resolve() / "csrc"
        commands = compile_commands(compiler, folder)
        cubins = cubin_commands(module.parent)
        for parent in {module.parent, *(obj.parent for obj in (commands | cubins))}:
            parent.mkdir(parents=True, exist_ok=True)
        link = [
            *compiler,
            "-shared",
            "-pthread",
            *map(str, commands),
            "-ldl",
            *shlex.split(os.environ.get("LDFLAGS", "")),
            "-o",
            str(module),
        ]
        ninja = shutil.which("ninja", path=os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")]))
        if ninja:
            (folder / "build.ninja").write_text(ninja_file(commands, link, module, cubins))
            run([ninja, "-C", str(folder)])
        else:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(run, [command for _, command in (commands | cubins).values()]))
            run(link)


class BuildPackage(build_py):
    """Also copies the CUDA sources into the package; an editable installation reads them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for pattern in ("core/*.h", "cuda/*.h", "cuda/*.cu"):
            for source in ROOT.glob(f"csrc/{pattern}"):
                copy = Path(self.build_lib) / "voge" / source.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                self.copy_file(str(source), str(copy))


if __name__ == "__main__":
    setup(
        ext_modules=[Extension("voge._cpu", sources=[])],
        cmdclass={"build_ext": BuildNative, "build_py": BuildPackage},
    )
