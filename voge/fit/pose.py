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
from voge.fit.appearance import LIGHTING
from voge.fit.features import backbone, encode, lift
from voge.fit.levenberg import Terms, central_differences, gauss_newton, levenberg_marquardt
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
    stages: Sequence[Stage] = STAGES,
    polish: int = 12,
    seed: int = 0,
    progress: Callable[[str, int, int, float], None] | None = None,
    **settings: Any,
) -> PoseResult:
    """Finds the pose at which the rendered object explains the picture best.

    Many starts are rendered in one batch on a small picture with wide Gaussians; the best go on to larger pictures, moved
    by Adam; the last are polished by Levenberg-Marquardt. Occluders are switched off pixel by pixel.

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
        clutter: cost in (0, 1] above which a covered pixel counts as occluded; 0.5 is an error of the tolerance.
        stages: coarse to fine. polish: iterations of Levenberg-Marquardt, 0 for none.
        seed: of the starts; equal seeds give equal results.
        progress: called with the stage's name, the step, the number of steps and the best loss.
        settings: of voge.render.

    Raises:
        TypeError, ValueError: types, shapes, values, or sizes that do not fit. Ctrl-C raises nothing: see `interrupted`.
    """
    moving = free_numbers(free)
    _check_options(gaussians, lighting, tolerance, clutter, starts, stages)
    gaussians = Gaussians(*(x if x is None else x.detach() for x in (gaussians.means, gaussians.precisions, gaussians.density)))
    solid = Solid.around(gaussians)
    level = _picture(gaussians, image, cameras, features, mask)
    camera = level.camera
    candidates, known = _starts(gaussians, level, cameras, solid, starts, spread, seed, mask is not None, settings)
    box = window(camera, level.inside if mask is not None else None, candidates if known else None, solid)
    level = level.cropped(box)
    if encoder is not None:
        level, features = _encoded(gaussians, features, encoder, level, max(stage.size for stage in stages))
    if features is None:
        features = gaussians.means.new_ones(gaussians.num, 1)
    if features.shape[-1] != level.image.shape[-1]:
        raise ValueError(f"features: expected the picture's {level.image.shape[-1]} channels, got {tuple(features.shape)}")
    contrast = _contrast(features, level)
    whole = Objective(gaussians, features.detach(), level, solid, mask is not None, tolerance or 0.35 * contrast, contrast,
                      clutter, lighting, settings)  # fmt: skip

    track, poses, interrupted, settled = _Track(progress), candidates, False, torch.zeros(len(candidates.zoom), dtype=torch.bool)
    scores, objective = torch.zeros(0), _at(whole, stages[0], candidates)
    try:
        for number, stage in enumerate(stages):
            objective = _at(whole, stage, poses)
            losses = objective.losses(poses)
            scores = losses if number == 0 else scores
            poses = poses.take(distinct(poses, losses.argsort(), stage.keep, APART, solid))
            track.enter(f"{stage.size} pixels", stage.steps)
            poses = _adam(objective, poses, stage, moving, track)
        if polish:
            track.enter("polish", polish)
            poses, settled = _polish(objective, poses, moving, polish, track)
    except KeyboardInterrupt:
        poses, interrupted = track.best or candidates.take(torch.tensor([0])), True
    losses = objective.losses(poses)
    order = losses.argsort()
    poses, losses, converged = poses.take(order), losses[order], bool(settled[order[0]]) if not interrupted else False
    best = poses.take(torch.tensor([0]))
    occluded = torch.zeros(cameras.image_size, dtype=torch.bool, device=solid.centre.device)
    occluded[box[1] : box[3], box[0] : box[2]] = _occluded(objective, best, (box[3] - box[1], box[2] - box[0]))
    return PoseResult(
        cameras=_tidied(best, moving).cameras(camera, solid)[0],
        covariance=_covariance(objective, best, moving),
        loss=float(losses[0]),
        curve=torch.tensor(track.curve),
        stages=torch.tensor(track.stages),
        path=(Poses(*map(torch.cat, zip(*track.path, strict=True))) if track.path else best).cameras(camera, solid),
        candidates=candidates.cameras(camera, solid),
        candidate_losses=scores,
        finalists=poses.cameras(camera, solid),
        finalist_losses=losses,
        occluded=occluded,
        converged=converged,
        interrupted=interrupted,
    )


