"""What every CUDA kernel takes of a GPU, as its compiler says: python tools/cuda_report.py [sm_90 ...].

Registers and local memory of a thread, bytes spilled, static shared memory of a block, and the warps that one
multiprocessor has registers for (a launch with much dynamic shared memory holds fewer). Needs NVRTC, no GPU.
"""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from voge.backends import nvrtc, sources

REGISTERS = 65536  # of a multiprocessor
WARPS = {75: 32, 80: 64, 86: 48, 89: 48, 90: 64, 100: 64, 120: 48}  # that a multiprocessor holds, at most
_ENTRY = re.compile(r"Compiling entry function '(\w+)'(.*?)(?=Compiling entry function|\Z)", re.DOTALL)


class Use(NamedTuple):
    """Of one kernel; memory in bytes."""

    registers: int
    stack: int
    spills: int  # stores and loads
    shared: int


def compile_unit(unit: Path, dtypes: tuple[str, ...], target: str) -> tuple[bytes, dict[str, Use]]:
    """The machine code, and kernel -> what it takes."""
    logs = io.StringIO()
    code = nvrtc.compiled(nvrtc.toolkit(), unit, dtypes, target, logs, ptxas_options=["-v"])
    return code, uses(logs.getvalue())


def uses(log: str) -> dict[str, Use]:
    """What ptxas -v says."""

    def number(pattern: str, text: str) -> int:
        return sum(map(int, re.findall(pattern, text)))

    return {
        name: Use(
            number(r"Used (\d+) registers", text),
            number(r"(\d+) bytes stack frame", text),
            number(r"(\d+) bytes spill", text),
            number(r"(\d+) bytes smem", text),
        )
        for name, text in _ENTRY.findall(log)
    }


def warps(use: Use, architecture: int) -> int:
    """That a multiprocessor has registers for."""
    return min(WARPS[architecture], REGISTERS // (32 * 8 * -(-use.registers // 8)))


def main(targets: Sequence[str]) -> None:
    for target in targets or ["sm_90"]:
        print(f"{target:32s} registers    stack   spills   shared    warps")
        start = time.perf_counter()
        for unit in sources.units():
            for name, use in sorted(compile_unit(unit, sources.DTYPES, target)[1].items()):
                kernel = name.removeprefix("voge_")
                held = warps(use, int(target.removeprefix("sm_")))
                columns = " ".join(f"{value:8d}" for value in (*use, held))
                print(f"  {kernel:32s}{columns}")
        print(f"compiled in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
