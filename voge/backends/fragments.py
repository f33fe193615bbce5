"""The fragments route as torch operators: hits, weights, and the derivatives of sum w <x, y>: gather, scatter, pair.

Slots of hits are dense, (B, rays, K) with no `offsets` (an empty tensor), or ragged, (M,) with offsets (B * rays + 1,).
Annotations stay objects: the schemas are read from them.
"""

from typing import Tuple

import torch
from torch import Tensor

from voge import _cpu


def _call(kernel, offsets: Tensor, rays: int, arrays: dict, slots: dict, **options) -> None:
    """Runs a native kernel; arrays keep their shapes, arrays of slots go flat."""
    kernel(
        {name: None if x is None else x.detach().contiguous().numpy() for name, x in arrays.items()}
        | {name: x.detach().contiguous().view(-1).numpy() for name, x in slots.items()}
        | {"offsets": offsets.numpy() if offsets.numel() else None, "rays": rays, "threads": torch.get_num_threads()}
        | options
    )


def _rays(slots: Tensor, offsets: Tensor) -> int:
    """Rays of all scenes."""
    return offsets.shape[0] - 1 if offsets.shape[0] else slots.shape[0] * slots.shape[1]


def _new(x: Tensor, like: Tensor) -> Tensor:
    """A contiguous empty tensor of the shape of `like` and the type of `x`."""
    return x.new_empty(like.shape)


def _once(name: str):
    def refuse(ctx, *grads):
        raise RuntimeError(
            f'{name} has no second derivatives on backend "cpu"; backend="reference" (plain torch) has them'
        )

    return refuse


# ---- hits: length, peak and width of every slot


@torch.library.custom_op("voge::hits", mutates_args=(), device_types="cpu")
def hits(
    indices: Tensor,
    offsets: Tensor,
    means: Tensor,  # (G, N, 3); every batch size is 1 or B
    precisions: Tensor,  # (G, N, 3, 3)
    density: Tensor,  # (G, N), absorptivity included
    origins: Tensor,  # (R, 1 or rays, 3)
    directions: Tensor,  # (R, rays, 3)
    world: bool,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Lengths, peaks and widths of the slots; 0, 0 and 1 where they are empty."""
    out = [_new(means, indices) for _ in range(3)]
    _call(
        _cpu.fragment_hits,
        offsets,
        _rays(indices, offsets),
        {"means": means, "precisions": precisions, "density": density, "origins": origins, "directions": directions},
        {"indices": indices} | dict(zip(("lengths", "peaks", "widths"), out, strict=True)),
        world=world,
    )
    return out[0], out[1], out[2]


@hits.register_fake
def _(indices, offsets, means, *rest):
    return _new(means, indices), _new(means, indices), _new(means, indices)


@torch.library.custom_op("voge::hits_backward", mutates_args=(), device_types="cpu")
def hits_backward(
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
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients with respect to means, precisions, density, origins and directions."""
    inputs = {
        "means": means,
        "precisions": precisions,
        "density": density,
        "origins": origins,
        "directions": directions,
    }
    grads = {f"grad_{name}": _new(x, x) for name, x in inputs.items()}
    _call(
        _cpu.fragment_hits_backward,
        offsets,
        _rays(indices, offsets),
        inputs | grads,
        {"indices": indices, "grad_lengths": grad_lengths, "grad_peaks": grad_peaks, "grad_widths": grad_widths},
        world=world,
    )
    a, b, c, d, e = grads.values()
    return a, b, c, d, e


@hits_backward.register_fake
def _(grad_lengths, grad_peaks, grad_widths, indices, offsets, means, precisions, density, origins, directions, world):
    return tuple(_new(x, x) for x in (means, precisions, density, origins, directions))


def _hits_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:7])
    ctx.world = inputs[7]


def _hits_backward(ctx, *grads):
    return None, None, *hits_backward(*grads, *ctx.saved_tensors, ctx.world), None


hits.register_autograd(_hits_backward, setup_context=_hits_setup)
hits_backward.register_autograd(_once("voge.trace"))


# ---- weights


@torch.library.custom_op("voge::weights", mutates_args=(), device_types="cpu")
def weights(lengths: Tensor, peaks: Tensor, widths: Tensor, offsets: Tensor, quadrature: str, points: int) -> Tensor:
    """Weights of the slots by "hermite" or "segments"."""
    out = _new(lengths, lengths)
    slots = {"lengths": lengths, "peaks": peaks, "widths": widths, "weights": out}
    _call(_cpu.fragment_weights, offsets, _rays(lengths, offsets), {}, slots, quadrature=quadrature, points=points)
    return out


@weights.register_fake
def _(lengths, *rest):
    return _new(lengths, lengths)


