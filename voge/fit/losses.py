"""Losses: how well a rendering explains a picture, robust to what the model does not contain.

Shapes: pictures (..., H, W, C), coverages and masks (..., H, W); what is called a loss is (...).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

LIGHTING = ("same", "affine", "local")


def charbonnier(residuals: Tensor, tolerance: float = 1e-3) -> Tensor:
    """sqrt(r^2 + tolerance^2) - tolerance, elementwise: the absolute value with a smooth foot."""
    return (residuals * residuals + tolerance * tolerance).sqrt() - tolerance


def geman_mcclure(squares: Tensor, tolerance: float | Tensor) -> Tensor:
    """r^2 / (r^2 + tolerance^2) of the squares r^2, elementwise: 0 to 1, flat for outliers (Geman and McClure, 1985)."""
    return squares / (squares + tolerance * tolerance)


def silhouette_iou(alpha: Tensor, mask: Tensor) -> Tensor:
    """1 - intersection / union of two soft silhouettes."""
    both = (alpha * mask).sum((-2, -1))
    either = (alpha + mask - alpha * mask).sum((-2, -1))
    return 1 - both / either.clamp(min=1e-9)


class Explained(NamedTuple):
    """What `explain` returns.

    Attributes:
        loss: (...).
        residuals: (..., H, W, C), rendered minus picture, after the correction of the light.
        curvature: (..., H, W), the factors w with which sum w r^2 / 2 has the loss's Gauss-Newton Hessian (IRLS).
        cost: (..., H, W), 0 to `clutter`, of each pixel as the object; `clutter` where something else explains it better.
    """

    loss: Tensor
    residuals: Tensor
    curvature: Tensor
    cost: Tensor


def explain(
    rendered: Tensor,  # (..., H, W, C), weighted sums, no background
    alpha: Tensor,  # (..., H, W)
    image: Tensor,  # (H, W, C)
    inside: Tensor,  # (H, W), 0 to 1
    absent: Tensor,  # (H, W)
    tolerance: float,
    clutter: float,
    lighting: str = "same",
) -> Explained:
    """Every pixel is the object, or not the object, at a cost; alpha mixes the two, the mean over the pixels is the loss.

    As the object a pixel costs the Geman-McClure error of its colour, at most `clutter`, and `clutter` where `inside` is 0:
    pixels that something else explains better (occluders) give no gradient, which is the max(score, clutter) of NeMo (Wang
    et al., ICLR 2021). As anything else it costs `absent`: above 0 where the object is expected, so that shrinking does
    not win, below `clutter`, so that growing does not either.
    """
    alpha = alpha.clamp(max=1)
    residuals = difference(rendered, alpha, image, lighting, tolerance)
    squares = (residuals * residuals).mean(-1)
    error = geman_mcclure(squares, tolerance)
    cost = inside * error.clamp(max=clutter) + (1 - inside) * clutter
    loss = (alpha * cost + (1 - alpha) * absent).mean((-2, -1))
    with torch.no_grad():
        slope = 2 * tolerance**2 / (squares + tolerance**2) ** 2 * (error < clutter)
        curvature = alpha * inside * slope / residuals.shape[-3:].numel()
    return Explained(loss, residuals, curvature, cost)


def difference(rendered: Tensor, alpha: Tensor, image: Tensor, lighting: str, tolerance: float) -> Tensor:
    """Rendered colour (..., H, W, C), freed of the coverage, minus the picture's, after the correction named by `lighting`.

    same: none. affine: one gain and a bias a channel, in closed form. local: both are brought to zero mean and unit
    variance within a window of an eighth of the picture, over covered pixels only.
    """
    colour = rendered / alpha[..., None].clamp(min=1e-3)
    if lighting == "same":
        return colour - image
    if lighting == "affine":
        with torch.no_grad():
            gain, bias = affine_light(colour, alpha, image, tolerance)
        return gain * colour + bias - image
    if lighting == "local":
        return _normalised(colour, alpha) - _normalised(image.expand_as(colour), alpha)
    raise ValueError(f"lighting: expected one of {', '.join(LIGHTING)}, got {lighting!r}")


def affine_light(colour: Tensor, alpha: Tensor, image: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Gain (..., 1, 1, 1) and bias (..., 1, 1, C) with which colour * gain + bias is nearest to the picture.

    Least squares over covered pixels, reweighted once to forget outliers; the gain is drawn to 1 and kept in 1/3 to 3.
    """
    weight = alpha[..., None]
    for _ in range(2):
        total = weight.sum((-3, -2), keepdim=True).clamp(min=1e-6)
        mean_c, mean_i = ((weight * x).sum((-3, -2), keepdim=True) / total for x in (colour, image))
        dc, di = colour - mean_c, image - mean_i
        prior = 0.1 * tolerance**2 * total
        var, cov = ((weight * dc * x).sum((-3, -2), keepdim=True) + prior for x in (dc, di))
        gain = (cov.sum(-1, keepdim=True) / var.sum(-1, keepdim=True)).clamp(1 / 3, 3)
        bias = mean_i - gain * mean_c
        squares = (gain * colour + bias - image).square().mean(-1, keepdim=True)
        weight = alpha[..., None] * (tolerance**2 / (squares + tolerance**2)) ** 2
    return gain, bias


def _normalised(x: Tensor, alpha: Tensor, floor: float = 0.02) -> Tensor:
    """x (..., H, W, C) to zero mean and unit variance in every window, each pixel weighted by alpha; flat parts give 0."""
    window = max(3, max(x.shape[-3:-1]) // 8) | 1
    weight = alpha[..., None]

    def smooth(y: Tensor) -> Tensor:
        planes = y.movedim(-1, -3).flatten(0, -4) if y.dim() > 3 else y.movedim(-1, -3)[None]
        mean = avg_pool2d(planes, window, 1, window // 2, count_include_pad=False)
        return mean.reshape(y.movedim(-1, -3).shape).movedim(-3, -1)

    total = smooth(weight) + 1e-4
    centred = x - smooth(weight * x) / total
    variance = smooth(weight * centred.square()) / total
    return centred / (variance + floor**2).sqrt()
