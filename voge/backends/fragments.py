"""The fragments route on the CPU: hits, weights, and the derivatives of sum w <x, y>: gather, scatter, pair."""

from __future__ import annotations

import torch
from torch import Tensor

from voge import _cpu
from voge.backends import operators
from voge.backends.operators import new, slot_rays


def _call(kernel, offsets: Tensor, rays: int, arrays: dict, slots: dict, **options) -> None:
    """Runs a native kernel; arrays keep their shapes, arrays of slots go flat."""
    kernel(
        {name: None if x is None else x.detach().contiguous().numpy() for name, x in arrays.items()}
        | {name: x.detach().contiguous().view(-1).numpy() for name, x in slots.items()}
        | {"offsets": offsets.numpy() if offsets.numel() else None, "rays": rays, "threads": torch.get_num_threads()}
        | options
    )


# ---- hits: length, peak and width of every slot


def _hits(
    indices: Tensor,
    offsets: Tensor,
    means: Tensor,  # (G, N, 3); every batch size is 1 or B
    precisions: Tensor,  # (G, N, 3, 3)
    density: Tensor,  # (G, N), absorptivity included
    origins: Tensor,  # (R, 1 or rays, 3)
    directions: Tensor,  # (R, rays, 3)
    world: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths, peaks and widths of the slots; 0, 0 and 1 where they are empty."""
    out = [new(means, indices) for _ in range(3)]
    _call(
        _cpu.fragment_hits,
        offsets,
        slot_rays(indices, offsets),
        {"means": means, "precisions": precisions, "density": density, "origins": origins, "directions": directions},
        {"indices": indices} | dict(zip(("lengths", "peaks", "widths"), out, strict=True)),
        world=world,
    )
    return out[0], out[1], out[2]


def _hits_backward(
    grad_lengths: Tensor,
    grad_peaks: Tensor,
    grad_widths: Tensor,
    indices: Tensor,
    offsets: Tensor,
    means: Tensor,
    precisions: Tensor,
    density: Tensor,
    origins: Tensor,
    directions: Tensor,
    world: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to means, precisions, density, origins and directions."""
    inputs = {
        "means": means,
        "precisions": precisions,
        "density": density,
        "origins": origins,
        "directions": directions,
    }
    grads = {f"grad_{name}": new(x, x) for name, x in inputs.items()}
    _call(
        _cpu.fragment_hits_backward,
        offsets,
        slot_rays(indices, offsets),
        inputs | grads,
        {"indices": indices, "grad_lengths": grad_lengths, "grad_peaks": grad_peaks, "grad_widths": grad_widths},
        world=world,
    )
    a, b, c, d, e = grads.values()
    return a, b, c, d, e


hits = operators.hits("", _hits, _hits_backward, "cpu", "cpu")


# ---- weights


def _weights(lengths: Tensor, peaks: Tensor, widths: Tensor, offsets: Tensor, quadrature: str, points: int) -> Tensor:
    """Weights of the slots by "hermite" or "segments"."""
    out = new(lengths, lengths)
    slots = {"lengths": lengths, "peaks": peaks, "widths": widths, "weights": out}
    _call(_cpu.fragment_weights, offsets, slot_rays(lengths, offsets), {}, slots, quadrature=quadrature, points=points)
    return out


def _weights_backward(
    grad: Tensor, lengths: Tensor, peaks: Tensor, widths: Tensor, offsets: Tensor, quadrature: str, points: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to lengths, peaks and widths."""
    out = [new(lengths, lengths) for _ in range(3)]
    slots = {"lengths": lengths, "peaks": peaks, "widths": widths, "grad_weights": grad}
    slots |= dict(zip(("grad_lengths", "grad_peaks", "grad_widths"), out, strict=True))
    _call(
        _cpu.fragment_weights_backward,
        offsets,
        slot_rays(lengths, offsets),
        {},
        slots,
        quadrature=quadrature,
        points=points,
    )
    return out[0], out[1], out[2]


weights = operators.weights("", _weights, _weights_backward, "cpu", "cpu")


# ---- F = sum over slots of w <x of the slot's Gaussian, y of its ray>, linear in w (slots), x (items, N, C) and
# y (B * rays, C). The rays are split evenly between the items of x. Each operator is one derivative of F, and the other
# two are its adjoint. The bodies run on any device; on the CPU the native kernels take over.


def rows_of(indices: Tensor, offsets: Tensor, items: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row of x and of y of every slot, and whether it holds a hit, flat; empty slots have row 0."""
    rays = slot_rays(indices, offsets)
    ray = torch.arange(rays, device=indices.device)
    if offsets.shape[0]:
        ray = ray.repeat_interleave(offsets.diff(), output_size=indices.shape[0])
    else:
        ray = ray.repeat_interleave(indices.shape[-1])
    flat = indices.reshape(-1)
    hit = flat >= 0
    return torch.where(hit, ray // max(1, rays // items) * num + flat, 0), ray, hit


def _gather(weights: Tensor, indices: Tensor, offsets: Tensor, x: Tensor) -> Tensor:
    """dF/dy (B * rays, C): the weighted sum of x along every ray."""
    y = x.new_zeros(slot_rays(indices, offsets), x.shape[2])
    row, ray, hit = rows_of(indices, offsets, x.shape[0], x.shape[1])
    row, ray, w = row[hit], ray[hit], weights.reshape(-1)[hit]
    return y.index_add_(0, ray, w[:, None] * x.flatten(0, 1)[row])


def _scatter(weights: Tensor, indices: Tensor, offsets: Tensor, y: Tensor, items: int, num: int) -> Tensor:
    """dF/dx (items, N, C): the weighted sum of y over the rays that meet each Gaussian."""
    x = y.new_zeros(items * num, y.shape[1])
    row, ray, hit = rows_of(indices, offsets, items, num)
    row, ray, w = row[hit], ray[hit], weights.reshape(-1)[hit]
    return x.index_add_(0, row, w[:, None] * y[ray]).view(items, num, y.shape[1])


def _pair(x: Tensor, y: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """dF/dw, of the slots' shape: the scalar product of x and y in every slot."""
    row, ray, hit = rows_of(indices, offsets, x.shape[0], x.shape[1])
    w = x.new_zeros(indices.numel())
    w[hit] = (x.flatten(0, 1)[row[hit]] * y[ray[hit]]).sum(-1)
    return w.view(indices.shape)


def _product(kernel, indices: Tensor, offsets: Tensor, weights: Tensor, x: Tensor, y: Tensor) -> None:
    _call(kernel, offsets, slot_rays(indices, offsets), {"x": x, "y": y}, {"indices": indices, "weights": weights})


products = operators.products("", operators.Products(_gather, _scatter, _pair), None)
gather, scatter, pair = products


@gather.register_kernel("cpu")
def _(weights, indices, offsets, x):
    y = x.new_empty(slot_rays(indices, offsets), x.shape[2])
    _product(_cpu.fragment_gather, indices, offsets, weights, x, y)
    return y


@scatter.register_kernel("cpu")
def _(weights, indices, offsets, y, items, num):
    x = y.new_empty(items, num, y.shape[1])
    _product(_cpu.fragment_scatter, indices, offsets, weights, x, y)
    return x


@pair.register_kernel("cpu")
def _(x, y, indices, offsets):
    w = new(x, indices)
    _product(_cpu.fragment_pair, indices, offsets, w, x, y)
    return w
