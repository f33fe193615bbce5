"""A mesh as few Gaussians: their places, shapes and densities are fitted to pictures of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, huber_loss, normalize

from voge import checks
from voge.cameras import Cameras
from voge.convert.rasters import raster
from voge.convert.surfaces import Surface, surface
from voge.gaussians import Gaussians, quaternions_to_matrices
from voge.io.objects import Mesh, as_mesh
from voge.render import Rendering, render

# All lengths in radii of the ball around the mesh.
STAGES = ((32, 24), (64, 12), (128, 4))  # side of the pictures in pixels, each half of the next; views a step
DISTANCE = 3.0  # of the cameras from the middle
SUPERSAMPLING = 2  # rays a side of the finest pixels
TOLERANCE = 0.02  # error of a length from which it counts linearly
NORMALS = 0.1  # weight of the normals in the loss
THINNEST = 0.004  # standard deviation
DENSITIES = (0.05, 30.0)
SAMPLES = 500  # Gaussians whose samples of the surface are taken, at least
PAIRS = 2**22  # of samples and Gaussians held at once


class FittedMesh(NamedTuple):
    """What `fit_mesh` returns.

    Attributes:
        gaussians: N of them, with densities.
        surface: the patch of the mesh that each stands for: `surface_colors(mesh, fitted.surface)` are their colours,
            and `fitted.surface.mean(values)` averages anything else.
        curve: (S,), the loss after every step; its scale differs between the sizes of the pictures.
        interrupted: stopped by Ctrl-C; the Gaussians are the last ones.
    """

    gaussians: Gaussians
    surface: Surface
    curve: Tensor
    interrupted: bool


def fit_mesh(
    mesh: Any,
    n: int,
    *,
    views: int = 24,
    steps: int = 200,
    rate: float = 0.03,
    seed: int = 0,
    progress: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> FittedMesh:
    """n Gaussians that together look like a mesh: as few as a task needs, where `surface` takes thousands.

    They begin as `surface` lays them. Adam then moves means, axes, widths and densities until silhouettes and lengths
    along the rays are those of the mesh, seen from all around, in pictures that become larger. Densities reach 30, so
    that few are opaque with a sharp border: `quadrature="segments"` renders that, `hermite` does not (its weights
    A exp(-A / 2) vanish for dense Gaussians), unless it is among the settings here and the fit can heed it.

    Args:
        mesh: a voge.io.Mesh, trimesh.Trimesh, PyTorch3D Meshes of one, or the pair of vertices (V, 3) and faces (F, 3).
            It need not be closed; faces count from both sides.
        n: how many Gaussians.
        views: directions of view, spread evenly. steps: of Adam, a third in each size of picture.
        rate: first step of Adam, in radians of the axes; the other numbers move in proportion. It falls to a fiftieth.
        seed: of the directions and of their choice; equal seeds give equal results.
        progress: called with step, number of steps and loss.
        settings: of voge.render, with which the Gaussians will be rendered; quadrature="segments" by default.

    Returns:
        Constants of the mesh's dtype and device: nothing is differentiated.

    Raises:
        TypeError, ValueError: not a mesh, an empty one or one without area, values that are not finite, n, views,
            steps, rate. Ctrl-C raises nothing: `interrupted`.
        ImportError: scipy is missing.
    """
    mesh = as_mesh(mesh)
    checks.integer("n", n, 1, None)
    checks.integer("views", views, 1, None)
    checks.integer("steps", steps, 1, None)
    if not rate > 0:
        raise ValueError(f"rate: expected a number above 0, got {rate}")
    start, _ = surface(mesh, num=n)
    _, spread = surface(mesh, num=max(n, SAMPLES))
    mesh = mesh._replace(vertices=mesh.vertices.detach())
    used = mesh.vertices[mesh.faces.unique()]
    centre = (used.amin(0) + used.amax(0)) / 2
    radius = (used - centre).norm(dim=-1).amax()
    random = torch.Generator().manual_seed(seed)
    targets = pictures(((mesh.vertices - centre) / radius).float(), mesh.faces, views, random)
    shapes = Shapes(Gaussians((start.means - centre) / radius, start.precisions * radius**2))

    optimizer = torch.optim.Adam(shapes.groups(rate), betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.02 + 0.98 * math.cos(math.pi / 2 * step / steps) ** 2
    )
    white = torch.ones_like(shapes.means[:, :1])
    settings = {"quadrature": "segments"} | settings
    curve: list[float] = []
    interrupted = False
    try:
        for step in range(steps):
            stage = len(STAGES) * step // steps
            chosen = torch.randperm(views, generator=random)[: STAGES[stage][1]]
            target = targets[stage].take(chosen)
            loss = difference(render(shapes.gaussians(), target.cameras, white, normals=True, **settings), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            shapes.clamp()
            schedule.step()
            curve.append(loss.item())
            if progress is not None:
                progress(step + 1, steps, curve[-1])
    except KeyboardInterrupt:
        interrupted = True
    with torch.no_grad():
        found = shapes.gaussians().to(mesh.vertices.dtype)
    found = Gaussians(found.means * radius + centre, found.precisions / radius**2, found.density)
    return FittedMesh(found, patches(mesh, found, spread), torch.tensor(curve), interrupted)


class Shapes:
    """The numbers that move, in float32: means, logarithms of widths and densities, and turns of the first axes."""

    def __init__(self, start: Gaussians) -> None:
        variances, self.axes = (x.float() for x in torch.linalg.eigh(torch.linalg.inv(start.precisions.double())))
        self.means = start.means.float().clone().requires_grad_()
        self.scales = (variances.log() / 2).requires_grad_()
        self.turns = torch.eye(4)[0].repeat(start.num, 1).to(self.means.device).requires_grad_()
        self.density = torch.zeros_like(self.means[:, 0]).requires_grad_()

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """For an optimiser: means move by shares of the typical width."""
        width = float(self.scales.detach()[:, 1:].mean().exp())
        rates = {"means": 5 * width, "scales": 1.5, "turns": 1.0, "density": 5.0}
        return [{"params": [getattr(self, name)], "lr": factor * rate} for name, factor in rates.items()]

    def gaussians(self) -> Gaussians:
        rotations = self.axes @ quaternions_to_matrices(self.turns)
        return Gaussians.from_scales_rotations(self.means, self.scales.exp(), rotations, self.density.exp())

    @torch.no_grad()
    def clamp(self) -> None:
        self.scales.clamp_(min=math.log(THINNEST))
        self.density.clamp_(*map(math.log, DENSITIES))


class Target(NamedTuple):
    """Pictures of a mesh: the covered share of every pixel, (V, H, W) in [0, 1]; there, the mean length to the mesh
    and its mean normal (V, H, W, 3), towards the camera."""

    cameras: Cameras
    coverage: Tensor
    lengths: Tensor
    normals: Tensor

    def take(self, views: Tensor) -> Target:
        return Target(self.cameras[views], self.coverage[views], self.lengths[views], self.normals[views])

    def shrunk(self, factor: int) -> Target:
        height, width = self.cameras.image_size
        seen = torch.stack([torch.ones_like(self.lengths), self.lengths, *self.normals.unbind(-1)], 1)
        coverage, total, *normals = avg_pool2d(self.coverage[:, None] * seen, factor).unbind(1)
        lengths = torch.where(coverage > 0, total / coverage.clamp(min=1e-6), 0)
        cameras = self.cameras.resize((height // factor, width // factor))
        return Target(cameras, coverage, lengths, normalize(torch.stack(normals, -1), dim=-1))


def pictures(vertices: Tensor, faces: Tensor, views: int, random: torch.Generator) -> list[Target]:
    """What is seen of a mesh in the unit ball from directions spread evenly, at the sizes of STAGES."""
    steps = torch.arange(views, dtype=torch.float64)
    z, angle = 1 - (2 * steps + 1) / views, steps * (math.pi * (1 + math.sqrt(5)))  # a Fibonacci lattice
    ring = (1 - z * z).sqrt()
    turn = torch.linalg.qr(torch.randn(3, 3, generator=random, dtype=torch.float64))[0]
    eyes = torch.stack([ring * angle.cos(), ring * angle.sin(), z], -1) @ turn
    size = STAGES[-1][0] * SUPERSAMPLING
    cameras = Cameras.look_at(
        eye=(DISTANCE * eyes).to(vertices),
        up=torch.stack([-eyes[:, 1], eyes[:, 2], eyes[:, 0]], -1).to(vertices),
        focal=0.95 * size / 2 * math.sqrt(DISTANCE**2 - 1),  # the ball fills 95 %
        image_size=(size, size),
    )
    lengths, owners = raster(vertices, faces, cameras)
    corners = vertices[faces]
    normals = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = normalize(normals, dim=-1, eps=0.0)[owners]  # of faces that are seen: the others may have none
    away = (normals * cameras.rays().directions).sum(-1, keepdim=True) > 0
    seen = owners >= 0
    normals = torch.where(seen[..., None], torch.where(away, -normals, normals), 0)
    target = Target(cameras, seen.to(vertices), torch.where(seen, lengths, 0), normals)
    return [target.shrunk(size // side) for side, _ in STAGES]


def difference(drawn: Rendering, target: Target) -> Tensor:
    """The loss: squared error of alpha; and where mesh and Gaussians are both seen, Huber's of the lengths and that of
    the normals, half their squared distance."""
    both = drawn.alpha.detach().clamp(max=1) * target.coverage
    apart = huber_loss(drawn.depth, target.lengths, reduction="none", delta=TOLERANCE) / TOLERANCE
    assert drawn.normals is not None  # they are asked for
    turned = 1 - (drawn.normals * target.normals).sum(-1)
    return ((drawn.alpha - target.coverage).square() + both * (apart + NORMALS * turned)).mean()


def patches(mesh: Mesh, gaussians: Gaussians, spread: Surface) -> Surface:
    """The samples of a surface, each given to the Gaussian that is densest there."""
    corners = mesh.vertices[mesh.faces]
    points = (corners[spread.patch_faces] * spread.patch_barycentric[..., None]).sum(1).double()
    factors = torch.linalg.cholesky(gaussians.precisions.double())
    middles = torch.einsum("nc,ncd->nd", gaussians.means.double(), factors)
    nearest = torch.full_like(middles[:, 0], float("inf"))
    anchor = torch.zeros(gaussians.num, dtype=torch.int64, device=points.device)
    density = gaussians.means.new_ones(gaussians.num) if gaussians.density is None else gaussians.density
    owners, first = [], 0
    for part in points.split(max(1, PAIRS // gaussians.num)):
        squares = (torch.einsum("mc,ncd->mnd", part, factors) - middles).square().sum(-1)
        owners.append((density.log() - squares / 2).argmax(1))
        least, row = squares.min(0)
        anchor = torch.where(least < nearest, row + first, anchor)
        nearest, first = nearest.minimum(least), first + len(part)
    faces, barycentric = spread.patch_faces[anchor], spread.patch_barycentric[anchor]
    edges = corners[faces, 1:] - corners[faces, :1]
    return Surface(
        faces,
        barycentric,
        normalize(torch.linalg.cross(edges[:, 0], edges[:, 1]), dim=-1, eps=0.0),
        torch.cat([spread.patch_faces, faces]),  # the nearest samples too, so that no patch is empty
        torch.cat([spread.patch_barycentric, barycentric]),
        torch.cat([torch.cat(owners), torch.arange(gaussians.num, device=points.device)]),
    )
