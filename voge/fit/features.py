"""Feature maps: what a network sees in a picture, and what it would see on each Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from voge.cameras import Cameras
from voge.fit.rigid import even_rotations
from voge.fit.starts import Solid, ahead
from voge.fragments import trace
from voge.gaussians import Gaussians
from voge.io.optional import library
from voge.render import render


def backbone(name: str, pretrained: bool = True, level: int = 1) -> nn.Module:
    """One level of a timm network as an encoder: pictures (B, 3, H, W) in [0, 1] to feature maps (B, C, h, w).

    Args:
        name: of a timm model. level: which of its feature maps, 0 the finest; 1 is stride 4 for most.

    Raises:
        ImportError: timm is missing: pip install 'voge[fit]'.
    """
    network = library("timm", "fit").create_model(name, pretrained=pretrained, features_only=True, out_indices=(level,))
    config = network.pretrained_cfg if isinstance(network.pretrained_cfg, dict) else vars(network.pretrained_cfg)
    return _Backbone(network, config["mean"], config["std"]).eval()


class _Backbone(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean)[:, None, None])
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images - self.mean) / self.std)[0]


@torch.no_grad()
def encode(encoder: nn.Module, images: Tensor) -> Tensor:
    """Feature maps (B, h, w, C) of unit length in every pixel, of pictures (B, H, W, 3)."""
    maps = encoder(images.movedim(-1, 1))
    if not isinstance(maps, Tensor) or maps.dim() != 4 or len(maps) != len(images):
        got = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise ValueError(f"encoder: expected feature maps (B, C, h, w), got {got}")
    return normalize(maps.movedim(1, -1), dim=-1)


@torch.no_grad()
def lift(
    gaussians: Gaussians, colors: Tensor, encoder: nn.Module, camera: Cameras, views: int = 32, background: float = 0.5
) -> Tensor:
    """What the encoder sees on each Gaussian (N, C), unit length: the mean over rendered views in which it is visible.

    Args:
        colors: (N, 3) in [0, 1]. camera: gives K and the image size; the object is placed in its middle.
    """
    solid = Solid.around(gaussians)
    rotations = even_rotations(views).to(gaussians.means)
    total = weight = torch.zeros(())
    for rotation in rotations:
        view = ahead(rotation[None], camera, solid).cameras(camera, solid)[0]
        drawn = render(gaussians, view, colors)
        picture = drawn.features + background * (1 - drawn.alpha.clamp(max=1))[..., None]
        features = encode(encoder, picture[None])[0]
        small = view.resize(features.shape[:2])
        sums, weights = trace(gaussians, small).sample(features)
        total, weight = total + sums, weight + weights
    return normalize(total / weight.clamp(min=1e-6)[:, None], dim=-1)