def _check_options(
    gaussians: Gaussians, lighting: str, tolerance: float | None, clutter: float, starts: int | None, stages: Sequence[Stage]
) -> None:
    if not isinstance(gaussians, Gaussians):
        raise TypeError(f"gaussians: expected voge.Gaussians, got {type(gaussians).__name__}")
    if gaussians.batch_shape or not gaussians.num:
        raise ValueError(f"gaussians: expected one object of at least one Gaussian and no batch, got {gaussians}")
    gaussians.check()
    if lighting not in LIGHTING:
        raise ValueError(f"lighting: expected one of {', '.join(LIGHTING)}, got {lighting!r}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: expected a number above 0, got {tolerance}")
    if not 0 < clutter <= 1:
        raise ValueError(f"clutter: expected a number in (0, 1], got {clutter}")
    if starts is not None and starts < 1:
        raise ValueError(f"starts: expected at least 1, got {starts}")
    if not stages or any(min(stage.size, stage.keep, stage.steps) < 1 for stage in stages):
        raise ValueError(f"stages: expected at least one, each with size, keep and steps of at least 1, got {stages}")


def _picture(gaussians: Gaussians, image: Any, cameras: Cameras, features: Tensor | None, mask: Any) -> Level:
    """The whole picture as a level, with the one K of the starts."""
    if not isinstance(cameras, Cameras):
        raise TypeError(f"cameras: expected voge.Cameras, got {type(cameras).__name__}")
    K = cameras.K.detach().reshape(-1, 3, 3)
    if not torch.equal(K, K[:1].expand_as(K)):
        raise ValueError("cameras: expected one K for all starts, got several")
    like = gaussians.means
    if cameras.dtype != like.dtype or cameras.device != like.device:
        raise ValueError(f"cameras: expected {like.dtype} on {like.device} as the Gaussians, got {cameras}")
    camera = Cameras(torch.eye(3).to(like), torch.zeros(3).to(like), K[0], cameras.image_size)
    inside = torch.ones(cameras.image_size).to(like)
    if mask is not None:
        inside = _map("mask", mask, cameras.image_size, like)[..., 0]
        if not (inside > 0.5).any():
            raise ValueError("mask: expected some pixels above 0.5, got none")
    if features is None:
        if mask is None:
            raise ValueError("features, mask: expected at least one of them, got None for both")
        return Level(camera, torch.ones_like(inside)[..., None], inside)
    checks.tensor("features", features, (gaussians.num, "C"), dtype=like.dtype, device=like.device, finite=True)
    if features.dim() != 2:
        raise ValueError(f"features: expected shape (N, C), got {tuple(features.shape)}")
    return Level(camera, _map("image", image, cameras.image_size, like), inside)


