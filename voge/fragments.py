"""Fragments: which Gaussians every ray meets, where, and with which weight; for samplers and own aggregation."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from voge import checks, reference
from voge.backends import fragments as ops
from voge.backends.operators import Products
from voge.cameras import Cameras
from voge.gaussians import Gaussians
from voge.rays import Rays
from voge.render import check_settings, check_values, flatten, refuse_tangents


@dataclasses.dataclass(frozen=True, eq=False)
class Fragments:
    """Hits of every ray, by ascending length.

    With max_hits=K every tensor is (..., H, W, K), or (..., K) for rays; an empty slot has index -1, weight, length and
    peak 0 and width 1. With max_hits=None every tensor is flat, (M,): ray r of the flattened (batch, rays) has the hits
    offsets[r] to offsets[r + 1].

    Attributes:
        indices: int64, in [0, N) within the ray's own item of the batch.
        weights: how much of the ray each hit absorbs.
        lengths: distance from the origin along the unit ray, world units.
        peaks: optical depth A of the whole hit, absorptivity included.
        widths: standard deviation along the ray, world units.
        offsets: int64 (rays + 1,), or None where the slots are dense.
        batch_shape, ray_shape, num: shape of the batch, shape of the rays ((H, W) for a camera), number N of Gaussians.
        backend: "cpu", "cuda" or "reference": what computed them, and computes interpolate, sample and visibility.
    """

    indices: Tensor
    weights: Tensor
    lengths: Tensor
    peaks: Tensor
    widths: Tensor
    offsets: Tensor | None
    batch_shape: torch.Size
    ray_shape: torch.Size
    num: int
    backend: str = "cpu"

    def interpolate(self, x: Tensor) -> Tensor:
        """Weighted sum along every ray of x (..., N, C), whose batch broadcasts to the fragments': (..., H, W, C)."""
        checks.tensor("x", x, (self.num, "C"), dtype=self.weights.dtype, device=self.weights.device, finite=True)
        x = self._items("x", x, x.shape[:-2])
        y = self._products.gather(self._flat(self.weights), self._flat(self.indices), self._offsets, x)
        return y.reshape(*self.batch_shape, *self.ray_shape, x.shape[-1])

    def alpha(self) -> Tensor:
        """Sum of the weights of every ray, (..., H, W); under hermite it can pass 1."""
        if self.offsets is None:
            return self.weights.sum(-1)
        return self.interpolate(self.weights.new_ones(self.num, 1))[..., 0]

    def sample(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The transpose of interpolate: what an image (..., H, W, C) looks like to every Gaussian.

        Returns:
            **features** (..., N, C), the sum of weight times pixel over the rays that meet each Gaussian, and
            **weight_sum** (..., N). A texture is features / weight_sum; sum both over the batch to join several views.
        """
        w = self.weights
        checks.tensor("image", image, (*self.ray_shape, "C"), dtype=w.dtype, device=w.device, finite=True)
        own = image.shape[: image.dim() - len(self.ray_shape) - 1]
        self._items("image", image, own, len(self.ray_shape) + 1)
        image = image.expand(*self.batch_shape, *self.ray_shape, image.shape[-1]).reshape(-1, image.shape[-1])
        return self._scatter(image), self.visibility()

    def visibility(self, reduce: str = "sum") -> Tensor:
        """Sum or maximum ("sum" | "max") of every Gaussian's weights over all rays: (..., N); 0 where none meets it."""
        if reduce not in ("sum", "max"):
            raise ValueError(f'reduce: expected "sum" or "max", got {reduce!r}')
        rays = self.batch_shape.numel() * self.ray_shape.numel()
        if reduce == "sum":
            return self._scatter(self.weights.new_ones(rays, 1))[..., 0]
        items = self.batch_shape.numel()
        row, _, hit = ops.rows_of(self._flat(self.indices), self._offsets, items, self.num)
        most = self.weights.new_zeros(items * self.num)
        if self.num:
            most = most.scatter_reduce(0, row, torch.where(hit, self.weights.reshape(-1), 0), "amax")
        return most.view(*self.batch_shape, self.num)

    def _scatter(self, y: Tensor) -> Tensor:
        items = self.batch_shape.numel()
        x = self._products.scatter(
            self._flat(self.weights), self._flat(self.indices), self._offsets, y, items, self.num
        )
        return x.view(*self.batch_shape, self.num, y.shape[-1])

    @property
    def _products(self) -> Products:
        if self.backend == "cuda":
            from voge.backends import cuda_fragments

            return cuda_fragments.products
        return ops.products

    @property
    def _offsets(self) -> Tensor:
        return self.indices.new_empty(0) if self.offsets is None else self.offsets

    def _flat(self, slots: Tensor) -> Tensor:
        """Slots with one batch and one ray dimension."""
        if self.offsets is not None:
            return slots
        return slots.reshape(self.batch_shape.numel(), self.ray_shape.numel(), slots.shape[-1])

    def _items(self, name: str, x: Tensor, own: torch.Size, trailing: int = 2) -> Tensor:
        """x with one batch dimension, of size 1 where it is shared."""
        try:
            fits = torch.broadcast_shapes(own, self.batch_shape) == self.batch_shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ValueError(f"{name}: expected a batch that broadcasts to {tuple(self.batch_shape)}, got {tuple(own)}")
        tail = x.shape[len(own) :]
        if own.numel() == 1:
            return x.reshape(1, *tail)
        return x.expand(*self.batch_shape, *tail).reshape(-1, *tail)


def trace(
    gaussians: Gaussians,
    cameras_or_rays: Cameras | Rays | Any,
    max_hits: int | None = None,
    threshold: float = 0.01,
    near: float = 0.0,
    absorptivity: float | Tensor = 1.0,
    medium: str = "ray",
    quadrature: str = "hermite",
    points: int = 1,
    backend: str | None = None,
) -> Fragments:
    """The hits of every ray and their weights, differentiable in Gaussians and rays; arguments are those of `render`.

    Raises:
        TypeError, ValueError: types, shapes, devices; values that are not finite, not positive definite, out of range.
    """
    settings = check_settings(gaussians, max_hits, threshold, near, medium, quadrature, points, backend)
    x = flatten(gaussians, cameras_or_rays, None, absorptivity)
    scene = (x.means, x.precisions, x.density, x.origins, x.directions)
    slots: tuple[Tensor, ...]
    offsets: Tensor | None
    if settings.backend != "reference":
        refuse_tangents("voge.trace", settings.backend, x)
        detached = (*(t.detach() for t in scene), x.valid, x.projection, *x.grid, *settings[:4])
        try:
            if settings.backend == "cpu":
                from voge.backends import cpu

                indices, offsets = cpu.trace(*detached)
                lengths, peaks, widths = ops.hits(indices, offsets, *scene, settings.world)
                weights = ops.weights(lengths, peaks, widths, offsets, quadrature, points)
            else:
                from voge.backends import cuda_fragments as cuda

                indices, offsets, most = cuda.trace(*detached)
                lengths, peaks, widths = cuda.hits(indices, offsets, *scene, settings.world)
                weights = cuda.weights(lengths, peaks, widths, offsets, most, quadrature, points)
        except ValueError:
            check_values(gaussians, x)  # says more of what came than the kernels do
            raise
        slots = (indices, weights, lengths, peaks, widths)
    else:
        check_values(gaussians, x)
        slots = reference.trace(
            *scene,
            valid=x.valid,
            max_hits=max_hits,
            threshold=settings.threshold,
            near=near,
            medium=medium,
            quadrature=quadrature,
            points=points,
        )
        if max_hits is None:
            hit = slots[0] >= 0
            counts = hit.sum(-1).flatten().cumsum(0)
            offsets = torch.cat([counts.new_zeros(1), counts])
            slots = tuple(t[hit] for t in slots)
    if max_hits is not None:
        slots = tuple(t.reshape(*x.batch, *x.ray_shape, max_hits) for t in slots)
        offsets = None
    indices, weights, lengths, peaks, widths = slots
    shapes = (x.batch, x.ray_shape, gaussians.num)
    return Fragments(indices, weights, lengths, peaks, widths, offsets, *shapes, settings.backend)
