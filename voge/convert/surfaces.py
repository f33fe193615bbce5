"""Flat Gaussians all over the surface of a mesh."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from voge import checks
from voge.gaussians import Gaussians
from voge.io.merge import texture_repeats
from voge.io.objects import Mesh, as_mesh
from voge.io.optional import library

SAMPLES = 16  # of the surface, a Gaussian
LLOYD_STEPS = 4
NORMAL_WEIGHT = 2.0  # how far apart two normals at a right angle count, sqrt(2) times this many window widths
FLATNESS = 0.05  # least width of a Gaussian over the width of the window
GREY = 0.7
CHUNK = 4096  # Gaussians whose windows are held at once


class Surface(NamedTuple):
    """Where Gaussians lie on a mesh, and the patch of it that each stands for.

    Attributes:
        faces: (N,) int64, the face at the middle of each Gaussian's patch.
        barycentric: (N, 3), the place in it.
        normals: (N, 3), its unit normal.
        patch_faces: (M,) int64, points spread evenly over the surface, as many to an area everywhere: their faces,
        patch_barycentric: (M, 3), their places in them,
        patch_of: (M,) int64, and the Gaussian whose patch they lie in.
    """

    faces: Tensor
    barycentric: Tensor
    normals: Tensor
    patch_faces: Tensor
    patch_barycentric: Tensor
    patch_of: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """(N, C) means over the patches of values (M, C)."""
        total = values.new_zeros(len(self.faces), values.shape[-1]).index_add(0, self.patch_of, values)
        return total / torch.bincount(self.patch_of, minlength=len(self.faces))[:, None]


def surface(mesh: Any, faces: Tensor | None = None, num: int = 5000) -> tuple[Gaussians, Surface]:
    """Gaussians spread evenly by area over a mesh, flat along its normals, whose silhouette follows that of the mesh.

    Points spread evenly over the surface are gathered into N patches of about equal area by Lloyd's algorithm, which
    keeps apart what faces in different directions. Around each patch a window, a round Gaussian as wide as a disc of
    the patch's area, weighs the surface; the Gaussian has the mean and the covariance of what it sees. On a plain
    both are those of the window, and a ray through it meets an optical depth of 2; at a crease or a border the
    window is cut off, so that the Gaussian becomes narrow and moves inwards and the edge stays where it is.

    Nothing is differentiated: the Gaussians are constants.

    Args:
        mesh: vertices (V, 3) in world units, or a mesh object: voge.io.Mesh, trimesh.Trimesh, PyTorch3D Meshes of one.
        faces: (F, 3) with vertices.
        num: N, how many Gaussians.

    Raises:
        TypeError, ValueError: not a mesh, an empty one or one without area, values that are not finite, num.
        ImportError: scipy is missing.
    """
    mesh = as_mesh(mesh, faces)
    if mesh.vertices.dim() != 2:
        raise ValueError(f"vertices: expected shape (V, 3), got {tuple(mesh.vertices.shape)}")
    checks.integer("num", num, 1, None)
    kdtree = library("scipy.spatial").cKDTree
    corners = mesh.vertices.detach().double().cpu().numpy()[mesh.faces.cpu().numpy()]
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    areas = np.linalg.norm(cross, axis=-1) / 2
    width = math.sqrt(areas.sum() / num / math.pi)
    if not width > 0:
        raise ValueError("mesh: expected faces with an area above zero")

    face, barycentric = _spread(areas, SAMPLES * num)
    points = np.einsum("mk,mkc->mc", barycentric, corners[face])
    normals = cross[face] / (2 * areas[face, None])
    # Near in this space is near in place and direction.
    place = np.concatenate([points / width, NORMAL_WEIGHT * normals], -1)
    centers = place[SAMPLES // 2 :: SAMPLES]
    for _ in range(LLOYD_STEPS):
        patch = kdtree(centers).query(place)[1]
        count = np.bincount(patch, minlength=num)[:, None]
        total = np.stack([np.bincount(patch, column, num) for column in place.T], -1)
        centers = np.where(count > 0, total / np.maximum(count, 1), centers)
    patch = kdtree(centers).query(place)[1]

    tree = kdtree(place)
    anchor = tree.query(centers)[1]
    seen = min(10 * SAMPLES, len(place))  # all within 3.2 widths on a plain
    means, covariances = np.empty((num, 3)), np.empty((num, 3, 3))
    for start in range(0, num, CHUNK):
        chunk = slice(start, start + CHUNK)
        distances, neighbors = (part.reshape(-1, seen) for part in tree.query(place[anchor[chunk]], seen))
        weights = np.exp(-0.5 * distances**2)
        weights /= weights.sum(-1, keepdims=True)
        means[chunk] = np.einsum("ns,nsc->nc", weights, points[neighbors])
        offsets = points[neighbors] - means[chunk, None]
        covariances[chunk] = np.einsum("nsc,nsd->ncd", weights[..., None] * offsets, offsets)
    covariances += (FLATNESS * width) ** 2 * np.eye(3)

    def tensor(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array).to(mesh.vertices.device)
        return tensor.to(mesh.vertices.dtype) if tensor.is_floating_point() else tensor.long()

    return Gaussians(tensor(means), tensor(np.linalg.inv(covariances))), Surface(
        tensor(face[anchor]),
        tensor(barycentric[anchor]),
        tensor(normals[anchor]),
        # The middles too, so that no patch is empty.
        tensor(np.concatenate([face, face[anchor]])),
        tensor(np.concatenate([barycentric, barycentric[anchor]])),
        tensor(np.concatenate([patch, np.arange(num)])),
    )


def surface_colors(mesh: Any, where: Surface) -> Tensor:
    """(N, 3) in [0, 1]: the colours of a mesh, averaged over the patch of each Gaussian of `surface`; GREY where it
    has none.

    Raises:
        TypeError, ValueError: not a mesh, an empty one.
    """
    mesh = as_mesh(mesh)
    factors = []
    if mesh.texture is not None and mesh.uv is not None:
        factors.append(sample_texture(mesh.texture, _interpolate(mesh, mesh.uv, where)))
    if mesh.face_colors is not None:
        factors.append(mesh.face_colors[where.patch_faces])
    if mesh.colors is not None:
        factors.append(_interpolate(mesh, mesh.colors, where))
    return where.mean(torch.stack(factors).prod(0)) if factors else torch.full_like(where.normals, GREY)


def sample_texture(texture: Tensor, uv: Tensor) -> Tensor:
    """(M, 3): the image (H, W, 3) between its texels, at uv (M, 2) with (0, 0) the lower left corner. It repeats
    where some coordinates leave [0, 1], otherwise its borders are continued."""
    size = torch.tensor([texture.shape[1], texture.shape[0]], device=uv.device)
    place = torch.stack([uv[:, 0], 1 - uv[:, 1]], -1) * size - 0.5
    low = place.floor()
    x, y = (place - low)[..., None].unbind(1)
    low = torch.stack([low, low + 1]).long()
    low = low % size if texture_repeats(uv) else low.clamp(min=torch.zeros_like(size), max=size - 1)
    (left, right), (top, bottom) = low.unbind(-1)
    upper = torch.lerp(texture[top, left], texture[top, right], x)
    return torch.lerp(upper, torch.lerp(texture[bottom, left], texture[bottom, right], x), y)


def _interpolate(mesh: Mesh, values: Tensor, where: Surface) -> Tensor:
    """(M, C): values (V, C) of the vertices at the points of the patches."""
    return (values[mesh.faces[where.patch_faces]] * where.patch_barycentric[..., None].to(values)).sum(1)


def _spread(areas: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Faces (M,) and barycentric coordinates (M, 3) of points spread evenly over faces of these areas; nothing is
    random.

    Faces take turns by their cumulated area; the places are those of Roberts' sequence R2 (2018), folded into the
    triangle.
    """
    ends = np.cumsum(areas)
    steps = np.arange(num)
    face = np.searchsorted(ends, (steps + 0.5) / num * ends[-1], side="right").clip(max=len(areas) - 1)
    root = 1.32471795724474602596  # of x^3 = x + 1
    u, v = (0.5 + np.outer([1 / root, 1 / root**2], steps)) % 1
    fold = u + v > 1
    u, v = np.where(fold, 1 - u, u), np.where(fold, 1 - v, v)
    return face, np.stack([1 - u - v, u, v], -1)