def _map(name: str, value: Any, size: tuple[int, int], like: Tensor) -> Tensor:
    """A picture or a mask as a tensor (H, W, C) like `like`."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor or an array, got {type(value).__name__}")
    if value.dim() not in (2, 3) or tuple(value.shape[:2]) != tuple(size):
        raise ValueError(f"{name}: expected shape {size} or {(*size, 'C')} as the cameras' image_size, got {tuple(value.shape)}")
    scale = 255.0 if value.dtype == torch.uint8 else 1.0
    value = value.detach().to(like) / scale
    checks.every(name, value.isfinite(), "finite values", value)
    return value if value.dim() == 3 else value[..., None]


def _starts(
    gaussians: Gaussians, level: Level, cameras: Cameras, solid: Solid, starts: int | None, spread: float, seed: int,
    masked: bool, settings: dict[str, Any],
) -> tuple[Poses, bool]:  # fmt: skip
    """The poses to begin with, and whether they say where in the picture the object is."""
    like = gaussians.means
    given = Poses.of(cameras, solid)
    seen = sees(given, level.camera)
    known = bool(seen.any())
    if known:
        given = given.take(seen.nonzero()[:, 0])
    else:
        given, starts = ahead(like.new_tensor(torch.eye(3).tolist())[None], level.camera, solid), starts or SPHERE
    turns = rotations_within(spread, starts or 1, seed).to(like)
    count = len(turns)
    each = torch.arange(len(given.zoom)).repeat_interleave(count)
    poses = given.take(each)
    poses = poses._replace(R=turns.repeat(len(given.zoom), 1, 1) @ poses.R)
    if masked and count > 1:
        shapes = level._replace(image=level.inside[..., None])
        small = Objective(gaussians, like.new_ones(gaussians.num, 1), shapes, solid, True, 1.0, 1.0, 1.0, "same", settings)
        small = _at(small, Stage(64, keep=1, steps=1), poses)
        for _ in range(2):
            poses = onto_mask(poses, small.silhouettes(poses), small.level.inside, small.level.camera)
    return poses, known


def _encoded(
    gaussians: Gaussians, colors: Tensor | None, encoder: nn.Module | str, level: Level, size: int
) -> tuple[Level, Tensor]:
    """The level with the encoder's map for a picture, and the Gaussians' features in its channels."""
    if colors is None:
        raise ValueError("features: expected colours (N, 3) or features (N, C) of the encoder, got None")
    network = backbone(encoder) if isinstance(encoder, str) else encoder
    small = level.resized(size)
    maps = encode(network, small.image[None])[0].to(colors)
    if colors.shape[-1] != maps.shape[-1]:
        colors = lift(gaussians, colors, network, small.camera).to(colors)
    return level._replace(image=resize(maps, level.camera.image_size)), colors


def _contrast(features: Tensor, level: Level) -> float:
    """Root mean square difference, a channel, of a Gaussian and a pixel taken at random."""
    pixels = level.image[level.inside > 0.5]
    squares = (features.mean(0) - pixels.mean(0)).square() + features.var(0, False) + pixels.var(0, False)
    return max(float(squares.mean().sqrt()), 1e-3)


def _at(whole: Objective, stage: Stage, poses: Poses) -> Objective:
    """The objective of one stage."""
    level = whole.level.resized(stage.size)
    variance = (stage.width * pixel_size(poses, level.camera)) ** 2
    return replace(
        whole, gaussians=widened(whole.gaussians, variance), level=level, tolerance=whole.tolerance * stage.tolerance
    )


def _occluded(objective: Objective, pose: Poses, size: tuple[int, int]) -> Tensor:
    """(H, W) bool in the size of the window."""
    with torch.no_grad():
        colour, alpha = objective.draw(pose)
        hidden = (objective.cost(colour) >= objective.clutter) & (alpha > 0.5)
    return interpolate(hidden[None].to(alpha), size, mode="nearest")[0, 0] > 0.5


def _tidied(poses: Poses, free: Tensor) -> Poses:
    """Rotations freed of rounding, where they moved."""
    return poses._replace(R=orthonormal(poses.R)) if bool((free < 3).any()) else poses


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
        losses = objective.loss(poses.moved(x * moving, objective.solid))
        losses.sum().backward()
        better = losses.detach() < lowest
        best = torch.where(better[:, None], x.detach(), best)
        lowest = torch.where(better, losses.detach(), lowest)
        track.add(poses.moved(best * moving, objective.solid), lowest)
        adam.step()
        decay.step()
    return poses.moved(best * moving, objective.solid)


def _polish(objective: Objective, poses: Poses, free: Tensor, iterations: int, track: _Track) -> tuple[Poses, Tensor]:
    """Levenberg-Marquardt from each pose; and whether it has converged (B,)."""
    solid, zeros = objective.solid, torch.zeros(len(poses.zoom), 7, dtype=poses.R.dtype, device=poses.R.device)

    def moved(x: Tensor) -> Poses:
        return poses.take(torch.arange(len(x), device=x.device) // (len(x) // len(zeros))).moved(x, solid)

    def model(x: Tensor) -> Callable[[Tensor], Terms]:
        ground = objective.ground(moved(x))
        return lambda points: objective.terms(moved(points), ground.repeat_interleave(len(points) // len(x), 0))

    minimum = levenberg_marquardt(
        model, zeros, free, iterations=iterations, callback=lambda x, losses: track.add(moved(x), losses)
    )
    return moved(minimum.x), minimum.converged


def _covariance(objective: Objective, pose: Poses, free: Tensor) -> Tensor:
    """(6, 6) of one pose: H^-1 (sum w^2 r^2 J'J) H^-1 with H = J' W J, where each residual tells of its own noise (White, 1980)."""
    solid, zeros = objective.solid, pose.R.new_zeros(1, 7)
    ground = objective.ground(pose)

    def evaluate(x: Tensor) -> Terms:
        return objective.terms(pose.take(torch.zeros(len(x), dtype=torch.long)).moved(x, solid), ground)

    terms, _, jacobian = central_differences(evaluate, zeros, free, 5e-3)
    inverse = torch.linalg.pinv(gauss_newton(jacobian, terms.curvature), hermitian=True)[0]
    noise = gauss_newton(jacobian, (terms.curvature * terms.residuals).square())[0]
    full = torch.zeros(7, 7, dtype=torch.float64)
    full[free[:, None], free] = inverse @ noise @ inverse
    units = full.new_tensor([1, 1, 1, solid.radius, solid.radius, float(pose.centre[0, 2]), 1])
    return (units[:, None] * full * units)[:6, :6].to(pose.R)


def _check_options(
    gaussians: Gaussians, lighting: str, tolerance: float | None, clutter: float, starts: int | None, stages: Sequence[Stage]
) -> None:
    if not isinstance(gaussians, Gaussians):
        raise TypeError(f"gaussians: expected voge.Gaussians, got {type(gaussians).__name__}")
    if gaussians.batch_shape or not gaussians.num:
        raise ValueError(f"gaussians: expected one object of at least one Gaussian and no batch, got {gaussians}")
    gaussians.check()
    if lighting not in LIGHTING:
        raise ValueError(f"lighting: expected one of {', '.join(LIGHTING)}, got {lighting!r}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: expected a number above 0, got {tolerance}")
    if not 0 < clutter <= 1:
        raise ValueError(f"clutter: expected a number in (0, 1], got {clutter}")
    if starts is not None and starts < 1:
        raise ValueError(f"starts: expected at least 1, got {starts}")
    if not stages or any(min(stage.size, stage.keep, stage.steps) < 1 for stage in stages):
        raise ValueError(f"stages: expected at least one, each with size, keep and steps of at least 1, got {stages}")


def _picture(gaussians: Gaussians, image: Any, cameras: Cameras, features: Tensor | None, mask: Any) -> Level:
    """The whole picture as a level, with the one K of the starts."""
    if not isinstance(cameras, Cameras):
        raise TypeError(f"cameras: expected voge.Cameras, got {type(cameras).__name__}")
    K = cameras.K.detach().reshape(-1, 3, 3)
    if not torch.equal(K, K[:1].expand_as(K)):
        raise ValueError("cameras: expected one K for all starts, got several")
    like = gaussians.means
    if cameras.dtype != like.dtype or cameras.device != like.device:
        raise ValueError(f"cameras: expected {like.dtype} on {like.device} as the Gaussians, got {cameras}")
    camera = Cameras(torch.eye(3).to(like), torch.zeros(3).to(like), K[0], cameras.image_size)
    inside = torch.ones(cameras.image_size).to(like)
    if mask is not None:
        inside = _map("mask", mask, cameras.image_size, like)[..., 0]
        if not (inside > 0.5).any():
            raise ValueError("mask: expected some pixels above 0.5, got none")
    if features is None:
        if mask is None:
            raise ValueError("features, mask: expected at least one of them, got None for both")
        return Level(camera, torch.ones_like(inside)[..., None], inside)
    checks.tensor("features", features, (gaussians.num, "C"), dtype=like.dtype, device=like.device, finite=True)
    if features.dim() != 2:
        raise ValueError(f"features: expected shape (N, C), got {tuple(features.shape)}")
    return Level(camera, _map("image", image, cameras.image_size, like), inside)


def _map(name: str, value: Any, size: tuple[int, int], like: Tensor) -> Tensor:
    """A picture or a mask as a tensor (H, W, C) like `like`."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor or an array, got {type(value).__name__}")
    if value.dim() not in (2, 3) or tuple(value.shape[:2]) != tuple(size):
        raise ValueError(f"{name}: expected shape {size} or {(*size, 'C')} as the cameras' image_size, got {tuple(value.shape)}")
    scale = 255.0 if value.dtype == torch.uint8 else 1.0
    value = value.detach().to(like) / scale
    checks.every(name, value.isfinite(), "finite values", value)
    return value if value.dim() == 3 else value[..., None]


