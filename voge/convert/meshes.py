"""One Gaussian a vertex of a mesh."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from voge.gaussians import Gaussians
from voge.io.objects import as_mesh

HIDDEN = 1e-20  # density of vertices that no face uses


def from_mesh(mesh: Any, faces: Tensor | None = None, percentage: float = 0.5) -> Gaussians:
    """Round Gaussians at the vertices of a mesh, as wide as its edges are long; gradients pass to the vertices.

    The official package's vertex law: with L the mean length of the edges from a vertex to its neighbours, P = 8
    ln(1/p) / L^2, so that the density in the middle of an edge of length L is the share p of the peak, and p^4 at
    the neighbour.

    Vertices at one place (texture seams) count as one vertex: they share L, and its density, 1/m each of m. Vertices
    that no face uses stay in the list, so that features still match, with the mean L of the others and a density of
    HIDDEN.

    Args:
        mesh: vertices (..., V, 3) in world units, or a mesh object: voge.io.Mesh, trimesh.Trimesh, PyTorch3D Meshes
            of one.
        faces: (F, 3) with vertices, shared by the batch. Faces with repeated corners add only the edges they have.
        percentage: p, in (0, 1).

    Raises:
        TypeError, ValueError: not a mesh, an empty one, no edge of a length above zero, values that are not finite,
            percentage.
    """
    vertices, faces = as_mesh(mesh, faces)[:2]
    factor = midpoint_factor(percentage)
    num = vertices.shape[-2]
    # Places are equal where they are in the whole batch; the first vertex at one stands for all there.
    places = vertices.detach().movedim(-2, 0).reshape(num, -1)
    _, place, multiplicity = torch.unique(places, dim=0, return_inverse=True, return_counts=True)
    first = torch.full_like(multiplicity, num).scatter_reduce(0, place, torch.arange(num, device=place.device), "amin")
    length, used = mean_edge_length(vertices[..., first, :], place[faces])
    length = torch.where(used, length, length.sum(-1, keepdim=True) / used.sum())
    density = None
    if len(first) < num or not used.all():
        density = torch.where(used, 1 / multiplicity, HIDDEN)[place].to(vertices)
    return Gaussians(vertices, isotropic(factor / length[..., place] ** 2), density)


def mean_edge_length(vertices: Tensor, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Mean length (..., V) of the edges from every vertex (..., V, 3) to its neighbours, each counted once, 0 where
    it has none, and whether it has any, (V,) bool. ValueError where none has."""
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    edges = torch.unique(edges.sort(-1).values, dim=0)
    start, end = edges[edges[:, 0] != edges[:, 1]].unbind(-1)
    if not len(start):
        raise ValueError("mesh: expected an edge of a length above zero, all faces are points")
    length = (vertices[..., start, :] - vertices[..., end, :]).norm(dim=-1)
    total = torch.zeros_like(vertices[..., 0]).index_add(-1, start, length).index_add(-1, end, length)
    valence = torch.bincount(torch.cat([start, end]), minlength=vertices.shape[-2])
    return total / valence.clamp(min=1), valence > 0


def midpoint_factor(percentage: float) -> float:
    """8 ln(1/p): precision times squared length at which the density halfway is the share p of the peak."""
    if not isinstance(percentage, (int, float)):
        raise TypeError(f"percentage: expected a number in (0, 1), got {type(percentage).__name__}")
    if not 0 < percentage < 1:
        raise ValueError(f"percentage: expected a number in (0, 1), got {percentage}")
    return 8 * math.log(1 / percentage)


def isotropic(precision: Tensor) -> Tensor:
    """(..., 3, 3) multiples of the identity."""
    return torch.diag_embed(precision[..., None].expand(*precision.shape, 3))
