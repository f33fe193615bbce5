"""The scenes that are timed, and what one measured call does with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import trimesh
from scipy.ndimage import distance_transform_edt
from torch import Tensor

import voge

Renderer = Callable[[Tensor, Tensor], Tensor]  # means (N, 3), features (N, C) -> image (H, W, C)


class Scene(NamedTuple):
    """Gaussians of one width in front of a camera that looks along +z from the origin."""

    means: Tensor  # (N, 3)
    features: Tensor  # (N, C), random in [0, 1)
    faces: Tensor | None  # (F, 3), of the mesh whose vertices are the means
    precision: float
    focal: float  # pixels
    image_size: tuple[int, int]


def icosphere(settings: dict[str, Any], channels: int | None = None) -> Scene:
    """The scene of the comparison: `settings` is the protocol's `scene`; `channels` replaces its own."""
    mesh = trimesh.creation.icosphere(settings["subdivisions"])
    means = torch.tensor(mesh.vertices, dtype=torch.float32) + torch.tensor(settings["centre"])
    features = _features(len(means), channels or settings["channels"], settings["seed"])
    faces = torch.tensor(mesh.faces, dtype=torch.int64)
    return Scene(means, features, faces, settings["precision"], settings["focal"], tuple(settings["image_size"]))


def sphere(settings: dict[str, Any], num: int, size: tuple[int, int]) -> Scene:
    """`num` Gaussians on the same sphere, so wide that they overlap as the icosphere's, in an image of (H, W)."""
    means = voge.Gaussians.sphere(num).means + torch.tensor(settings["centre"])
    vertices = 10 * 4 ** settings["subdivisions"] + 2
    features = _features(num, settings["channels"], settings["seed"])
    focal = settings["focal"] * size[1] / settings["image_size"][1]
    return Scene(means, features, None, settings["precision"] * num / vertices, focal, size)


def ours(scene: Scene, settings: dict[str, Any]) -> Renderer:
    """voge.render of the scene; `settings` is the protocol's `ours`, the keywords of voge.render."""
    height, width = scene.image_size
    K = torch.tensor([[scene.focal, 0.0, width / 2], [0.0, scene.focal, height / 2], [0.0, 0.0, 1.0]])
    cameras = voge.Cameras(torch.eye(3), torch.zeros(3), K, scene.image_size)
    precisions = scene.precision * torch.eye(3).repeat(len(scene.means), 1, 1)

    def render(means: Tensor, features: Tensor) -> Tensor:
        return voge.render(voge.Gaussians(means, precisions), cameras, features, **settings).features

    return render


def step(render: Renderer, scene: Scene) -> Callable[[], None]:
    """One measured call: the picture, and the gradient of its sum to positions and features."""
    upstream = torch.ones(*scene.image_size, scene.features.shape[-1])

    def call() -> None:
        means, features = scene.means.clone().requires_grad_(), scene.features.clone().requires_grad_()
        render(means, features).backward(upstream)

    return call


def forward(render: Renderer, scene: Scene) -> Callable[[], None]:
    """One measured call: the picture alone."""

    def call() -> None:
        with torch.no_grad():
            render(scene.means, scene.features)

    return call


def agreement(ours: Renderer, peer: Renderer, scene: Scene, silhouette: float = 0.01) -> tuple[float, float]:
    """Whether both show the same: the silhouettes' intersection over union, and the correlation of colours inside both.

    Ours is half opaque about one standard deviation outside the surface that the peers draw: its silhouette is drawn in
    by that much. The peer's is where its opacity passes `silhouette`. A channel of ones shows the opacity.
    """
    features = torch.cat([torch.ones_like(scene.features[:, :1]), scene.features[:, 1:]], -1)
    with torch.no_grad():
        mine, other = (render(scene.means, features) for render in (ours, peer))
    pixels = scene.focal * scene.precision**-0.5 / scene.means[:, 2].mean().item()
    inside = distance_transform_edt((mine[..., 0] > 0.5).numpy()) - 0.5  # the border is before the next pixel
    silhouettes = torch.from_numpy(inside > pixels), other[..., 0] > silhouette
    both, either = silhouettes[0] & silhouettes[1], silhouettes[0] | silhouettes[1]
    colours = torch.stack([image[both][:, 1:].flatten() for image in (mine, other)])
    return (both.sum() / either.sum()).item(), torch.corrcoef(colours)[0, 1].item()


def _features(num: int, channels: int, seed: int) -> Tensor:
    return torch.rand(num, channels, generator=torch.Generator().manual_seed(seed))
