"""Checks of arguments. Every message names the argument, what came and what is expected.

Checks of types and shapes cost microseconds and always run. Checks of values read the data (on a GPU: they wait for
it), and are left out while torch.compile traces.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

REAL = (torch.float32, torch.float64)  # what the renderer computes in


def tensor(
    name: str,
    value: Any,
    shape: Sequence[int | str],
    *,
    dtype: torch.dtype | tuple[torch.dtype, ...] | None = None,
    device: torch.device | None = None,
    finite: bool = False,
) -> torch.Tensor:
    """Returns `value` if it is a floating tensor (batch..., *shape); leading dimensions are free.

    Args:
        name: of the argument, for the message.
        shape: trailing sizes. An int is exact; a string is any size, and equal strings are equal sizes.
        dtype: one dtype, or several of which one is demanded. None: any floating one.
        device: None: any.
        finite: also demand that no value is NaN or infinite.

    Raises:
        TypeError: not a tensor, not floating, another dtype.
        ValueError: rank, size, device, or a value that is not finite.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: expected a torch.Tensor of shape {_pattern(shape)}, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(f"{name}: expected a floating dtype, got {value.dtype}")
    if dtype is not None and (value.dtype not in dtype if isinstance(dtype, tuple) else value.dtype != dtype):
        expected = " or ".join(map(str, dtype)) if isinstance(dtype, tuple) else str(dtype)
        raise TypeError(f"{name}: expected {expected}, got {value.dtype}")
    if device is not None and value.device != device:
        raise ValueError(f"{name}: expected a tensor on {device}, got one on {value.device}")
    got = value.shape
    start = len(got) - len(shape)
    fits = start >= 0
    if fits:
        sizes: dict[int | str, int] = {}  # no setdefault: torch 2.4 cannot compile it
        for want, size in zip(shape, got[start:], strict=True):
            if want not in sizes:
                sizes[want] = size if isinstance(want, str) else want
            fits = fits and size == sizes[want]
    if not fits:
        raise ValueError(f"{name}: expected shape {_pattern(shape)}, got {tuple(got)}")
    if finite:
        every(name, value.isfinite(), "finite values", value)
    return value


def every(name: str, good: torch.Tensor, expected: str, value: torch.Tensor | None = None) -> None:
    """ValueError naming the first index where `good` (bool) is false, and `value` there; not under torch.compile."""
    if torch.compiler.is_compiling() or good.all():
        return
    index = tuple(torch.nonzero(~good)[0].tolist())
    got = f", got {value[index].tolist()}" if value is not None else ""
    where = f" at index {index}" if index else ""
    raise ValueError(f"{name}: expected {expected}{got}{where}")


def broadcast_batch(**shapes: Sequence[int]) -> torch.Size:
    """The common shape of the named batch shapes; ValueError naming two that do not broadcast."""
    rank = max([0, *map(len, shapes.values())])
    result, owners = [1] * rank, [""] * rank
    for name, shape in shapes.items():
        for i, size in enumerate(shape, rank - len(shape)):
            if size == 1 or size == result[i]:
                continue
            if result[i] != 1:
                other = owners[i]
                raise ValueError(
                    f"{name}: batch {tuple(shape)} does not broadcast with batch {tuple(shapes[other])} of {other}"
                )
            result[i], owners[i] = size, name
    return torch.Size(result)


def integer(name: str, value: Any, low: int, high: int | None) -> None:
    """TypeError or ValueError unless `value` is an int (not a bool) from `low` to `high`, where None is no limit."""
    wanted = f"an int of at least {low}" if high is None else f"an int from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected {wanted}, got {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name}: expected {wanted}, got {value}")


def number(name: str, value: Any, low: float, high: float, above: bool = True) -> None:
    """TypeError or ValueError unless `value` is a finite number `above` low, or at least low, and at most `high`."""
    wanted = f"a finite number {'above' if above else 'of at least'} {low:g}"
    if high < math.inf:
        wanted += f" and at most {high:g}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name}: expected {wanted}, got {value!r}")
    if not low <= value <= high or value == math.inf or (above and value == low):
        raise ValueError(f"{name}: expected {wanted}, got {value}")


def image_size(name: str, value: Any) -> tuple[int, int]:
    """Returns (H, W) as positive ints, or raises TypeError or ValueError."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    try:
        height, width = value
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected (H, W), got {value!r}") from None
    if not all(hasattr(size, "__index__") and not isinstance(size, bool) for size in (height, width)):
        raise TypeError(f"{name}: expected two ints (H, W), got {value!r}")
    height, width = int(height), int(width)
    if height < 1 or width < 1:
        raise ValueError(f"{name}: expected a height and a width of at least 1, got {value!r}")
    return height, width


def _pattern(shape: Sequence[int | str]) -> str:
    return f"({', '.join(['...', *map(str, shape)])})"
