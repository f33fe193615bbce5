"""Compiles csrc/cuda/*.cu as C++ with the emulator, and for every VOGE_KERNEL the entry that the emulator calls.

Libraries are kept under build/, by a hash of all that they are made of; several processes may build at once."""

import fcntl
import hashlib
import os
import re
import subprocess
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CSRC = ROOT / "csrc"
BUILD = ROOT / "build" / "cuda_emulation"

COMPILER = os.environ.get("CXX", "g++")
COMMON = [
    *("-std=c++17", "-fPIC", "-fvisibility=hidden", "-fno-gnu-unique", "-ffp-contract=off", "-U_FORTIFY_SOURCE"),
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
]
# Of a kernel file and of the link, for each kind of build.
KINDS: dict[str, tuple[list[str], list[str]]] = {
    "plain": (["-O1"], []),
    "race": (["-O1", "-g1", "-fsanitize=thread"], []),
    "sanitize": (
        ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
        ["-fsanitize=address,undefined"],
    ),
    "coverage": (["-O0", "--coverage"], ["--coverage"]),
}


class BuildError(RuntimeError):
    pass


@cache
def kernels(csrc: Path) -> dict[str, tuple[Path, int]]:
    """Of every kernel: its file and the most threads of a block."""
    found: dict[str, tuple[Path, int]] = {}
    shared = (csrc / "cuda" / "warp.h").read_text()
    for source in sorted((csrc / "cuda").glob("*.cu")):
        constants = dict(re.findall(r"constexpr int (\w+) = (\d+);", shared + source.read_text()))
        for name, threads in re.findall(r"^VOGE_KERNEL\(\s*(\w+),\s*(\w+)", source.read_text(), re.MULTILINE):
            found[name] = source, int(constants.get(threads, threads))
    return found


@cache
def library(source: Path, csrc: Path = CSRC, kind: str = "plain") -> Path:
    """The library of one .cu file, built if need be."""
    kernel_flags, link_flags = KINDS[kind]
    kernel_compiler = [
        COMPILER,
        *COMMON,
        *kernel_flags,
        f"-I{csrc}",
        "-include",
        f"{HERE}/emulator.h",
        *("-x", "c++", "-"),
    ]
    entries = [f"EMULATOR_KERNEL({name})" for name, (where, _) in kernels(csrc).items() if where == source]
    code = "\n".join([f'#include "{source}"', *entries, ""])
    text = run([*kernel_compiler, "-E"], code).replace(str(csrc), "").replace(str(HERE), "")
    made_of = [text, emulator_text(), compiler_version(), str([COMMON, KINDS[kind]])]
    target = BUILD / f"{source.stem}-{kind}-{hashlib.sha256(chr(10).join(made_of).encode()).hexdigest()[:20]}"
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (target / "kernels.so").exists():
            run([*kernel_compiler, "-c", "-o", f"{target}/kernels.o"], code)
            for part in ("emulator", "race"):  # not instrumented themselves
                race = f"-DEMULATOR_RACE={int(kind == 'race')}"
                run([COMPILER, *COMMON, "-O2", race, "-c", f"{HERE}/{part}.cpp", "-o", f"{target}/{part}.o"])
            objects = [f"{target}/{name}.o" for name in ("kernels", "emulator", "race")]
            run([COMPILER, *link_flags, "-shared", *objects, "-o", f"{target}/partial.so"])
            (target / "partial.so").rename(target / "kernels.so")
    return target / "kernels.so"


def sanitizer_environment() -> dict[str, str]:
    """For a process that runs kernels of the kind "sanitize"."""
    asan = run([COMPILER, "-print-file-name=libasan.so"]).strip()
    return {**os.environ, "LD_PRELOAD": asan, "ASAN_OPTIONS": "detect_leaks=0", "VOGE_EMULATION_MODE": "sanitize"}


@cache
def emulator_text() -> str:
    return "".join((HERE / name).read_text() for name in ("emulator.h", "emulator.cpp", "race.h", "race.cpp"))


@cache
def compiler_version() -> str:
    return run([COMPILER, "--version"])


def run(command: list[str], text: str = "") -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    if result.returncode:
        raise BuildError(f"{' '.join(command)}\n{result.stderr}")
    return result.stdout
