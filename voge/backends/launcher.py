"""Loads and launches the CUDA kernels, on torch's current stream."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from voge.backends import kernels, nvrtc, sources

STATIC_SHARED = 48 * 1024  # bytes of shared memory that a launch gets without asking
MOST_BLOCKS = 2**31 - 1
BOXES: dict[str, Callable[[Any], Any]] = {"i32": ctypes.c_int32, "f64": ctypes.c_double}  # the others are 8 bytes: int


@cache
def launcher_for(device: torch.device) -> CudaLauncher:
    """The one for a GPU, which must have its index."""
    return CudaLauncher(device, device.index, lambda: torch.cuda.current_stream(device).cuda_stream)


class CudaLauncher:
    """The kernels on one GPU.

    Args:
        device: where the tensors are.
        index: of the GPU.
        stream: says the handle of the stream that the next launch belongs to.

    Raises:
        ImportError: one of NVIDIA's packages is missing; names it.
        RuntimeError: the driver is too old for the CUDA that torch was built for, or the GPU for the compiler.
    """

    def __init__(self, device: torch.device, index: int, stream: Callable[[], int]) -> None:
        self._tools = nvrtc.toolkit()
        self._stream = stream
        self._streams = lru_cache(64)(self._tools.core.Stream.from_handle)
        self._device = device
        self._index = index
        self._lock = threading.Lock()
        self._modules: dict[tuple[str, str], Any] = {}
        self._kernels: dict[str, Any] = {}
        self._shared: dict[str, int] = {}  # bytes that a kernel was allowed beyond STATIC_SHARED
        driver = self._tools.driver
        version = _succeed(driver, driver.cuDriverGetVersion())
        if version // 1000 < self._tools.major:
            have = f"{version // 1000}.{version % 1000 // 10}"
            raise RuntimeError(
                f"the NVIDIA driver supports CUDA {have}, torch {torch.__version__} was built for CUDA "
                f"{torch.version.cuda}: install a newer driver, or a torch built for CUDA {have.split('.')[0]}"
            )
        card = self._tools.core.Device(index)
        self.card: tuple[int, int] = tuple(card.compute_capability)
        self.shared_limit: int = card.properties.max_shared_memory_per_block_optin
        before = _succeed(driver, driver.cuCtxGetCurrent())
        card.set_current()
        self._context = _succeed(driver, driver.cuCtxGetCurrent())
        self._address = int(self._context)
        _succeed(driver, driver.cuCtxSetCurrent(before))

    def launch(
        self,
        kernel: str,  # such as "render_forward_f32"
        grid: int,
        threads: int,
        arguments: Sequence[Tensor | int | float | None],
        shared: int = 0,  # bytes of dynamic shared memory
    ) -> None:
        """Queues `grid` blocks of `threads`; none are no launch. Arguments are checked against kernels.SIGNATURES."""
        values = [BOXES.get(kind, int)(value) for kind, value in kernels.plain(kernel, arguments, self._device)]
        if not 0 <= grid <= MOST_BLOCKS:
            raise ValueError(f"grid: expected 0 to {MOST_BLOCKS} blocks, got {grid}")
        if shared > self.shared_limit:
            raise ValueError(f"shared: expected at most {self.shared_limit} bytes on this GPU, got {shared}")
        if grid == 0:
            return
        core, driver, handle = self._tools.core, self._tools.driver, self._stream()
        before = _succeed(driver, driver.cuCtxGetCurrent())  # autograd's threads may have none, or another GPU's
        if elsewhere := int(before) != self._address:
            _succeed(driver, driver.cuCtxSetCurrent(self._context))
        try:
            function = self._kernel(kernel, handle)
            if shared > max(STATIC_SHARED, self._shared.get(kernel, 0)):
                self._allow(kernel, function, shared)
            config = core.LaunchConfig(grid=grid, block=threads, shmem_size=shared)
            core.launch(self._streams(handle), config, function, *values)
        finally:
            if elsewhere:
                _succeed(driver, driver.cuCtxSetCurrent(before))

    def _kernel(self, kernel: str, stream: int) -> Any:
        """Loaded, and before that compiled, when first asked for."""
        if (function := self._kernels.get(kernel)) is not None:
            return function
        driver = self._tools.driver
        capture = driver.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
        if _succeed(driver, driver.cuStreamIsCapturing(stream)) == capture:
            raise RuntimeError(
                f"kernel {kernel} is not loaded yet, and cannot be while a CUDA graph is captured: call "
                "the same function once before the capture to warm up"
            )
        with self._lock:
            name, dtype = kernel.rsplit("_", 1)
            unit = sources.kernels()[name]
            if (module := self._modules.get((unit.stem, dtype))) is None:
                code = nvrtc.code(self._tools, unit, dtype, self.card)
                load = getattr(self._tools.core.ObjectCode, f"from_{code.kind}")
                module = self._modules[unit.stem, dtype] = load(code.data, name=unit.stem)
            return self._kernels.setdefault(kernel, module.get_kernel(f"voge_{kernel}"))

    def _allow(self, kernel: str, function: Any, shared: int) -> None:
        driver = self._tools.driver
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _succeed(driver, driver.cuKernelSetAttribute(attribute, shared, function.handle, self._index))
        self._shared[kernel] = shared


@contextmanager
def memory_advice() -> Iterator[None]:
    """Adds to torch's error for a full GPU what to lower."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise torch.cuda.OutOfMemoryError(
            "the GPU's memory is full: lower max_hits, the size of the picture, the batch or the number of Gaussians, "
            f"or raise threshold. {error}"
        ) from error


def _succeed(driver: Any, result: tuple[Any, ...]) -> Any:
    """What a call of the driver returned beside its status."""
    status, *values = result
    if status != 0:
        _, text = driver.cuGetErrorString(status)
        raise RuntimeError(f"CUDA driver: {(text or b'unknown error').decode()}")
    return values[0] if values else None
