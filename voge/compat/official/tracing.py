"""RayTracing and Aggregation of the official package.

Per hit it has a length l, act = -q >= 0 (the exponent at the peak) and dsd = d' S d = 1 / (2 width^2), with S = 2
sigmas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import voge
from voge import reference
from voge.gaussians import Gaussians
from voge.rays import Rays

FAR = 1e10  # length and act of an empty slot
LONE_HIT = math.exp(-0.5)  # what a lone central hit weighs at absorptivity 1 before the official package divides by it


def official_weights(weights: Tensor, absorptivity: float) -> Tensor:
    """The official package's weights of this package's (hermite, one point)."""
    return weights / (absorptivity * LONE_HIT)


def ray_tracing(
    transforms: Any,
    points: Tensor,
    isigmas: Tensor,
    rays: Tensor,
    image_size: Sequence[int],
    thr: float,
    n_assign: int,
    bin_size: int | None = None,
    max_points_per_bin: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The n_assign nearest hits of every ray: indices (int32, of the flattened batch, -1: none), lengths, acts, dsds.

    Args:
        transforms, image_size, bin_size, max_points_per_bin: without effect.
        points: (B, N, 3) or (N, 3), relative to the origin of the rays.
        isigmas: (B, N, 3, 3) or (N, 3, 3), S.
        rays: (B, H, W, 3) or (H, W, 3), directions.

    Returns:
        Four of (B, H, W, n_assign).
    """
    points = points if points.dim() == 3 else points[None]
    isigmas = isigmas if isigmas.dim() == 4 else isigmas[None]
    rays = rays if rays.dim() == 4 else rays[None]
    hits = voge.trace(Gaussians(points, 2 * isigmas), Rays(rays.new_zeros(3), rays), max_hits=n_assign, threshold=thr)
    return flat_indices(hits.indices, points.shape[-2]), *_hits(hits.indices, hits.lengths, hits.peaks, hits.widths)


def flat_indices(indices: Tensor, num: int) -> Tensor:
    """Indices (B, ...) in [0, N) as int32 ones of the flattened (B N) set; -1 stays."""
    first = num * torch.arange(len(indices), device=indices.device).view(-1, *[1] * (indices.dim() - 1))
    return torch.where(indices < 0, -1, indices + first).int()


