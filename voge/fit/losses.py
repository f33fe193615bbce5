"""Losses: how well a rendering explains a picture, robust to what the model does not contain.

Shapes: pictures (..., H, W, C), coverages and masks (..., H, W); losses (...).
"""

from __future__ import annotations

from torch import Tensor


def charbonnier(residuals: Tensor, tolerance: float = 1e-3) -> Tensor:
    """sqrt(r^2 + tolerance^2) - tolerance, elementwise: the absolute value with a smooth foot."""
    return (residuals * residuals + tolerance * tolerance).sqrt() - tolerance


def geman_mcclure(squares: Tensor, tolerance: float) -> Tensor:
    """r^2 / (r^2 + tolerance^2) of the squares r^2, elementwise: 0 to 1, flat for outliers (Geman, McClure, 1985)."""
    return squares / (squares + tolerance * tolerance)


def geman_mcclure_curvature(squares: Tensor, tolerance: float) -> Tensor:
    """w such that w r^2 / 2 has the Gauss-Newton curvature of the error above (its weight in IRLS)."""
    return 2 * tolerance**2 / (squares + tolerance**2) ** 2


def silhouette_iou(alpha: Tensor, mask: Tensor) -> Tensor:
    """1 - intersection / union of two soft silhouettes."""
    both = (alpha * mask).sum((-2, -1))
    either = (alpha + mask - alpha * mask).sum((-2, -1))
    return 1 - both / either.clamp(min=1e-9)


def explained_iou(alpha: Tensor, error: Tensor, mask: Tensor) -> Tensor:
    """1 - intersection / union, where a pixel of the intersection counts by how well it is explained, 1 - error."""
    both = (alpha * mask * (1 - error)).sum((-2, -1))
    return 1 - both / (alpha + mask - alpha * mask).sum((-2, -1))


def explained_share(alpha: Tensor, error: Tensor, ground: Tensor) -> Tensor:
    """What stays unexplained with the object, over what does without it: the error `ground` (H, W) of the ground alone.

    Above 1 the object explains the picture worse than no object; covering what it does not explain costs.
    """
    return 1 + (alpha * (error - ground)).sum((-2, -1)) / ground.sum((-2, -1)).clamp(min=1e-9)
