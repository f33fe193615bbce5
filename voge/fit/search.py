"""The steps of a search for a pose: where it starts, Adam, Levenberg-Marquardt, and how sure the result is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from voge.cameras import Cameras
from voge.fit.levenberg import Terms, central_differences, levenberg_marquardt
from voge.fit.objective import Objective
from voge.fit.pyramid import merged, pixel_size, sees, widened
from voge.fit.rigid import rotation_angle, rotations_within
from voge.fit.starts import NUMBERS, Poses, ahead, onto_mask

SPHERE = 256, 512  # rotations tried when nothing is known, with a mask and without
GRAIN = 1.6  # radii of the object: a ground is even within so much
APART = math.radians(4)  # poses nearer to each other count as one (also: radii of the object)
CORRELATED = 8  # noise is, within the longer side of the picture over this
STEP = 5e-3  # of central differences, in radians and radii


class Stage(NamedTuple):
    """One level of a fit.

    Attributes:
        size: of the longer side of the picture, in pixels.
        keep: how many of the poses at hand go through it: the best at its start.
        steps: of Adam.
        rate: its learning rate, in radians and radii; a fifth and a 25th of it in the last two thirds of the steps.
        width: by how many pixels (standard deviation) the Gaussians are widened; those within two widths are merged.
        tolerance: factor on the tolerance of the colours.
    """

    size: int
    keep: int
    steps: int
    rate: float = 0.05
    width: float = 0.5
    tolerance: float = 1.0


class Track:
    """The best pose after each step, and the best so far."""

    def __init__(self, progress: Callable[[str, int, int, float], None] | None) -> None:
        self.progress = progress
        self.path: list[Poses] = []
        self.curve: list[float] = []
        self.stages: list[int] = []
        self.name, self.steps, self.step, self.stage = "", 0, 0, -1

    def enter(self, name: str, steps: int) -> None:
        self.name, self.steps, self.step = name, steps, 0
        self.stage += 1

    def add(self, poses: Poses, losses: Tensor) -> None:
        """The poses after a step."""
        i = losses.argmin()
        self.path.append(poses.take(i[None]))
        self.curve.append(float(losses[i]))
        self.stages.append(self.stage)
        self.step += 1
        if self.progress is not None:
            self.progress(self.name, self.step, self.steps, self.curve[-1])


def at_stage(whole: Objective, stage: Stage, poses: Poses) -> Objective:
    """The objective of one stage, from that of the whole picture; the poses tell how far the object is."""
    level = whole.level.resized(stage.size)
    pixel = pixel_size(poses, level.camera)
    gaussians, features, width = whole.gaussians, whole.features, stage.width * pixel
    if width:
        gaussians, features = merged(gaussians, features, 2 * width)
    return replace(
        whole,
        gaussians=widened(gaussians, width**2),
        features=features,
        level=level,
        grain=round(GRAIN * whole.solid.radius / pixel),
        tolerance=whole.tolerance * stage.tolerance,
    )


def initial_poses(
    outline: Objective, cameras: Cameras, starts: int | None, spread: float, seed: int
) -> tuple[Poses, bool]:
    """The poses to begin with, and whether `cameras` said where in the picture the object is.

    Each of the cameras is turned `starts` times. With a mask, the poses are moved onto it. Where nothing is known the
    turned object is put into the middle.
    """
    solid, camera = outline.solid, outline.level.camera
    given = Poses.of(cameras, solid)
    seen = sees(given, camera)
    known = bool(seen.any())
    turns = rotations_within(spread, starts or (1 if known else SPHERE[0 if outline.masked else 1]), seed).to(given.R)
    if known:
        given = given.take(seen.nonzero()[:, 0])
        poses = given.take(torch.arange(len(given.zoom)).repeat_interleave(len(turns)))
        poses = poses._replace(R=turns.repeat(len(given.zoom), 1, 1) @ poses.R)
    else:
        poses = ahead(turns @ given.R[0], camera, solid)
    if outline.masked and len(turns) > 1:
        small = at_stage(outline, Stage(64, keep=1, steps=1), poses)
        for _ in range(2):  # the second time for perspective
            poses = onto_mask(poses, small.silhouettes(poses), small.level.inside, small.level.camera)
    return poses, known


def best_distinct(objective: Objective, poses: Poses, losses: Tensor, keep: int) -> Poses:
    """The `keep` poses of lowest loss among those that differ by APART, best first."""
    kept: list[int] = []
    for i in losses.argsort().tolist():
        turn = rotation_angle(poses.R[kept], poses.R[i])
        shift = (poses.centre[kept] - poses.centre[i]).norm(dim=-1) / objective.solid.radius
        if bool((torch.maximum(turn, shift) > APART).all()):
            kept.append(i)
        if len(kept) == keep:
            break
    return poses.take(torch.tensor(kept, device=losses.device))


def adam(objective: Objective, poses: Poses, stage: Stage, free: Tensor, track: Track) -> Poses:
    """Each pose's best within the steps; betas (0.4, 0.6) and the decay are those of NeMo (Wang et al., ICLR 2021)."""
    x = poses.R.new_zeros(len(poses.zoom), len(NUMBERS)).requires_grad_()
    moving = torch.zeros_like(x[0]).index_fill(0, free.to(x.device), 1.0)
    optimiser = torch.optim.Adam([x], lr=stage.rate, betas=(0.4, 0.6))
    decay = torch.optim.lr_scheduler.StepLR(optimiser, math.ceil(stage.steps / 3), gamma=0.2)
    best, lowest = x.detach().clone(), torch.full_like(x[:, 0], math.inf)
    for _ in range(stage.steps):
        losses = objective.loss(poses.moved(x * moving, objective.solid))
        optimiser.zero_grad()
        losses.sum().backward()
        with torch.no_grad():
            better = losses < lowest
            best = torch.where(better[:, None], x, best)
            lowest = torch.where(better, losses, lowest)
            track.add(poses.moved(best * moving, objective.solid), lowest)
        optimiser.step()
        decay.step()
    return poses.moved(best * moving, objective.solid)