def ray_trace_voge_ray(mus: Tensor, sigmas: Tensor | float, rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths, acts, dsds (R, M) of every ray and Gaussian.

    Args:
        mus: (M, 3), relative to the origin of the rays.
        sigmas: S, a number, (M,) or (M, 3, 3).
        rays: (R, 3), directions.
    """
    S = mus.new_full((len(mus),), sigmas) if isinstance(sigmas, (int, float)) else sigmas
    lengths, _, widths, q = reference.hits(mus, 2 * expend_sigma(S), None, mus.new_zeros(1, 3), rays)
    return lengths, -q, 0.5 / widths**2


def find_nearest_k(
    hit_len_in: Tensor, hit_act_in: Tensor, hit_dsd_in: Tensor, K: int, thr: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of hits (R, M) in front and above the threshold the K nearest, ascending: indices (int32, -1: none), lengths,
    acts, dsds (R, K)."""
    return _first_k(hit_len_in, hit_len_in, hit_act_in, hit_dsd_in, K, thr)


def find_farest_k(
    hit_len_in: Tensor, hit_act_in: Tensor, hit_dsd_in: Tensor, K: int, thr: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Like `find_nearest_k`, the K furthest, descending."""
    return _first_k(-hit_len_in, hit_len_in, hit_act_in, hit_dsd_in, K, thr)


def get_cross_activation(sel_length: Tensor, sel_dsd: Tensor) -> Tensor:
    """z (..., K, K): [m, k] = (l_m - l_k) sqrt(dsd_k)."""
    return (sel_length[..., :, None] - sel_length[..., None, :]) * (sel_dsd[..., None, :] + 1e-10).sqrt()


def assign2weight(sel_activation: Tensor, cross_activation: Tensor, occupation_weight: float = 1.0) -> Tensor:
    """Weights (..., K) of acts (..., K) and z (..., K, K); occupation_weight is the absorptivity."""
    crossed = torch.exp(-sel_activation[..., None, :]) * (torch.erf(cross_activation) + 1) / 2
    return torch.exp(-occupation_weight * crossed.sum(-1) - sel_activation) / LONE_HIT


def aggregation(
    sel_idx: Tensor, sel_act: Tensor, sel_len: Tensor, sel_dsd: Tensor, occupation_weight: float = 1.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights (..., K), indices, how many hits (...), and lengths, of hits (..., K) with index -1 where there are
    none."""
    hit = sel_idx >= 0
    peaks = torch.where(hit, occupation_weight * torch.exp(-sel_act), 0)
    widths = torch.where(hit, 2 * sel_dsd, 1).rsqrt()
    weights = reference.hermite(peaks, torch.where(hit, sel_len, 0), widths)
    return official_weights(weights, occupation_weight), sel_idx, hit.sum(-1), sel_len


def merge_final(vert_attr: Tensor, weight: Tensor, vert_assign: Tensor, valid_num: Tensor | None = None) -> Tensor:
    """Sums (..., C) of attributes (N, C) with weights (..., K) at indices (..., K); valid_num is without effect."""
    hit = vert_assign >= 0
    attributes = vert_attr[torch.where(hit, vert_assign, 0).long()]
    return (torch.where(hit, weight, 0)[..., None] * attributes).sum(-2)


def expend_sigma(sigma: Tensor, rotation_matrix: Tensor | None = None) -> Tensor:
    """(..., N, 3, 3): R diag(sigma) R' of sigmas (N,), (N, 3) or, as they are, (..., N, 3, 3)."""
    if sigma.dim() >= 3:
        if sigma.shape[-2:] != (3, 3):
            raise ValueError(f"sigma: expected shape (N,), (N, 3) or (N, 3, 3), got {tuple(sigma.shape)}")
        return sigma
    if (sigma.dim() == 2 and sigma.shape[-1] != 3) or sigma.dim() == 0:
        raise ValueError(f"sigma: expected shape (N,), (N, 3) or (N, 3, 3), got {tuple(sigma.shape)}")
    matrices = torch.diag_embed(sigma.view(len(sigma), -1).expand(-1, 3))
    if rotation_matrix is None:
        return matrices
    rotation_matrix = rotation_matrix[..., :3, :3]
    return rotation_matrix @ matrices @ rotation_matrix.mT


def get_ray_camera_space(
    img_size: Sequence[int], principle: Sequence[float], focal: Tensor | float, device: Any = "cpu"
) -> Tensor:
    """Unit directions (H, W, 3) of the pixels in PyTorch3D's camera axes (x left, y up, z forward).

    Args:
        img_size: (H, W).
        principle: (y, x) of the principal point in pixels, pixel centres at +0.5.
        focal: one number or (x, y), in pixels.
    """
    focal = torch.as_tensor(focal, device=device)
    focal = (focal if focal.is_floating_point() else focal.to(torch.get_default_dtype())).flatten().expand(2)
    height, width = img_size
    y = (principle[0] - 0.5 - torch.arange(height, device=device)) / focal[1]
    x = (principle[1] - 0.5 - torch.arange(width, device=device)) / focal[0]
    rays = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x).expand(height, width)], -1
    )
    return torch.nn.functional.normalize(rays, dim=-1)


def _hits(indices: Tensor, lengths: Tensor, peaks: Tensor, widths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lengths, acts and dsds of hits at absorptivity and density 1."""
    hit = indices >= 0
    return (
        torch.where(hit, lengths, FAR),
        torch.where(hit, -torch.where(hit, peaks, 1).log(), FAR),
        torch.where(hit, 0.5 / widths**2, 0),
    )


def _first_k(
    order: Tensor, lengths: Tensor, acts: Tensor, dsds: Tensor, K: int, thr: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    hit = reference.select(lengths, -acts, threshold=thr)
    first = torch.where(hit, order, math.inf).argsort(dim=-1, stable=True)[..., :K]
    hit = hit.gather(-1, first)
    spare = (0, K - first.shape[-1])

    def take(values: Tensor, empty: float) -> Tensor:
        return torch.nn.functional.pad(torch.where(hit, values.gather(-1, first), empty), spare, value=empty)

    indices = torch.nn.functional.pad(torch.where(hit, first, -1).int(), spare, value=-1)
    return indices, take(lengths, FAR), take(acts, FAR), take(dsds, 0.0)
