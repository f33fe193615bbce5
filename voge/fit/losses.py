"""Losses: how well a rendering explains a picture, robust to what the model does not contain.

Shapes: pictures (..., H, W, C), coverages and masks (..., H, W); losses (...).
"""

from __future__ import annotations

import math

from torch import Tensor


def charbonnier(residuals: Tensor, tolerance: float = 1e-3) -> Tensor:
    """sqrt(r^2 + tolerance^2) - tolerance, elementwise: the absolute value with a smooth foot."""
    return (residuals * residuals + tolerance * tolerance).sqrt() - tolerance


def geman_mcclure(squares: Tensor, tolerance: float) -> Tensor:
    """r^2 / (r^2 + tolerance^2) of the squares r^2, elementwise: 0 to 1, flat for outliers (Geman and McClure, 1985)."""
    return squares / (squares + tolerance * tolerance)


def geman_mcclure_curvature(squares: Tensor, tolerance: float) -> Tensor:
    """w such that w r^2 / 2 has the Gauss-Newton curvature of the error above (its weight in IRLS)."""
    return 2 * tolerance**2 / (squares + tolerance**2) ** 2


def silhouette_iou(alpha: Tensor, mask: Tensor) -> Tensor:
    """1 - intersection / union of two soft silhouettes."""
    both = (alpha * mask).sum((-2, -1))
    either = (alpha + mask - alpha * mask).sum((-2, -1))
    return 1 - both / either.clamp(min=1e-9)


def object_cost(squares: Tensor, inside: Tensor, tolerance: float, clutter: float) -> Tensor:
    """Cost (..., H, W) of every pixel as the object, from the squared colour error: 0 to `clutter`.

    `clutter` where something else explains the pixel better (an occluder), and where `inside` is 0: such pixels give no
    gradient to the colours. It is the max(score, clutter) of NeMo (Wang et al., ICLR 2021).
    """
    return inside * geman_mcclure(squares, tolerance).clamp(max=clutter) + (1 - inside) * clutter


def balanced_absence(contrast: float, tolerance: float) -> float:
    """The cost of an uncovered pixel for which an outline is drawn neither outwards nor inwards.

    Over a soft edge a pixel is a c + (1 - a) b with a from 0 to 1, so the object's colour c errs by (1 - a) |c - b|. The
    mean of its Geman-McClure error over the edge is 1 - arctan(k) / k with k = |c - b| / tolerance.
    """
    k = contrast / tolerance
    return 1 - math.atan(k) / k if k > 0.1 else k * k / 3