@torch.library.custom_op("voge::weights_backward", mutates_args=(), device_types="cpu")
def weights_backward(
    grad: Tensor, lengths: Tensor, peaks: Tensor, widths: Tensor, offsets: Tensor, quadrature: str, points: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to lengths, peaks and widths."""
    out = [_new(lengths, lengths) for _ in range(3)]
    slots = {"lengths": lengths, "peaks": peaks, "widths": widths, "grad_weights": grad}
    slots |= dict(zip(("grad_lengths", "grad_peaks", "grad_widths"), out, strict=True))
    _call(
        _cpu.fragment_weights_backward,
        offsets,
        _rays(lengths, offsets),
        {},
        slots,
        quadrature=quadrature,
        points=points,
    )
    return out[0], out[1], out[2]


@weights_backward.register_fake
def _(grad, lengths, *rest):
    return _new(lengths, lengths), _new(lengths, lengths), _new(lengths, lengths)


def _weights_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.rule = inputs[4:]


def _weights_backward(ctx, grad):
    return *weights_backward(grad, *ctx.saved_tensors, *ctx.rule), None, None, None


weights.register_autograd(_weights_backward, setup_context=_weights_setup)
weights_backward.register_autograd(_once("voge.trace"))


# ---- F = sum over slots of w <x of the slot's Gaussian, y of its ray>, linear in w (slots), x (items, N, C) and
# y (B * rays, C). The rays are split evenly between the items of x. Each operator is one derivative of F, and the other
# two are its adjoint. The bodies run on any device; on the CPU the native kernels take over.


def rows_of(indices: Tensor, offsets: Tensor, items: int, num: int) -> Tuple[Tensor, Tensor, Tensor]:
    """Row of x and of y of every slot, and whether it holds a hit, flat; empty slots have row 0."""
    rays = _rays(indices, offsets)
    ray = torch.arange(rays, device=indices.device)
    if offsets.shape[0]:
        ray = ray.repeat_interleave(offsets.diff(), output_size=indices.shape[0])
    else:
        ray = ray.repeat_interleave(indices.shape[-1])
    flat = indices.reshape(-1)
    hit = flat >= 0
    return torch.where(hit, ray // max(1, rays // items) * num + flat, 0), ray, hit


@torch.library.custom_op("voge::gather", mutates_args=())
def gather(weights: Tensor, indices: Tensor, offsets: Tensor, x: Tensor) -> Tensor:
    """dF/dy (B * rays, C): the weighted sum of x along every ray."""
    y = x.new_zeros(_rays(indices, offsets), x.shape[2])
    row, ray, hit = rows_of(indices, offsets, x.shape[0], x.shape[1])
    row, ray, w = row[hit], ray[hit], weights.reshape(-1)[hit]
    return y.index_add_(0, ray, w[:, None] * x.flatten(0, 1)[row])


@torch.library.custom_op("voge::scatter", mutates_args=())
def scatter(weights: Tensor, indices: Tensor, offsets: Tensor, y: Tensor, items: int, num: int) -> Tensor:
    """dF/dx (items, N, C): the weighted sum of y over the rays that meet each Gaussian."""
    x = y.new_zeros(items * num, y.shape[1])
    row, ray, hit = rows_of(indices, offsets, items, num)
    row, ray, w = row[hit], ray[hit], weights.reshape(-1)[hit]
    return x.index_add_(0, row, w[:, None] * y[ray]).view(items, num, y.shape[1])


@torch.library.custom_op("voge::pair", mutates_args=())
def pair(x: Tensor, y: Tensor, indices: Tensor, offsets: Tensor) -> Tensor:
    """dF/dw, of the slots' shape: the scalar product of x and y in every slot."""
    row, ray, hit = rows_of(indices, offsets, x.shape[0], x.shape[1])
    w = x.new_zeros(indices.numel())
    w[hit] = (x.flatten(0, 1)[row[hit]] * y[ray[hit]]).sum(-1)
    return w.view(indices.shape)


def _product(kernel, indices: Tensor, offsets: Tensor, weights: Tensor, x: Tensor, y: Tensor) -> None:
    _call(kernel, offsets, _rays(indices, offsets), {"x": x, "y": y}, {"indices": indices, "weights": weights})


@gather.register_kernel("cpu")
def _(weights, indices, offsets, x):
    y = x.new_empty(_rays(indices, offsets), x.shape[2])
    _product(_cpu.fragment_gather, indices, offsets, weights, x, y)
    return y


@scatter.register_kernel("cpu")
def _(weights, indices, offsets, y, items, num):
    x = y.new_empty(items, num, y.shape[1])
    _product(_cpu.fragment_scatter, indices, offsets, weights, x, y)
    return x


@pair.register_kernel("cpu")
def _(x, y, indices, offsets):
    w = _new(x, indices)
    _product(_cpu.fragment_pair, indices, offsets, w, x, y)
    return w


@gather.register_fake
def _(weights, indices, offsets, x):
    return x.new_empty(_rays(indices, offsets), x.shape[2])


@scatter.register_fake
def _(weights, indices, offsets, y, items, num):
    return y.new_empty(items, num, y.shape[1])


@pair.register_fake
def _(x, y, indices, offsets):
    return _new(x, indices)


def _gather_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gather_backward(ctx, grad_y):
    weights, indices, offsets, x = ctx.saved_tensors
    return pair(x, grad_y, indices, offsets), None, None, scatter(weights, indices, offsets, grad_y, *x.shape[:2])


def _scatter_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])


def _scatter_backward(ctx, grad_x):
    weights, indices, offsets, y = ctx.saved_tensors
    return pair(grad_x, y, indices, offsets), None, None, gather(weights, indices, offsets, grad_x), None, None


def _pair_setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _pair_backward(ctx, grad_w):
    x, y, indices, offsets = ctx.saved_tensors
    grad_x = scatter(grad_w, indices, offsets, y, *x.shape[:2])
    return grad_x, gather(grad_w, indices, offsets, x), None, None


gather.register_autograd(_gather_backward, setup_context=_gather_setup)
scatter.register_autograd(_scatter_backward, setup_context=_scatter_setup)
pair.register_autograd(_pair_backward, setup_context=_pair_setup)
