"""Which part of the pictures each rank renders, and which Gaussians it needs for that."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from voge.cameras import Cameras
from voge.distributed.ranks import together
from voge.gaussians import Gaussians
from voge.rays import Rays

TILE = 8  # pixels; parts end where the kernels' tiles end, so that their pixels are those of one process bit for bit
CELLS = 8  # along the side of a face, in a cube of directions


def plan(
    gaussians: Gaussians, cameras: Cameras, threshold: float, split: str, group: Any
) -> tuple[list[int], list[Tensor]]:
    """Where the ranks' parts end (ranks + 1 rows or views), and the indices of this rank's Gaussians for each rank.

    Pairs of a Gaussian and a tile that it may touch are counted along the split dimension, over all ranks; every part
    has about as many.
    """
    ranks = dist.get_world_size(group)
    height, width = cameras.image_size
    views = cameras.batch_shape.numel()
    units = -(-height // TILE) if split == "rows" else cameras.batch_shape[0]
    # What each unit has more than the one before. Sums of whole numbers: exact in any order.
    steps = torch.zeros(units + 1, dtype=torch.float64, device=gaussians.device)
    spans = torch.empty(views, gaussians.num, 2, dtype=torch.int32, device=gaussians.device)
    for view, (x0, x1, y0, y1) in enumerate(tiles(gaussians, cameras, threshold)):
        across, down = (x1 - x0).clamp(min=0), (y1 - y0).clamp(min=0)
        if split == "rows":
            first, last, pairs = y0, y1, across
        else:
            first = torch.full_like(y0, view * units // views)
            last, pairs = first + 1, across * down
        hidden = across * down == 0
        first, last = first.masked_fill(hidden, units), last.masked_fill(hidden, 0)
        pairs = pairs.masked_fill(hidden, 0).double()
        steps.index_add_(0, first, pairs).index_add_(0, last, -pairs)
        spans[view] = torch.stack([first, last], 1)
    with together(group, "sharing out the picture"):
        dist.all_reduce(steps, group=group)
    area = math.ceil(height / TILE) * math.ceil(width / TILE) * views / units  # an empty tile costs a pair, too
    edges = cuts(steps.cumsum(0)[:-1] + area, ranks)
    first, last = spans.unbind(-1)
    targets = [((first < stop) & (last > start)).any(0).nonzero()[:, 0] for start, stop in pairwise(edges)]
    return [min(edge * TILE, height) for edge in edges] if split == "rows" else edges, targets


def cuts(cost: Tensor, ranks: int) -> list[int]:
    """The ends (ranks + 1) of `ranks` parts of units that cost (units,), as equal as whole units can be."""
    before = torch.cat([cost.new_zeros(1), cost.cumsum(0)])
    goals = before[-1] * torch.arange(1, ranks, device=cost.device) / ranks
    return [0, *(before - goals[:, None]).abs().argmin(1).tolist(), len(cost)]


def tiles(gaussians: Gaussians, cameras: Cameras, threshold: float) -> Iterator[tuple[Tensor, ...]]:
    """For each camera of the flattened batch the 8x8 tiles that each Gaussian may touch: x0, x1, y0, y1, int64 (N,).

    Ends are excluded, and cut to the picture; a Gaussian that is not seen has an empty range. The bounds come from the
    planes through the camera's centre that touch the ellipsoid exp(q) = threshold: in its dual conic
    m m' - r^2 A C A' (A = K R, m = A M + K t, C = P^-1, r^2 = -2 ln threshold) the roots of zz x^2 - 2 xz x + xx = 0.
    They are never too small; a Gaussian that the camera's plane cuts may touch every tile.
    """
    height, width = cameras.image_size
    spread = _spread(gaussians.precisions.detach())
    means = gaussians.means.detach().double().T.contiguous()
    radius2 = -2 * math.log(threshold or 1e-10) * (1 + 1e-5)
    for A in cameras.projection().detach().double().expand(*cameras.batch_shape, 3, 4).reshape(-1, 3, 4):
        m = A[:, :3] @ means + A[:, 3:]  # (3, N)
        a = [spread(row) for row in A[:, :3]]

        def dual(i: int, j: int, m: Tensor = m, a: list[list[Tensor]] = a) -> Tensor:
            return m[i] * m[j] - radius2 * sum(x * y for x, y in zip(a[i], a[j], strict=True))

        zz = dual(2, 2)
        cut = zz <= 1e-9 * m[2] ** 2
        behind = ~cut & (m[2] < 0)
        ends: list[Tensor] = []
        for axis, side in ((0, width), (1, height)):
            xx, xz = dual(axis, axis), dual(axis, 2)
            root = (xz * xz - zz * xx).clamp(min=0).sqrt()
            low, high = (xz - root) / zz, (xz + root) / zz
            slack = 0.02 + 2e-6 * (low.abs() + high.abs())
            low, high = (low - slack - 0.5).ceil() / TILE, (high + slack - 0.5).floor() / TILE  # pixel centres inside
            anywhere = cut | ~(low.isfinite() & high.isfinite())
            last = -(-side // TILE)
            ends.append(low.floor().clamp(0, last).masked_fill(anywhere, 0).long())
            ends.append((high.floor() + 1).clamp(0, last).masked_fill(anywhere, last).masked_fill(behind, 0).long())
        yield tuple(ends)


def _spread(precisions: Tensor) -> Callable[[Tensor], list[Tensor]]:
    """The function row -> L^-1 row, for P = L L': the products of its results are those of rows with the covariance.

    In double and column by column: many small matrices cost several times more in torch's linear algebra.
    """
    xx, xy, xz, yx, yy, yz, zx, zy, zz = precisions.double().flatten(-2).T.contiguous()
    xy, xz, yz = (xy + yx) / 2, (xz + zx) / 2, (yz + zy) / 2
    lxx = xx.sqrt()
    lyx, lzx = xy / lxx, xz / lxx
    lyy = (yy - lyx * lyx).sqrt()
    lzy = (yz - lzx * lyx) / lyy
    lzz = (zz - lzx * lzx - lzy * lzy).sqrt()

    def solve(row: Tensor) -> list[Tensor]:
        x = row[0] / lxx
        y = (row[1] - lyx * x) / lyy
        return [x, y, (row[2] - lzx * x - lzy * y) / lzz]

    return solve


def along(gaussians: Gaussians, rays: Rays, edges: list[int], threshold: float) -> list[Tensor]:
    """The indices of the Gaussians that the rays [edges[r], edges[r + 1]) of the first dimension may meet, for each r.

    Directions are sorted into the cells of a cube map, of which a rank's rays fill some. A Gaussian whose ellipsoid
    lies in a ball of radius s, seen from origins in a ball of radius o, is met in directions that differ at most by
    asin((s + o) / distance) from its own; it goes where this cap reaches the cone around a cell that is filled.
    """
    directions = rays.directions.detach().double().expand(*rays.shape, 3)
    origins = rays.origins.detach().double().reshape(-1, 3)
    middle = (origins.amin(0) + origins.amax(0)) / 2
    spread = _spread(gaussians.precisions.detach())
    columns = torch.stack(
        [torch.stack(spread(row)) for row in torch.eye(3, dtype=torch.float64, device=origins.device)]
    )
    # The covariance's largest eigenvalue is at most its largest absolute sum of a row.
    widest = torch.einsum("ikn,jkn->ijn", columns, columns).abs().sum(1).amax(0)
    radius = (-2 * math.log(threshold or 1e-10) * widest).sqrt() + (origins - middle).norm(dim=-1).max()
    view = gaussians.means.detach().double() - middle
    distance = view.norm(dim=-1)
    sine = radius / distance * (1 + 1e-6)
    anywhere = ~(sine < 1)
    sine = sine.masked_fill(anywhere, 0)
    # Angle between the directions <= cap + cone, as cos(angle) - cos(cap) cos(cone) + sin(cap) sin(cone) >= 0.
    caps = torch.cat([view / distance[:, None], -(1 - sine * sine).sqrt()[:, None], sine[:, None]], 1)
    cones = _cones().to(caps)
    filled = torch.zeros(len(edges) - 1, len(cones), dtype=torch.bool, device=caps.device)
    for rank, (start, stop) in enumerate(pairwise(edges)):
        part = directions[start:stop].reshape(-1, 3)
        if rays.valid is not None:
            part = part[rays.valid.expand(rays.shape)[start:stop].flatten()]
        filled[rank, _cell(part)] = True
    meets = torch.cat([(block @ cones.T >= -1e-6).double() @ filled.double().T for block in caps.split(4096)])
    return [(((x > 0) | anywhere) & row.any()).nonzero()[:, 0] for x, row in zip(meets.T, filled, strict=True)]


def _cell(directions: Tensor) -> Tensor:
    """The cells (P,) of a cube map that directions (P, 3) fall into: face by face (axis, sign), then the other axes."""
    axis = directions.abs().argmax(-1, keepdim=True)
    major = directions.gather(-1, axis)
    others = directions.gather(-1, (axis + torch.tensor([1, 2], device=axis.device)) % 3) / major.abs()
    place = ((others + 1) / 2 * CELLS).long().clamp(0, CELLS - 1)
    return ((2 * axis + (major > 0))[:, 0] * CELLS + place[:, 0]) * CELLS + place[:, 1]


def _cones() -> Tensor:
    """Of a cone around every cell the axis, and the cosine and sine of half its opening: float64 (cells, 5)."""
    ends = torch.linspace(-1, 1, CELLS + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(torch.arange(CELLS), torch.arange(CELLS))

    def normal(u: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.normalize(torch.stack([torch.ones_like(u), u, v], -1), dim=-1)

    (u0, v0), (u1, v1) = ends[grid].T, ends[grid + 1].T
    middle = normal((u0 + u1) / 2, (v0 + v1) / 2)
    # A cell is a convex polygon on the sphere: its corners are farthest from its middle.
    corners = [normal(u, v) for u in (u0, u1) for v in (v0, v1)]
    cosine = torch.stack([(corner * middle).sum(-1) for corner in corners]).amin(0) - 1e-9
    angles = torch.stack([cosine, (1 - cosine * cosine).sqrt()], -1)
    faces = []
    for axis in range(3):
        for sign in (-1, 1):
            turned = torch.empty_like(middle)
            turned[:, axis] = sign * middle[:, 0]
            turned[:, (axis + 1) % 3], turned[:, (axis + 2) % 3] = middle[:, 1], middle[:, 2]
            faces.append(torch.cat([turned, angles], 1))
    return torch.cat(faces)
