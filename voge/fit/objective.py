"""What a pose costs at one level of the pyramid: two losses, one for the search and one for the finish."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from voge.fit.appearance import backdrop, lit
from voge.fit.levenberg import Terms
from voge.fit.losses import explained_iou, geman_mcclure, geman_mcclure_curvature
from voge.fit.pyramid import Level
from voge.fit.starts import Poses, Solid
from voge.gaussians import Gaussians
from voge.render import render

CHUNK = 2**24  # most numbers of rendered features held at once where no gradient is asked for
OUTLINE = 0.5  # tolerance of a silhouette against the mask


@dataclass(frozen=True)
class Objective:
    """One object against one level.

    Attributes:
        gaussians: N, as wide as the level wants them. features: (N, C).
        masked: whether the level's `inside` is more than ones.
        opacity: alpha of its covered pixels, which count as wholly covered: things in pictures are opaque.
        room: without a mask, the share of the picture that is there to be explained (losses.explained_iou).
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
    room: float
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
        inside = self.level.inside
        return explained_iou(alpha, self.error(colour), inside if self.masked else None, self.room * inside.numel())

    @torch.no_grad()
    def losses(self, poses: Poses) -> Tensor:
        """`loss` of any number of poses, in parts, without gradient."""
        return torch.cat([self.loss(part) for part in self._parts(poses)])

    @torch.no_grad()
    def silhouettes(self, poses: Poses) -> Tensor:
        """Alpha (B, H, W) of any number of poses."""
        return torch.cat([self.draw(part)[1] for part in self._parts(poses)])

    @torch.no_grad()
    def ground(self, poses: Poses) -> Tensor:
        """(B, H, W, C), what the picture shows beside the object."""
        return torch.cat([backdrop(*self.draw(part), self.level.image) for part in self._parts(poses)])

    def composed(self, poses: Poses, ground: Tensor) -> tuple[Tensor, Tensor]:
        """The object over the ground minus the picture (B, H, W, C), and the coverage (B, H, W)."""
        colour, alpha = self.draw(poses)
        return alpha[..., None] * colour + (1 - alpha[..., None]) * ground - self.level.image, alpha

    @torch.no_grad()
    def terms(self, poses: Poses, ground: Tensor) -> Terms:
        """For the finish: the object over the ground (B or 1, H, W, C) against the picture, and alpha against the mask.

        The outline counts through the contrast to the ground, so that it is neither drawn outwards nor inwards.
        """
        size = self.level.inside.numel()
        parts, first = [], 0
        for part in self._parts(poses):
            count = len(part.zoom)
            residuals, alpha = self.composed(part, ground if len(ground) == 1 else ground[first : first + count])
            first += count
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
        residuals, alpha = self.composed(poses, self.ground(poses))
        error = geman_mcclure(residuals.square().mean(-1), self.tolerance)
        return (error >= self.clutter) & (alpha > 0.5)

    def _parts(self, poses: Poses) -> list[Poses]:
        size = self.level.image.shape[:2].numel() * (self.features.shape[-1] + 1)
        return [Poses(*part) for part in zip(*(x.split(max(1, CHUNK // size)) for x in poses), strict=True)]