def polish(objective: Objective, poses: Poses, free: Tensor, iterations: int, track: Track) -> tuple[Poses, Tensor]:
    """Levenberg-Marquardt from each pose; and whether it has converged (B,)."""
    zeros = poses.R.new_zeros(len(poses.zoom), len(NUMBERS))

    def moved(x: Tensor) -> Poses:
        row = torch.arange(len(x), device=x.device) // (len(x) // len(zeros))
        return poses.take(row).moved(x, objective.solid)

    def report(x: Tensor, losses: Tensor) -> None:
        track.add(moved(x), losses)

    minimum = levenberg_marquardt(
        lambda x: objective.terms(moved(x)), zeros, free, iterations=iterations, step=STEP, callback=report
    )
    return moved(minimum.x), minimum.converged


def covariance(objective: Objective, pose: Poses, free: Tensor) -> Tensor:
    """(6, 6) of one pose: G^-1 S G^-T, with G the derivative of the loss's gradient and S the spread of that gradient.

    S sums the products of what pixels contribute, those of near pixels too, with weights that fall linearly with their
    distance: noise is correlated between neighbours, by resampling and by the ground that is estimated from them.
    Sources: H. White, 1980; W. Newey, K. West, 1987; T. Conley, 1999.
    """
    zeros = pose.R.new_zeros(1, len(NUMBERS))

    def evaluate(x: Tensor) -> Terms:
        """The terms, with one more row of residuals: times their weights."""
        terms = objective.terms(pose.take(torch.zeros(len(x), dtype=torch.long)).moved(x, objective.solid))
        return terms._replace(residuals=torch.cat([terms.residuals, terms.curvature * terms.residuals], 1))

    terms, _, jacobian = central_differences(evaluate, zeros, free, STEP)
    jacobian, slopes = jacobian[0].double().chunk(2)
    inverse = torch.linalg.pinv(jacobian.mT @ slopes)
    height, width = objective.level.image.shape[:2]
    scores = jacobian * terms.residuals[0].double().chunk(2)[1][:, None]
    scores = scores.reshape(height, width, -1, len(free)).sum(2).movedim(-1, 0)
    reach = max(1, max(height, width) // CORRELATED)
    summed = reach * avg_pool2d(pad(scores[None], (reach - 1,) * 4), reach, 1)[0].flatten(1)
    full = inverse.new_zeros(len(NUMBERS), len(NUMBERS))
    full[free[:, None], free] = inverse @ (summed @ summed.mT) @ inverse.mT
    radius, depth = objective.solid.radius, float(pose.centre[0, 2])
    units = full.new_tensor([1, 1, 1, radius, radius, depth, 1])
    return (units[:, None] * full * units)[:6, :6].to(pose.R)
