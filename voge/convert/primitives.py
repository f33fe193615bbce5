"""Simple bodies: cuboid and sphere of round Gaussians; plane and box of flat ones that carry images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voge import checks
from voge.convert.meshes import isotropic, midpoint_factor
from voge.convert.surfaces import FLATNESS
from voge.gaussians import Gaussians
from voge.io.objects import Scene

# The faces z-, z+, y-, y+, x-, x+ share twelve edges; each face keeps two of its four, so that every edge comes once.
# Of each face: its two axes, and whether it leaves out the first (0) or the last (1) sample of each.
_FACES = (
    ((0, 1), (1, 1)), ((0, 1), (0, 0)),
    ((0, 2), (0, 0)), ((0, 2), (1, 1)),
    ((1, 2), (1, 0)), ((1, 2), (0, 1)),
)  # fmt: skip
_LEFT_OUT = ((1, 0, 0), (0, 1, 1))  # the two corners that no face keeps, at the first and last samples: of z- and z+
# Where the images of a box go, seen from outside with y down: outward, right and down.
_BOX_AXES = (
    ((0, 0, -1), (1, 0, 0), (0, 1, 0)),
    ((0, 0, 1), (-1, 0, 0), (0, 1, 0)),
    ((0, -1, 0), (1, 0, 0), (0, 0, -1)),
    ((0, 1, 0), (1, 0, 0), (0, 0, 1)),
    ((-1, 0, 0), (0, 0, -1), (0, 1, 0)),
    ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
)


def cuboid(extents: Any, num: int, percentage: float = 0.5) -> tuple[Gaussians, Tensor]:
    """About `num` round Gaussians in a grid on the six faces of a box around the origin, each edge and corner once.

    The official package's law: e^2 = area / num, int(extent / e) + 1 samples an axis (at least 2), P = 8 ln(1/p) /
    e^2, so that the density halfway between two at a distance e is the share p of the peak.

    Args:
        extents: (3,), full side lengths in world units, above zero; a tensor sets dtype and device.
        num: the number aimed at.
        percentage: p, in (0, 1).

    Returns:
        Gaussians and the face (N,) int64 of each: 0 to 5 for z-, z+, y-, y+, x-, x+. `colors[faces]` colours the faces.

    Raises:
        TypeError, ValueError: extents, num, percentage.
    """
    sides = _positive("extents", extents, 3)
    checks.integer("num", num, 1, None)
    factor = midpoint_factor(percentage)
    x, y, z = sides.tolist()
    edge = math.sqrt(2 * (x * y + y * z + z * x) / num)
    grid = [np.linspace(-side / 2, side / 2, max(int(side / edge + 1), 2)) for side in (x, y, z)]
    parts = []
    for face, (axes, ends) in enumerate(_FACES):
        a, b = (grid[axis][:-1] if end else grid[axis][1:] for axis, end in zip(axes, ends, strict=True))
        part = np.empty((len(a) * len(b), 3))
        part[:, axes[0]], part[:, axes[1]] = np.tile(a, len(b)), np.repeat(b, len(a))
        part[:, 3 - sum(axes)] = grid[3 - sum(axes)][-(face % 2)]
        if face < 2:
            corner = [samples[-end] for samples, end in zip(grid, _LEFT_OUT[face], strict=True)]
            part = np.concatenate([part, [corner]])
        parts.append(part)
    means = torch.tensor(np.concatenate(parts)).to(sides)
    faces = torch.arange(6, device=sides.device).repeat_interleave(
        torch.tensor([len(part) for part in parts], device=sides.device)
    )
    return Gaussians(means, isotropic(means.new_full((len(means),), factor / edge**2))), faces


def sphere(num: int, radius: float = 1.0, percentage: float = 0.5) -> Gaussians:
    """`num` round Gaussians spread evenly over a sphere around the origin (a Fibonacci lattice).

    P = 8 ln(1/p) / L^2 with L^2 = 4 pi radius^2 / num, the area of each: the density halfway to a neighbour is about p.

    Raises:
        TypeError, ValueError: num, radius, percentage.
    """
    checks.integer("num", num, 1, None)
    radius = _positive("radius", [radius], 1).item()
    steps = torch.arange(num, dtype=torch.float64) + 0.5
    z = 1 - 2 * steps / num
    angle = steps * (math.pi * (1 + math.sqrt(5)))
    ring = (1 - z * z).sqrt()
    means = radius * torch.stack([ring * angle.cos(), ring * angle.sin(), z], -1)
    means = means.to(torch.get_default_dtype())
    return Gaussians(
        means, isotropic(means.new_full((num,), midpoint_factor(percentage) * num / (4 * math.pi * radius**2)))
    )


def plane(image: Tensor, size: Any, num: int | None = None) -> Scene:
    """A rectangle with an image on it, as flat Gaussians: one a pixel, or about `num`, each with the mean colour of
    its share.

    It lies in z = 0 as images do: (0, 0, 0) is its upper left corner, x goes right, y down, z away from who sees the
    picture upright. The law of `surface`: a ray through it meets an optical depth of 2, and the edges stay where
    they are.

    Args:
        image: (H, W, C), C >= 1, any values.
        size: (width, height) in world units, above zero.
        num: how many Gaussians to aim at; None: H W.

    Returns:
        Gaussians of the image's dtype and device, row by row, and features (N, C), to which gradients pass.

    Raises:
        TypeError, ValueError: image, size, num.
    """
    return Scene(*_rectangle(image, size, num))


def box(images: Sequence[Tensor], extents: Any, num: int | None = None) -> Scene:
    """A box around the origin with an image on each face: six planes.

    Seen from outside with y down, the images on z-, x+, z+, x- stand upright side by side; y- is above z-, y+ below it.

    Args:
        images: six (H, W, C), in the order z-, z+, y-, y+, x-, x+; sizes may differ, C not.
        extents: (3,), full side lengths in world units, above zero.
        num: how many Gaussians to aim at on all faces; None: one a pixel.

    Raises:
        TypeError, ValueError: images, extents, num.
    """
    sides = _positive("extents", extents, 3).tolist()
    if len(images) != 6:
        raise ValueError(f"images: expected six, in the order z-, z+, y-, y+, x-, x+, got {len(images)}")
    if len({image.shape[-1:] for image in images}) > 1:
        raise ValueError(f"images: expected one number of channels, got {[image.shape[-1] for image in images]}")
    if num is not None:
        checks.integer("num", num, 1, None)
    area = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[2] * sides[0])
    means, precisions, features = [], [], []
    for image, axes in zip(images, _BOX_AXES, strict=True):
        half = torch.tensor(sides, dtype=torch.float64) / 2
        outward, right, down = (torch.tensor(axis, dtype=torch.float64) for axis in axes)
        size = [2 * float((axis.abs() * half).sum()) for axis in (right, down)]
        share = None if num is None else max(round(num * size[0] * size[1] / area), 1)
        part, colors = _rectangle(image, size, share)
        turn = torch.stack([right, down, -outward], -1).to(image)
        corner = (half * (outward - right - down)).to(image)
        means.append(part.means @ turn.mT + corner)
        precisions.append(turn @ part.precisions @ turn.mT)
        features.append(colors)
    return Scene(Gaussians(torch.cat(means), torch.cat(precisions)), torch.cat(features))


def _rectangle(image: Tensor, size: Any, num: int | None) -> tuple[Gaussians, Tensor]:
    """The Gaussians and features of `plane`."""
    checks.tensor("image", image, ("H", "W", "C"), dtype=checks.REAL, finite=True)
    if image.dim() != 3 or not image.numel():
        raise ValueError(f"image: expected shape (H, W, C) with at least one pixel, got {tuple(image.shape)}")
    sides = _positive("size", size, 2).tolist()
    cols, rows = image.shape[1], image.shape[0]
    if num is not None:
        checks.integer("num", num, 1, None)
        cols = max(round(math.sqrt(num * sides[0] / sides[1])), 1)
        rows = max(round(num / cols), 1)
        image = torch.nn.functional.interpolate(image.movedim(-1, 0)[None], (rows, cols), mode="area")[0].movedim(0, -1)
    (x, width), (y, height) = _windows(cols, sides[0], image), _windows(rows, sides[1], image)
    thickness = FLATNESS * math.sqrt(sides[0] * sides[1] / (rows * cols * math.pi))
    means = torch.stack([x.expand(rows, cols), y[:, None].expand(rows, cols), x.new_zeros(rows, cols)], -1)
    variances = (
        torch.stack([width.expand(rows, cols), height[:, None].expand(rows, cols), x.new_zeros(rows, cols)], -1)
        + thickness**2
    )
    gaussians = Gaussians(means.flatten(0, 1).to(image), torch.diag_embed(1 / variances.flatten(0, 1)).to(image))
    return gaussians, image.flatten(0, 1)


def _windows(num: int, length: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Means and variances of `num` normal windows of width length / num / sqrt(pi) in a row, cut off at 0 and
    length."""
    pitch = length / num
    width = pitch / math.sqrt(math.pi)
    middle = (torch.arange(num, dtype=torch.float64, device=like.device) + 0.5) * pitch
    low, high = -middle / width, (length - middle) / width
    pdf_low, pdf_high = (torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi) for z in (low, high))
    share = torch.special.ndtr(high) - torch.special.ndtr(low)
    shift = (pdf_low - pdf_high) / share
    variance = 1 + (low * pdf_low - high * pdf_high) / share - shift**2
    return middle + width * shift, width**2 * variance


def _positive(name: str, value: Any, size: int) -> Tensor:
    """Finite numbers above zero as a floating tensor of this size."""
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected {size} numbers, got {value!r:.80}") from None
    value = value if value.is_floating_point() else value.to(torch.get_default_dtype())
    if value.shape != (size,) or not (value.isfinite() & (value > 0)).all():
        raise ValueError(
            f"{name}: expected {size} finite number{'s' if size > 1 else ''} above zero, got {value.tolist()}"
        )
    return value
