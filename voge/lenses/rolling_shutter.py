"""Rolling shutter: cameras that move while they read an image, row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from voge import checks
from voge.cameras import Cameras
from voge.lenses import frames
from voge.rays import Rays


def interpolate(start: Cameras, end: Cameras, times: Tensor | None = None) -> Cameras:
    """The cameras between two: the centre moves along a line, the rotation turns evenly (slerp), K changes linearly.

    Args:
        times: (..., T), 0 at `start`, 1 at `end`; None: the rows of a shutter that begins at the image's upper edge and
            ends at its lower edge, (row + 0.5) / H.

    Returns:
        Cameras of batch shape (..., T).

    Raises:
        ValueError: rotations that differ by half a turn, between which no way is shortest.
    """
    if times is None:
        times = (torch.arange(start.image_size[0], dtype=start.dtype, device=start.device) + 0.5) / start.image_size[0]
    checks.tensor("times", times, ("T",), dtype=start.dtype, device=start.device, finite=True)
    if end.image_size != start.image_size:
        raise ValueError(f"end: expected image size {start.image_size} like start, got {end.image_size}")
    checks.tensor("end.R", end.R, (3, 3), dtype=start.dtype, device=start.device)
    checks.broadcast_batch(start=start.batch_shape, end=end.batch_shape, times=times.shape[:-1])
    share = times[..., None]
    R = _turn(end.R @ start.R.mT, times) @ start.R[..., None, :, :]
    centers = torch.lerp(*torch.broadcast_tensors(start.centers()[..., None, :], end.centers()[..., None, :], share))
    K = start.K[..., None, :, :] + share[..., None] * (end.K - start.K)[..., None, :, :]
    return Cameras(R, -(R @ centers[..., None])[..., 0], K, start.image_size)


def rolling_shutter_rays(cameras: Cameras, rays: Callable[[Cameras, Tensor], Rays] = Cameras.rays) -> Rays:
    """The rays of cameras that move while they read an image, row by row.

    Args:
        cameras: of batch shape (..., H), a pose a row: `interpolate` makes them of two.
        rays: of cameras and pixels, for a model other than the pinhole: `lens.rays`, `orthographic_rays`, ... Batch
            dimensions of a lens's coefficients broadcast against (..., H).

    Returns:
        Rays with directions (..., H, W, 3) and origins (..., H, 1, 3).
    """
    height, width = _check_rows(cameras)
    return rays(cameras, frames.grid(cameras).unflatten(0, (height, width)))


def rolling_shutter_project(
    cameras: Cameras, points: Tensor, project: Callable[[Cameras, Tensor], Sequence[Tensor]] = Cameras.project
) -> tuple[Tensor, Tensor, Tensor]:
    """Where moving cameras see world points: at the row whose own pose puts them there.

    Between the centres of two rows the point's way over the image is a line. Where a fast camera sees a point more than
    once, the uppermost counts.

    Args:
        cameras: of batch shape (..., H), a pose a row.
        points: (..., P, 3), without the dimension of rows.
        project: of cameras and points, `lens.project`, say, for `lens.rays`.

    Returns:
        pixels (..., P, 2), depth (..., P), valid (..., P): False where no row sees the point.
    """
    height, _ = _check_rows(cameras)
    checks.tensor("points", points, ("P", 3), dtype=cameras.dtype, device=cameras.device)
    pixels, depth, *valid = project(cameras, points[..., None, :, :])
    seen = valid[0] if valid else depth > 0
    pixels = frames.keep(seen, pixels)
    rows = torch.arange(height, dtype=cameras.dtype, device=cameras.device) + 0.5
    late = pixels[..., 1] - rows[:, None]  # (..., H, P): how far below the row the point appears
    if height == 1:
        return pixels[..., 0, :, :], depth[..., 0, :], (seen & (late.abs() <= 0.5))[..., 0, :]
    above, below = late[..., :-1, :], late[..., 1:, :]
    moves = above != below
    share = torch.where(moves, above, 0) / torch.where(moves, above - below, 1)
    low, high = torch.zeros_like(rows[1:]), torch.ones_like(rows[1:])
    low[0], high[-1] = -0.5, 1.5  # the image's edges
    hit = moves & seen[..., :-1, :] & seen[..., 1:, :] & (share >= low[:, None]) & (share <= high[:, None])
    row = hit.int().argmax(-2, keepdim=True)
    share = share.gather(-2, row)[..., 0, :]
    first, second = (
        torch.cat([pixels, depth[..., None]], -1).gather(-3, r[..., None].expand(*r.shape, 3))[..., 0, :, :]
        for r in (row, row + 1)
    )
    found = first + share[..., None] * (second - first)
    return found[..., :2], found[..., 2], hit.any(-2)


def _check_rows(cameras: Cameras) -> tuple[int, int]:
    if cameras.batch_shape[-1:] != cameras.image_size[:1]:
        got, height = tuple(cameras.batch_shape), cameras.image_size[0]
        raise ValueError(f"cameras: expected batch shape (..., {height}), a pose for each of {height} rows, got {got}")
    return cameras.image_size


def _turn(R: Tensor, times: Tensor) -> Tensor:
    """Rotations (..., T, 3, 3) that turn about the axis of R (..., 3, 3) by `times` (..., T) of its angle."""
    # W = (R - R') / 2 = sin(angle) [axis]; the rotation by an angle x is 1 + sin(x) [axis] + (1 - cos(x)) [axis]^2.
    W = ((R - R.mT) / 2)[..., None, :, :]
    axis = torch.stack([W[..., 2, 1], W[..., 0, 2], W[..., 1, 0]], -1)  # (..., 1, 3)
    sin2, cosine = (axis * axis).sum(-1), (R.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None] - 1) / 2
    checks.every("end", (cosine > -0.9999)[..., 0], "a rotation that is less than half a turn away from start's")
    small = (sin2 < 1e-4) & (cosine > 0)
    sine = torch.where(small, 1, sin2).sqrt()
    angle = torch.atan2(sine, cosine)
    t2 = times * times
    first = times * (1 + sin2 * (1 - t2) / 6 * (1 + sin2 * (9 - t2) / 20))  # series of a and b below in sin2
    second = t2 / 2 * (1 + sin2 * (4 - t2) / 12 * (1 + sin2 * (16 - t2) / 30))
    a = torch.where(small, first, (times * angle).sin() / sine)
    b = torch.where(small, second, (1 - (times * angle).cos()) / (sine * sine))
    eye = torch.eye(3, dtype=R.dtype, device=R.device)
    return eye + a[..., None, None] * W + b[..., None, None] * (W @ W)
