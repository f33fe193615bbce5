"""What a pose costs at one level of the pyramid: two losses, one for the search and one for the finish."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from voge.fit.appearance import backdrop, box_mean, lit
from voge.fit.levenberg import Terms
from voge.fit.losses import explained_iou, explained_share, geman_mcclure, geman_mcclure_curvature
from voge.fit.pyramid import Level
from voge.fit.starts import Poses, Solid
from voge.gaussians import Gaussians
from voge.render import render

CHUNK = 2**24  # most numbers of rendered features held at once where no gradient is asked for
OCCLUDED = 0.15  # more than the error of the ground: what a pixel costs where something before the object is seen
OUTLINE = 0.5  # tolerance of a silhouette against the mask


@dataclass(frozen=True)
class Objective:
    """One object against one level.

    Attributes:
        gaussians: N, as wide as the level wants them. features: (N, C).
        masked: whether the level's `inside` is more than ones.
        opacity: alpha of its covered pixels, which count as wholly covered: things in pictures are opaque.
        grain: pixels, the window in which the ground without the object is taken for even.
        tolerance: of colours.
        clutter: error, 0 to 1, above which something else explains a covered pixel better.
        settings: of voge.render.
    """

    gaussians: Gaussians
    features: Tensor
    level: Level
    solid: Solid
    masked: bool
    opacity: float
    grain: int
    tolerance: float
    clutter: float
    lighting: str
    settings: dict[str, Any] = field(default_factory=dict)

    def draw(self, poses: Poses) -> tuple[Tensor, Tensor]:
        """Colour (B, H, W, C) in the light of the picture, and coverage (B, H, W), at most 1, of which it is freed."""
        drawn = render(self.gaussians, poses.cameras(self.level.camera, self.solid), self.features, **self.settings)
        colour = drawn.features / drawn.alpha[..., None].clamp(min=1e-3)
        alpha = (drawn.alpha / self.opacity).clamp(max=1)
        return lit(colour, alpha, self.level.image, self.lighting, self.tolerance), alpha

    def error(self, colour: Tensor) -> Tensor:
        """(B, H, W), 0 to `clutter`, of every pixel as the object.

        Above `clutter` there is no gradient: something else is there. It is NeMo's max(score, clutter)
        (Wang et al., ICLR 2021).
        """
        squares = (colour - self.level.image).square().mean(-1)
        return geman_mcclure(squares, self.tolerance).clamp(max=self.clutter)

    def loss(self, poses: Poses) -> Tensor:
        """(B,), for the search."""
        colour, alpha = self.draw(poses)
        if self.masked:
            return explained_iou(alpha, self.error(colour), self.level.inside)
        ground = geman_mcclure(self.ground_squares, self.tolerance).clamp(max=self.clutter)
        error = torch.minimum(self.error(colour), ground + OCCLUDED)
        return explained_share(alpha, error, ground)

    @cached_property
    def ground_squares(self) -> Tensor:
        """(H, W), mean square over the channels of what the picture is beside its own mean within `grain` pixels."""
        return (self.level.image - box_mean(self.level.image, self.grain)).square().mean(-1)

    @torch.no_grad()
    def losses(self, poses: Poses) -> Tensor:
        """`loss` of any number of poses, in parts, without gradient."""
        return torch.cat([self.loss(part) for part in self.parts(poses)])

    @torch.no_grad()
    def silhouettes(self, poses: Poses) -> Tensor:
        """Alpha (B, H, W) of any number of poses."""
        return torch.cat([self.draw(part)[1] for part in self.parts(poses)])

    def composed(self, poses: Poses) -> tuple[Tensor, Tensor]:
        """The object over what the picture shows beside it, minus the picture (B, H, W, C); the coverage (B, H, W)."""
        colour, alpha = self.draw(poses)
        ground = backdrop(colour, alpha, self.level.image)
        return alpha[..., None] * colour + (1 - alpha[..., None]) * ground - self.level.image, alpha

    @torch.no_grad()
    def terms(self, poses: Poses) -> Terms:
        """For the finish: the object over the ground beside it against the picture, and alpha against the mask.

        The outline counts through the contrast to the ground, so that it is neither drawn outwards nor inwards.
        """
        size = self.level.inside.numel()
        parts = []
        for part in self.parts(poses):
            residuals, alpha = self.composed(part)
            squares = residuals.square().mean(-1)
            error = geman_mcclure(squares, self.tolerance)
            loss = error.clamp(max=self.clutter).mean((-2, -1))
            curvature = geman_mcclure_curvature(squares, self.tolerance) * (error < self.clutter)
            curvature = (curvature / (size * residuals.shape[-1]))[..., None].expand_as(residuals)
            if self.masked:
                edge = (alpha - self.level.inside)[..., None]
                loss = loss + geman_mcclure(edge.square(), OUTLINE).mean((-3, -2, -1))
                residuals = torch.cat([residuals, edge], -1)
                curvature = torch.cat([curvature, geman_mcclure_curvature(edge.square(), OUTLINE) / size], -1)
            parts.append(Terms(loss, residuals.flatten(1), curvature.flatten(1)))
        return Terms(*map(torch.cat, zip(*parts, strict=True)))

    @torch.no_grad()
    def occluded(self, poses: Poses) -> Tensor:
        """(B, H, W) bool, covered pixels that something else explains better."""
        residuals, alpha = self.composed(poses)
        error = geman_mcclure(residuals.square().mean(-1), self.tolerance)
        return (error >= self.clutter) & (alpha > 0.5)

    def parts(self, poses: Poses) -> list[Poses]:
        """The poses in parts of which each may be drawn at once."""
        size = self.level.image.shape[:2].numel() * (self.features.shape[-1] + 1)
        return [Poses(*part) for part in zip(*(x.split(max(1, CHUNK // size)) for x in poses), strict=True)]
