"""A chessboard held up to a calibrated camera: thirteen photographs; the squares are the model."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch

import voge
from examples.demo import fitting, truth
from voge import convert

SQUARE = 25.0  # mm
COLUMNS, ROWS = 9, 6  # inner corners
# The outermost squares are cut. Where black and paper end, in squares from the first inner corner, was measured on
# photograph 11, which is not tested; every square between inner corners is known exactly.
BLACK = (-0.52, -0.97, 8.49, 5.93)
PAPER = (-0.68, -1.11, 8.63, 6.06)
MODEL_PHOTO = 11
PHOTOS = (*range(1, 10), *range(11, 15))  # those with a pose in left_intrinsics.yml; mvtb-data has a left10 of its own
CORNER_ERROR = 0.2  # pixels a coordinate: the reprojection error of detected corners
FINE = 20  # samples of the model's picture per square
WINDOW, FLOOR = 0.6, 0.15  # of the features: window in squares, deviation


class Boards:
    """The photographs freed of the lens's distortion, and the truth of each."""

    def __init__(self, root: Path) -> None:
        folder = next(path.parent for path in sorted(root.rglob("left14.jpg")))
        settings = next(iter(sorted(root.rglob("left_intrinsics.yml"))))
        store = cv2.FileStorage(str(settings), cv2.FILE_STORAGE_READ)
        self.K, distortion, shipped = (
            store.getNode(name).mat() for name in ("camera_matrix", "distortion_coefficients", "extrinsic_parameters")
        )
        self.names = [f"left{number:02d}" for number in PHOTOS]
        self.photos: dict[str, np.ndarray] = {}
        self.truth: dict[str, truth.Truth] = {}
        for name in self.names:
            grey = cv2.imread(str(folder / f"{name}.jpg"), cv2.IMREAD_GRAYSCALE)
            grey = cv2.undistort(grey, self.K, distortion)
            self.photos[name] = grey
            corners = find_corners(grey)
            self.truth[name] = truth.from_corners(corner_points(), corners, self.K, CORNER_ERROR)
        self.shipped = shipped

    def second_opinion(self, number: int) -> tuple[float, float]:
        """Degrees and percent between the truth of the photograph in this place and the pose that ships with it."""
        reference, row = self.truth[self.names[number]], self.shipped[number]
        R = cv2.Rodrigues(row[:3])[0]
        return truth.errors(R, 1000 * row[3:] + R @ centre(), reference.R, reference.t)


def centre() -> np.ndarray:
    """The middle of the paper, mm, from the first inner corner."""
    x0, y0, x1, y1 = PAPER
    return SQUARE * np.array([(x0 + x1) / 2, (y0 + y1) / 2, 0])


def corner_points() -> np.ndarray:
    """The inner corners (54, 3), mm, row by row, from the middle of the paper."""
    x, y = np.meshgrid(np.arange(COLUMNS), np.arange(ROWS))
    return SQUARE * np.stack([x, y, 0 * x], -1).reshape(-1, 3) - centre()


def find_corners(grey: np.ndarray) -> np.ndarray:
    """Inner corners (54, 2) by OpenCV, in the order of `corner_points`.

    A chessboard of 9 by 6 inner corners looks the same after half a turn but for its colours: the first square between
    inner corners is the black one, so one pose is right and the other is 180 degrees off.
    """
    found, corners = cv2.findChessboardCorners(grey, (COLUMNS, ROWS))
    if not found:
        raise ValueError("photograph: OpenCV found no chessboard")
    stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 60, 1e-3)
    corners = cv2.cornerSubPix(grey, corners.reshape(-1, 1, 2), (5, 5), (-1, -1), stop).reshape(ROWS, COLUMNS, 2)
    x, y = corners[:2, :2].mean((0, 1)).round().astype(int)
    u, v = corners[:2, 1:3].mean((0, 1)).round().astype(int)
    if grey[y, x] > grey[v, u]:
        corners = corners[::-1, ::-1]
    return corners.reshape(-1, 2).astype(float)


def picture() -> np.ndarray:
    """The board seen from the front (H, W) in [0, 1]: squares black or white, paper white."""
    x0, y0, x1, y1 = PAPER
    width, height = round((x1 - x0) * FINE), round((y1 - y0) * FINE)
    x = x0 + (np.arange(width) + 0.5) / width * (x1 - x0)
    y = (y0 + (np.arange(height) + 0.5) / height * (y1 - y0))[:, None]
    black = (np.floor(x) + np.floor(y)) % 2 == 0
    black = black & (x > BLACK[0]) & (y > BLACK[1]) & (x < BLACK[2]) & (y < BLACK[3])
    return np.where(black, 0.1, 0.9).astype(np.float32)


def features(grey: np.ndarray, square: float) -> np.ndarray:
    """Features (H, W, 2) of a picture in which a square is about that many pixels wide."""
    return fitting.channels(grey, WINDOW * square, FLOOR)


def model(image: np.ndarray, num: int) -> voge.io.Scene:
    """The board as flat Gaussians around the middle of its paper, with an image (H, W, C) on it."""
    x0, y0, x1, y1 = PAPER
    scene = convert.plane(torch.from_numpy(image), (SQUARE * (x1 - x0), SQUARE * (y1 - y0)), num=num)
    shift = torch.tensor([*(SQUARE * np.array([x0, y0])), 0.0], dtype=torch.float32) - torch.as_tensor(
        centre(), dtype=torch.float32
    )
    moved = voge.Gaussians(scene.gaussians.means + shift, scene.gaussians.precisions)
    return voge.io.Scene(moved, scene.features)
