"""The CUDA sources: where they are, which kernels they define, and the options of both compilers.

Needs neither torch nor the package: setup.py runs this file to build cubins.
"""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
DTYPES = ("f32", "f64")  # suffixes of kernels
STANDARD = "c++17"
_KERNEL = re.compile(r"^VOGE_KERNEL\(\s*(\w+)", re.MULTILINE)


@cache
def folder() -> Path:
    """csrc with core/ and cuda/: inside an installed package, else the checkout's."""
    for parent in (PACKAGE, PACKAGE.parent):
        if (parent / "csrc" / "cuda").is_dir():
            return parent / "csrc"
    raise FileNotFoundError(f"the CUDA sources are missing from {PACKAGE / 'csrc'}: install voge again")


def units() -> list[Path]:
    """The files that are compiled, each on its own."""
    return sorted(folder().glob("cuda/*.cu"))


@cache
def kernels() -> dict[str, Path]:
    """Kernel, without voge_ and suffix -> the unit that defines it."""
    return {name: unit for unit in units() for name in _KERNEL.findall(unit.read_text(encoding="utf-8"))}


def unwanted(dtypes: tuple[str, ...]) -> list[str]:
    """Macros that leave out the kernels of the other dtypes."""
    return [f"VOGE_NO_{dtype.upper()}" for dtype in DTYPES if dtype not in dtypes]


@cache
def digest() -> str:
    """Of everything that a compilation reads."""
    found = hashlib.sha256(STANDARD.encode())
    for path in sorted([*folder().glob("core/*.h"), *folder().glob("cuda/*.h"), *units()]):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:32]


def cubin(unit: Path, architecture: int, package: Path | None = None) -> Path:
    """Where a build puts the machine code of `unit` for an architecture such as 90. Other sources have other places."""
    return (package or PACKAGE) / "cubins" / digest() / f"{unit.stem}.sm_{architecture}.cubin"
