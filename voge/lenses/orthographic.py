"""Orthographic cameras: parallel rays."""

from __future__ import annotations

import torch
from torch import Tensor

from voge.cameras import Cameras
from voge.lenses import frames
from voge.rays import Rays


def orthographic_rays(cameras: Cameras, pixels: Tensor | None = None) -> Rays:
    """Parallel rays: K maps the camera's x and y, not x/z and y/z, to pixels; focal lengths are pixels a world unit.

    Rays start on the plane z = 0 of the camera: what is behind it is not seen.

    Args:
        pixels: (..., P, 2) as (x, y), batch dimensions broadcast against the cameras'; None: every pixel's centre.

    Returns:
        Rays with origins and directions (..., H, W, 3), or (..., P, 3) given pixels; all valid.
    """
    flat = frames.from_pixels(cameras, pixels)
    origins = (torch.cat([flat, torch.zeros_like(flat[..., :1])], -1) - cameras.t[..., None, :]) @ cameras.R
    directions = cameras.R[..., 2:, :].expand_as(origins)
    if pixels is not None:
        return Rays(origins, directions)
    return Rays(*(x.unflatten(-2, cameras.image_size) for x in (origins, directions)))


def orthographic_project(cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where world points (..., P, 3) appear in orthographic cameras, see `orthographic_rays`.

    Returns:
        pixels (..., P, 2), depth (..., P) along the optical axis, valid (..., P): False behind the plane z = 0.
    """
    view = frames.to_camera(cameras, points)
    return frames.to_pixels(cameras, view[..., :2]), view[..., 2], view[..., 2] > 0