def _starts(
    gaussians: Gaussians, level: Level, cameras: Cameras, solid: Solid, starts: int | None, spread: float, seed: int,
    masked: bool, settings: dict[str, Any],
) -> tuple[Poses, bool]:  # fmt: skip
    """The poses to begin with, and whether they say where in the picture the object is."""
    like = gaussians.means
    given = Poses.of(cameras, solid)
    seen = sees(given, level.camera)
    known = bool(seen.any())
    if known:
        given = given.take(seen.nonzero()[:, 0])
    else:
        given, starts = ahead(like.new_tensor(torch.eye(3).tolist())[None], level.camera, solid), starts or SPHERE
    turns = rotations_within(spread, starts or 1, seed).to(like)
    count = len(turns)
    each = torch.arange(len(given.zoom)).repeat_interleave(count)
    poses = given.take(each)
    poses = poses._replace(R=turns.repeat(len(given.zoom), 1, 1) @ poses.R)
    if masked and count > 1:
        shapes = level._replace(image=level.inside[..., None])
        small = Objective(gaussians, like.new_ones(gaussians.num, 1), shapes, solid, True, 1.0, 1.0, 1.0, "same", settings)
        small = _at(small, Stage(64, keep=1, steps=1), poses)
        for _ in range(2):
            poses = onto_mask(poses, small.silhouettes(poses), small.level.inside, small.level.camera)
    return poses, known


