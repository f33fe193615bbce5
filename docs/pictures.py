"""Makes the pictures of these pages, from generated scenes only: python docs/pictures.py [NAME ...]"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import torch
import trimesh
from matplotlib import pyplot as plt
from torch import Tensor

import voge
from voge import convert, reference

IMAGES = Path(__file__).parent / "img"
PALETTE = torch.tensor(
    [[0.9, 0.2, 0.2], [1.0, 0.7, 0.2], [0.25, 0.6, 0.35], [0.2, 0.45, 0.8], [0.55, 0.35, 0.7], [0.2, 0.7, 0.7]]
)
INK, BLUE, RED, GREEN = "#333333", "#2f6fb0", "#c8443c", "#4a9a5b"


def ray() -> Any:
    """Three Gaussians on one ray: optical depth along it, transmittance, and their weights."""
    lengths, widths = torch.tensor([2.0, 3.2, 5.0]).double(), torch.tensor([0.35, 0.5, 0.3]).double()
    peaks = torch.tensor([0.8, 1.2, 2.0]).double()
    x = torch.linspace(0.5, 6.5, 600).double()
    z = (x[:, None] - lengths) / widths
    density = peaks * torch.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * widths)
    transmittance = torch.exp(-(peaks * torch.special.ndtr(z)).sum(-1))
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), width_ratios=(2, 1), layout="constrained")
    for k, colour in enumerate((BLUE, GREEN, RED)):
        left.fill_between(x, density[:, k], color=colour, alpha=0.3, lw=0)
        left.plot(x, density[:, k] * transmittance, color=colour, label=f"absorbed by Gaussian {k + 1}")
    left.plot(x, transmittance, color=INK, ls="--", label="transmittance T")
    left.set(xlabel="t along the ray", ylim=(0, None), title="Filled: density. Lines: density × T")
    left.legend(fontsize=8)
    rules = {
        "exact": reference.exact(peaks, lengths, widths),
        "hermite, 1 point": reference.hermite(peaks, lengths, widths, 1),
        "hermite, 4 points": reference.hermite(peaks, lengths, widths, 4),
        "segments, 2 cuts": reference.segments(peaks, lengths, widths, 2),
    }
    for i, ((name, weights), colour) in enumerate(zip(rules.items(), (INK, RED, "#e6a39d", BLUE), strict=True)):
        right.bar(torch.arange(3) + 0.2 * i - 0.3, weights, 0.18, color=colour, label=name)
    right.set(xticks=range(3), xticklabels=["1", "2", "3"], xlabel="Gaussian", title="Weights W")
    right.legend(fontsize=8)
    return figure


def quadrature() -> Any:
    """Error of both quadratures against the exact integral, on random rays of two kinds."""
    random = torch.Generator().manual_seed(0)

    def uniform(low: float, high: float, num: int) -> Tensor:
        return low + (high - low) * torch.rand(50, num, generator=random, dtype=torch.float64)

    cases = {
        "thin surface, 20 hits": (uniform(0.01, 0.5, 20), 3 + 0.05 * uniform(-1, 1, 20), uniform(0.04, 0.06, 20)),
        "cloud, 40 hits": (uniform(0.01, 0.2, 40), uniform(2, 4, 40), 0.05 * 12 ** uniform(0, 1, 40)),
    }
    figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
    for axis, (name, rays) in zip(axes, cases.items(), strict=True):
        exact = reference.exact(*rays)
        for rule, most, colour in ((reference.hermite, 8, RED), (reference.segments, 5, BLUE)):
            errors = [
                ((rule(*rays, points=n) - exact).abs().sum(-1) / exact.sum(-1)).mean() for n in range(1, most + 1)
            ]
            axis.semilogy(range(1, most + 1), errors, "o-", color=colour, label=rule.__name__)
        axis.set(title=name, xlabel="points")
        axis.grid(alpha=0.3)
        axis.legend()
    axes[0].set_ylabel("relative error of the weights")
    return figure


def converters() -> Any:
    """One body as Gaussians, five ways."""
    mesh = trimesh.creation.torus(0.8, 0.35, major_sections=64, minor_sections=32)
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces)
    box, side = convert.cuboid((1.6, 1.0, 1.2), num=1500)
    sphere, cloud = convert.sphere(800), convert.points(vertices)
    surface, where = convert.surface(vertices, faces, num=800)
    scenes = {
        "from_mesh": (convert.from_mesh(vertices, faces), vertices),
        "surface": (surface, where.normals),
        "points": (cloud, cloud.means),
        "sphere": (sphere, sphere.means),
        "cuboid": (box, None),
    }
    camera = voge.Cameras.look_at(eye=(1.2, 2.0, 2.6), focal=290.0, image_size=(240, 240))
    figure, axes = plt.subplots(1, 5, figsize=(12, 2.8), layout="constrained")
    for axis, (name, (gaussians, values)) in zip(axes, scenes.items(), strict=True):
        colours = PALETTE[side] if values is None else 0.5 + 0.5 * torch.nn.functional.normalize(values, dim=-1)
        _show(axis, voge.render(gaussians, camera, colours, background=torch.ones(3)).features, name)
    return figure


def bricks() -> tuple[voge.Gaussians, Tensor]:
    """A coloured box with a smaller one on it, as flat Gaussians."""
    body = trimesh.creation.box((1.6, 0.8, 1.0))
    tower = trimesh.creation.box((0.5, 0.7, 0.5), transform=trimesh.transformations.translation_matrix((0.4, 0.7, 0.1)))
    for part, first in ((body, 0), (tower, 2)):
        normals = torch.tensor(part.face_normals)
        side = 2 * normals.abs().argmax(-1) + (normals.sum(-1) > 0)
        part.visual.face_colors = (255 * PALETTE[(side + first) % 6]).byte().numpy()
    mesh = trimesh.Scene([body, tower])
    gaussians, where = convert.surface(mesh, num=2000)
    return gaussians, convert.surface_colors(mesh, where)


def occluder() -> Any:
    """A pose found behind an occluder: picture, start, result, what was switched off, and the loss."""
    gaussians, colours = bricks()
    truth = voge.Cameras.look_at(eye=(1.8, 1.6, 2.4), focal=300.0, image_size=(200, 240))
    start = voge.Cameras.look_at(eye=(2.9, 0.7, 1.0), focal=300.0, image_size=(200, 240))
    with torch.no_grad():
        picture = voge.render(gaussians, truth, colours, background=torch.ones(3)).features
    picture[60:150, 40:100] = torch.tensor([0.05, 0.05, 0.1])
    result = voge.fit.pose(gaussians, picture, start, colours)
    with torch.no_grad():
        before = voge.render(gaussians, start, colours, background=torch.ones(3)).features
        after = voge.render(gaussians, result.cameras, colours, background=picture).features
    turned = [math.degrees(_angle(R, truth.R)) for R in (start.R, result.R)]
    figure, axes = plt.subplots(1, 5, figsize=(14, 2.7), layout="constrained")
    _show(axes[0], picture, "picture")
    _show(axes[1], before, f"start, {turned[0]:.0f}° off")
    _show(axes[2], after, f"found, {turned[1]:.2f}° off")
    _show(axes[3], result.occluded[..., None].float().expand(-1, -1, 3), "occluded")
    for stage in result.stages.unique():
        steps = torch.nonzero(result.stages == stage)[:, 0]
        axes[4].semilogy(steps, result.curve[steps], color=BLUE)
    axes[4].set(xlabel="step", title="loss, a line a stage")
    return figure


def room() -> tuple[voge.Gaussians, Tensor]:
    """A room of chequered walls with a ball in it, seen from inside; x right, y down, z forward."""
    size = torch.tensor([4.0, 2.6, 6.0])
    means, scales, colours = [], [], []
    for axis in range(3):
        across = [a for a in range(3) if a != axis]
        steps = [torch.arange(-float(size[a]) / 2 + 0.05, float(size[a]) / 2, 0.1) for a in across]
        grid = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).flatten(0, 1)
        dark = ((grid + 10) / 0.5).floor().sum(-1) % 2 == 0
        for side in (-1, 1):
            wall = torch.empty(len(grid), 3)
            wall[:, across], wall[:, axis] = grid, side * size[axis] / 2
            means.append(wall)
            scales.append(torch.where(torch.arange(3) == axis, 0.01, 0.06).expand(len(grid), 3))
            colours.append(PALETTE[2 * axis + (side > 0)] * torch.where(dark, 0.55, 1.0)[:, None])
    walls = voge.Gaussians.from_scales_rotations(
        torch.cat(means), torch.cat(scales), torch.eye(3).expand(len(torch.cat(means)), 3, 3)
    )
    ball = voge.Gaussians.sphere(800, radius=0.6, center=(0.5, 0.5, 1.2))
    shade = 0.55 - 0.45 * (ball.means[:, 1:2] - 0.5) / 0.6
    precisions = torch.cat([walls.precisions, ball.precisions])
    whole = voge.Gaussians(torch.cat([walls.means, ball.means]), precisions, torch.full((len(precisions),), 3.0))
    return whole, torch.cat([*colours, shade.expand(-1, 3)])


def lenses() -> Any:
    """One room through every model of voge.lenses, from one place."""
    scene, colours = room()
    height, width = 150, 200
    K = torch.tensor([[95.0, 0, width / 2], [0, 95, height / 2], [0, 0, 1]])
    R, t = torch.eye(3), torch.tensor([0.0, 0.0, 1.5])  # at z = -1.5
    camera = voge.Cameras(R, t, K, (height, width))
    focal = height / math.pi  # half a turn from the upper to the lower edge
    wide = voge.Cameras(R, t, torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]), (height, width))
    later = voge.Cameras(R, t - torch.tensor([0.7, 0, 0]), K, (height, width))
    units = torch.tensor([[55.0, 0, width / 2], [0, 55, height / 2], [0, 0, 1]])  # 55 pixels a world unit
    parallel = voge.Cameras(R, torch.tensor([0.0, 0.0, 2.9]), units, (height, width))
    lens = voge.lenses
    views = {
        "pinhole": camera,
        "opencv_rays, k1 = -0.2": lens.opencv_rays(camera, torch.tensor([-0.2, 0.0, 0.0, 0.0])),
        "fisheye_rays, 180°": lens.fisheye_rays(wide, torch.zeros(4)),
        "orthographic_rays": lens.orthographic_rays(parallel),
        "rolling_shutter_rays": lens.rolling_shutter_rays(lens.interpolate(camera, later)),
        "equirectangular_rays": lens.equirectangular_rays(R, t, (height, 2 * height)),
        "lidar_rays, depth": lens.lidar_rays(
            R, t, torch.linspace(-math.pi, math.pi, 360), torch.linspace(0.4, -0.4, 32)
        ),
    }
    figure = plt.figure(figsize=(12, 4.8), layout="constrained")
    grid = figure.add_gridspec(2, 8)
    places = [grid[0, i : i + 2] for i in (0, 2, 4, 6)] + [grid[1, :2], grid[1, 2:5], grid[1, 5:]]
    for (name, rays), place in zip(views.items(), places, strict=True):
        o = voge.render(scene, rays, colours, quadrature="segments", background=torch.ones(3))
        axis = figure.add_subplot(place)
        if name.startswith("lidar"):
            axis.imshow(o.depth, cmap="viridis", aspect="auto")
            axis.set_title(name)
            axis.axis("off")
        else:
            _show(axis, o.features, name)
    return figure


def _angle(A: Tensor, B: Tensor) -> float:
    return float(((torch.trace(A.mT @ B) - 1) / 2).clamp(-1, 1).acos())


def _show(axis: Any, image: Tensor, title: str) -> None:
    axis.imshow(image.clamp(0, 1))
    axis.set_title(title)
    axis.axis("off")


PICTURES = {picture.__name__: picture for picture in (ray, quadrature, converters, occluder, lenses)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PICTURES)}; all by default")
    names = parser.parse_args().names or list(PICTURES)
    unknown = set(names) - set(PICTURES)
    if unknown:
        parser.error(f"expected names of {', '.join(PICTURES)}, got {', '.join(sorted(unknown))}")
    for name in names:
        with voge.io.atomic_path(IMAGES / f"{name}.png") as path:
            PICTURES[name]().savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
