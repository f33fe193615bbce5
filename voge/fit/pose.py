"""Analysis by synthesis: the pose of an object in a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from voge import checks
from voge.cameras import Cameras
from voge.fit.appearance import LIGHTING
from voge.fit.features import backbone, encode, lift
from voge.fit.matching import anywhere, nearby
from voge.fit.objective import Objective
from voge.fit.pyramid import Level, resize, window
from voge.fit.rigid import orthonormal
from voge.fit.search import Stage, Track, adam, at_stage, best_distinct, covariance, initial_poses
from voge.fit.search import polish as levenberg
from voge.fit.starts import Poses, Solid, free_numbers
from voge.gaussians import Gaussians

TOLERANCE = 0.25  # of the contrast, where none is given
POLISH = 12
WIDE = 1.7  # times as large are the pictures of the first stage, when the object may be anywhere in them
STAGES = (
    Stage(48, keep=16, steps=24, rate=0.05, tolerance=1.3),
    Stage(64, keep=6, steps=20, rate=0.03),
    Stage(128, keep=2, steps=10, rate=0.01),
)


@dataclass(frozen=True)
class PoseResult:
    """A fitted pose.

    Attributes:
        cameras: the pose as a camera: object to camera, OpenCV's axes, with K and size of the picture.
        covariance: (6, 6), of the rotation vector (radians, camera axes, about the object's centre) and of the object's
            centre (camera axes, world units), from the Gauss-Newton Hessian and the residuals; zero where not free.
        loss: of the pose, at the last stage.
        curve: (S,), the best loss after every step; stages: (S,), the stage of each. The scale differs between stages.
        path: the best pose after every step, a batch of S cameras.
        candidates: the starts, a batch of cameras; candidate_losses: (starts,), theirs at the first stage.
        finalists: the poses of the last stage, a batch of cameras, best first; finalist_losses: (finalists,).
        occluded: (H, W) bool, pixels of the object that something else explains better.
        converged: the last step of the finish was below its tolerance.
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
    clutter: float = 0.7,
    stages: Sequence[Stage] = STAGES,
    polish: int | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int, float], None] | None = None,
    **settings: Any,
) -> PoseResult:
    """Finds the pose at which the rendered object explains the picture best.

    Many starts are rendered in one batch on a small picture with wide Gaussians; the best go on to larger pictures,
    moved by Adam; the last are polished by Levenberg-Marquardt. Occluders are switched off pixel by pixel.

    Args:
        gaussians: the object, N Gaussians, no batch.
        image: (H, W, C) or (H, W), tensor or array; uint8 is divided by 255. None with features None.
        cameras: K and image size; its poses are the starts, one or a batch. If none sees the object (such as R = 1,
            t = 0), nothing is known: the starts are all over the sphere, on the mask or at every place of the picture.
        features: (N, C), what the Gaussians carry, in the picture's channels. None: the silhouette alone, of `mask`.
        mask: (H, W), 0 to 1, where the object may be seen; None: anywhere. Leave occluders in it where you can: a
            pixel outside costs when it is covered, one inside when it is not.
        starts: rotations to try around each pose given. None: 1, or if no pose sees the object 256, 512 without a mask.
        spread: radians, how far the rotations tried lie from the given one; pi is all of them. With a mask, the poses
            tried are moved onto it.
        free: what moves: "all" (the 6 of a pose), "rotation", "translation", "focal", single numbers ("rx", "ry", "rz",
            "tx", "ty", "tz"), or several of these. Rotations are about the object's centre (the middle of its box), in
            the camera's axes; translations move it.
        lighting: "same", "affine" (an unknown gain and bias), "local" (an unknown gain and bias in every window).
        encoder: a module (B, 3, H, W) -> (B, C, h, w), or the name of a timm backbone: feature maps are compared
            instead of colours. `features` are colours (N, 3), seen through it from many sides, or already (N, C).
        tolerance: the error of a channel at which a pixel is half an outlier; None: from the spread of the values.
        clutter: in (0, 1], above this a covered pixel counts as occluded: 0.5 is an error of the tolerance, 1 is never.
        stages: coarse to fine. polish: iterations of Levenberg-Marquardt, 0 for none. None: 12, or 0 with an
            encoder, whose maps are no mixture of object and ground at the outline.
        seed: of the starts; equal seeds give equal results.
        progress: called with the stage's name, the step, the number of steps and the best loss.
        settings: of voge.render.

    Raises:
        TypeError, ValueError: types, shapes, values, or sizes that do not fit. Ctrl-C raises nothing: `interrupted`.
    """
    moving = free_numbers(free)
    _check_options(lighting, tolerance, clutter, starts, spread, stages, polish, seed, encoder, progress)
    gaussians = _object(gaussians)
    solid, masked = Solid.around(gaussians), mask is not None
    level = _picture(gaussians, image, cameras, features, mask)
    camera = level.camera
    white = gaussians.means.new_ones(gaussians.num, 1)
    outline = Objective(
        gaussians, white, level._replace(image=level.inside[..., None]), solid, masked,
        opacity=1.0, grain=1, tolerance=1.0, clutter=clutter, lighting="same", settings=settings,
    )  # fmt: skip
    candidates, known = initial_poses(outline, cameras, starts, spread, seed)

    box = window(camera, level.inside if masked else None, candidates if known else None, solid)
    if encoder is not None:
        level, features = _encoded(gaussians, features, encoder, level, box, max(stage.size for stage in stages))
    features = white if features is None else features.detach()
    if features.shape[-1] != level.image.shape[-1]:
        raise ValueError(
            f"features: expected {level.image.shape[-1]} channels as the picture, got shape {tuple(features.shape)}"
        )
    tolerance = TOLERANCE * _contrast(features, level.cropped(box)) if tolerance is None else tolerance
    whole = replace(outline, features=features, level=level.cropped(box), tolerance=tolerance, lighting=lighting)
    alpha = at_stage(whole, stages[0], candidates).silhouettes(candidates)
    whole = replace(whole, opacity=float(alpha[alpha > 0.5].median()) if (alpha > 0.5).any() else 1.0)
    if not masked and (not known or (starts or 1) > 1):
        first = at_stage(whole, stages[0], candidates)
        candidates = nearby(first, candidates) if known else anywhere(whole, candidates.R, stages[0])
    if not masked and not known:
        stages = (stages[0]._replace(size=round(WIDE * stages[0].size)), *stages[1:])

    polish = (0 if encoder is not None else POLISH) if polish is None else polish
    track, poses, scores, interrupted = Track(progress), candidates, torch.zeros(0), False
    settled = torch.zeros(1, dtype=torch.bool)
    objective = at_stage(whole, stages[0], poses)
    try:
        for number, stage in enumerate(stages):
            if number and not masked:  # the object has moved
                box = window(camera, None, poses, solid)
                whole = replace(whole, level=level.cropped(box))
            objective = at_stage(whole, stage, poses)
            losses = objective.losses(poses)
            scores = losses if number == 0 else scores
            poses = best_distinct(objective, poses, losses, stage.keep)
            track.enter(f"{stage.size} pixels", stage.steps)
            poses = adam(objective, poses, stage, moving, track)
        settled = torch.zeros(len(poses.zoom), dtype=torch.bool)
        track.enter("polish", polish)
        for iterations in (polish // 2, polish - polish // 2):  # the second time with the noise left by the first
            if iterations:
                finest = at_stage(whole, stages[-1]._replace(width=0.0, tolerance=1.0), poses)
                objective = _calibrated(finest, poses)
                poses, settled = levenberg(objective, poses, moving, iterations, track)
    except KeyboardInterrupt:
        poses, interrupted = track.path[-1] if track.path else candidates.take(torch.tensor([0])), True

    losses = objective.terms(poses).loss
    order = losses.argsort()
    poses, losses = poses.take(order), losses[order]
    best = poses.take(torch.tensor([0]))
    if bool((moving < 3).any()):  # frees the rotation of rounding
        best = best._replace(R=orthonormal(best.R))
    path = Poses(*map(torch.cat, zip(*track.path, strict=True))) if track.path else best
    occluded = torch.zeros(cameras.image_size, dtype=torch.bool, device=solid.centre.device)
    hidden = objective.occluded(best)[None].to(solid.centre)
    hidden = interpolate(hidden, (box[3] - box[1], box[2] - box[0]), mode="nearest")[0, 0]
    occluded[box[1] : box[3], box[0] : box[2]] = hidden > 0.5
    return PoseResult(
        cameras=best.cameras(camera, solid)[0],
        covariance=covariance(objective, best, moving),
        loss=float(losses[0]),
        curve=torch.tensor(track.curve),
        stages=torch.tensor(track.stages),
        path=path.cameras(camera, solid),
        candidates=candidates.cameras(camera, solid),
        candidate_losses=scores,
        finalists=poses.cameras(camera, solid),
        finalist_losses=losses,
        occluded=occluded,
        converged=not interrupted and bool(settled[order[0]]),
        interrupted=interrupted,
    )


def _check_options(
    lighting: Any,
    tolerance: Any,
    clutter: Any,
    starts: Any,
    spread: Any,
    stages: Any,
    polish: Any,
    seed: Any,
    encoder: Any,
    progress: Any,
) -> None:
    if lighting not in LIGHTING:
        raise ValueError(f"lighting: expected one of {', '.join(LIGHTING)}, got {lighting!r}")
    if tolerance is not None:
        checks.number("tolerance", tolerance, 0, math.inf)
    checks.number("clutter", clutter, 0, 1)
    checks.number("spread", spread, 0, math.pi, above=False)
    for name, value, least in (("starts", starts, 1), ("polish", polish, 0), ("seed", seed, 0)):
        if value is not None or name == "seed":
            checks.integer(name, value, least, None)
    if not isinstance(stages, Sequence) or not all(isinstance(stage, Stage) for stage in stages):
        raise TypeError(f"stages: expected a sequence of voge.fit.Stage, got {stages!r}")
    if not stages or any(min(stage.size, stage.keep, stage.steps) < 1 for stage in stages):
        raise ValueError(f"stages: expected one or more, with size, keep and steps of at least 1, got {stages}")
    if encoder is not None and not isinstance(encoder, str) and not callable(encoder):
        raise TypeError(f"encoder: expected a module or the name of a timm backbone, got {encoder!r}")
    if progress is not None and not callable(progress):
        raise TypeError(f"progress: expected a function, got {progress!r}")


def _object(gaussians: Gaussians) -> Gaussians:
    """The Gaussians without gradient, checked: a fit fails before it has begun."""
    if not isinstance(gaussians, Gaussians):
        raise TypeError(f"gaussians: expected voge.Gaussians, got {type(gaussians).__name__}")
    if gaussians.batch_shape or not gaussians.num:
        raise ValueError(f"gaussians: expected at least one Gaussian and no batch, got {gaussians}")
    density = None if gaussians.density is None else gaussians.density.detach()
    return Gaussians(gaussians.means.detach(), gaussians.precisions.detach(), density).check()


def _picture(gaussians: Gaussians, image: Any, cameras: Cameras, features: Tensor | None, mask: Any) -> Level:
    """The whole picture as a level, with the one K of the starts."""
    like = gaussians.means
    if not isinstance(cameras, Cameras):
        raise TypeError(f"cameras: expected voge.Cameras, got {type(cameras).__name__}")
    if cameras.dtype != like.dtype or cameras.device != like.device:
        raise ValueError(f"cameras: expected {like.dtype} on {like.device} as the Gaussians, got {cameras}")
    K = cameras.K.detach().reshape(-1, 3, 3)
    if not torch.equal(K, K[:1].expand_as(K)):
        raise ValueError("cameras: expected one K for all starts, got several")
    camera = Cameras(torch.eye(3).to(like), torch.zeros(3).to(like), K[0], cameras.image_size)
    inside = torch.ones(cameras.image_size).to(like)
    if mask is not None:
        inside = _map("mask", mask, cameras.image_size, like)[..., 0].clamp(0, 1)
        if not (inside > 0.5).any():
            raise ValueError("mask: expected some pixels above 0.5, got none")
    if features is None:
        if mask is None:
            raise ValueError("features, mask: expected at least one of the two, got None for both")
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
        expected = f"{tuple(size)} or {(*size, 'C')} as the cameras' image_size"
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(value.shape)}")
    scale = 255.0 if value.dtype == torch.uint8 else 1.0
    value = value.detach().to(like) / scale
    checks.every(name, value.isfinite(), "finite values", value)
    return value if value.dim() == 3 else value[..., None]


