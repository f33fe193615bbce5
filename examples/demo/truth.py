"""Poses known independently of voge: corners found by hand or by OpenCV, and OpenCV's solvePnP."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Truth(NamedTuple):
    """A pose from corners.

    Attributes:
        R: (3, 3), t: (3,): object to camera, millimetres.
        pixels: root mean square of the corners' reprojection errors.
        degrees, percent: root mean square change of rotation and of position (percent of the distance) when the corners
            move at random by the error they are believed to have: what the truth itself is worth.
    """

    R: np.ndarray
    t: np.ndarray
    pixels: float
    degrees: float
    percent: float


def solve(points: np.ndarray, corners: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """R (3, 3) and t (3,) from points (N, 3) and their pixels (N, 2), pixel centres as in K: SQPnP, refined."""
    points, corners = np.ascontiguousarray(points, float), np.ascontiguousarray(corners, float)
    found, r, t = cv2.solvePnP(points, corners, K, None, flags=cv2.SOLVEPNP_SQPNP)
    if not found:
        raise ValueError("corners: solvePnP found no pose")
    r, t = cv2.solvePnPRefineLM(points, corners, K, None, r, t)
    return cv2.Rodrigues(r)[0], t.ravel()


def project(points: np.ndarray, R: np.ndarray, t: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Pixels (..., 2) of points (..., 3)."""
    pixels = (points @ R.T + t) @ K.T
    return pixels[..., :2] / pixels[..., 2:]


def from_corners(points: np.ndarray, corners: np.ndarray, K: np.ndarray, sigma: float, draws: int = 50) -> Truth:
    """The pose, and how far it moves when every corner is moved by a normal error of `sigma` pixels a coordinate."""
    R, t = solve(points, corners, K)
    residuals = project(points, R, t, K) - corners
    rng = np.random.default_rng(0)
    moved = [errors(*solve(points, corners + rng.normal(0, sigma, corners.shape), K), R, t) for _ in range(draws)]
    degrees, percent = np.sqrt(np.square(moved).mean(0))
    return Truth(R, t, float(np.sqrt(np.square(residuals).sum(1).mean())), float(degrees), float(percent))


def errors(R: np.ndarray, t: np.ndarray, R_true: np.ndarray, t_true: np.ndarray) -> tuple[float, float]:
    """Angle between two rotations in degrees, and distance of two positions in percent of the second's distance."""
    chord = np.linalg.norm(np.asarray(R, float) - np.asarray(R_true, float)) / np.sqrt(8)
    angle = np.degrees(2 * np.arcsin(min(chord, 1.0)))
    return float(angle), float(
        100 * np.linalg.norm(np.asarray(t, float) - np.asarray(t_true, float)) / np.linalg.norm(t_true)
    )
