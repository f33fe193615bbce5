"""The light on an object and the ground behind it, where neither is known: estimated from the picture.

Shapes: colours (..., H, W, C), coverages alpha (..., H, W), one picture (H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

LIGHTING = ("same", "affine", "local")
GAINS = (0.4, 2.5)  # of a light that is not known


def lit(colour: Tensor, alpha: Tensor, image: Tensor, lighting: str, tolerance: float) -> Tensor:
    """The rendered colour in the light of the picture. Gradients see the light as fixed.

    same: the colour itself. affine: one gain and a bias a channel for the whole object, in closed form. local: mean and
    contrast of the picture within a window of an eighth of it, over the covered pixels.
    """
    if lighting == "same":
        return colour
    with torch.no_grad():
        gain, bias = (_local if lighting == "local" else _affine)(colour, alpha[..., None], image, tolerance)
    return gain * colour + bias


def backdrop(colour: Tensor, alpha: Tensor, image: Tensor) -> Tensor:
    """The ground behind the object (..., H, W, C), from the picture as alpha colour + (1 - alpha) ground.

    By least squares in a window, in which clear pixels count most; in larger ones where the object covers it.
    """
    clear = (1 - alpha.clamp(0, 1))[..., None]
    sums = torch.cat([clear**3 * (image - alpha[..., None] * colour), clear**4], -1)
    longest = max(image.shape[:2])
    cell = max(1, longest // 36)  # a third of the least window: fine enough for what is averaged in it
    small = _resampled(sums, [-(-side // cell) for side in image.shape[:2]], adaptive_avg_pool2d)
    total = sum(trust * box_mean(small, longest // part // cell) for part, trust in ((12, 1.0), (3, 1e-2)))
    total = total + 1e-4 * small.mean((-3, -2), keepdim=True)
    ground = total[..., :-1] / total[..., -1:].clamp(min=1e-9)
    return _resampled(ground, image.shape[:2], partial(interpolate, mode="bilinear"))


def _resampled(x: Tensor, size: Sequence[int], method: Callable[..., Tensor]) -> Tensor:
    """(..., H, W, C) by a function of planes (N, C, H, W) and a size."""
    planes = method(x.movedim(-1, -3).reshape(-1, *x.shape[-1:], *x.shape[-3:-1]), tuple(size))
    return planes.reshape(*x.shape[:-3], *planes.shape[1:]).movedim(-3, -1)


def _affine(colour: Tensor, alpha: Tensor, image: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Least squares over covered pixels, reweighted twice to forget outliers; the gain is drawn to 1, within GAINS."""
    weight = alpha
    for _ in range(3):
        total = weight.sum((-3, -2), keepdim=True).clamp(min=1e-6)
        mean_c, mean_i = ((weight * x).sum((-3, -2), keepdim=True) / total for x in (colour, image))
        prior = 0.1 * tolerance**2 * total
        var, cov = (
            ((weight * (colour - mean_c) * x).sum((-3, -2), keepdim=True) + prior).sum(-1, keepdim=True)
            for x in (colour - mean_c, image - mean_i)
        )
        gain = (cov / var).clamp(*GAINS)
        bias = mean_i - gain * mean_c
        squares = (gain * colour + bias - image).square().mean(-1, keepdim=True)
        weight = alpha * (tolerance**2 / (squares + tolerance**2)) ** 2
    return gain, bias


def _local(colour: Tensor, alpha: Tensor, image: Tensor, tolerance: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation within a window, over the covered pixels; the deviations with a floor."""
    window = max(image.shape[:2]) // 8
    total = box_mean(alpha, window) + 1e-4
    mean_c, mean_i = (box_mean(alpha * x, window) / total for x in (colour, image))
    var_c, var_i = (
        (box_mean(alpha * (x - mean).square(), window) / total).mean(-1, keepdim=True) + (0.2 * tolerance) ** 2
        for x, mean in ((colour, mean_c), (image, mean_i))
    )
    gain = (var_i / var_c).sqrt().clamp(*GAINS)
    return gain, mean_i - gain * mean_c


def box_mean(x: Tensor, window: int) -> Tensor:
    """Mean of x (..., H, W, C) over a square window of about that many pixels (at least 3) around each pixel."""
    planes = x.movedim(-1, -3)
    flat = planes.reshape(-1, 1, *planes.shape[-2:])
    for axis, size in enumerate(planes.shape[-2:]):
        width = min(max(window, 3), 2 * size - 1) | 1
        kernel = (width, 1) if axis == 0 else (1, width)
        pad = (width // 2, 0) if axis == 0 else (0, width // 2)
        flat = avg_pool2d(flat, kernel, 1, pad, count_include_pad=False)
    return flat.reshape(planes.shape).movedim(-3, -1)
