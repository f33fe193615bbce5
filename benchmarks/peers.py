"""PyTorch3D's renderers on the scenes, each a function (means, features) -> image (H, W, C) on a background of 0."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from benchmarks.scenes import Renderer, Scene

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from pytorch3d.renderer import (
        AlphaCompositor,
        BlendParams,
        MeshRasterizer,
        PerspectiveCameras,
        PointsRasterizationSettings,
        PointsRasterizer,
        PointsRenderer,
        RasterizationSettings,
        TexturesVertex,
        softmax_rgb_blend,
    )
    from pytorch3d.renderer.points.pulsar import Renderer as PulsarRenderer
    from pytorch3d.structures import Meshes, Pointclouds


def mesh(scene: Scene, settings: dict[str, Any]) -> Renderer:
    """The soft rasteriser of meshes, 3 channels."""
    sigma = settings["sigma"]
    rasterizer = MeshRasterizer(
        _cameras(scene),
        RasterizationSettings(
            image_size=scene.image_size,
            blur_radius=math.log(1 / 1e-4 - 1) * sigma,
            faces_per_pixel=settings["faces_per_pixel"],
            perspective_correct=settings["perspective_correct"],
            cull_backfaces=settings["cull_backfaces"],
        ),
    )
    blend = BlendParams(sigma=sigma, gamma=settings["gamma"], background_color=(0.0, 0.0, 0.0))

    def render(means: Tensor, features: Tensor) -> Tensor:
        meshes = Meshes([means], [scene.faces], TexturesVertex(features[None]))
        fragments = rasterizer(meshes)
        return softmax_rgb_blend(meshes.sample_textures(fragments), fragments, blend)[0, ..., :3]

    return render


def points(scene: Scene, settings: dict[str, Any]) -> Renderer:
    """The points rasteriser with alpha compositing, any number of channels."""
    depth = scene.means[:, 2].mean().item()
    pixels = scene.focal * scene.precision**-0.5 / depth
    rasterizer = PointsRasterizer(
        _cameras(scene),
        PointsRasterizationSettings(
            image_size=scene.image_size,
            radius=2 * pixels / min(scene.image_size),
            points_per_pixel=settings["points_per_pixel"],
        ),
    )
    renderer = PointsRenderer(rasterizer, AlphaCompositor())

    def render(means: Tensor, features: Tensor) -> Tensor:
        return renderer(Pointclouds([means], features=[features]))[0]

    return render


def pulsar(scene: Scene, settings: dict[str, Any]) -> Renderer:
    """Pulsar's spheres, any number of channels. Its rows run upwards: the picture is flipped."""
    height, width = scene.image_size
    channels = scene.features.shape[-1]
    renderer = PulsarRenderer(width, height, len(scene.means), right_handed_system=False, n_channels=channels)
    radius = torch.full((len(scene.means),), settings["radius"])
    camera = torch.tensor([0.0] * 6 + [1.0, width / scene.focal])  # place, rotation, focal length, width of the sensor
    margin = 2 * settings["radius"]
    nearest, farthest = scene.means[:, 2].aminmax()
    depths = {"min_depth": nearest.item() - margin, "max_depth": farthest.item() + margin}
    background = torch.zeros(channels)

    def render(means: Tensor, features: Tensor) -> Tensor:
        image = renderer(means, features, radius, camera, gamma=settings["gamma"], bg_col=background, **depths)
        return image.flip(0)

    return render


PEERS = {"mesh": mesh, "mesh-culled": mesh, "points": points, "pulsar": pulsar}
ANY_CHANNELS = ("points", "pulsar")


def _cameras(scene: Scene) -> PerspectiveCameras:
    height, width = scene.image_size
    return PerspectiveCameras(
        R=torch.diag(torch.tensor([-1.0, -1.0, 1.0]))[None],  # PyTorch3D's x points left and its y up
        T=torch.zeros(1, 3),
        focal_length=torch.tensor([[scene.focal, scene.focal]]),
        principal_point=torch.tensor([[width / 2, height / 2]]),
        image_size=torch.tensor([[height, width]]),
        in_ndc=False,
    )
