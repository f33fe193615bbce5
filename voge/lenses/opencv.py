"""OpenCV's distortion: radial, tangential, thin prism, tilt.

With r2 = x^2 + y^2 on the plane z = 1 and g = (1 + k1 r2 + k2 r2^2 + k3 r2^3) / (1 + k4 r2 + k5 r2^2 + k6 r2^3):
    x' = x g + 2 p1 x y + p2 (r2 + 2 x^2) + s1 r2 + s2 r2^2
    y' = y g + p1 (r2 + 2 y^2) + 2 p2 x y + s3 r2 + s4 r2^2
then a homography for a sensor that is not at right angles to the axis. Source: OpenCV's documentation of
cv2.projectPoints.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from voge import checks
from voge.cameras import Cameras
from voge.lenses import frames, radial
from voge.rays import Rays

COUNTS = (4, 5, 8, 12, 14)  # of coefficients: k1 k2 p1 p2 | k3 | k4 k5 k6 | s1 s2 s3 s4 | tau_x tau_y
FAR = 20.0  # radius, in focal lengths, beyond which nobody looks for folds
CHUNK = 16384  # pixels whose rays are sought at once: what is in between stays in the cache


def opencv_rays(cameras: Cameras, coefficients: Tensor, pixels: Tensor | None = None) -> Rays:
    """The rays of cameras with OpenCV's distortion, found by inverting it (`undistort`).

    Args:
        coefficients: (..., n), batch dimensions broadcast against the cameras'; n is 4, 5, 8, 12 or 14 of k1, k2, p1,
            p2, k3, k4, k5, k6, s1, s2, s3, s4, tau_x, tau_y (the order of cv2.projectPoints).
        pixels: (..., P, 2) as (x, y), batch dimensions broadcast against the cameras'; None: every pixel's centre.

    Returns:
        Rays with directions (..., H, W, 3) and origins (..., 1, 1, 3); given pixels, directions (..., P, 3) and origins
        (..., 1, 3). Not valid: pixels at which no point in front of the camera appears.
    """
    frames.check_coefficients(coefficients, COUNTS, cameras)
    points, valid = undistort(frames.from_pixels(cameras, pixels), coefficients)
    directions = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    return frames.to_world(cameras, directions, valid, whole=pixels is None)


def opencv_project(cameras: Cameras, points: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where world points appear in cameras with OpenCV's distortion: cv2.projectPoints, batched.

    Args:
        points: (..., P, 3), batch dimensions broadcast against the cameras'.
        coefficients: as `opencv_rays`.

    Returns:
        pixels (..., P, 2) as (x, y); depth (..., P) along the optical axis; valid (..., P) bool: False behind the
        camera and beyond the distortion's fold, with the principal point as pixel.
    """
    frames.check_coefficients(coefficients, COUNTS, cameras)
    view = frames.to_camera(cameras, points)
    depth = view[..., 2]
    front = depth > 0
    flat = frames.keep(front, view[..., :2]) / torch.where(front, depth, 1)[..., None]
    with torch.no_grad():
        valid = front & (flat.norm(dim=-1) < _fold(coefficients))
    return frames.to_pixels(cameras, distort(frames.keep(valid, flat), coefficients)), depth, valid


def distort(points: Tensor, coefficients: Tensor) -> Tensor:
    """OpenCV's distortion of points (..., P, 2) on the plane z = 1, in units of the focal length.

    Args:
        coefficients: (..., n), n one of 4, 5, 8, 12, 14, as `opencv_rays`.
    """
    _check_points(points, coefficients)
    x, y = points.unbind(-1)
    bent = torch.stack(_bend(x, y, coefficients)[:2], -1)
    return bent if coefficients.shape[-1] < 14 else _homography(_tilt(coefficients), bent)[0]


