"""Analysis by synthesis: the pose of an object in a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from voge import checks
from voge.cameras import Cameras
from voge.fit.features import backbone, encode, lift
from voge.fit.levenberg import central_differences, gauss_newton, levenberg_marquardt
from voge.fit.losses import LIGHTING, geman_mcclure
from voge.fit.objective import Objective
from voge.fit.pyramid import Level, pixel_size, resize, sees, widened, window
from voge.fit.rigid import orthonormal, rotations_within
from voge.fit.starts import Poses, Solid, ahead, distinct, free_numbers, onto_mask
from voge.gaussians import Gaussians

SPHERE = 256  # rotations tried when nothing is known
APART = math.radians(4)  # poses nearer to each other than this count as one (also: radii)


class Stage(NamedTuple):
    """One level of a fit.

    Attributes:
        size: of the longer side of the picture, in pixels.
        keep: how many of the poses at hand go through it, the best at its start.
        steps: of Adam.
        rate: its learning rate at the first step, in radians and radii; a fifth and a 25th of it in the last two thirds.
        width: by how many pixels (standard deviation) the Gaussians are widened.
        tolerance: factor on the tolerance of the colours.
    """

    size: int
    keep: int
    steps: int
    rate: float = 0.05
    width: float = 0.5
    tolerance: float = 1.0


STAGES = (
    Stage(32, keep=32, steps=30, rate=0.05, width=1.0, tolerance=2.0),
    Stage(64, keep=8, steps=30, rate=0.03, width=0.7, tolerance=1.4),
    Stage(128, keep=2, steps=20, rate=0.01),
)


@dataclass(frozen=True)
class PoseResult:
    """A fitted pose.

    Attributes:
        cameras: the pose as a camera: object to camera, OpenCV's axes, with K and size of the picture.
        covariance: (6, 6), of the rotation vector (radians, camera axes, about the object's centre) and of the object's
            centre (camera axes, world units), from the Gauss-Newton Hessian and the residuals; zero where not free.
        loss: of the pose, at the last level.
        curve: (S,), the best loss after every step; the scale differs between stages. stages: (S,), the stage of each.
        path: the best pose after every step, a batch of S cameras.
        candidates: the starts, a batch of cameras; candidate_losses: (starts,), theirs at the first level.
        finalists: the poses that were polished, a batch of cameras, best first; finalist_losses: (finalists,).
        occluded: (H, W) bool, pixels of the object that something else explains better.
        converged: the last step of the polish was below its tolerance.
        interrupted: stopped by Ctrl-C; the pose is the best so far.
    """

    cameras: Cameras
    covariance: Tensor
    loss: float
    curve: Tensor
    stages: Tensor
    path: Cameras
    candidates: Cameras
    candidate_losses: Tensor
    finalists: Cameras
    finalist_losses: Tensor
    occluded: Tensor
    converged: bool
    interrupted: bool

    @property
    def R(self) -> Tensor:
        """(3, 3), object to camera."""
        return self.cameras.R

    @property
    def t(self) -> Tensor:
        """(3,), object to camera, world units."""
        return self.cameras.t

    @property
    def T(self) -> Tensor:
        """(4, 4), object to camera."""
        T = torch.eye(4, dtype=self.R.dtype, device=self.R.device)
        T[:3, :3], T[:3, 3] = self.R, self.t
        return T

    @property
    def deviations(self) -> tuple[Tensor, Tensor]:
        """Standard deviations: (3,) of the rotation in radians, (3,) of the centre in world units."""
        sigma = self.covariance.diagonal().clamp(min=0).sqrt()
        return sigma[:3], sigma[3:]


def pose(
    gaussians: Gaussians,
    image: Any,
    cameras: Cameras,
    features: Tensor | None = None,
    *,
    mask: Any = None,
    starts: int | None = None,
    spread: float = math.pi,
    free: str | Sequence[str] = "all",
    lighting: str = "same",
    encoder: nn.Module | str | None = None,
    tolerance: float | None = None,
    clutter: float = 0.8,
    absent: float = 0.4,
    stages: Sequence[Stage] = STAGES,
    polish: int = 12,
    seed: int = 0,
    progress: Callable[[str, int, int, float], None] | None = None,
    **settings: Any,
) -> PoseResult:
    """Finds the pose at which the rendered object explains the picture best.

    Many starts are rendered in one batch on a small picture with wide Gaussians; the best go on to larger pictures, moved
    by Adam; the last are polished by Levenberg-Marquardt. Occluders are switched off pixel by pixel (losses.explain).

    Args:
        gaussians: the object, N Gaussians, no batch.
        image: (H, W, C) or (H, W), tensor or array; uint8 is divided by 255.
        cameras: K and image size; its poses are the starts, one or a batch. If none sees the object (such as R = 1,
            t = 0), nothing is known and the starts are all over the sphere.
        features: (N, C), what the Gaussians carry, in the picture's channels. None: the silhouette alone, of `mask`.
        mask: (H, W), 0 to 1, where the object may be seen; None: anywhere. Leave occluders in it where you can: a pixel
            outside costs when it is covered, one inside when it is not.
        starts: rotations to try around each pose given. None: 1, or 256 if no pose sees the object.
        spread: radians, how far the rotations tried lie from the given one; pi is all of them. With a mask, the poses
            tried are moved onto it.
        free: what moves: "all", "rotation", "translation", "focal", single numbers ("rx", ..., "tz"), or several of these.
            Rotations are about the object's centre (the middle of its box), in the camera's axes; translations move it.
        lighting: "same", "affine" (an unknown gain and bias), "local" (only contrast within a window counts).
        encoder: a module (B, 3, H, W) -> (B, C, h, w), or the name of a timm backbone: feature maps are compared instead
            of colours. `features` are colours (N, 3), seen through it from many sides, or already (N, C) of its maps.
        tolerance: the difference of a channel at which a pixel is half an outlier; None: from the spread of the values.
        clutter: cost in (0, 1] above which a covered pixel counts as occluded. absent: cost, below clutter, of a pixel
            inside the mask that is not covered.
        stages: coarse to fine. polish: iterations of Levenberg-Marquardt, 0 for none.
        seed: of the starts; equal seeds give equal results.
        progress: called with the stage's name, the step, the number of steps and the best loss.
        settings: of voge.render.

    Raises:
        TypeError, ValueError: types, shapes, values, or sizes that do not fit. Ctrl-C raises nothing: see `interrupted`.
    """
    free_index = free_numbers(free)
    problem = _problem(gaussians, image, cameras, features, mask, encoder, tolerance, lighting, clutter, absent, stages,
                       settings)  # fmt: skip
    solid, track = problem.solid, _Track(progress)
    poses = candidates = _starts(problem, cameras, mask is not None, starts, spread, seed, stages[0])
    problem = _focused(problem, mask, poses)
    objective, scores, converged = _at(problem, stages[0], poses), torch.zeros(0), False
    try:
        scores = losses = objective.losses(poses)
        for number, stage in enumerate(stages):
            if number:
                objective = _at(problem, stage, poses)
                losses = objective.losses(poses)
            poses = poses.take(distinct(poses, losses.argsort(), stage.keep, APART, solid))
            track.enter(f"{stage.size} pixels", stage.steps)
            poses = _adam(objective, poses, stage, free_index, track)
        if polish:
            track.enter("polish", polish)
            poses, converged = _polish(objective, poses, free_index, polish, track)
        interrupted = False
    except KeyboardInterrupt:
        poses, interrupted = track.best or candidates.take(torch.tensor([0])), True
    return _result(objective, cameras, poses, candidates, scores, free_index, track, converged, interrupted)


class _Track:
    """The best pose of each step, and of the whole so far."""

    def __init__(self, progress: Callable[[str, int, int, float], None] | None) -> None:
        self.progress = progress
        self.path: list[Poses] = []
        self.curve: list[float] = []
        self.stages: list[int] = []
        self.best: Poses | None = None
        self.name, self.steps, self.stage, self.step = "", 0, -1, 0

    def enter(self, name: str, steps: int) -> None:
        self.name, self.steps, self.step = name, steps, 0
        self.stage += 1

    def add(self, poses: Poses, losses: Tensor) -> None:
        """The poses after a step: each the best of its row in this stage."""
        i = losses.argmin()
        self.best = poses.take(i[None])
        self.path.append(self.best)
        self.curve.append(float(losses[i]))
        self.stages.append(self.stage)
        self.step += 1
        if self.progress is not None:
            self.progress(self.name, self.step, self.steps, self.curve[-1])


def _adam(objective: Objective, poses: Poses, stage: Stage, free: Tensor, track: _Track) -> Poses:
    """Each pose's best within the steps; betas (0.4, 0.6) and the decay are those of NeMo (Wang et al., ICLR 2021)."""
    x = torch.zeros(len(poses.zoom), 7, dtype=poses.R.dtype, device=poses.R.device, requires_grad=True)
    moving = torch.zeros_like(x[0]).index_fill(0, free.to(x.device), 1.0).detach()
    adam = torch.optim.Adam([x], lr=stage.rate, betas=(0.4, 0.6))
    decay = torch.optim.lr_scheduler.StepLR(adam, max(1, math.ceil(stage.steps / 3)), gamma=0.2)
    best, lowest = x.detach().clone(), torch.full_like(x[:, 0].detach(), math.inf)
    for _ in range(stage.steps):
        adam.zero_grad()
        losses = objective.explained(poses.moved(x * moving, objective.solid))[0].loss
        losses.sum().backward()
        better = losses.detach() < lowest
        best = torch.where(better[:, None], x.detach(), best)
        lowest = torch.where(better, losses.detach(), lowest)
        track.add(poses.moved(best * moving, objective.solid), lowest)
        adam.step()
        decay.step()
    return poses.moved(best * moving, objective.solid)


def _polish(
    objective: Objective, poses: Poses, free: Tensor, iterations: int, track: _Track
) -> tuple[Poses, bool]:
    """Levenberg-Marquardt; best first, and whether the best has converged."""
    solid, zeros = objective.solid, torch.zeros(len(poses.zoom), 7, dtype=poses.R.dtype, device=poses.R.device)

    def moved(x: Tensor) -> Poses:
        return poses.take(torch.arange(len(x), device=x.device) // (len(x) // len(zeros))).moved(x, solid)

    minimum = levenberg_marquardt(
        lambda x: objective.terms(moved(x)), zeros, free, iterations=iterations,
        callback=lambda x, losses: track.add(moved(x), losses),
    )  # fmt: skip
    order = minimum.loss.argsort()
    return moved(minimum.x).take(order), bool(minimum.converged[order[0]])


def _covariance(objective: Objective, poses: Poses, free: Tensor) -> Tensor:
    """(6, 6) of the first pose: s^2 (J' W J)^-1 with the robust weights W and the noise s^2 of the residuals."""
    first, zeros = poses.take(torch.tensor([0])), poses.R.new_zeros(1, 7)
    same = torch.zeros(2 * len(free) + 1, dtype=torch.long)
    terms, _, jacobian = central_differences(
        lambda x: objective.terms(first.take(same[: len(x)]).moved(x, objective.solid)), zeros, free, 5e-3
    )
    # Colours and outline have noise of their own; the outline says something only where a mask or nothing else is given.
    pixels = objective.level.image.shape.numel()
    information = torch.zeros(1, len(free), len(free), dtype=torch.float64)
    for rows in (slice(0, pixels), slice(pixels, None)):
        weight, residual = terms.curvature[:, rows], terms.residuals[:, rows]
        if rows.stop is None:
            edge = objective.level.inside.flatten()
            if bool((edge == 1).all()):
                continue
            residual, weight = residual - edge, weight.new_ones(weight.shape)
        squares = (weight * residual.square()).sum().double() / weight.sum().clamp(min=1e-12)
        information += gauss_newton(jacobian[:, rows], weight / weight.max().clamp(min=1e-12)) / squares.clamp(min=1e-12)
    depth = float(first.centre[0, 2])
    units = torch.tensor([1, 1, 1, objective.solid.radius, objective.solid.radius, depth, 1], dtype=torch.float64)
    full = torch.zeros(7, 7, dtype=torch.float64)
    full[free[:, None], free] = torch.linalg.pinv(information[0], hermitian=True)
    return (units[:, None] * full * units)[:6, :6].to(poses.R)