def _encoded(
    gaussians: Gaussians, colors: Tensor | None, encoder: nn.Module | str, level: Level, size: int
) -> tuple[Level, Tensor]:
    """The level with the encoder's map for a picture, and the Gaussians' features in its channels."""
    if colors is None:
        raise ValueError("features: expected colours (N, 3) or features (N, C) of the encoder, got None")
    network = backbone(encoder) if isinstance(encoder, str) else encoder
    small = level.resized(size)
    maps = encode(network, small.image[None])[0].to(colors)
    if colors.shape[-1] != maps.shape[-1]:
        colors = lift(gaussians, colors, network, small.camera).to(colors)
    return level._replace(image=resize(maps, level.camera.image_size)), colors


def _contrast(features: Tensor, level: Level) -> float:
    """Root mean square difference, a channel, of a Gaussian and a pixel taken at random."""
    pixels = level.image[level.inside > 0.5]
    squares = (features.mean(0) - pixels.mean(0)).square() + features.var(0, False) + pixels.var(0, False)
    return max(float(squares.mean().sqrt()), 1e-3)


def _at(whole: Objective, stage: Stage, poses: Poses) -> Objective:
    """The objective of one stage."""
    level = whole.level.resized(stage.size)
    variance = (stage.width * pixel_size(poses, level.camera)) ** 2
    return replace(
        whole, gaussians=widened(whole.gaussians, variance), level=level, tolerance=whole.tolerance * stage.tolerance
    )


def _occluded(objective: Objective, pose: Poses, size: tuple[int, int]) -> Tensor:
    """(H, W) bool in the size of the window."""
    with torch.no_grad():
        colour, alpha = objective.draw(pose)
        hidden = (objective.cost(colour) >= objective.clutter) & (alpha > 0.5)
    return interpolate(hidden[None].to(alpha), size, mode="nearest")[0, 0] > 0.5


def _tidied(poses: Poses, free: Tensor) -> Poses:
    """Rotations freed of rounding, where they moved."""
    return poses._replace(R=orthonormal(poses.R)) if bool((free < 3).any()) else poses


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
        losses = objective.loss(poses.moved(x * moving, objective.solid))
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


def _covariance(objective: Objective, poses: Poses, free: Tensor, outlined: bool) -> Tensor:
    """(6, 6) of the first pose: s^2 (J' W J)^-1 with the robust weights W and the noise s^2 of the residuals."""
    first, zeros = poses.take(torch.tensor([0])), poses.R.new_zeros(1, 7)
    same = torch.zeros(2 * len(free) + 1, dtype=torch.long)
    terms, _, jacobian = central_differences(
        lambda x: objective.terms(first.take(same[: len(x)]).moved(x, objective.solid)), zeros, free, 5e-3
    )
    # Colours and outline have noise of their own; the outline says something only where a mask is given.
    pixels = objective.level.image.shape.numel()
    information = torch.zeros(1, len(free), len(free), dtype=torch.float64)
    for rows in [slice(0, pixels)] + [slice(pixels, None)] * outlined:
        weight, residual = terms.curvature[:, rows], terms.residuals[:, rows]
        if rows.start:
            weight, residual = torch.ones_like(weight), residual - objective.level.inside.flatten()
        weight = weight / weight.max().clamp(min=1e-12)
        variance = (weight * residual.square()).sum().double() / weight.sum()
        information += gauss_newton(jacobian[:, rows], weight) / variance.clamp(min=1e-12)
    depth = float(first.centre[0, 2])
    units = torch.tensor([1, 1, 1, objective.solid.radius, objective.solid.radius, depth, 1], dtype=torch.float64)
    full = torch.zeros(7, 7, dtype=torch.float64)
    full[free[:, None], free] = torch.linalg.pinv(information[0], hermitian=True)
    return (units[:, None] * full * units)[:6, :6].to(poses.R)
