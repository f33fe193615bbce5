"""Template matching: where in a picture an object is, tried at every pixel, for many views of it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from voge.fit.appearance import GAINS
from voge.fit.objective import Objective
from voge.fit.pyramid import window
from voge.fit.rigid import exp_so3
from voge.fit.search import Stage, at_stage
from voge.fit.starts import Poses, ahead

FILLS = (0.3, 0.42, 0.6, 0.85)  # sizes tried where nothing is known: of the ball in the picture's shorter side
INSIDE = 0.7  # of the ball's radius, that its middle keeps from the border where nothing is known
ZOOMS = (0.85, 1.0, 1.18)  # sizes tried around a start
NEAR = 0.5  # radii of the ball, how far from it in x and in y


@torch.no_grad()
def anywhere(whole: Objective, rotations: Tensor, stage: Stage) -> Poses:
    """The object turned by `rotations` (S, 3, 3), each in the sizes of FILLS (4 S), in the best place of the picture.

    Pictures are so small that the object's ball is half as large as those of `stage`.
    """
    found = []
    for fill in FILLS:
        views = ahead(rotations, whole.level.camera, whole.solid, fill)
        height, width = whole.level.camera.image_size
        size = round(stage.size * max(height, width) / (2 * fill * min(height, width)))
        objective = at_stage(whole, stage._replace(size=size), views)
        height, width = objective.level.camera.image_size
        x, y = _places(objective)
        margin = INSIDE * fill * min(height, width) / 2
        allowed = (x >= margin) & (x <= width - margin) & (y >= margin) & (y <= height - margin)
        found.append(_placed(objective, views, allowed.expand(len(rotations), -1, -1)))
    return Poses(*map(torch.cat, zip(*found, strict=True)))


@torch.no_grad()
def nearby(objective: Objective, poses: Poses) -> Poses:
    """The `poses` (S) in three sizes (3 S), each in the best place near to where it was."""
    x, y = _places(objective)
    camera, found = objective.level.camera, []
    for zoom in ZOOMS:
        views = poses._replace(centre=poses.centre / zoom)
        pixels = (views.centre / views.centre[:, 2:] @ camera.K.mT)[:, :2, None, None]
        reach = (NEAR * objective.solid.radius / views.centre[:, 2] * camera.K.diagonal()[:2].mean()).clamp(min=1)
        away = torch.maximum((x - pixels[:, 0]).abs(), (y - pixels[:, 1]).abs())
        found.append(_placed(objective, views, away <= reach[:, None, None]))
    return Poses(*map(torch.cat, zip(*found, strict=True)))


def _placed(objective: Objective, views: Poses, allowed: Tensor) -> Poses:
    """The views moved to where, of the `allowed` pixels (S, H, W), they explain most.

    The sums over the covered pixels, for all places at once, are correlations (J. Lewis, Fast Template Matching, 1995).
    """
    camera = objective.level.camera
    height, width = camera.image_size
    middle = torch.linalg.solve(camera.K, camera.K.new_tensor([width / 2, height / 2, 1]))
    rays = views.centre / views.centre[:, 2:]
    appearance = _facing(rays).mT @ views.R
    facing = _facing(middle.expand_as(rays))
    templates = Poses(facing @ appearance, views.centre[:, 2:] * middle, views.zoom)
    x0, y0, x1, y1 = window(camera, None, templates, objective.solid)
    close = replace(objective, level=objective.level.cropped((x0, y0, x1, y1)), lighting="same")
    beside = (x0, width - x1, y0, height - y1)
    gain = torch.cat(
        [
            _explained(objective, pad(colour, (0, 0, *beside)), pad(alpha, beside))
            for colour, alpha in (close.draw(part) for part in objective.parts(templates))
        ]
    )
    place = gain.masked_fill(~allowed, -torch.inf).flatten(1).argmax(1)
    x, y = (grid.flatten()[place] for grid in _places(objective))
    rays = torch.linalg.solve(camera.K, torch.stack([x, y, torch.ones_like(x)])).mT
    return Poses(_facing(rays) @ appearance, views.centre[:, 2:] * rays, views.zoom)


def _places(objective: Objective) -> tuple[Tensor, Tensor]:
    """x and y (H, W) of the places: the middle of the picture is one of them."""
    height, width = objective.level.camera.image_size
    like = objective.level.image
    x, y = (torch.arange(side).to(like) - side // 2 + side / 2 for side in (width, height))
    return y.new_zeros(height, width) + x, y[:, None].expand(height, width)


def _facing(rays: Tensor) -> Tensor:
    """Rotations (S, 3, 3) that turn the camera's axis to the rays (S, 3) by the shortest way."""
    rays = normalize(rays, dim=-1)
    across = torch.stack([-rays[:, 1], rays[:, 0], torch.zeros_like(rays[:, 0])], -1)
    angle = torch.atan2(across.norm(dim=-1), rays[:, 2])
    return exp_so3(angle[:, None] * normalize(across, dim=-1))


def _explained(objective: Objective, colour: Tensor, alpha: Tensor) -> Tensor:
    """(S, H, W), squares of the picture that a view, its middle at that pixel, explains beyond the ground.

    Pixels weigh as they do in geman_mcclure at the ground's error. With an unknown light, the view has the best gain
    and bias.
    """
    image, ground = objective.level.image, objective.ground_squares
    channels = image.shape[-1]
    weight = 1 / (ground + objective.tolerance**2)
    size = image.shape[:2]
    middle = [side // 2 for side in size]

    def back(product: Tensor) -> Tensor:
        return torch.fft.irfft2(product, size, dim=(1, 2)).roll(middle, (1, 2))

    window, covered = alpha[..., None], alpha[..., None] * colour
    squares = (covered * colour).sum(-1, keepdim=True)
    window, covered, squares = (torch.fft.rfft2(view, dim=(1, 2)).conj() for view in (window, covered, squares))
    weighted = weight[..., None] * image
    gone = (weight * (channels * ground - image.square().sum(-1)))[
        ..., None
    ]  # squares of the ground minus the picture's
    weight, weighted, gone = (torch.fft.rfft2(x, dim=(0, 1)) for x in (weight[..., None], weighted, gone))
    both = back((covered * weighted).sum(-1))
    left, drawn = back(window * gone)[..., 0], back(squares * weight)[..., 0]
    if objective.lighting == "same":
        return left + 2 * both - drawn
    total = back(window * weight).clamp(min=1e-3)
    sum_seen, sum_drawn = back(window * weighted), back(covered * weight)
    both = both - (sum_seen * sum_drawn / total).sum(-1)
    left = left + (sum_seen.square() / total).sum(-1)
    drawn = (drawn - (sum_drawn.square() / total).sum(-1)).clamp(min=1e-6)
    gain = (both / drawn).clamp(*GAINS)
    return left + 2 * gain * both - gain.square() * drawn
