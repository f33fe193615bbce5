"""One Gaussian a point of a cloud."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from voge import checks
from voge.convert.meshes import isotropic, midpoint_factor
from voge.gaussians import Gaussians
from voge.io.objects import as_points
from voge.io.optional import library

FLATNESS = 0.1  # width along the normal over width across


def points(cloud: Any, normals: Tensor | None = None, percentage: float = 0.5, num_neighbors: int = 4) -> Gaussians:
    """Gaussians at the points of a cloud, as wide as their neighbours are far; round, or flat across normals.

    The law of `from_mesh` with L the mean distance to the nearest neighbours, none counted with more than twice their
    mean: P = 8 ln(1/p) / L^2, a density of p halfway. The point itself is no neighbour, nor are points at the same
    place; they share its density, 1/m each of m. Widths are constants: gradients pass to the points by the means only.

    The official package's law differs: it counts the point itself, and has p^2 halfway.

    Args:
        cloud: points (N, 3) in world units, a voge.io.PointCloud, a trimesh.PointCloud or PyTorch3D Pointclouds of one.
        normals: (N, 3) of any length but zero: the Gaussians are FLATNESS times as wide along them. None: round,
            whatever
            normals the cloud holds.
        percentage: p, in (0, 1).
        num_neighbors: how many to average over; fewer where the cloud has not as many.

    Raises:
        TypeError, ValueError: not a point cloud, fewer than two places, values that are not finite, zero normals,
            percentage, num_neighbors.
        ImportError: scipy is missing.
    """
    centers = as_points(cloud).points
    factor = midpoint_factor(percentage)
    checks.integer("num_neighbors", num_neighbors, 1, None)
    places, place, multiplicity = torch.unique(centers.detach(), dim=0, return_inverse=True, return_counts=True)
    length = mean_neighbor_distance(places, num_neighbors)[place]
    density = (1 / multiplicity)[place].to(centers) if len(places) < len(centers) else None
    precisions = isotropic(factor / length**2)
    if normals is not None:
        checks.tensor("normals", normals, (len(centers), 3), dtype=centers.dtype, device=centers.device, finite=True)
        checks.every("normals", (normals != 0).any(-1), "normals of a length above zero")
        normals = torch.nn.functional.normalize(normals, dim=-1, eps=0.0)
        flat = (FLATNESS**-2 - 1) * (factor / length**2)
        precisions = precisions + flat[:, None, None] * normals[:, :, None] * normals[:, None, :]
    return Gaussians(centers, precisions, density)


def mean_neighbor_distance(places: Tensor, num_neighbors: int, clip: float = 2.0) -> Tensor:
    """(N,): mean distance from each of N different points (N, 3) to the nearest others, none counted with more than
    `clip` times their mean. ValueError where there are fewer than two points."""
    if len(places) < 2:
        raise ValueError(
            f"points: expected at least two different points, got {len(places)}: a width needs a neighbour"
        )
    tree = library("scipy.spatial").cKDTree(places.double().cpu().numpy())
    distances = tree.query(tree.data, min(num_neighbors + 1, len(places)))[0][:, 1:]  # the first is the point itself
    distances = torch.as_tensor(distances).to(places)
    return distances.minimum(clip * distances.mean(-1, keepdim=True)).mean(-1)
