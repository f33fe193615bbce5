"""The shape of an object from its silhouettes: a sphere whose vertices move until its pictures are right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from voge import checks
from voge.cameras import Cameras
from voge.convert import from_mesh
from voge.gaussians import Gaussians
from voge.io.objects import as_mesh
from voge.render import render


@dataclass(frozen=True)
class ShapeResult:
    """A fitted shape.

    Attributes:
        gaussians: one a vertex, by the vertex law (voge.convert.from_mesh).
        features: (N, C), fitted to the images; None where none were given.
        vertices, faces: the mesh (N, 3), (F, 3).
        curve: (S,), the loss after every step. interrupted: stopped by Ctrl-C; the shape is the last one.
    """

    gaussians: Gaussians
    features: Tensor | None
    vertices: Tensor
    faces: Tensor
    curve: Tensor
    interrupted: bool


def shape(
    silhouettes: Tensor,
    cameras: Cameras,
    images: Tensor | None = None,
    *,
    mesh: Any = None,
    level: int = 3,
    steps: int = 200,
    views: int = 4,
    rate: float = 0.03,
    edge: float = 0.01,
    laplacian: float = 0.05,
    percentage: float = 0.5,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> ShapeResult:
    """Fits one closed surface to silhouettes, and its colours to images, by Adam over a few views a step.

    Args:
        silhouettes: (V, H, W) in [0, 1], where the object is seen.
        cameras: a batch (V,) with that image size.
        images: (V, H, W, C), the object's colours in front of black; None: the shape alone.
        mesh: where to begin, anything voge.io.as_mesh takes; None: a sphere where the silhouettes meet.
        level: subdivisions of that sphere: 10 * 4^level + 2 Gaussians.
        views: seen in one step. rate: first step of Adam, as a share of the object's radius; it falls to a tenth.
        edge, laplacian: weights of the regularisers: unequal edges; vertices far from the mean of their neighbours.
        percentage: of the vertex law. seed: of the choice of views. settings: of voge.render.
        progress: called with step, number of steps and loss.

    Raises:
        TypeError, ValueError: types, shapes, values, an empty silhouette. Ctrl-C raises nothing: `interrupted`.
    """
    _check(silhouettes, cameras, images, level, steps, views)
    if mesh is None:
        vertices, faces = icosphere(level)
        centre, radius = _ball(silhouettes, cameras)
        vertices = centre + radius * vertices.to(centre)
    else:
        vertices, faces = as_mesh(mesh)[:2]
        vertices, faces = vertices.detach().to(silhouettes), faces.to(silhouettes.device)
        if vertices.dim() != 2:
            raise ValueError(f"mesh: expected vertices (V, 3) without a batch, got {tuple(vertices.shape)}")
        radius = (vertices - vertices.mean(0)).norm(dim=-1).mean()
    if not (laplacian >= 0 and edge >= 0 and rate > 0):
        raise ValueError(f"rate, edge, laplacian: expected above 0, and at least 0, got {rate}, {edge}, {laplacian}")
    moved = torch.zeros_like(vertices, requires_grad=True)  # in radii
    groups = [{"params": [moved], "lr": rate}]
    colors = None
    if images is not None:
        start = images[silhouettes > 0.5].mean(0)
        colors = start.expand(len(vertices), -1).clone().requires_grad_()
        groups.append({"params": [colors], "lr": 0.05})
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=0.1 * rate)
    random = torch.Generator().manual_seed(seed)
    white = torch.ones_like(vertices[:, :1])
    curve: list[float] = []
    interrupted = False
    try:
        for step in range(steps):
            chosen = torch.randperm(len(silhouettes), generator=random)[:views]
            surface = vertices + radius * moved
            drawn = render(
                from_mesh(surface, faces, percentage), cameras[chosen], white if colors is None else colors, **settings
            )
            loss = (drawn.alpha.clamp(max=1) - silhouettes[chosen]).square().mean()
            if images is not None:
                loss = loss + (drawn.features - images[chosen] * silhouettes[chosen][..., None]).square().mean()
            roughness, inequality = regularity(surface / radius, faces)
            optimizer.zero_grad()
            (loss + laplacian * roughness + edge * inequality).backward()
            optimizer.step()
            schedule.step()
            curve.append(loss.item())
            if progress is not None:
                progress(step + 1, steps, curve[-1])
    except KeyboardInterrupt:
        interrupted = True
    vertices = (vertices + radius * moved).detach()
    features = None if colors is None else colors.detach()
    return ShapeResult(
        from_mesh(vertices, faces, percentage), features, vertices, faces, torch.tensor(curve), interrupted
    )


def regularity(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Mean squared distance of the vertices (V, 3) from their neighbours' mean, and mean squared difference of the
    edges' lengths from their mean, as a share of it."""
    edges = torch.unique(torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]).sort(-1).values, dim=0)
    a, b = edges.unbind(-1)
    total = torch.zeros_like(vertices).index_add(0, a, vertices[b]).index_add(0, b, vertices[a])
    valence = torch.bincount(edges.flatten(), minlength=len(vertices))[:, None]
    offsets = torch.where(valence > 0, total / valence.clamp(min=1) - vertices, 0)
    lengths = (vertices[a] - vertices[b]).square().sum(-1).clamp(min=1e-20).sqrt()
    return offsets.square().sum(-1).mean(), (lengths / lengths.mean() - 1).square().mean()