def undistort(points: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `distort`, and where it has one.

    The answer is found without gradient; two steps of Newton's method that are differentiated then give it exact first
    and second derivatives (implicit function theorem).

    Returns:
        points (..., P, 2) and valid (..., P); (0, 0) where it is False.
    """
    _check_points(points, coefficients)
    front = torch.ones_like(points[..., 0], dtype=torch.bool)
    if coefficients.shape[-1] == 14:
        points, front = _homography(torch.linalg.inv_ex(_tilt(coefficients)).inverse, points)
    with torch.no_grad():
        fold = _fold(coefficients)
        parts = zip(*(_solve(part, coefficients, fold) for part in points.split(CHUNK, -2)), strict=True)
        x, y, valid = (torch.cat(part, -1) for part in parts)
        valid = valid & front
        x, y = torch.where(valid, x, 0), torch.where(valid, y, 0)
    target_x, target_y = frames.keep(valid, points).unbind(-1)
    for _ in range(2):
        x, y = _newton(x, y, target_x, target_y, *_bend(x, y, coefficients))
    return torch.stack([x, y], -1), valid


def _solve(target: Tensor, coefficients: Tensor, fold: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x, y (..., P) that the distortion moves to target (..., P, 2), and whether there are such."""
    radius = target.norm(dim=-1)
    start, _ = radial.invert(radius, *_radial(coefficients), fold)
    tx, ty = target.unbind(-1)
    x, y = (start / torch.where(radius > 0, radius, 1) * t for t in (tx, ty))
    enough = 100 * torch.finfo(target.dtype).eps * (1 + radius)
    for steps in range(8, -1, -1):  # the tangential and thin-prism parts move the answer off the radius
        bent = _bend(x, y, coefficients)
        near = torch.hypot(bent[0] - tx, bent[1] - ty) <= enough
        if steps == 0 or bool(near.all()):
            break
        x, y = _newton(x, y, tx, ty, *bent)
        within = (fold / torch.hypot(x, y)).clamp(max=1)
        x, y = within * x, within * y
    return x, y, near & (torch.hypot(x, y) < fold)


Slopes = tuple[Tensor, Tensor, Tensor, Tensor]  # dx'/dx, dx'/dy, dy'/dx, dy'/dy


def _newton(
    x: Tensor, y: Tensor, target_x: Tensor, target_y: Tensor, u: Tensor, v: Tensor, slopes: Slopes
) -> tuple[Tensor, Tensor]:
    """One step towards the place that is moved to the target, from (x, y), which is moved to (u, v)."""
    xx, xy, yx, yy = slopes
    dx, dy, scale = target_x - u, target_y - v, 1 / (xx * yy - xy * yx)
    return x + (yy * dx - xy * dy) * scale, y + (xx * dy - yx * dx) * scale


def _bend(x: Tensor, y: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor, Slopes]:
    """The distortion without its tilt, and its derivatives."""
    p1, p2 = coefficients[..., 2, None], coefficients[..., 3, None]
    r2 = x * x + y * y
    ratio, slope = radial.ratio(r2, *_radial(coefficients))
    px, py = p2 * x, p1 * y
    gain = ratio + 2 * (px + py)
    u, v = x * gain + p2 * r2, y * gain + p1 * r2
    xx, yy = gain + 2 * x * x * slope + 4 * px, gain + 2 * y * y * slope + 4 * py
    xy = yx = 2 * (x * y * slope + p1 * x + p2 * y)
    if coefficients.shape[-1] >= 12:
        s1, s2, s3, s4 = coefficients[..., 8:12, None].unbind(-2)
        u, v = u + r2 * (s1 + r2 * s2), v + r2 * (s3 + r2 * s4)
        du, dv = 2 * s1 + 4 * r2 * s2, 2 * s3 + 4 * r2 * s4
        xx, xy, yx, yy = xx + x * du, xy + y * du, yx + x * dv, yy + y * dv
    return u, v, (xx, xy, yx, yy)


def _fold(coefficients: Tensor) -> Tensor:
    """The radius (..., 1) up to which the distortion is one to one in every direction; infinity if it always is."""
    limit = radial.limit(*_radial(coefficients))  # of the radial part alone, to be exact; the others fold it earlier
    angle = torch.arange(16).to(limit) * (2 * math.pi / 16)
    radii = limit.clamp(max=FAR) * torch.linspace(0, 1, 128).to(limit) ** 2
    x, y = (radii[..., None] * f(angle) for f in (torch.cos, torch.sin))  # (..., radii, angles)
    _, _, (xx, xy, yx, yy) = _bend(x.flatten(-2), y.flatten(-2), coefficients)
    upright = xx * yy - xy * yx > 5e-4 * (xx * xx + xy * xy + yx * yx + yy * yy)
    folded = ~upright.unflatten(-1, x.shape[-2:]).all(-1)
    first = folded.int().argmax(-1, keepdim=True)
    return torch.where(folded.any(-1, keepdim=True), radii.gather(-1, (first - 1).clamp(min=0)), limit)


def _radial(coefficients: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """k1, k2, k3 above and k4, k5, k6 below the line, (..., 1) each."""
    k = coefficients[..., None].unbind(-2)
    return (*k[:2], *k[4:5]), k[5:8]


def _tilt(coefficients: Tensor) -> Tensor:
    """The homography (..., 3, 3) of a sensor turned by tau_x about x, then tau_y about y, seen along its own axis."""
    x, y = coefficients[..., 12], coefficients[..., 13]
    cx, sx, cy, sy, o = x.cos(), x.sin(), y.cos(), y.sin(), torch.zeros_like(x)
    turn = _matrix(cy, sy * sx, -sy * cx, o, cx, sx, sy, -cy * sx, cy * cx)
    project = _matrix(cy * cx, o, sy * cx, o, cy * cx, -sx, o, o, o + 1)
    return project @ turn


def _matrix(*entries: Tensor) -> Tensor:
    return torch.stack(entries, -1).unflatten(-1, (3, 3))


def _homography(matrix: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    moved = points @ matrix[..., :2].mT + matrix[..., None, :, 2]
    front = moved[..., 2] > 0
    return frames.keep(front, moved[..., :2]) / torch.where(front, moved[..., 2], 1)[..., None], front


def _check_points(points: Tensor, coefficients: Tensor) -> None:
    checks.tensor("points", points, ("P", 2), dtype=checks.REAL)
    frames.check_coefficients(coefficients, COUNTS, points)
