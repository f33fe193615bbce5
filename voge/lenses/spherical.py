"""Cameras in angles: the equirectangular panorama and the lidar.

Azimuths turn from the z axis (forward) to the x axis (right), elevations rise from that plane towards -y (up).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from voge import checks
from voge.cameras import Cameras
from voge.lenses import frames
from voge.rays import Rays


def equirectangular_rays(R: Tensor, t: Tensor, image_size: Sequence[int], pixels: Tensor | None = None) -> Rays:
    """The rays of a panorama: columns are azimuths from -pi to pi, rows elevations from pi/2 down to -pi/2.

    The z axis is in the middle of the image, the x axis a quarter of its width further right.

    Args:
        R, t: (..., 3, 3) and (..., 3), world to camera.
        image_size: (H, W).
        pixels: (..., P, 2) as (x, y), batch dimensions broadcast against the poses'; None: every pixel's centre.

    Returns:
        Rays with directions (..., H, W, 3), or (..., P, 3) given pixels; all valid.
    """
    cameras = _pose(R, t, image_size)
    height, width = cameras.image_size
    x, y = frames.listed(cameras, pixels).unbind(-1)
    directions = _directions((x / width - 0.5) * (2 * math.pi), (0.5 - y / height) * math.pi)
    return frames.to_world(cameras, directions, None, whole=pixels is None)


def equirectangular_project(
    R: Tensor, t: Tensor, image_size: Sequence[int], points: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Where world points (..., P, 3) appear in a panorama, see `equirectangular_rays`.

    Returns:
        pixels (..., P, 2), distance (..., P) from the camera, valid (..., P): False on the vertical axis.
    """
    height, width = checks.image_size("image_size", image_size)
    angles, distance, valid = lidar_project(R, t, points)
    azimuth, elevation = angles.unbind(-1)
    pixels = torch.stack([(azimuth / (2 * math.pi) + 0.5) * width, (0.5 - elevation / math.pi) * height], -1)
    return pixels, distance, valid


def lidar_rays(R: Tensor, t: Tensor, azimuths: Tensor, elevations: Tensor) -> Rays:
    """The rays of a lidar that turns: every beam at every azimuth.

    Args:
        R, t: (..., 3, 3) and (..., 3), world to sensor, whose axes are x right, y down, z forward.
        azimuths: (..., A), in radians, to the right.
        elevations: (..., E), in radians, upwards, one a beam. Batch dimensions of all four broadcast.

    Returns:
        Rays with directions (..., E, A, 3) of length one and origins (..., 1, 1, 3); all valid.
    """
    cameras = _pose(R, t, (1, 1))
    for name, angles in (("azimuths", azimuths), ("elevations", elevations)):
        checks.tensor(name, angles, ("A",), dtype=R.dtype, device=R.device, finite=True)
    checks.broadcast_batch(poses=cameras.batch_shape, azimuths=azimuths.shape[:-1], elevations=elevations.shape[:-1])
    directions = _directions(azimuths[..., None, :], elevations[..., :, None])
    return Rays(cameras.centers()[..., None, None, :], directions @ R[..., None, :, :])


def lidar_project(R: Tensor, t: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Azimuths and elevations at which a lidar sees world points (..., P, 3), see `lidar_rays`.

    Returns:
        angles (..., P, 2) as (azimuth in (-pi, pi], elevation), distance (..., P) from the sensor, valid (..., P):
        False on the vertical axis, where there is no azimuth (and the angles are 0).
    """
    view = frames.to_camera(_pose(R, t, (1, 1)), points)
    valid = (view[..., ::2] != 0).any(-1)
    x, y, z = torch.where(valid[..., None], view, view.new_tensor([0, 0, 1])).unbind(-1)
    across = torch.hypot(x, z)
    distance = torch.where(valid, torch.hypot(across, y), view[..., 1].abs())
    return torch.stack([torch.atan2(x, z), torch.atan2(-y, across)], -1), distance, valid


def _pose(R: Tensor, t: Tensor, image_size: Sequence[int]) -> Cameras:
    """The pose as Cameras, which check it."""
    checks.tensor("R", R, (3, 3), dtype=checks.REAL)
    return Cameras(R, t, torch.eye(3, dtype=R.dtype, device=R.device), image_size)


def _directions(azimuth: Tensor, elevation: Tensor) -> Tensor:
    x, y, z = elevation.cos() * azimuth.sin(), -elevation.sin(), elevation.cos() * azimuth.cos()
    return torch.stack(torch.broadcast_tensors(x, y, z), -1)
