"""ViSP's film of a textured box: its model, its truth, fits from wrong starts, and tracking through all frames."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import numpy as np
import torch

import voge
from examples.demo import fitting, truth
from voge import convert

SIDE = 84.0  # of the box, mm (cube.cao)
CENTRE = np.array([-42.0, 42.0, 42.0])  # of the box in the coordinates of cube.cao, mm
CORNERS = np.array([[x, y, z] for z in (0, 84) for x, y in ((0, 0), (-84, 0), (-84, 84), (0, 84))]) - CENTRE
CLICK_ERROR = 0.7  # pixels a coordinate, one standard deviation; the reprojection error bears it out
# Corners of the box clicked by hand on frames enlarged eight times; pixel centres at integers, as OpenCV has them.
# Corner 3 (white on white paper) and corners out of sight are left out. {frame: {corner: (x, y)}}
CLICKS = {
    0: {
        0: (361.0, 350.2), 1: (315.2, 291.8), 4: (366.2, 292.0),
        5: (315.0, 233.9), 6: (386.0, 203.0), 7: (443.2, 254.4),
    },
    45: {
        0: (377.4, 328.0), 1: (320.5, 279.8), 4: (383.7, 269.8),
        5: (320.3, 222.2), 6: (380.0, 185.8), 7: (444.6, 227.1),
    },
    66: {
        0: (392.3, 277.9), 1: (321.4, 254.3), 4: (400.6, 220.4),
        5: (321.4, 197.3), 6: (351.0, 153.6), 7: (425.6, 172.3),
    },
    85: {
        0: (366.2, 261.4), 1: (305.1, 230.8), 4: (370.4, 204.2),
        5: (304.5, 174.4), 6: (347.9, 138.4), 7: (411.3, 162.6),
    },
    105: {
        0: (348.6, 238.6), 1: (298.0, 207.0), 4: (350.2, 181.0),
        5: (294.8, 150.1), 6: (343.2, 121.2), 7: (399.5, 147.5),
    },
    130: {
        0: (357.8, 205.1), 1: (295.4, 190.8), 4: (361.0, 150.1),
        5: (293.3, 135.5), 6: (317.4, 101.5), 7: (381.0, 112.6),
    },
    160: {
        0: (360.5, 199.3), 1: (294.5, 191.1), 4: (364.5, 143.5),
        5: (293.0, 137.3), 6: (306.8, 100.8), 7: (372.0, 106.6),
    },
    185: {
        0: (361.4, 186.4), 1: (297.0, 193.0), 4: (365.5, 130.9),
        5: (295.1, 138.9), 6: (286.3, 102.3), 7: (350.0, 96.0),
    },
    210: {
        0: (356.4, 177.3), 1: (298.3, 193.9), 4: (359.8, 122.0),
        5: (296.8, 140.1), 7: (329.5, 91.0),
    },
}  # fmt: skip
WINDOW, FLOOR = 6.0, 0.03  # of the features: pixels, deviation
# Where the picture of each face goes, faces z-, z+, y-, y+, x-, x+ as voge.convert.box has them: outward, right, down.
FACES = (
    ((0, 0, -1), (1, 0, 0), (0, 1, 0)), ((0, 0, 1), (-1, 0, 0), (0, 1, 0)), ((0, -1, 0), (1, 0, 0), (0, 0, -1)),
    ((0, 1, 0), (1, 0, 0), (0, 0, 1)), ((-1, 0, 0), (0, 0, -1), (0, 1, 0)), ((1, 0, 0), (0, 0, 1), (0, 1, 0)),
)  # fmt: skip
MODEL_FRAMES = (45, 66, 210)  # gave the texture: never tested from scratch
TEST_FRAMES = (0, 85, 105, 130, 160, 185)
TRACKING = {
    "starts": 32,
    "spread": 0.35,
}  # in radians, around the pose of the frame before: from that pose alone the box is lost


class Film:
    """The frames and what ships with them. Pixel centres at integers: K is OpenCV's."""

    def __init__(self, root: Path) -> None:
        folder = root / "usr/share/visp-images-data/ViSP-images/mbt"
        self.paths = sorted((folder / "cube").glob("image*.pgm"))
        settings = {
            entry.tag: float(entry.text or 0) for entry in ElementTree.parse(folder / "cube.xml").iterfind("camera/*")
        }
        self.K = np.array([[settings["px"], 0, settings["u0"]], [0, settings["py"], settings["v0"]], [0, 0, 1]])
        shipped = np.loadtxt(folder / "cube.0.pos", usecols=0)
        R = cv2.Rodrigues(shipped[3:])[0]
        self.shipped = R, 1000 * shipped[:3] + R @ CENTRE
        self.truth = {
            frame: truth.from_corners(CORNERS[list(clicks)], np.array(list(clicks.values())), self.K, CLICK_ERROR)
            for frame, clicks in CLICKS.items()
        }

    def frame(self, number: int) -> np.ndarray:
        """(H, W) uint8."""
        return cv2.imread(str(self.paths[number]), cv2.IMREAD_GRAYSCALE)

    def features(self, number: int) -> np.ndarray:
        """(H, W, 2) float32, see fitting.channels."""
        return fitting.channels(self.frame(number) / 255, WINDOW, FLOOR)


