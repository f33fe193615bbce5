"""How the glue reaches the CUDA kernels: which launcher, sizes of launches, memory of warps."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from voge.backends import launcher

WARP, BLOCK = 32, 128  # threads
MOST_BLOCKS = 2**31 - 1
MOST_WARPS = 4096  # of a launch whose warps have memory of their own; a GPU holds about 2,000
SCRATCH = 1 << 29  # bytes of it in all, one warp's at least
SHARED = 14 * 1024  # bytes of shared memory a warp: about sixteen of them fit an SM
SORT = 2**31 - 1  # elements of torch.sort on a GPU
SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}


class Launcher(Protocol):
    shared_limit: int  # bytes of shared memory that a block may ask for

    def launch(
        self,
        kernel: str,
        grid: int,
        threads: int,
        arguments: Sequence[Tensor | int | float | None],
        shared: int = 0,
    ) -> None: ...


_replacement: Launcher | None = None


@contextmanager
def use_launcher(launcher: Launcher) -> Iterator[None]:
    """The kernels run by `launcher`, whatever the device of the tensors: backend="cuda" takes tensors on the CPU."""
    global _replacement
    before, _replacement = _replacement, launcher
    try:
        yield
    finally:
        _replacement = before


def replaced() -> bool:
    return _replacement is not None


def launcher_for(device: torch.device) -> Launcher:
    return launcher.launcher_for(device) if _replacement is None else _replacement


def advised(body: Callable[..., Any]) -> Callable[..., Any]:
    """The body of an operator; where the GPU's memory does not suffice, its error says what to lower."""

    @functools.wraps(body)
    def run(*arguments: Any) -> Any:
        with launcher.memory_advice():
            return body(*arguments)

    return run


class Memory(NamedTuple):
    """Of the warps of a launch: how many of them, shared memory in bytes and in entries, and the buffer."""

    grid: int
    shared: int = 0
    shared_capacity: int = 0
    scratch: Tensor | None = None


class Launch:
    """The kernels for the tensors of one call: its launcher, and the dtype of the entry points."""

    def __init__(self, x: Tensor) -> None:
        self._launcher = launcher_for(x.device)
        self._suffix = SUFFIXES[x.dtype]
        self._size = x.element_size()

    def threads(self, kernel: str, count: int, *arguments: Any) -> None:
        """A kernel of many warps a block, with one thread a unit."""
        self._launch(kernel, -(-count // BLOCK), BLOCK, arguments)

    def warps(self, kernel: str, count: int, *arguments: Any) -> None:
        """The same with one warp a unit."""
        self.threads(kernel, count * WARP, *arguments)

    def memory(self, count: int, values: int, capacity: int, like: Tensor) -> Memory:
        """For `count` warps: `capacity` entries of `values` numbers each, shared memory or else a buffer's."""
        entry = values * self._size
        shared_capacity = min(capacity, min(SHARED, self._launcher.shared_limit) // entry)
        if capacity <= shared_capacity:
            return Memory(count, shared_capacity * entry, shared_capacity)
        grid = min(count, MOST_WARPS, max(1, SCRATCH // (entry * capacity)))
        return Memory(grid, shared_capacity * entry, shared_capacity, like.new_empty(grid * values * capacity))

    def with_memory(self, kernel: str, memory: Memory, *arguments: Any) -> None:
        """A kernel of one warp a block and a unit."""
        self._launch(kernel, memory.grid, WARP, arguments, memory.shared)

    def _launch(self, kernel: str, blocks: int, threads: int, arguments: Any, shared: int = 0) -> None:
        if blocks > 0:
            grid = min(blocks, MOST_BLOCKS)
            self._launcher.launch(f"{kernel}_{self._suffix}", grid, threads, arguments, shared)


def hit_values(dtype: torch.dtype, segments: bool, points: int, stops: bool = False, backward: bool = False) -> int:
    """Numbers of memory a hit, as csrc/cuda/hits.h counts them; its integers take the place of numbers."""
    integers = 1 + points if segments else 1
    values = 6 + stops + (4 + stops) * backward
    values += (4 + points) * (1 + backward) if segments else 1 + points * (1 + stops) * backward
    return values + -(-4 * integers // dtype.itemsize)


def stable_order(keys: Tensor, count: int, limit: int = SORT) -> Tensor:
    """Indices that sort `keys`, integers from 0 to `count`, equal ones in the order they come in."""
    if keys.numel() <= limit:
        return keys.sort(stable=True).indices

    def order(places: Tensor, low: int, high: int) -> Tensor:  # of the keys from low to high - 1
        mine = keys[places]
        if places.numel() <= limit:
            return places[mine.sort(stable=True).indices]
        if high - low == 1:
            return places
        middle = (low + high) // 2
        halves = []
        for part, *bounds in ((mine < middle, low, middle), (mine >= middle, middle, high)):
            some = [p[m] for p, m in zip(places.split(limit), part.split(limit), strict=True)]
            halves.append(order(torch.cat(some), *bounds))
        return torch.cat(halves)

    return order(torch.arange(keys.numel(), device=keys.device), 0, count + 1)


def starts_of(counts: Tensor) -> Tensor:
    """(n + 1) int64: where each of n parts begins, and where the last one ends."""
    starts = counts.new_zeros(counts.numel() + 1, dtype=torch.int64)
    torch.cumsum(counts.view(-1), 0, dtype=torch.int64, out=starts[1:])
    return starts