def _encoded(
    gaussians: Gaussians,
    colors: Tensor | None,
    encoder: nn.Module | str,
    level: Level,
    box: tuple[int, int, int, int],
    size: int,
) -> tuple[Level, Tensor]:
    """The level with the encoder's map of its part `box` for a picture, and the Gaussians' features in its channels."""
    if colors is None:
        raise ValueError("features: expected colours (N, 3) or features (N, C) of the encoder, got None")
    network = backbone(encoder) if isinstance(encoder, str) else encoder
    small = level.cropped(box).resized(size)
    maps = encode(network, small.image[None])[0].to(colors)
    if colors.shape[-1] != maps.shape[-1]:
        colors = lift(gaussians, colors, network, small.camera).to(colors)
    x0, y0, x1, y1 = box
    image = maps.new_zeros(*level.camera.image_size, maps.shape[-1])
    image[y0:y1, x0:x1] = resize(maps, (y1 - y0, x1 - x0))
    return level._replace(image=image), colors


def _contrast(features: Tensor, level: Level) -> float:
    """Root mean square difference, a channel, of a Gaussian and a pixel taken at random."""
    pixels = level.image[level.inside > 0.5]
    squares = (features.mean(0) - pixels.mean(0)).square() + features.var(0, False) + pixels.var(0, False)
    return max(float(squares.mean().sqrt()), 1e-3)


def _calibrated(objective: Objective, poses: Poses) -> Objective:
    """Opacity and tolerance as the picture has them at the first pose.

    The object is opaque or as translucent as it is rendered, whichever explains the picture better. The tolerance falls
    to three times the noise, the median error of covered pixels, within a quarter and the whole of what it was.
    """
    first = poses.take(torch.tensor([0]))
    both = objective, replace(objective, opacity=1.0)
    objective = min(both, key=lambda choice: float(choice.terms(first).loss))
    with torch.no_grad():
        residuals, alpha = objective.composed(first)
    covered = residuals.square().mean(-1)[alpha > 0.5]
    noise = float(covered.median().sqrt()) if len(covered) else math.inf
    return replace(objective, tolerance=min(max(3 * noise, objective.tolerance / 4), objective.tolerance))