def icosphere(level: int) -> tuple[Tensor, Tensor]:
    """Unit sphere: vertices (10 * 4^level + 2, 3) and faces (20 * 4^level, 3) of an icosahedron, each face cut in four
    `level` times."""
    g = (1 + math.sqrt(5)) / 2
    rows = [[-1, g, 0], [1, g, 0], [-1, -g, 0], [1, -g, 0]]
    vertices = torch.tensor([[r[(i + s) % 3] for i in range(3)] for s in (0, 2, 1) for r in rows], dtype=torch.float64)
    faces = torch.tensor([
        [0, 11, 5], [0, 5, 1], [0, 1, 7], [0, 7, 10], [0, 10, 11], [1, 5, 9], [5, 11, 4], [11, 10, 2], [10, 7, 6],
        [7, 1, 8], [3, 9, 4], [3, 4, 2], [3, 2, 6], [3, 6, 8], [3, 8, 9], [4, 9, 5], [2, 4, 11], [6, 2, 10], [8, 6, 7],
        [9, 8, 1],
    ])  # fmt: skip
    for _ in range(level):
        sides = torch.stack([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]], 1)
        edges, middle = torch.unique(sides.sort(-1).values.flatten(0, 1), dim=0, return_inverse=True)
        (a, b, c), (ab, bc, ca) = faces.unbind(1), (middle.view(-1, 3) + len(vertices)).unbind(1)
        vertices = torch.cat([vertices, vertices[edges].mean(1)])
        faces = torch.cat([torch.stack(f, 1) for f in ((a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca))])
    return torch.nn.functional.normalize(vertices, dim=-1), faces


def _ball(silhouettes: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Centre (3,) nearest to the rays through the silhouettes' middles, and the radius that has their median area."""
    height, width = cameras.image_size
    area = silhouettes.sum((-2, -1))
    x = (silhouettes.sum(-2) * (torch.arange(width).to(area) + 0.5)).sum(-1) / area
    y = (silhouettes.sum(-1) * (torch.arange(height).to(area) + 0.5)).sum(-1) / area
    rays = cameras.rays(torch.stack([x, y], -1)[:, None])
    d = torch.nn.functional.normalize(rays.directions[:, 0], dim=-1)
    across = torch.eye(3).to(d) - d[:, :, None] * d[:, None, :]
    origins = rays.origins[:, 0]
    if len(d) == 1:  # no depth: at distance 1
        centre = origins[0] + d[0]
    else:
        centre = torch.linalg.lstsq(across.flatten(0, 1), (across @ origins[..., None]).flatten()[:, None]).solution[
            :, 0
        ]
    depth = (centre - origins).norm(dim=-1)
    focal = cameras.K[..., [0, 1], [0, 1]].prod(-1).sqrt()
    return centre, ((area / math.pi).sqrt() * depth / focal).median()


def _check(silhouettes: Tensor, cameras: Cameras, images: Tensor | None, level: int, steps: int, views: int) -> None:
    if not isinstance(cameras, Cameras):
        raise TypeError(f"cameras: expected voge.Cameras, got {type(cameras).__name__}")
    if len(cameras.batch_shape) != 1 or not len(cameras):
        raise ValueError(f"cameras: expected a batch (V,) of at least one, got {cameras}")
    stack = (len(cameras), *cameras.image_size)
    checks.tensor("silhouettes", silhouettes, stack, dtype=cameras.dtype, device=cameras.device, finite=True)
    if silhouettes.dim() != 3:
        raise ValueError(f"silhouettes: expected shape {stack}, got {tuple(silhouettes.shape)}")
    checks.every("silhouettes", (silhouettes >= 0) & (silhouettes <= 1), "values in [0, 1]", silhouettes)
    checks.every("silhouettes", (silhouettes > 0.5).flatten(1).any(1), "a pixel above 0.5 in every view")
    if images is not None:
        checks.tensor("images", images, (*stack, "C"), dtype=cameras.dtype, device=cameras.device, finite=True)
    checks.integer("level", level, 0, 7)
    checks.integer("steps", steps, 1, None)
    checks.integer("views", views, 1, None)
