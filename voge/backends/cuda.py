"""The fused route on the GPU: from the operators' arguments to launches of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from voge.backends import eager, operators
from voge.backends.cuda_bins import bin_gaussians, make_scene
from voge.backends.cuda_launch import Launch, advised, hit_values, use_launcher

__all__ = ["render", "use_launcher"]

GEOMETRY_SUMS, FEW_CHANNELS = 10, 8  # as csrc/cuda/render_backward.cu has them


def _rule(segments: bool) -> str:
    return "segments" if segments else "hermite"


@advised
def _render(means, precisions, density, features, origins, directions, valid, projection, *settings):
    """The results of `operators.render` with a hint: how many pairs of a block and a Gaussian to make room for."""
    *basic, segments, points, median, with_normals, hint = settings
    geometry = means, precisions, density, origins, directions, valid, projection
    scene = make_scene(geometry, basic, batch=features.shape[0])
    features, launch = features.detach().contiguous(), Launch(means)
    bins = bin_gaussians(launch, scene, features, hint)
    batch, rays, channels = scene.batch, scene.rays, features.shape[2]
    image, alpha, depth = (means.new_empty(batch, rays, *tail) for tail in ((channels,), (), ()))
    normals = means.new_empty(batch if with_normals else 0, rays, 3)
    values = 1 + hit_values(means.dtype, segments, points, stops=with_normals)
    memory = launch.memory(scene.blocks, values, bins.capacity, means)
    launch.with_memory(
        *(f"render_forward_{_rule(segments)}", memory, bins.records),
        *(scene.precisions if with_normals else None, features),
        *(*bins.rays(scene), memory.scratch, image, alpha, depth, normals if with_normals else None),
        *(*bins.numbers(scene, memory, features.shape[0], channels), scene.world, points, median),
    )
    if bins.overflow is None:
        return image, alpha, depth, normals, means.new_zeros((), dtype=torch.int64)
    image, alpha, depth, normals = _spoil(bins.overflow, image, alpha, depth, normals)
    return image, alpha, depth, normals, bins.overflow


def _spoil(overflow: Tensor, *results: Tensor) -> tuple[Tensor, ...]:
    """NaN where there was no room for all pairs."""
    return tuple(torch.where(overflow > 0, torch.nan, x) for x in results)


@advised
def _render_backward(grad_image, grad_alpha, grad_depth, grad_normals, means, precisions, density, features, *rest):
    """Gradients of means, precisions, density, features, origins and directions (the last two 0 unless wanted)."""
    origins, directions, valid, projection, *settings, want_rays = rest
    *basic, segments, points, median, with_normals, hint = settings
    geometry = means, precisions, density, origins, directions, valid, projection
    scene = make_scene(geometry, basic, batch=grad_image.shape[0])
    features, launch = features.detach().contiguous(), Launch(means)
    upstream = [x.contiguous() for x in (grad_image, grad_alpha, grad_depth)]
    bins = bin_gaussians(launch, scene, features, hint, check=False, slots=True)
    batch, rays, channels, pairs = scene.batch, scene.rays, features.shape[2], bins.list.numel()
    slot_geometry, slot_features = means.new_empty(pairs, GEOMETRY_SUMS), means.new_empty(pairs, channels)
    shared = scene.origins.shape[1] == 1
    grad_directions = means.new_empty(batch, rays, 3) if want_rays else None
    grad_origins = means.new_empty(batch, rays, 3) if want_rays and not shared else None
    block_origins = means.new_empty(scene.blocks, 3, dtype=torch.float64) if want_rays and shared else None
    values = hit_values(means.dtype, segments, points, stops=with_normals, backward=True)
    values += 1 + GEOMETRY_SUMS + (channels if channels <= FEW_CHANNELS else 0)  # mark and sums of a pair
    memory = launch.memory(scene.blocks, values, bins.capacity, means)
    launch.with_memory(
        *(f"render_backward_{_rule(segments)}", memory, bins.records),
        *(scene.precisions, features, *bins.rays(scene), bins.slot),
        *(*upstream, grad_normals.contiguous() if with_normals else None, memory.scratch),
        *(slot_geometry, slot_features, grad_origins, grad_directions, block_origins),
        *(*bins.numbers(scene, memory, features.shape[0], channels), scene.world, points, median),
    )
    g_means, g_precisions, g_density, g_features = (
        torch.empty_like(x) for x in (scene.means, scene.precisions, scene.density, features)
    )
    geometry_batch, num = g_density.shape
    launch.warps(
        *("reduce_gaussians", geometry_batch * num, slot_geometry, bins.slot_starts, scene.precisions),
        *(g_means, g_precisions, g_density, batch, geometry_batch, num),
    )
    launch.warps(
        *("reduce_features", features.shape[0] * num, slot_features, bins.slot_starts, g_features),
        *(batch, features.shape[0], num, channels),
    )
    if block_origins is not None:
        grad_origins = block_origins.view(batch, -1, 3).sum(1, keepdim=True).to(origins)
    grads = (
        *(g_means, g_precisions, g_density, g_features),
        torch.zeros_like(origins) if grad_origins is None else grad_origins.sum_to_size(origins.shape),
        torch.zeros_like(directions) if grad_directions is None else grad_directions.sum_to_size(directions.shape),
    )
    return grads if bins.overflow is None else _spoil(bins.overflow, *grads)


_operator = operators.render("cuda_", _render, _render_backward, "cuda", None, "SymInt capacity")


def render(*scene_and_options) -> tuple[Tensor, ...]:
    """Image, alpha, depth, normals and overflow; without dispatching the operator where nobody asks for gradients."""
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in scene_and_options[:6])
    return (_render if eager() and not wanted else _operator)(*scene_and_options)
