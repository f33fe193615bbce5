"""A launcher that runs the CUDA kernels on CPU tensors, with the interface of the one for GPUs."""

import ctypes
import os
import re
import subprocess
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch

from tests.cuda_emulation import build

Argument = torch.Tensor | float | int | None

# Letters of a kernel's parameter types, as emulator.h gives them; capital for pointers.
DTYPES = {
    "F": (torch.float32,),
    "D": (torch.float64,),
    "B": (torch.uint8, torch.bool),
    "I": (torch.int32,),
    "U": (torch.int32, torch.uint32),
    "L": (torch.int64,),
}
SCALARS = {"i": ctypes.c_int32, "l": ctypes.c_int64, "f": ctypes.c_float, "d": ctypes.c_double}
# The build that a mode runs.
MODES = {"in_order": "plain", "shuffled": "plain", "race": "race", "sanitize": "sanitize"}


class EmulationError(RuntimeError):
    """A kernel did what it must not do on a GPU."""


class Region(ctypes.Structure):
    _fields_ = [("begin", ctypes.c_void_p), ("bytes", ctypes.c_uint64), ("element", ctypes.c_uint64)]


class Launch(ctypes.Structure):
    _fields_ = [
        ("kernel", ctypes.c_void_p),
        ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("grid", ctypes.c_int32),
        ("threads", ctypes.c_int32),
        ("shared", ctypes.c_int64),
        ("shuffled", ctypes.c_int32),
        ("regions", ctypes.c_int32),
        ("seed", ctypes.c_uint64),
        ("region", ctypes.POINTER(Region)),
        ("message", ctypes.c_char_p),
        ("message_bytes", ctypes.c_uint64),
    ]


class EmulatedLauncher:
    """Modes: "in_order", "shuffled" (by seed: order of blocks, and of the lanes between their exchanges), "race",
    "sanitize" (in a process as of `build.sanitizer_environment`). The environment may choose the mode and the source
    tree for tests that do not, and asks for gcov's counts."""

    shared_limit = 99 * 1024
    lock = threading.Lock()

    def __init__(self, mode: str | None = None, seed: int = 0, csrc: Path | None = None):
        self.mode, self.seed = mode or os.environ.get("VOGE_EMULATION_MODE", "in_order"), seed
        self.csrc = csrc or Path(os.environ.get("VOGE_EMULATION_CSRC", build.CSRC))
        self.kind = MODES[self.mode]
        if self.kind == "plain" and "VOGE_EMULATION_COVERAGE" in os.environ:
            self.kind = "coverage"
        self.kernels = build.kernels(self.csrc)

    def launch(self, kernel: str, grid: int, threads: int, arguments: Sequence[Argument], shared: int = 0) -> None:
        name = kernel.rpartition("_")[0]
        if name not in self.kernels:
            raise KeyError(f"no VOGE_KERNEL({name}, ...) in {self.csrc}/cuda")
        source, bound = self.kernels[name]
        if not 1 <= threads <= bound or not 0 < grid < 2**31 or shared < 0:
            raise ValueError(f"{kernel}: {grid} blocks of {threads} threads with {shared} bytes")
        library = load(build.library(source, self.csrc, self.kind))
        values, regions = self.boxed(kernel, library, arguments)
        pointers = (ctypes.c_void_p * max(len(values), 1))(*(ctypes.addressof(v) for v in values))
        message = ctypes.create_string_buffer(1024)
        launch = Launch(
            ctypes.cast(library[f"emulate_voge_{kernel}"], ctypes.c_void_p),
            pointers,
            grid,
            threads,
            shared,
            self.mode == "shuffled",
            len(regions),
            self.seed,
            (Region * max(len(regions), 1))(*regions),
            ctypes.cast(message, ctypes.c_char_p),
            len(message),
        )
        with self.lock:
            failed = library.emulate(ctypes.byref(launch))
        if failed:
            raise EmulationError(f"{kernel}: {located(message.value.decode(), library._name)}")

    def boxed(self, kernel: str, library: ctypes.CDLL, arguments: Sequence[Argument]) -> tuple[list, list[Region]]:
        """C values of the arguments, checked against the types in the source, and the memory that they point to."""
        letters = library[f"types_voge_{kernel}"]
        letters.restype = ctypes.c_char_p
        types = letters().decode()
        if len(types) != len(arguments):
            raise TypeError(f"{kernel} takes {len(types)} arguments ({types}), not {len(arguments)}")
        values: list = []
        regions = []
        for place, (letter, x) in enumerate(zip(types, arguments, strict=True)):
            if letter.islower():
                if not isinstance(x, (int, float)) or (letter in "il" and not isinstance(x, int)):
                    raise TypeError(f"{kernel}, argument {place}: {x!r} for a number of type {letter}")
                values.append(SCALARS[letter](x))
                if letter in "il" and values[-1].value != x:
                    raise OverflowError(f"{kernel}, argument {place}: {x} is beyond its type")
            elif x is None:
                values.append(ctypes.c_void_p(0))
            elif isinstance(x, torch.Tensor) and x.dtype in DTYPES[letter] and x.is_contiguous() and x.is_cpu:
                values.append(ctypes.c_void_p(x.data_ptr()))
                element = min(x.element_size(), 4)  # scratch memory of doubles may hold int32 as well
                regions.append(Region(x.data_ptr(), x.numel() * x.element_size(), element))
            else:
                kind = (x.dtype, tuple(x.shape), x.stride()) if isinstance(x, torch.Tensor) else x
                raise TypeError(f"{kernel}, argument {place}: {kind} for a pointer of type {letter}")
        return values, regions


@cache
def load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def located(message: str, library: str) -> str:
    """The message, with the source line for the address of an instruction."""
    found = re.search(r"@(0x[0-9a-f]+)", message)
    if not found:
        return message
    command = ["addr2line", "-e", library, "-s", "-i", found[1]]
    lines = re.findall(r"^\S+", subprocess.run(command, capture_output=True, text=True).stdout, re.MULTILINE)
    return message.replace(found[0], " in ".join(lines))
