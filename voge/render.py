"""Rendering: features, opacity and depth along every ray, differentiable in everything that goes in."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from voge import backends, checks, reference
from voge.cameras import Cameras
from voge.compat import as_cameras
from voge.gaussians import Gaussians
from voge.rays import Rays, check_shapes

MAX_POINTS = {"hermite": 8, "segments": 5}
MEDIA = ("ray", "world")
DEPTHS = ("expected", "median")


class Rendering(NamedTuple):
    """What `render` returns.

    Attributes:
        features: (..., H, W, C), or (..., C) for rays: sum of weight times feature, background included.
        alpha: (..., H, W): sum of the weights; under hermite it can pass 1.
        depth: (..., H, W): length along the unit ray; 0 where nothing is hit. "expected": sum W l / sum W; "median":
            where half of what the ray loses in all is lost.
        normals: (..., H, W, 3) in the world, of length 1 (0 where nothing is hit), along minus the integral of
            T grad rho; None unless asked for.
        overflow: with a `capacity` on a GPU: int64 of no dimension, 0, or the capacity that is needed; then all else is
            NaN. None without one.
    """

    features: Tensor
    alpha: Tensor
    depth: Tensor
    normals: Tensor | None = None
    overflow: Tensor | None = None


class Settings(NamedTuple):
    """The checked settings of a call; max_hits 0 stands for all."""

    max_hits: int
    threshold: float
    near: float
    world: bool
    quadrature: str
    points: int
    backend: str


class Inputs(NamedTuple):
    """Gaussians and rays with one flat batch dimension each, of size 1 (shared) or of the whole batch."""

    means: Tensor  # (B or 1, N, 3)
    precisions: Tensor  # (B or 1, N, 3, 3)
    density: Tensor  # (B or 1, N), absorptivity included
    features: Tensor  # (B or 1, N, C); C = 0 for fragments
    origins: Tensor  # (B or 1, 1 or rays, 3)
    directions: Tensor  # (B or 1, rays, 3)
    valid: Tensor | None  # (B or 1, rays)
    projection: Tensor | None  # (B or 1, 3, 4) float64: the rays are the pixel grid of this camera
    grid: tuple[int, int]
    batch: torch.Size
    ray_shape: torch.Size


def render(
    gaussians: Gaussians,
    cameras_or_rays: Cameras | Rays | Any,
    features: Tensor,
    max_hits: int | None = None,
    threshold: float = 0.01,
    near: float = 0.0,
    absorptivity: float | Tensor = 1.0,
    medium: str = "ray",
    quadrature: str = "hermite",
    points: int = 1,
    background: Tensor | None = None,
    depth: str = "expected",
    normals: bool = False,
    backend: str | None = None,
    capacity: int | None = None,
) -> Rendering:
    """Composites the features of the Gaussians along every ray: absorption by Gaussian densities.

    A ray meets the Gaussians whose peak exp(q) on it is at least `threshold` and whose length l is above `near`.

    Args:
        gaussians: (..., N). Batches of Gaussians, cameras and features broadcast.
        cameras_or_rays: Cameras (or PyTorch3D cameras): an image; or Rays, whose first dimensions are the batch of the
            Gaussians and features, if there is one.
        features: (..., N, C), any C: colours, descriptors.
        max_hits: keep the nearest this many of a ray; None: all.
        threshold: in [0, 1); 0 stands for 1e-10.
        absorptivity: tau > 0, scales every density; a float or a tensor of one value.
        medium: "ray": the optical depth through a centre does not depend on the direction (the VoGE paper); "world": a
            physical medium, it grows with the width along the ray.
        quadrature: "hermite" with 1 to 8 `points` (1: the paper's rule), or "segments" with 1 to 5: weights that are
            never negative and sum to 1 - T(inf).
        background: what shows through, (C,) or (..., H, W, C): enters with max(0, 1 - alpha). None: black.
        depth: "expected" or "median", see Rendering; a median in a gap between Gaussians has no gradient.
        normals: whether to render normals too.
        backend: None (by device), "cpu", "cuda" or "reference".
        capacity: on a GPU, how many pairs of a Gaussian and a tile of 8 x 4 pixels (or 32 rays) to make room for: the
            call does not wait for the GPU then, as CUDA graphs demand, and checks no values. Not used elsewhere.

    Raises:
        TypeError, ValueError: types, shapes, devices; values that are not finite, not positive definite, out of range.
    """
    settings = check_settings(gaussians, max_hits, threshold, near, medium, quadrature, points, backend)
    if depth not in DEPTHS:
        raise ValueError(f"depth: expected one of {DEPTHS}, got {depth!r}")
    checks.tensor("features", features, (gaussians.num, "C"))
    if capacity is not None:
        checks.integer("capacity", capacity, 1, None)
    wait = capacity is None or settings.backend != "cuda"  # or else no value is read
    x = flatten(gaussians, cameras_or_rays, features, absorptivity, wait)
    overflow = None
    if settings.backend != "reference":
        refuse_tangents("voge.render", settings.backend, x)
        scene = (x.means, x.precisions, x.density, x.features, x.origins, x.directions, x.valid, x.projection)
        options = (*x.grid, *settings[:4], quadrature == "segments", points, depth == "median", normals)
        try:
            if settings.backend == "cpu":
                from voge.backends import cpu

                image, alpha, length, normal = cpu.render(*scene, *options)
            else:
                from voge.backends import cuda

                image, alpha, length, normal, overflow = cuda.render(*scene, *options, capacity or 0)
        except ValueError:
            check_values(gaussians, x)  # says more of what came than the kernels do
            raise
    else:
        check_values(gaussians, x)
        image, alpha, length, normal = reference.render(
            *(x.means, x.precisions, x.density, x.features, x.origins, x.directions),
            depth=depth,
            normals=normals,
            valid=x.valid,
            max_hits=max_hits,
            threshold=settings.threshold,
            near=near,
            medium=medium,
            quadrature=quadrature,
            points=points,
        )
    shape = (*x.batch, *x.ray_shape)
    image, alpha, length = image.reshape(*shape, features.shape[-1]), alpha.reshape(shape), length.reshape(shape)
    if background is not None:
        check_background(background, image, wait)
        image = image + (1 - alpha).clamp(min=0)[..., None] * background
    normal = unit(normal.reshape(*shape, 3)) if normals else None
    return Rendering(image, alpha, length, normal, None if capacity is None else overflow)


def unit(v: Tensor) -> Tensor:
    """v (..., 3) at length 1; 0 stays 0, and its gradient."""
    square = v.square().sum(-1, keepdim=True)
    return v * torch.where(square > 0, square, torch.inf).rsqrt()


def check_settings(
    gaussians: Gaussians,
    max_hits: int | None,
    threshold: float,
    near: float,
    medium: str,
    quadrature: str,
    points: int,
    backend: str | None,
) -> Settings:
    if not isinstance(gaussians, Gaussians):
        raise TypeError(f"gaussians: expected voge.Gaussians, got {type(gaussians).__name__}")
    if max_hits is not None:
        checks.integer("max_hits", max_hits, 1, None)
    if not isinstance(threshold, (int, float)) or not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a number in [0, 1), got {threshold!r}")
    if not isinstance(near, (int, float)) or not near >= 0 or not math.isfinite(near):
        raise ValueError(f"near: expected a finite number >= 0, got {near!r}")
    if medium not in MEDIA:
        raise ValueError(f"medium: expected one of {MEDIA}, got {medium!r}")
    if quadrature not in MAX_POINTS:
        raise ValueError(f"quadrature: expected one of {tuple(MAX_POINTS)}, got {quadrature!r}")
    checks.integer("points", points, 1, MAX_POINTS[quadrature])
    name = backends.choose(backend, gaussians.device)
    return Settings(max_hits or 0, float(threshold or 1e-10), float(near), medium == "world", quadrature, points, name)


def flatten(
    gaussians: Gaussians,
    cameras_or_rays: Cameras | Rays | Any,
    features: Tensor | None,
    absorptivity: float | Tensor,
    values: bool = True,
) -> Inputs:
    """Checks that Gaussians, rays and features fit together, and gives each one flat batch dimension.

    `values`: also check the value of the absorptivity.
    """
    num, dtype, device = gaussians.num, gaussians.dtype, gaussians.device
    shapes = {"gaussians": gaussians.batch_shape}
    if features is not None:
        checks.tensor("features", features, (num, "C"), dtype=dtype, device=device)
        shapes["features"] = features.shape[:-2]
    projection, valid, grid = None, None, (0, 0)
    if isinstance(cameras_or_rays, Rays):
        check_shapes(cameras_or_rays)
        origins, directions, valid = cameras_or_rays
        expect_like("rays", directions, dtype, device)
        shape = cameras_or_rays.shape
        depth = max(len(s) for s in shapes.values())
        if len(shape) < depth:
            raise ValueError(
                f"rays: expected {depth} batch dimensions like the Gaussians or features, got shape {tuple(shape)}"
            )
        ray_batch, ray_shape = shape[:depth], shape[depth:]
        rays = ray_shape.numel()
        shared = origins.shape[:-1].numel() == 1 and ray_batch.numel() == 1
        origins = origins.reshape(1, 1, 3) if shared else origins.expand(*shape, 3).reshape(ray_batch.numel(), rays, 3)
        directions = directions.expand(*shape, 3).reshape(ray_batch.numel(), rays, 3)
        valid = None if valid is None else valid.expand(shape).reshape(ray_batch.numel(), rays)
        shapes["rays"] = ray_batch
    else:
        cameras = as_cameras(cameras_or_rays)
        expect_like("cameras", cameras.R, dtype, device)
        ray_batch, grid = cameras.batch_shape, cameras.image_size
        ray_shape = torch.Size(grid)
        shapes["cameras"] = ray_batch
        origins, directions, projection = cameras._grid()
        origins, directions = origins.reshape(-1, 1, 3), directions.reshape(-1, grid[0] * grid[1], 3)
    batch = checks.broadcast_batch(**shapes)

    def flat(x: Tensor, own: torch.Size, *trailing: int) -> Tensor:  # own: the batch that x is one of
        if own.numel() == 1:
            return (x if x.shape[-len(trailing) :] == trailing else x.expand(trailing)).reshape(1, *trailing)
        return x.expand(*batch, *trailing).reshape(-1, *trailing)

    def whole(x: Tensor) -> Tensor:  # rays: flat already, but perhaps of fewer scenes than the batch
        if x.shape[0] in (1, batch.numel()):
            return x
        return x.unflatten(0, ray_batch).expand(*batch, *x.shape[1:]).reshape(-1, *x.shape[1:])

    own = gaussians.batch_shape
    density = gaussians.density
    if density is None:
        density = torch.ones(num, dtype=dtype, device=device)
    density = absorb(density, absorptivity, values)
    return Inputs(
        flat(gaussians.means, own, num, 3),
        flat(gaussians.precisions, own, num, 3, 3),
        flat(density, own, num),
        gaussians.means.new_empty(1, num, 0)
        if features is None
        else flat(features, features.shape[:-2], *features.shape[-2:]),
        whole(origins),
        whole(directions),
        None if valid is None else whole(valid),
        None if projection is None else whole(projection),
        grid,
        batch,
        ray_shape,
    )


def absorb(density: Tensor, absorptivity: float | Tensor, values: bool = True) -> Tensor:
    """Density times absorptivity, a positive number or a tensor of one."""
    if isinstance(absorptivity, Tensor):
        if absorptivity.numel() != 1 or not absorptivity.is_floating_point():
            raise ValueError(
                f"absorptivity: expected one floating value, got {absorptivity.dtype} {tuple(absorptivity.shape)}"
            )
        if values:
            fits = (absorptivity > 0) & absorptivity.isfinite()
            checks.every("absorptivity", fits, "a finite value above zero", absorptivity)
        return density * absorptivity.reshape(()).to(density)
    if not isinstance(absorptivity, (int, float)) or not absorptivity > 0 or not math.isfinite(absorptivity):
        raise ValueError(f"absorptivity: expected a finite number above zero, got {absorptivity!r}")
    return density if absorptivity == 1 else density * absorptivity


def expect_like(name: str, x: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    if x.dtype != dtype:
        raise TypeError(f"{name}: expected {dtype} like the Gaussians, got {x.dtype}")
    if x.device != device:
        raise ValueError(f"{name}: expected tensors on {device} like the Gaussians, got {x.device}")


def check_background(background: Tensor, image: Tensor, finite: bool) -> None:
    checks.tensor("background", background, (image.shape[-1],), dtype=image.dtype, device=image.device, finite=finite)
    got = background.shape
    tail = image.shape[-len(got) :] if len(got) <= image.dim() else ()
    if len(got) > image.dim() or (len(got) > 1 and any(a not in (1, b) for a, b in zip(got, tail, strict=True))):
        raise ValueError(f"background: expected shape (C,) or {tuple(image.shape)}, got {tuple(got)}")


def refuse_tangents(name: str, backend: str, x: Inputs) -> None:
    """RuntimeError in forward mode: torch would drop the tangents at an operator of ours, and say nothing."""
    if backends.transformed():
        tensors = (x.means, x.precisions, x.density, x.features, x.origins, x.directions)
        if any(torch.autograd.forward_ad.unpack_dual(t).tangent is not None for t in tensors):
            raise RuntimeError(
                f'{name} has no forward-mode derivatives on backend "{backend}"; backend="reference" (plain torch) '
                "has them"
            )


def check_values(gaussians: Gaussians, x: Inputs) -> None:
    """The value checks of the native kernels, of every value."""
    gaussians.check()

    def own(y: Tensor) -> Tensor:  # without a batch, positions are named without one
        return y if x.batch else y[0]

    checks.every("features", own(x.features).isfinite(), "finite values", own(x.features))
    Rays(own(x.origins), own(x.directions), None if x.valid is None else own(x.valid)).check()
