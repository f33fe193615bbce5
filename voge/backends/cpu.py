"""The bodies of the operators on the CPU: the native kernels behind render and trace."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from voge import _cpu
from voge.backends import eager, operators
from voge.backends.cameras import sum_to


def _array(x: Tensor | None) -> np.ndarray | None:
    return None if x is None else x.detach().contiguous().numpy()


def _scene(
    means,
    precisions,
    density,
    origins,
    directions,
    valid,
    projection,
    grid,
    max_hits,
    threshold,
    near,
    world,
    segments,
    points,
    median,
):
    return {
        "batch": max(means.shape[0], directions.shape[0]),
        "means": _array(means),
        "precisions": _array(precisions),
        "density": _array(density),
        "origins": _array(origins),
        "directions": _array(directions),
        "valid": _array(valid),
        "projection": _array(projection),
        "height": grid[0],
        "width": grid[1],
        "max_hits": max_hits,
        "threshold": threshold,
        "near": near,
        "world": world,
        "segments": segments,
        "points": points,
        "median": median,
        "threads": torch.get_num_threads(),
    }


def _render(
    means: Tensor,  # (G, N, 3); every batch size is 1 or B
    precisions: Tensor,  # (G, N, 3, 3)
    density: Tensor,  # (G, N), absorptivity included
    features: Tensor,  # (F, N, C)
    origins: Tensor,  # (R, 1 or rays, 3)
    directions: Tensor,  # (R, rays, 3)
    valid: Tensor | None,  # (R, rays) bool
    projection: Tensor | None,  # (R, 3, 4) float64: the rays are its pixel grid
    height: int,
    width: int,
    max_hits: int,  # 0: all
    threshold: float,
    near: float,
    world: bool,
    segments: bool,
    points: int,
    median: bool,
    with_normals: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features (B, rays, C), alpha (B, rays), depth (B, rays), normals (B, rays, 3) or (0, rays, 3) of every ray."""
    scene = _scene(
        *(means, precisions, density, origins, directions, valid, projection),
        *((height, width), max_hits, threshold, near, world, segments, points, median),
    )
    batch = scene["batch"] = max(scene["batch"], features.shape[0])
    rays = directions.shape[1]
    image = means.new_empty(batch, rays, features.shape[2])
    alpha, depth = means.new_empty(batch, rays), means.new_empty(batch, rays)
    normals = means.new_empty(batch if with_normals else 0, rays, 3)
    _cpu.render_forward(
        scene
        | {"features": _array(features), "image": image.numpy(), "alpha": alpha.numpy(), "depth": depth.numpy()}
        | {"normals": normals.numpy() if with_normals else None}
    )
    return image, alpha, depth, normals


def render(*scene_and_options):
    """The operator, or at once what it does where nobody asks for gradients: dispatching it costs 40 us."""
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in scene_and_options[:6])
    return (_render if eager() and not wanted else render_operator)(*scene_and_options)


def _render_backward(
    grad_image: Tensor,
    grad_alpha: Tensor,
    grad_depth: Tensor,
    grad_normals: Tensor,
    means: Tensor,
    precisions: Tensor,
    density: Tensor,
    features: Tensor,
    origins: Tensor,
    directions: Tensor,
    valid: Tensor | None,
    projection: Tensor | None,
    height: int,
    width: int,
    max_hits: int,
    threshold: float,
    near: float,
    world: bool,
    segments: bool,
    points: int,
    median: bool,
    with_normals: bool,
    want_rays: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of means, precisions, density, features, origins and directions (the last two 0 unless wanted)."""
    scene = _scene(
        *(means, precisions, density, origins, directions, valid, projection),
        *((height, width), max_hits, threshold, near, world, segments, points, median),
    )
    batch = scene["batch"] = grad_image.shape[0]
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in (means, precisions, density, features)]
    shared = origins.shape[1] == 1
    grad_origins = origins.new_zeros(origins.shape[0] if shared else batch, *origins.shape[1:])
    grad_directions = directions.new_zeros(batch, *directions.shape[1:]) if want_rays else None
    names = ("grad_means", "grad_precisions", "grad_density", "grad_features")
    _cpu.render_backward(
        scene
        | {name: x.numpy() for name, x in zip(names, grads, strict=True)}
        | {
            "features": _array(features),
            "grad_image": _array(grad_image),
            "grad_alpha": _array(grad_alpha),
            "grad_depth": _array(grad_depth),
            "grad_normals": _array(grad_normals) if with_normals else None,
            "grad_origins": grad_origins.numpy() if want_rays else None,
            "grad_directions": grad_directions.numpy() if grad_directions is not None else None,
        }
    )
    if grad_directions is None:
        grad_directions = torch.zeros_like(directions)
    g_means, g_precisions, g_density, g_features = grads
    g_origins, g_directions = sum_to(grad_origins, origins), sum_to(grad_directions, directions)
    return g_means, g_precisions, g_density, g_features, g_origins, g_directions


def _trace(
    means: Tensor,
    precisions: Tensor,
    density: Tensor,
    origins: Tensor,
    directions: Tensor,
    valid: Tensor | None,
    projection: Tensor | None,
    height: int,
    width: int,
    max_hits: int,
    threshold: float,
    near: float,
    world: bool,
) -> tuple[Tensor, Tensor]:
    """Hits of every ray by ascending length: indices (B, rays, max_hits), -1 for none, and no offsets; or, with
    max_hits 0, flat indices (M,) and offsets (B * rays + 1,)."""
    scene = _scene(
        *(means, precisions, density, origins, directions, valid, projection),
        *((height, width), max_hits, threshold, near, world, False, 1, False),
    )
    batch, rays = scene["batch"], directions.shape[1]
    if max_hits > 0:
        indices = torch.empty(batch, rays, max_hits, dtype=torch.int64)
        _cpu.trace(scene | {"offsets": None, "counts": None, "indices": indices.numpy()})
        return indices, torch.empty(0, dtype=torch.int64)
    counts = torch.empty(batch * rays, dtype=torch.int64)
    _cpu.trace(scene | {"offsets": None, "counts": counts.numpy(), "indices": None})
    offsets = torch.zeros(batch * rays + 1, dtype=torch.int64)
    torch.cumsum(counts, 0, out=offsets[1:])
    indices = torch.empty(int(offsets[-1]), dtype=torch.int64)
    _cpu.trace(scene | {"offsets": offsets.numpy(), "counts": None, "indices": indices.numpy()})
    return indices, offsets


render_operator = operators.render("", _render, _render_backward, "cpu", "cpu")
trace = operators.trace("", _trace, "cpu")
