"""What the parts of the demo share: features of a photograph, wrong starts, one fit and its record."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import cv2
import numpy as np
import torch

import voge
from examples.demo import truth
from voge.fit import Stage
from voge.fit.rigid import exp_so3

STAGES = (  # many kept for long: on small blurred pictures the right pose is often not the best
    Stage(48, keep=64, steps=30, rate=0.05, width=1.0, tolerance=1.3),
    Stage(64, keep=16, steps=20, rate=0.03, width=0.7),
    Stage(128, keep=3, steps=10, rate=0.01),
)
FINE = (Stage(160, keep=1, steps=4, rate=0.003),)  # with more Gaussians, from the pose found
DENSE = (  # for a pattern that repeats: a small basin, so many starts and less blur
    Stage(48, keep=24, steps=12, rate=0.04, width=0.5, tolerance=1.5),
    Stage(64, keep=6, steps=12, rate=0.02, width=0.5),
    Stage(96, keep=1, steps=8, rate=0.01),
)
NEAR = (  # from the pose of the frame before
    Stage(32, keep=24, steps=20, rate=0.06, width=1.0, tolerance=2.0),
    Stage(64, keep=6, steps=20, rate=0.03, width=0.7, tolerance=1.4),
    Stage(96, keep=2, steps=10, rate=0.01),
)
SPREAD = np.radians(70)  # of the rotations that voge.fit.pose tries around the wrong one

GOOD = 5.0  # degrees and percent: a fit that ends nearer has found the pose


@dataclass
class Case:
    """One fit: its numbers, and the poses for the pictures. Angles in degrees, distances in percent of the distance."""

    part: str
    name: str
    seed: int
    start: tuple[float, float]
    final: tuple[float, float]
    predicted: tuple[float, float]  # one standard deviation by the fit's own covariance
    seconds: float
    reference: truth.Truth
    start_camera: voge.Cameras = field(repr=False)
    search: voge.fit.PoseResult = field(repr=False)
    result: voge.fit.PoseResult = field(repr=False)

    def numbers(self) -> dict[str, object]:
        """For demo.json."""
        rows = {"start": self.start, "error": self.final, "predicted": self.predicted}
        pairs = [
            (row, unit, values[i]) for row, values in rows.items() for i, unit in enumerate(("degrees", "percent"))
        ]
        return {
            "part": self.part, "case": self.name, "seed": self.seed, "seconds": round(self.seconds, 2),
            **{f"{row}_{unit}": round(value, 4) for row, unit, value in pairs},
            "truth_pixels": round(self.reference.pixels, 3), "truth_degrees": round(self.reference.degrees, 3),
            "truth_percent": round(self.reference.percent, 3),
        }  # fmt: skip


def found(case: Case) -> bool:
    """Whether a fit ended at the true pose."""
    return max(case.final) < GOOD


def channels(grey: np.ndarray, sigma: float, floor: float) -> np.ndarray:
    """Features (H, W, 2) float32 of a picture (H, W) in [0, 1] that exposure and shading hardly change.

    The first is the brightness minus its local mean over its local deviation, halved; the second says how much local
    contrast there is, 0 to 1: a bare table has none. Local means within `sigma` pixels; a deviation of `floor` counts
    as half the contrast.
    """
    grey = grey.astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), sigma)
    deviation = np.sqrt(cv2.GaussianBlur(detail * detail, (0, 0), sigma))
    contrast = cv2.GaussianBlur(deviation / (deviation + floor), (0, 0), 1.0)
    return np.stack([0.5 * detail / (deviation + floor), contrast], -1)


def camera(R: np.ndarray, t: np.ndarray, K: np.ndarray, size: tuple[int, int]) -> voge.Cameras:
    """From OpenCV's K, whose pixel centres lie at integers; voge's lie at +0.5."""
    shift = np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    return voge.Cameras(*(torch.as_tensor(np.asarray(x), dtype=torch.float32) for x in (R, t, K + shift)), size)


def wrong_start(R: np.ndarray, t: np.ndarray, seed: int, lateral: float, depth: float) -> tuple[np.ndarray, np.ndarray]:
    """The pose turned by 30 to 60 degrees about a random axis and moved, `lateral` sideways, a share `depth` away."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    turn = exp_so3(torch.tensor(axis / np.linalg.norm(axis) * np.radians(rng.uniform(30, 60)))).numpy()
    move = rng.uniform(-1, 1, 3) * (lateral, lateral, depth * np.linalg.norm(t))
    return turn @ R, t + move


def fit(
    case: tuple[str, str, int], start: tuple[np.ndarray, np.ndarray], reference: truth.Truth, K: np.ndarray,
    coarse: tuple[voge.io.Scene, np.ndarray], fine: tuple[voge.io.Scene, np.ndarray], *,
    starts: int = 400, stages: tuple[Stage, ...] = STAGES, lighting: str = "same",
) -> Case:  # fmt: skip
    """Fits a model to a picture from a wrong start, few Gaussians first, more at the end, and compares with the truth.

    Args:
        case: part, name, seed. start: R and t. coarse, fine: a model, and the picture in that model's features.
        lighting: of the fine fit.
    """
    begin = time.perf_counter()
    first = camera(*start, K, coarse[1].shape[:2])
    found = voge.fit.pose(
        coarse[0].gaussians, coarse[1], first, coarse[0].features,
        starts=starts, spread=SPREAD, stages=stages, polish=3, threshold=0.05,
    )  # fmt: skip
    result = voge.fit.pose(
        fine[0].gaussians, fine[1], found.cameras, fine[0].features, stages=FINE, polish=6, lighting=lighting
    )
    turn, shift = result.deviations
    return Case(
        *case,
        start=truth.errors(*start, reference.R, reference.t),
        final=truth.errors(result.R, result.t, reference.R, reference.t),
        predicted=(float(np.degrees(turn.norm())), float(100 * shift.norm() / result.t.norm())),
        seconds=time.perf_counter() - begin, reference=reference, start_camera=first, search=found, result=result,
    )  # fmt: skip