def textures(film: Film, samples: int = 96) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Six pictures of features (S, S, 2) and six of brightness (S, S, 1), float32: the faces of voge.convert.box.

    Each face is taken from that frame of MODEL_FRAMES which sees it most squarely; a face that none sees is plain. The
    hand never covers the box in these frames.
    """
    steps = ((np.arange(samples) + 0.5) / samples - 0.5) * SIDE
    chosen: list[np.ndarray | None] = []
    for outward, right, down in (np.array(axes, float) for axes in FACES):
        points = SIDE / 2 * outward + steps[None, :, None] * right + steps[:, None, None] * down

        def facing(frame: int, points: np.ndarray = points, outward: np.ndarray = outward) -> float:
            known = film.truth[frame]
            middle = known.R @ points.mean((0, 1)) + known.t
            return float(-(known.R @ outward) @ middle / np.linalg.norm(middle))

        best = max(MODEL_FRAMES, key=facing)
        if facing(best) < 0.2:
            chosen.append(None)
            continue
        known = film.truth[best]
        pixels = truth.project(points, known.R, known.t, film.K).astype(np.float32)
        maps = np.concatenate([film.features(best), film.frame(best)[..., None].astype(np.float32) / 255], -1)
        chosen.append(cv2.remap(maps, pixels, None, cv2.INTER_LINEAR))
    mean = np.mean([face for face in chosen if face is not None], (0, 1, 2))
    faces = [np.broadcast_to(mean, (samples, samples, 3)).copy() if face is None else face for face in chosen]
    return [face[..., :2] for face in faces], [face[..., 2:] for face in faces]


def model(faces: list[np.ndarray], num: int) -> voge.io.Scene:
    """The box as flat Gaussians that carry the pictures of its faces."""
    return convert.box([torch.from_numpy(np.ascontiguousarray(face)) for face in faces], (SIDE, SIDE, SIDE), num=num)


def track(film: Film, scene: voge.io.Scene, first: voge.Cameras, every: int) -> tuple[list[int], voge.Cameras]:
    """Frame numbers and their poses: every fit begins at the pose of the frame before it."""
    numbers, poses, pose = list(range(0, len(film.paths), every)), [], first
    for number in numbers:
        pose = voge.fit.pose(
            scene.gaussians,
            film.features(number),
            pose,
            scene.features,
            stages=fitting.NEAR,
            polish=3,
            threshold=0.05,
            **TRACKING,
        ).cameras
        poses.append(pose)
    stacked = voge.Cameras(
        torch.stack([p.R for p in poses]), torch.stack([p.t for p in poses]), first.K, first.image_size
    )
    return numbers, stacked
