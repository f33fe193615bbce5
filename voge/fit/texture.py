"""The colours of an object from pictures of known pose: rendering transposed, and refined if asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from voge import checks
from voge.cameras import Cameras
from voge.fragments import trace
from voge.gaussians import Gaussians
from voge.render import render


@dataclass(frozen=True)
class TextureResult:
    """An extracted texture.

    Attributes:
        features: (N, C); the mean of the visible ones where not visible.
        visible: (N,) bool, whether some view sees the Gaussian.
        weight_sum: (N,), sum of its weights over the pixels that count: how well it is seen.
        curve: (refine,), the mean squared error before every step of the refinement.
    """

    features: Tensor
    visible: Tensor
    weight_sum: Tensor
    curve: Tensor


def texture(
    gaussians: Gaussians,
    images: Tensor,
    cameras: Cameras,
    masks: Tensor | None = None,
    *,
    refine: int = 0,
    rate: float = 0.02,
    least: float = 0.25,
    **settings: Any,
) -> TextureResult:
    """What each Gaussian looks like: the mean of the pixels that meet it, by their weights (Fragments.sample).

    Args:
        gaussians: the object, N Gaussians, no batch.
        images: (V, H, W, C), or (H, W, C) for one camera: the object's colours as if it were opaque.
        cameras: a batch (V,), or one.
        masks: (V, H, W) in [0, 1], or (H, W): how much each pixel counts, such as 0 where the background
            shows through or something is in front; None: all do.
        refine: steps of Adam, with step size `rate`, that make the rendered colours those of the images, which
            sharpens them. Pixels count by what the object covers of them.
        least: a view counts for a Gaussian if it shows more than this share of it, of what it would show of it alone.
        settings: of voge.render, such as max_hits.

    Raises:
        TypeError, ValueError: types, shapes, values; a texture that no picture shows.
    """
    if not isinstance(cameras, Cameras):
        raise TypeError(f"cameras: expected voge.Cameras, got {type(cameras).__name__}")
    if not isinstance(gaussians, Gaussians):
        raise TypeError(f"gaussians: expected voge.Gaussians, got {type(gaussians).__name__}")
    if gaussians.batch_shape or len(cameras.batch_shape) > 1:
        raise ValueError(f"gaussians, cameras: expected no batch and a batch (V,), got {gaussians} and {cameras}")
    stack = (*cameras.batch_shape, *cameras.image_size)
    like: dict[str, Any] = {"dtype": gaussians.dtype, "device": gaussians.device, "finite": True}
    images = checks.tensor("images", images, (*stack, "C"), **like)
    if images.dim() != len(stack) + 1:
        raise ValueError(f"images: expected shape {(*stack, 'C')}, got {tuple(images.shape)}")
    masks = images.new_ones(stack) if masks is None else checks.tensor("masks", masks, stack, **like)
    checks.every("masks", masks >= 0, "values of at least 0", masks)
    checks.integer("refine", refine, 0, None)
    batch = cameras if cameras.batch_shape else cameras[None]
    images, masks = images.reshape(-1, *images.shape[-3:]), masks.reshape(-1, *masks.shape[-2:])

    total, weight_sum = images.new_zeros(gaussians.num, images.shape[-1]), images.new_zeros(gaussians.num)
    with torch.no_grad():
        for camera, image, mask in zip(batch, images, masks, strict=True):
            fragments = trace(gaussians, camera, **settings)
            sums, weight = fragments.sample(torch.cat([mask[..., None] * image, mask[..., None]], -1))
            alone = replace(fragments, weights=1 - torch.exp(-fragments.peaks)).visibility()
            sums = torch.where((weight > least * alone)[:, None], sums, 0)
            total, weight_sum = total + sums[:, :-1], weight_sum + sums[:, -1]
    visible = weight_sum > 0
    if not visible.any():
        raise ValueError("cameras: expected a view of the object, got none: no pixel meets a Gaussian")
    features = total / torch.where(visible, weight_sum, 1)[:, None]
    features = torch.where(visible[:, None], features, features[visible].mean(0))

    curve = []
    if refine:
        features = features.clone().requires_grad_()
        optimizer = torch.optim.Adam([features], lr=rate)
        for _ in range(refine):
            drawn = render(gaussians, batch, features, **settings)
            share = drawn.alpha.detach()[..., None]
            loss = (masks[..., None] * (drawn.features - share * images).square()).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        features = features.detach()
    return TextureResult(features, visible, weight_sum, torch.tensor(curve))
