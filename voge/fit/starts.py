"""Where a search for a pose begins: poses of an object, moves of them, and guesses from a mask."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from voge.cameras import Cameras
from voge.fit.rigid import exp_so3
from voge.gaussians import Gaussians

# The numbers a pose is moved by. Rotations are about the object's centre and the camera's axes.
NUMBERS = ("rx", "ry", "rz", "tx", "ty", "tz", "focal")
GROUPS = {"all": NUMBERS[:6], "rotation": NUMBERS[:3], "translation": NUMBERS[3:6]}


def free_numbers(free: str | Sequence[str]) -> Tensor:
    """Indices (F,) into NUMBERS of the names in `free`: those of NUMBERS, or "all", "rotation", "translation"."""
    if not isinstance(free, (str, Sequence)):
        raise TypeError(f"free: expected names among {', '.join((*GROUPS, *NUMBERS))}, got {free!r}")
    chosen: set[str] = set()
    for name in (free,) if isinstance(free, str) else free:
        if name not in GROUPS and name not in NUMBERS:
            raise ValueError(f"free: expected names among {', '.join((*GROUPS, *NUMBERS))}, got {name!r}")
        chosen.update(GROUPS.get(name, (name,)))
    if not chosen:
        raise ValueError("free: expected at least one name, got none")
    return torch.tensor([i for i, name in enumerate(NUMBERS) if name in chosen])


class Solid(NamedTuple):
    """The ball around an object: centre (3,) in the world, radius in world units."""

    centre: Tensor
    radius: float

    @classmethod
    def around(cls, gaussians: Gaussians) -> Solid:
        """The middle of the box around the means, and the distance of the mean furthest from it."""
        low, high = gaussians.means.amin(0), gaussians.means.amax(0)
        centre = (low + high) / 2
        radius = float((gaussians.means - centre).norm(dim=-1).max())
        sigma = float(torch.linalg.inv(gaussians.precisions).diagonal(dim1=-2, dim2=-1).mean(0).sum().sqrt())
        return cls(centre, max(radius, sigma))


class Poses(NamedTuple):
    """B poses of an object.

    Attributes:
        R: (B, 3, 3), object to camera.
        centre: (B, 3), the object's centre in camera axes, world units.
        zoom: (B,), factor on the focal lengths.
    """

    R: Tensor
    centre: Tensor
    zoom: Tensor

    @classmethod
    def of(cls, cameras: Cameras, solid: Solid) -> Poses:
        R, t = cameras.R.expand(*cameras.batch_shape, 3, 3), cameras.t.expand(*cameras.batch_shape, 3)
        R, t = R.reshape(-1, 3, 3), t.reshape(-1, 3)
        return cls(R, t + R @ solid.centre, torch.ones_like(t[:, 0]))

    def cameras(self, camera: Cameras, solid: Solid) -> Cameras:
        """As cameras, with K and image size of `camera`."""
        zoomed = torch.stack([self.zoom, self.zoom, torch.ones_like(self.zoom)], -1)[:, :, None]
        K = camera.K * torch.where(camera.K.new_tensor([[1, 1, 0], [1, 1, 0], [0, 0, 0]]) > 0, zoomed, 1)
        return Cameras(self.R, self.centre - self.R @ solid.centre, K, camera.image_size)

    def moved(self, x: Tensor, solid: Solid) -> Poses:
        """Moved by x (B, 7), in the order of NUMBERS: radians; radii of the object, log depth; log focal length.

        The rotation is multiplied on the left by exp(x[:3]), the object's centre stays; zeros change no bit.
        """
        sideways = solid.radius * x[:, 3:5]
        centre = torch.cat([self.centre[:, :2] + sideways, self.centre[:, 2:] * x[:, 5:6].exp()], 1)
        return Poses(exp_so3(x[:, :3]) @ self.R, centre, self.zoom * x[:, 6].exp())

    def take(self, index: Tensor) -> Poses:
        return Poses(*(part[index] for part in self))


def ahead(rotations: Tensor, camera: Cameras, solid: Solid, fill: float = 0.7) -> Poses:
    """The object at `rotations` (S, 3, 3) in the picture's middle, its ball filling `fill` of the shorter side."""
    height, width = camera.image_size
    focal = float(camera.K.diagonal()[:2].mean())
    distance = solid.radius * math.hypot(1, 2 * focal / (fill * min(height, width)))
    pixel = camera.K.new_tensor([width / 2, height / 2, 1])
    ray = torch.linalg.solve(camera.K, pixel)
    return Poses(rotations, (distance * ray).expand(len(rotations), 3), torch.ones_like(rotations[:, 0, 0]))


def onto_mask(poses: Poses, alpha: Tensor, mask: Tensor, camera: Cameras) -> Poses:
    """Moves each pose so that its silhouette `alpha` (S, H, W) gets area and centroid of `mask` (H, W)."""
    (area, middle), (target_area, target) = _moments(alpha), _moments(mask)
    depth = poses.centre[:, 2:]
    nearer = (area / target_area).clamp(1e-3, 1e3).sqrt()[:, None]
    inverse = torch.linalg.inv(camera.K)

    def ray(pixels: Tensor) -> Tensor:
        return (torch.cat([pixels, torch.ones_like(pixels[..., :1])], -1) @ inverse.mT)[..., :2]

    offset = poses.centre[:, :2] / depth - ray(middle)  # of the centre from the centroid, seen at the old depth
    depth = depth * nearer
    return Poses(poses.R, torch.cat([(ray(target) + offset / nearer) * depth, depth], 1), poses.zoom)


def _moments(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sum (...) and centroid (..., 2) as (x, y) of weights (..., H, W), pixel centres at +0.5."""
    height, width = weight.shape[-2:]
    x = torch.arange(width, dtype=weight.dtype, device=weight.device) + 0.5
    y = torch.arange(height, dtype=weight.dtype, device=weight.device) + 0.5
    total = weight.sum((-2, -1)).clamp(min=1e-6)
    return total, torch.stack([(weight.sum(-2) * x).sum(-1), (weight.sum(-1) * y).sum(-1)], -1) / total[..., None]
