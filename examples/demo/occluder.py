"""A coloured mesh in a rendered picture, a third of it behind a wall: the part whose truth is exact."""

from __future__ import annotations

import numpy as np
import torch
import trimesh

import voge
from examples.demo import fitting, truth
from voge import convert

SIZE = (240, 320)
FOCAL = 400.0
UPRIGHT = trimesh.transformations.rotation_matrix(np.pi / 2, (1, 0, 0))  # trimesh's z up to our -y


def mesh() -> trimesh.Trimesh:
    """A toy house with a tower: no symmetry, a colour a part."""
    parts = [
        (trimesh.creation.box((1.8, 1.2, 1.0)), (0, 0, 0), (0.85, 0.75, 0.55)),
        (trimesh.creation.box((0.5, 0.5, 1.2)), (0.65, -0.9, 0.3), (0.55, 0.25, 0.2)),
        (trimesh.creation.cone(0.45, 0.7), (0.65, -1.5, 0.3), (0.2, 0.35, 0.6)),
        (trimesh.creation.box((0.4, 0.1, 0.6)), (-0.4, 0.2, -0.62), (0.25, 0.45, 0.25)),
        (trimesh.creation.box((0.9, 0.8, 0.3)), (-0.4, -0.6, 0.0), (0.75, 0.3, 0.25)),
    ]
    made = []
    for part, place, color in parts:
        part.apply_transform(UPRIGHT)
        part.apply_translation(place)
        part.visual.face_colors = (np.array([*color, 1]) * 255).astype(np.uint8)
        made.append(part)
    return trimesh.util.concatenate(made)


def scene(num: int) -> voge.io.Scene:
    """The mesh as Gaussians with colours."""
    return convert.scene(mesh(), num=num)


def photograph(reference: truth.Truth) -> np.ndarray:
    """(H, W, 3) float32: the house before a shaded ground, a striped wall before the house, and noise."""
    fine = scene(12000)
    drawn = voge.render(fine.gaussians, fitting.camera(reference.R, reference.t, intrinsics(), SIZE), fine.features)
    alpha = drawn.alpha.clamp(max=1)[..., None].numpy()
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    ground = np.stack([0.45 + 0.2 * y / SIZE[0], 0.5 + 0.1 * x / SIZE[1], 0.6 - 0.2 * y / SIZE[0]], -1)
    picture = drawn.features.numpy() + (1 - alpha) * ground
    wall = (x > 165) & (x < 215) & (y > 60)
    stripes = np.where(((x + y) // 12 % 2 == 0)[..., None], (0.2, 0.2, 0.25), (0.7, 0.65, 0.3))
    picture[wall] = stripes[wall]
    noise = np.random.default_rng(0).normal(0, 0.02, picture.shape)
    return np.clip(picture + noise, 0, 1).astype(np.float32)


def intrinsics() -> np.ndarray:
    return np.array([[FOCAL, 0, SIZE[1] / 2], [0, FOCAL, SIZE[0] / 2], [0, 0, 1]])


def reference() -> truth.Truth:
    """The pose that the picture is rendered with."""
    view = voge.Cameras.look_at(
        eye=torch.tensor([3.0, -3.1, -5.5]), target=torch.zeros(3), up=torch.tensor([0.0, -1.0, 0.0]),
        focal=FOCAL, image_size=SIZE,
    )  # fmt: skip
    return truth.Truth(view.R.double().numpy(), view.t.double().numpy(), 0.0, 0.0, 0.0)
