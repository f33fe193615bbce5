"""Machine code of the CUDA kernels for one GPU: built with the package, cached on disk, or from torch's NVRTC."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TextIO

import torch

from voge.backends import sources


class Toolkit(NamedTuple):
    """NVIDIA's Python packages, imported when a kernel is first needed."""

    core: ModuleType
    driver: ModuleType
    nvrtc: ModuleType
    major: int  # of the CUDA that torch was built for


class Code(NamedTuple):
    kind: str  # "cubin", or "ptx" where the compiler is older than the card
    data: bytes


def toolkit() -> Toolkit:
    """Raises ImportError with the command that installs what is missing."""
    version = torch.version.cuda
    if version is None:
        raise ImportError(f"the CUDA backend needs a torch with CUDA, this is {torch.__version__}: see pytorch.org")
    major = int(version.split(".")[0])
    wanted = f"torch {torch.__version__} needs cuda-bindings {major}: pip install 'cuda-bindings=={major}.*'"
    try:
        bindings = import_module("cuda.bindings")
    except ImportError as error:
        raise ImportError(f"cuda-bindings is not installed; {wanted}") from error
    if int(bindings.__version__.split(".")[0]) != major:
        raise ImportError(f"cuda-bindings {bindings.__version__} is installed; {wanted}")
    try:
        core = import_module("cuda.core")
    except ImportError as error:
        raise ImportError("cuda-core is not installed: pip install 'cuda-core>=1.0,<2'") from error
    return Toolkit(core, import_module("cuda.bindings.driver"), import_module("cuda.bindings.nvrtc"), major)


def compiler(tools: Toolkit) -> tuple[str, list[int]]:
    """NVRTC's version and the architectures that it knows; ImportError where there is no NVRTC."""
    try:
        _, major, minor = tools.nvrtc.nvrtcVersion()
        _, architectures = tools.nvrtc.nvrtcGetSupportedArchs()
    except RuntimeError as error:  # the library is loaded by the first call
        package = "nvidia-cuda-nvrtc-cu12==12.*" if tools.major == 12 else f"nvidia-cuda-nvrtc=={tools.major}.*"
        raise ImportError(f"NVRTC, which compiles the kernels, is missing: pip install '{package}'") from error
    return f"{major}.{minor}", sorted(architectures)


def architecture(card: tuple[int, int], version: str, supported: Sequence[int]) -> str:
    """What to compile for a card of this compute capability: its own machine code, an older one of the same family that
    it runs, or PTX, which the driver translates."""
    number = 10 * card[0] + card[1]
    if number < min(supported):
        least = divmod(min(supported), 10)
        raise RuntimeError(
            f"this GPU has compute capability {card[0]}.{card[1]}; CUDA {version} compiles for {least[0]}.{least[1]} "
            f"and later: use a torch built for an older CUDA, or the CPU"
        )
    family = [known for known in supported if known // 10 == card[0] and known <= number]
    return f"sm_{family[-1]}" if family else f"compute_{max(known for known in supported if known < number)}"


def code(tools: Toolkit, unit: Path, dtype: str, card: tuple[int, int]) -> Code:
    """Of the kernels of `unit` whose suffix is `dtype`."""
    for minor in range(card[1], -1, -1):  # a card runs the code of lower minor versions
        if (built := sources.cubin(unit, 10 * card[0] + minor)).is_file():
            return Code("cubin", built.read_bytes())
    version, supported = compiler(tools)
    target = architecture(card, version, supported)
    kind = "cubin" if target.startswith("sm_") else "ptx"
    key = hashlib.sha256("\0".join((sources.digest(), version)).encode()).hexdigest()[:32]
    path = cache_folder() / f"{unit.stem}.{dtype}.{target}.{key}.{kind}"
    if (data := _cached(path)) is None:
        data = compiled(tools, unit, (dtype,), target)
        _keep(path, data)
    return Code(kind, data)


def compiled(
    tools: Toolkit, unit: Path, dtypes: tuple[str, ...], target: str, logs: TextIO | None = None, **options: Any
) -> bytes:
    """`target`: sm_NN for a cubin, compute_NN for PTX."""
    wanted = tools.core.ProgramOptions(
        name=unit.name,
        arch=target,
        std=sources.STANDARD,
        include_path=[str(sources.folder())],
        define_macro=sources.unwanted(dtypes) or None,
        **options,
    )
    program = tools.core.Program(unit.read_text(encoding="utf-8"), "c++", wanted)
    return bytes(program.compile("cubin" if target.startswith("sm_") else "ptx", logs=logs).code)


def cache_folder() -> Path:
    """$VOGE_CACHE, else voge in the user's cache folder."""
    if chosen := os.environ.get("VOGE_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "voge"


def _cached(path: Path) -> bytes | None:
    """The file's contents behind its checksum; None where it is missing or damaged."""
    try:
        whole = path.read_bytes()
    except OSError:
        return None
    data = whole[32:]
    return data if hashlib.sha256(data).digest() == whole[:32] else None


def _keep(path: Path, data: bytes) -> None:
    """Whole or not at all, whatever other processes do; a folder that cannot be written to only costs time."""
    from voge.io import atomic_path

    with suppress(OSError, ValueError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(hashlib.sha256(data).digest() + data)
