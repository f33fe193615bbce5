"""The fragments route on the GPU: hits of every ray, their weights, and the derivatives of sum w <x, y>."""

from __future__ import annotations

import torch
from torch import Tensor

from voge.backends import operators
from voge.backends.cuda_bins import bin_gaussians, make_scene
from voge.backends.cuda_launch import Launch, advised, hit_values, stable_order, starts_of
from voge.backends.operators import new, slot_rays


@advised
def _trace(means, precisions, density, origins, directions, valid, projection, *settings):
    """The results of `operators.trace`, with the most hits of a ray."""
    scene = make_scene((means, precisions, density, origins, directions, valid, projection), settings)
    launch, batch, rays, max_hits = Launch(means), scene.batch, scene.rays, scene.max_hits
    bins = bin_gaussians(launch, scene, None)
    memory = launch.memory(scene.blocks, 1 + hit_values(means.dtype, False, 1), bins.capacity, means)

    def run(offsets, counts, indices):
        launch.with_memory(
            *("trace", memory, bins.records, *bins.rays(scene), memory.scratch, offsets, counts, indices),
            *bins.numbers(scene, memory),
        )

    if max_hits > 0:
        indices = means.new_empty(batch, rays, max_hits, dtype=torch.int64)
        run(None, None, indices)
        return indices, indices.new_empty(0), torch.tensor(max_hits)
    counts = means.new_zeros(batch * rays, dtype=torch.int64)
    run(None, counts, None)
    offsets = starts_of(counts)
    most = counts.max() if counts.numel() else offsets[0]
    hits, most = torch.stack([offsets[-1], most]).tolist()
    indices = offsets.new_empty(hits)
    run(offsets, None, indices)
    return indices, offsets, torch.tensor(most)


trace = operators.trace("cuda_", _trace, None, most=True)


# ---- hits: length, peak and width of every slot


class _Slots:
    """Flat views of the slots, and the numbers that say where a ray's are."""

    def __init__(self, like: Tensor, offsets: Tensor) -> None:
        self.offsets = offsets.contiguous() if offsets.shape[0] else None
        self.rays = slot_rays(like, offsets)
        self.most = 0 if self.offsets is not None else like.shape[-1]

    def by_row(self, launch: Launch, indices: Tensor, items: int, num: int) -> tuple[Tensor, Tensor, Tensor]:
        """Slots in the order of their rows, where each row begins among them, and the ray of each slot."""
        keys, ray_of = torch.empty_like(indices), torch.empty_like(indices)
        launch.warps(
            *("slot_keys", self.rays, indices, self.offsets, keys, ray_of, self.rays, self.most),
            *(items, num),
        )
        order = stable_order(keys.view(-1), items * num)
        rows = torch.arange(items * num + 1, device=keys.device)
        return order, torch.searchsorted(keys.view(-1)[order], rows), ray_of


def _prepare(launch: Launch, *tensors: Tensor) -> list[Tensor]:
    """Means, precisions, density, origins and directions; and the records of the Gaussians."""
    means, precisions, density, *rays = (x.detach().contiguous() for x in tensors)
    records = means.new_empty(*density.shape, 12)
    flag = means.new_zeros(1, dtype=torch.int32)  # not read: the search for the hits has checked the values
    launch.threads("records", density.numel(), means, precisions, density, density.numel(), records, flag)
    return [records, precisions, *rays]


def _sizes(means: Tensor, origins: Tensor, directions: Tensor) -> tuple[int, ...]:
    return directions.shape[1], means.shape[1], means.shape[0], directions.shape[0], origins.shape[1]


@advised
def _hits(indices, offsets, means, precisions, density, origins, directions, world):
    launch, indices, slots = Launch(means), indices.contiguous(), _Slots(indices, offsets)
    records, _, *rays = _prepare(launch, means, precisions, density, origins, directions)
    out = [new(means, indices) for _ in range(3)]
    launch.warps(
        *("fragment_hits", slots.rays, indices, slots.offsets, records, *rays, *out),
        *(slots.rays, slots.most, *_sizes(means, origins, directions), world),
    )
    return tuple(out)


