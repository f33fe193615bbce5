"""What a pose costs at one level of the pyramid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from voge.fit.levenberg import Terms
from voge.fit.losses import Explained, explain, geman_mcclure
from voge.fit.pyramid import Level
from voge.fit.starts import Poses, Solid
from voge.gaussians import Gaussians
from voge.render import render

CHUNK = 2**24  # most numbers of rendered features held at once where no gradient is asked for


@dataclass(frozen=True)
class Objective:
    """The loss of poses (losses.explain) of one object against one level.

    Attributes:
        gaussians: N, as wide as the level wants them. features: (N, C).
        background: the level's picture without the object, (H, W, C), or None.
        settings: of voge.render.
    """

    gaussians: Gaussians
    features: Tensor
    level: Level
    solid: Solid
    tolerance: float
    clutter: float
    lighting: str
    settings: dict[str, Any] = field(default_factory=dict)

    def explained(self, poses: Poses) -> tuple[Explained, Tensor]:
        """Of B poses, and their alpha (B, H, W)."""
        cameras = poses.cameras(self.level.camera, self.solid)
        drawn = render(self.gaussians, cameras, self.features, **self.settings)
        level = self.level
        return explain(
            drawn.features, drawn.alpha, level.image, level.inside, level.absent,
            self.tolerance, self.clutter, self.lighting,
        ), drawn.alpha  # fmt: skip

    @torch.no_grad()
    def losses(self, poses: Poses) -> Tensor:
        """(B,)."""
        return torch.cat([self.explained(part)[0].loss for part in self._parts(poses)])

    @torch.no_grad()
    def silhouettes(self, poses: Poses) -> Tensor:
        """Alpha (B, H, W), at most 1."""
        return torch.cat([self.explained(part)[1] for part in self._parts(poses)]).clamp(max=1)

    @torch.no_grad()
    def terms(self, poses: Poses) -> Terms:
        """For Levenberg-Marquardt: colour residuals weighted by alpha, and alpha, whose curvature keeps the outline."""
        parts = []
        height, width = self.level.camera.image_size
        # The loss is linear in alpha. Where a smooth outline lies on an edge of the picture its second derivative along
        # the outline's motion is about twice the jump of the cost times the square of alpha's slope.
        outline = 2 * self.level.absent / (height * width)
        for part in self._parts(poses):
            seen, alpha = self.explained(part)
            curvature = seen.curvature[..., None].expand_as(seen.residuals).flatten(1)
            edges = outline.expand_as(alpha).flatten(1)
            residuals = torch.cat([seen.residuals.flatten(1), alpha.clamp(max=1).flatten(1)], 1)
            parts.append(Terms(seen.loss, residuals, torch.cat([curvature, edges], 1)))
        return Terms(*map(torch.cat, zip(*parts, strict=True)))

    def _parts(self, poses: Poses) -> list[Poses]:
        size = self.level.image.shape[:2].numel() * (self.features.shape[-1] + 1)
        return [Poses(*part) for part in zip(*(x.split(max(1, CHUNK // size)) for x in poses), strict=True)]
