"""Coarse to fine: smaller pictures, and Gaussians as wide as their pixels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from voge.cameras import Cameras
from voge.fit.starts import Poses, Solid
from voge.gaussians import Gaussians


class Level(NamedTuple):
    """One size of the picture.

    Attributes:
        camera: K and image size; its R and t do not count.
        image: (H, W, C).
        inside: (H, W), 0 to 1: where the object may be.
    """

    camera: Cameras
    image: Tensor
    inside: Tensor

    def resized(self, longest: int) -> Level:
        """The level with its longest side at most `longest` pixels."""
        height, width = self.camera.image_size
        scale = min(1.0, longest / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        maps = resize(torch.cat([self.image, self.inside[..., None]], -1), size)
        return Level(self.camera.resize(size), maps[..., :-1], maps[..., -1])

    def cropped(self, box: tuple[int, int, int, int]) -> Level:
        """The part (x0, y0, x1, y1) of the picture."""
        x0, y0, x1, y1 = box
        return Level(self.camera.crop(box), self.image[y0:y1, x0:x1], self.inside[y0:y1, x0:x1])


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """(H, W, C) resampled to size, with a low-pass filter when it shrinks; pixel centres at +0.5."""
    if image.shape[:2] == size:
        return image
    planes = image.movedim(-1, 0)[None]
    return interpolate(planes, size, mode="bilinear", antialias=True, align_corners=False)[0].movedim(0, -1)


def merged(gaussians: Gaussians, features: Tensor, cell: float) -> tuple[Gaussians, Tensor]:
    """One Gaussian in place of those whose means share a cube of side `cell`: same mean, covariance and mean features.

    Each counts by its cross-section, density det(covariance)^(1/3), which the sum keeps.
    """
    cube = (gaussians.means / cell).floor().long()
    _, owner = torch.unique(cube, dim=0, return_inverse=True)
    count = int(owner.max()) + 1
    if count == gaussians.num:
        return gaussians, features
    covariances = torch.linalg.inv(gaussians.precisions.double())
    area = torch.linalg.det(covariances) ** (1 / 3)
    area = area if gaussians.density is None else area * gaussians.density

    def mean(x: Tensor) -> Tensor:
        weighted = area.view(-1, *[1] * (x.dim() - 1)) * x
        return weighted.new_zeros(count, *x.shape[1:]).index_add(0, owner, weighted) / total.view(
            -1, *[1] * (x.dim() - 1)
        )

    total = area.new_zeros(count).index_add(0, owner, area)
    means = mean(gaussians.means.double())
    offset = gaussians.means - means[owner]
    covariances = mean(covariances + offset[:, :, None] * offset[:, None, :])
    density = total / torch.linalg.det(covariances) ** (1 / 3)
    like = gaussians.means
    return Gaussians(means.to(like), torch.linalg.inv(covariances).to(like), density.to(like)), mean(features).to(like)


def widened(gaussians: Gaussians, variance: float) -> Gaussians:
    """The Gaussians convolved with a round one: every covariance grows by variance times the identity."""
    if variance <= 0:
        return gaussians
    eye = torch.eye(3, dtype=torch.float64, device=gaussians.device)
    covariances = torch.linalg.inv(gaussians.precisions.double()) + variance * eye
    return Gaussians(gaussians.means, torch.linalg.inv(covariances).to(gaussians.dtype), gaussians.density)


def pixel_size(poses: Poses, camera: Cameras) -> float:
    """World units that one pixel spans at the median depth of the poses."""
    return float(poses.centre[:, 2].median() / camera.K.diagonal()[:2].mean())


def window(camera: Cameras, mask: Tensor | None, poses: Poses | None, solid: Solid) -> tuple[int, int, int, int]:
    """The part (x0, y0, x1, y1) of the picture to work on: around the mask, else around the object's ball at the poses,
    widened by half its size; the whole picture where neither says more."""
    height, width = camera.image_size
    if mask is not None:
        rows, columns = (mask > 0.5).any(1).nonzero(), (mask > 0.5).any(0).nonzero()
        low = torch.stack([columns.min(), rows.min()]).double()
        high = torch.stack([columns.max(), rows.max()]).double() + 1
    elif poses is not None:
        pixels, depth = _pixels(poses.centre, camera)
        reach = (solid.radius / depth)[:, None] * camera.K.diagonal()[:2]
        low, high = (pixels - reach).amin(0).double(), (pixels + reach).amax(0).double()
    else:
        return 0, 0, width, height
    margin = 0.25 * (high - low).max()
    x0, y0 = (low - margin).floor().clamp(min=0).int().tolist()
    x1, y1 = (high + margin).ceil().int().tolist()
    x1, y1 = min(x1, width), min(y1, height)
    return (x0, y0, x1, y1) if x1 - x0 >= 8 and y1 - y0 >= 8 else (0, 0, width, height)


def sees(poses: Poses, camera: Cameras) -> Tensor:
    """(B,) bool: the object's centre is in front of the camera and in the picture."""
    pixels, depth = _pixels(poses.centre, camera)
    size = pixels.new_tensor(camera.image_size[::-1])
    return (depth > 0) & ((pixels >= 0) & (pixels <= size)).all(-1)


def _pixels(points: Tensor, camera: Cameras) -> tuple[Tensor, Tensor]:
    depth = points[:, 2]
    return (points / depth[:, None] @ camera.K.mT)[:, :2], depth