@advised
def _hits_backward(grad_lengths, grad_peaks, grad_widths, indices, offsets, *inputs_and_world):
    means, precisions, density, origins, directions, world = inputs_and_world
    launch, indices, slots = Launch(means), indices.contiguous(), _Slots(indices, offsets)
    records, precisions, *rays = _prepare(launch, means, precisions, density, origins, directions)
    upstream = [x.contiguous() for x in (grad_lengths, grad_peaks, grad_widths)]
    grads = [new(x, x) for x in (means, precisions, density)]
    order, starts, ray_of = slots.by_row(launch, indices, means.shape[0], means.shape[1])
    sizes = _sizes(means, origins, directions)
    launch.warps(
        *("fragment_hits_gaussians", density.numel(), order, starts, ray_of, records, precisions, *rays, *upstream),
        *(*grads, *sizes, world),
    )
    grad_origins, grad_directions = means.new_empty(directions.shape), means.new_empty(directions.shape)
    launch.warps(
        *("fragment_hits_rays", directions[..., 0].numel(), indices, slots.offsets, records, precisions, *rays),
        *(*upstream, grad_origins, grad_directions, slots.rays, slots.most, *sizes, world),
    )
    return *grads, grad_origins.sum_to_size(origins.shape), grad_directions


hits = operators.hits("cuda_", _hits, _hits_backward, "cuda", None)


# ---- weights


def _weigh(kernel: str, lengths, peaks, widths, offsets, most, quadrature, points, *arrays, backward=False):
    launch, slots, segments = Launch(lengths), _Slots(lengths, offsets), quadrature == "segments"
    values = hit_values(lengths.dtype, segments, points, backward=backward)
    memory = launch.memory(slots.rays, values, int(most), lengths)
    launch.with_memory(
        *(kernel, memory, *(x.detach().contiguous() for x in (lengths, peaks, widths)), slots.offsets, slots.most),
        *(slots.rays, segments, points, memory.shared_capacity, int(most), memory.scratch, *arrays),
    )


@advised
def _weights(*hits_and_rule):
    out = new(hits_and_rule[0], hits_and_rule[0])
    _weigh("weigh_slots", *hits_and_rule, out)
    return out


@advised
def _weights_backward(grad, *hits_and_rule):
    grads = [new(grad, grad) for _ in range(3)]
    _weigh("weigh_slots_backward", *hits_and_rule, grad.contiguous(), *grads, backward=True)
    return tuple(grads)


weights = operators.weights("cuda_", _weights, _weights_backward, "cuda", None, most=True)


# ---- products


@advised
def _gather(weights, indices, offsets, x):
    launch, slots = Launch(x), _Slots(indices, offsets)
    weights, indices, x = (a.detach().contiguous() for a in (weights, indices, x))
    y = x.new_empty(slots.rays, x.shape[2])
    launch.warps(
        *("gather_slots", slots.rays, indices, slots.offsets, weights, x, y),
        *(slots.rays, slots.most, *x.shape),
    )
    return y


@advised
def _scatter(weights, indices, offsets, y, items, num):
    launch, slots, rows, channels = Launch(y), _Slots(indices, offsets), items * num, y.shape[1]
    x = y.new_empty(items, num, channels)
    by_row = slots.by_row(launch, indices.contiguous(), items, num)
    weights, y = weights.detach().contiguous(), y.detach().contiguous()
    launch.warps("scatter_slots", rows, *by_row, weights, y, x, rows, channels)
    return x


@advised
def _pair(x, y, indices, offsets):
    launch, slots, w = Launch(x), _Slots(indices, offsets), new(x, indices)
    x, y, indices = (a.detach().contiguous() for a in (x, y, indices))
    launch.warps(
        *("pair_slots", slots.rays, indices, slots.offsets, x, y, w),
        *(slots.rays, slots.most, *x.shape),
    )
    return w


products = operators.products("cuda_", operators.Products(_gather, _scatter, _pair), None)
