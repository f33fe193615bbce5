"""Rows of tensors travel to the ranks that need them, and their gradients travel home."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from voge.distributed.ranks import together


class Exchange(torch.autograd.Function):
    """Sends rows (N, D) to the ranks that need them, and passes on the tensors that all ranks have.

    Arguments: the process group; for each rank the indices (of rows) that it gets; how many rows come from each rank;
    the rows; a tensor that makes gradients flow (see `render`); what all ranks have. Rows come in the order of the
    ranks. Backward: gradients of rows are summed at home in the order of the ranks, gradients of what all have over the
    ranks. One function does both, so that all ranks talk in one order.
    """

    @staticmethod
    def forward(
        ctx: Any, group: Any, targets: list[Tensor], counts: list[int], rows: Tensor, anchor: Tensor, *whole: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.group, ctx.targets, ctx.counts, ctx.num = group, targets, counts, len(rows)
        sent = rows[torch.cat(targets)]
        return all_to_all(sent, list(map(len, targets)), counts, group), *(x.view_as(x) for x in whole)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *grads: Tensor) -> tuple[Tensor | None, ...]:
        sizes = list(map(len, ctx.targets))
        home = all_to_all(grad.contiguous(), ctx.counts, sizes, ctx.group)
        total = grad.new_zeros(ctx.num, grad.shape[1])
        for target, part in zip(ctx.targets, home.split(sizes), strict=True):
            total.index_add_(0, target, part)
        sums: list[Tensor] = []
        if grads:
            flat = torch.cat([x.flatten() for x in grads])
            with together(ctx.group, "summing gradients"):
                dist.all_reduce(flat, group=ctx.group)
            parts = flat.split([x.numel() for x in grads])
            sums = [part.view(x.shape) for part, x in zip(parts, grads, strict=True)]
        return None, None, None, total, None, *sums


def all_to_all(x: Tensor, sent: list[int], received: list[int], group: Any) -> Tensor:
    """Of x (sum of `sent`, ...) the first sent[0] rows go to rank 0, and so on; what comes is in the same order."""
    out = x.new_empty(sum(received), *x.shape[1:])
    with together(group, "exchanging Gaussians"):
        dist.all_to_all_single(out, x, received, sent, group)
    return out


def exchange_counts(targets: list[Tensor], group: Any) -> list[int]:
    """How many rows come from each rank when each sends those of its `targets`."""
    ones = [1] * len(targets)
    return all_to_all(targets[0].new_tensor([len(x) for x in targets]), ones, ones, group).tolist()
