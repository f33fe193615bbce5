"""Between the world, the camera and its pixels, for all models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from voge import checks
from voge.cameras import Cameras
from voge.rays import Rays


def grid(cameras: Cameras) -> Tensor:
    """The centres of all pixels, (H * W, 2) as (x, y)."""
    height, width = cameras.image_size
    x, y = (torch.arange(n, dtype=cameras.dtype, device=cameras.device) + 0.5 for n in (width, height))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)


def listed(cameras: Cameras, pixels: Tensor | None) -> Tensor:
    """The checked pixels, or all of them for None."""
    if pixels is None:
        return grid(cameras)
    checks.tensor("pixels", pixels, ("P", 2), dtype=cameras.dtype, device=cameras.device, finite=True)
    checks.broadcast_batch(pixels=pixels.shape[:-2], cameras=cameras.batch_shape)
    return pixels


def from_pixels(cameras: Cameras, pixels: Tensor | None) -> Tensor:
    """K^-1 (u, v, 1) of pixels (None: all), (..., P, 2)."""
    u, v = listed(cameras, pixels).unbind(-1)
    K = cameras.K[..., None]
    y = (v - K[..., 1, 2, :]) / K[..., 1, 1, :]
    x = (u - K[..., 0, 2, :] - K[..., 0, 1, :] * y) / K[..., 0, 0, :]
    return torch.stack([x, y], -1)


def to_pixels(cameras: Cameras, points: Tensor) -> Tensor:
    """K (x, y, 1), (..., P, 2)."""
    return points @ cameras.K[..., :2, :2].mT + cameras.K[..., None, :2, 2]


def to_camera(cameras: Cameras, points: Tensor) -> Tensor:
    """R X + t of checked points, (..., P, 3)."""
    checks.tensor("points", points, ("P", 3), dtype=cameras.dtype, device=cameras.device)
    checks.broadcast_batch(points=points.shape[:-2], cameras=cameras.batch_shape)
    return points @ cameras.R.mT + cameras.t[..., None, :]


def to_world(cameras: Cameras, directions: Tensor, valid: Tensor | None, whole: bool) -> Rays:
    """Rays from the cameras' centres along directions (..., P, 3) in the camera; `whole`: they are the image."""
    directions, origins = directions @ cameras.R, cameras.centers()[..., None, :]
    if not whole:
        return Rays(origins, directions, valid)
    valid = None if valid is None else valid.unflatten(-1, cameras.image_size)
    return Rays(origins[..., None, :, :], directions.unflatten(-2, cameras.image_size), valid)


def keep(valid: Tensor, values: Tensor) -> Tensor:
    """`values` (..., P, n) where `valid` (..., P), else 0."""
    return torch.where(valid[..., None], values, 0)


def check_coefficients(coefficients: Tensor, counts: Sequence[int], like: Cameras | Tensor) -> None:
    """TypeError or ValueError unless `coefficients` (..., n), n one of `counts`, fit cameras or points (..., P, 2)."""
    checks.tensor("coefficients", coefficients, ("n",), dtype=like.dtype, device=like.device, finite=True)
    if coefficients.shape[-1] not in counts:
        expected = " or ".join(map(str, counts))
        raise ValueError(f"coefficients: expected {expected} of them, got {coefficients.shape[-1]}")
    shape = {"points": like.shape[:-2]} if isinstance(like, Tensor) else {"cameras": like.batch_shape}
    checks.broadcast_batch(coefficients=coefficients.shape[:-1], **shape)
