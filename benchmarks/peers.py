"""Other people's renderers on the scenes, each a function (means, features) -> image (H, W, C) on a background of 0."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np
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


class Ellipsoids(NamedTuple):
    """A scene in Mitsuba, one ellipsoid a Gaussian, with the ray of every pixel."""

    scene: Any
    parameters: Any
    rays: Any
    layout: np.ndarray  # (N, 10): centre, standard deviations, quaternion


def ellipsoids(scene: Scene, settings: dict[str, Any]) -> Ellipsoids:
    """Ellipsoids that a ray meets where the Gaussian passes `threshold`, as ours does. Without LLVM: ImportError."""
    import mitsuba as mi

    mi.set_variant("llvm_ad_rgb")
    num = len(scene.means)
    layout = np.zeros((num, 10), np.float32)
    layout[:, :3], layout[:, 3:6], layout[:, 9] = scene.means.numpy(), scene.precision**-0.5, 1.0
    shape = {
        "type": "ellipsoids",
        "data": mi.TensorXf(layout),
        "extent": math.sqrt(-2 * math.log(settings["threshold"])),  # standard deviations
        "extent_adaptive_clamping": False,
        "opacities": mi.TensorXf(np.full((num, 1), settings["opacity"], np.float32)),
        "sh_coeffs": mi.TensorXf(np.zeros((num, 3), np.float32)),
    }
    loaded = mi.load_dict({"type": "scene", "shape": shape})
    height, width = scene.image_size
    v, u = np.mgrid[:height, :width].reshape(2, -1) + 0.5
    directions = np.stack([(u - width / 2) / scene.focal, (v - height / 2) / scene.focal, np.ones_like(u)])
    directions = (directions / np.linalg.norm(directions, axis=0)).astype(np.float32)
    rays = mi.Ray3f(mi.Point3f(0.0), mi.Vector3f(*map(mi.Float, directions)))
    return Ellipsoids(loaded, mi.traverse(loaded), rays, layout)


def mitsuba(scene: Scene, settings: dict[str, Any]) -> Renderer:
    """Mitsuba 3's ellipsoids under its radiance field integrator: alpha compositing by the lengths at which a ray
    enters, 3 channels, harmonics of degree 0.

    The integrator runs once for the picture and once for the gradients; mitsuba.render would run it three times.
    """
    import drjit as dr
    import mitsuba as mi

    made = ellipsoids(scene, settings)
    integrator = mi.load_dict({"type": "volprim_rf_basic", "max_depth": settings["max_hits"], "srgb_primitives": False})
    harmonic = 0.5 / math.sqrt(math.pi)  # of degree 0; the integrator adds 1/2 to what it scales

    def trace(mode: Any, delta: Any, state: Any) -> Any:
        if (threads := torch.get_num_threads()) != dr.thread_count():
            dr.set_thread_count(threads)
        with dr.suspend_grad():
            found = integrator.sample(mode, made.scene, None, made.rays, delta, state, mi.Bool(True))
        dr.eval(found)
        return found

    class Composite(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, means: Tensor, features: Tensor) -> Tensor:
            made.layout[:, :3] = means.detach().numpy()
            ctx.layout = mi.Float(made.layout.ravel())
            ctx.harmonics = mi.Float(((features.detach() - 0.5) / harmonic).numpy().ravel())
            dr.enable_grad(ctx.layout, ctx.harmonics)
            made.parameters["shape.data"], made.parameters["shape.sh_coeffs"] = ctx.layout, ctx.harmonics
            made.parameters.update()
            image, _, _, ctx.state = trace(dr.ADMode.Primal, None, None)
            return torch.from_numpy(np.stack([np.array(channel) for channel in image], -1)).view(*scene.image_size, 3)

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
            delta = mi.Spectrum(*(mi.Float(channel.numpy()) for channel in grad.reshape(-1, 3).t().contiguous()))
            trace(dr.ADMode.Backward, delta, ctx.state)
            means, features = (np.array(dr.grad(x)) for x in (ctx.layout, ctx.harmonics))
            return torch.from_numpy(means.reshape(-1, 10)[:, :3]), torch.from_numpy(features.reshape(-1, 3)) / harmonic

    return Composite.apply


PEERS = {"mesh": mesh, "mesh-culled": mesh, "points": points, "pulsar": pulsar, "mitsuba": mitsuba}
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
