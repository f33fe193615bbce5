"""OpenCV's fisheye: a point at the angle theta to the axis appears at theta (1 + k1 theta^2 + .. + k4 theta^8)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from voge.cameras import Cameras
from voge.lenses import frames, radial
from voge.rays import Rays


def fisheye_rays(cameras: Cameras, coefficients: Tensor, pixels: Tensor | None = None) -> Rays:
    """The rays of cameras with OpenCV's fisheye lens (cv2.fisheye).

    Args:
        coefficients: (..., 4), k1 to k4, batch dimensions broadcast against the cameras'; zeros: equidistant.
        pixels: as `opencv_rays`.

    Returns:
        As `opencv_rays`. Not valid: pixels beyond the largest angle, which is where the image folds, or pi.
    """
    frames.check_coefficients(coefficients, (4,), cameras)
    target = frames.from_pixels(cameras, pixels)
    k = coefficients[..., None].unbind(-2)
    with torch.no_grad():
        theta, valid = radial.invert(target.norm(dim=-1), k, (), _largest(k))
        w = torch.where(valid, theta * theta, 0)
    target = frames.keep(valid, target)
    # In w = theta^2 everything is smooth at the axis, too: r^2 = w (1 + k1 w + ..)^2.
    r2 = (target * target).sum(-1)
    for _ in range(2):  # gives exact first and second derivatives, as in `undistort`
        ratio, slope = radial.ratio(w, k, ())
        w = w - (w * ratio * ratio - r2) / (ratio * (ratio + 2 * w * slope))
    cosine, sinc = _cosine_and_sinc(w)
    sideways = target * (sinc / radial.ratio(w, k, ())[0])[..., None]
    return frames.to_world(cameras, torch.cat([sideways, cosine[..., None]], -1), valid, whole=pixels is None)


def fisheye_project(cameras: Cameras, points: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where world points appear in OpenCV's fisheye: cv2.fisheye.projectPoints, batched, and beyond 90 degrees.

    Args:
        points: (..., P, 3), batch dimensions broadcast against the cameras'.
        coefficients: as `fisheye_rays`.

    Returns:
        pixels, depth, valid as `opencv_project`. Points of negative depth are seen as far as the largest angle.
    """
    frames.check_coefficients(coefficients, (4,), cameras)
    view = frames.to_camera(cameras, points)
    k = coefficients[..., None].unbind(-2)
    with torch.no_grad():
        theta = torch.atan2(view[..., :2].norm(dim=-1), view[..., 2])
        valid = (theta < _largest(k)) & (view != 0).any(-1)
    sideways, forward = frames.keep(valid, view[..., :2]), torch.where(valid, view[..., 2], 1)
    theta2, scale = _angle(sideways, forward)
    ratio, _ = radial.ratio(theta2, k, ())
    return frames.to_pixels(cameras, sideways * (scale * ratio)[..., None]), view[..., 2], valid


def _largest(k: tuple[Tensor, ...]) -> Tensor:
    return radial.limit(k, ()).clamp(max=math.pi)


def _cosine_and_sinc(w: Tensor) -> tuple[Tensor, Tensor]:
    """cos(sqrt w) and sin(sqrt w) / sqrt w, smooth at 0."""
    small = w < 1e-2
    root = torch.where(small, 1, w).sqrt()
    cosine = 1 - w / 2 * (1 - w / 12 * (1 - w / 30 * (1 - w / 56)))
    sinc = 1 - w / 6 * (1 - w / 20 * (1 - w / 42 * (1 - w / 72)))
    return torch.where(small, cosine, root.cos()), torch.where(small, sinc, root.sin() / root)


def _angle(sideways: Tensor, forward: Tensor) -> tuple[Tensor, Tensor]:
    """The square of the angle to the axis, and the angle over the distance from the axis; smooth on the axis."""
    r2 = (sideways * sideways).sum(-1)
    small = (r2 < 1e-4 * forward * forward) & (forward > 0)
    root = torch.where(small, 1, r2).sqrt()
    near = torch.where(small, forward, 1)
    q = torch.where(small, r2, 0) / (near * near)
    series = (1 - q * (1 / 3 - q * (1 / 5 - q * (1 / 7 - q / 9)))) / near
    scale = torch.where(small, series, torch.atan2(root, forward) / root)
    return r2 * scale * scale, scale
