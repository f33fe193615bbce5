"""Utils of the official package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def ind_sel(target: Tensor, ind: Tensor, dim: int = 1) -> Tensor:
    """Entries of `target` (k or 1, ..., n, rest) along `dim` at `ind` (k, ..., M): (k, ..., M, rest)."""
    return torch.gather(_expanded(target, ind, dim), dim, _index(target, ind, dim))


def ind_fill(target: Tensor, ind: Tensor, src: Tensor | float, dim: int = 1) -> Tensor:
    """A copy of `target` (k or 1, ..., n, rest) with `src` at `ind` (k, ..., M) along `dim`."""
    target, index = _expanded(target, ind, dim), _index(target, ind, dim)
    return target.scatter(dim, index, src)


def rotation_theta(theta: Tensor | float, device_: Any = None) -> Tensor:
    """(B, 3, 3): turns by theta (B,) about z."""
    theta = torch.as_tensor(theta, device=device_)
    theta = (theta if theta.is_floating_point() else theta.to(torch.get_default_dtype())).reshape(-1)
    cos, sin, zero, one = theta.cos(), theta.sin(), torch.zeros_like(theta), torch.ones_like(theta)
    return torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, one], -1).view(-1, 3, 3)


class Batchifier:
    """Decorator: calls a function on parts of at most `batch_size` of the rows of named arguments and joins the
    results.

    Args:
        batch_size: most rows a call.
        batch_args: names of the keyword arguments to split.
        target_dims: the dimensions that are rows, neighbours from the first on.
        remain_dims: instead, the dimensions that are not, at either end of the shape.
    """

    def __init__(
        self,
        batch_size: int,
        batch_args: str | Sequence[str],
        target_dims: int | Sequence[int] | None = None,
        remain_dims: int | Sequence[int] | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.batch_args = (batch_args,) if isinstance(batch_args, str) else tuple(batch_args)
        self.target_dims = (target_dims,) if isinstance(target_dims, int) else target_dims
        self.remain_dims = (remain_dims,) if isinstance(remain_dims, int) else remain_dims

    def __call__(self, func: Callable) -> Callable:
        def batched(*args: Any, **kwargs: Any) -> Any:
            rows = {name: self._rows(kwargs[name]) for name in self.batch_args}
            first, shape = next(iter(rows.values()))
            flat = {name: kwargs[name].flatten(first, first + len(shape) - 1) for name in self.batch_args}
            count = next(iter(flat.values())).shape[first]
            if any(dims != (first, shape) for dims in rows.values()):
                raise ValueError(f"batch_args: expected equal rows, got {[tuple(size) for _, size in rows.values()]}")
            parts = []
            for i in range(0, count, self.batch_size):
                part = {name: value.narrow(first, i, min(self.batch_size, count - i)) for name, value in flat.items()}
                parts.append(func(*args, **{**kwargs, **part}))
            if isinstance(parts[0], tuple):
                return tuple(torch.cat(part, first).unflatten(first, shape) for part in zip(*parts, strict=True))
            return torch.cat(parts, first).unflatten(first, shape)

        return batched

    def _rows(self, value: Tensor) -> tuple[int, torch.Size]:
        """The first of the dimensions that are rows, and their sizes."""
        if self.target_dims is not None:
            dims = sorted(dim % value.dim() for dim in self.target_dims)
        else:
            remain = {dim % value.dim() for dim in self.remain_dims or ()}
            dims = [dim for dim in range(value.dim()) if dim not in remain]
        if not dims or dims != list(range(dims[0], dims[0] + len(dims))):
            raise ValueError(f"target_dims: expected neighbours, got {dims} of shape {tuple(value.shape)}")
        return dims[0], value.shape[dims[0] : dims[-1] + 1]


class DataParallelBatchifier(Batchifier):
    """`Batchifier`; the parts are computed one after the other where their tensors are, `device` is without effect."""

    def __init__(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


def _expanded(target: Tensor, ind: Tensor, dim: int) -> Tensor:
    return target.expand(*ind.shape[:dim], *target.shape[dim:])


def _index(target: Tensor, ind: Tensor, dim: int) -> Tensor:
    rest = target.shape[dim + 1 :]
    return ind.reshape(*ind.shape, *[1] * len(rest)).expand(*ind.shape, *rest)
