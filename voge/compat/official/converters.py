"""Converters, Cuboid and IO of the official package.

Converters return (verts, sigmas, None), tensors for tensors and arrays for arrays. sigmas = P / 4.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voge import io
from voge.compat.official.renderer import GaussianMeshes
from voge.convert.meshes import isotropic, mean_edge_length, midpoint_factor
from voge.convert.point_clouds import mean_neighbor_distance
from voge.convert.primitives import cuboid
from voge.io import off
from voge.io.objects import as_mesh, as_points


def naive_vertices_converter(
    vertices: Any, faces: Any, percentage: float = 0.5, max_sig_rate: float = -1
) -> tuple[Any, Any, None]:
    """sigmas (V,) = 2 ln(1/p) / L^2, L the mean length of a vertex's edges; where it has none, 10 bounding diagonals
    over V.

    max_sig_rate above 0 limits them to so many times their mean: a floor of the sizes.
    """
    mesh = as_mesh(_tensor(vertices), _tensor(faces))
    sigmas = _capped(midpoint_factor(percentage) / 4 / _length(mesh) ** 2, max_sig_rate)
    return _like(vertices, mesh.vertices, sigmas)


def normal_mesh_converter(
    vertices: Any,
    faces: Any,
    normals: Any,
    percentage: float = 0.5,
    shape_ratio: float = 0.5,
    max_sig_rate: float = -1,
    auto_fix: bool = True,
) -> tuple[Any, Any, None]:
    """sigmas (V, 3, 3) as `naive_vertices_converter` across the unit normals (V, 3), and over shape_ratio along them.

    A shape_ratio below 1 flattens them. auto_fix is without effect, nothing degenerates.
    """
    mesh, normals = as_mesh(_tensor(vertices), _tensor(faces)), _tensor(normals)
    if normals.shape != mesh.vertices.shape or not ((normals**2).sum(-1) - 1).abs().max() < 0.1:
        raise ValueError(
            f"normals: expected unit vectors {tuple(mesh.vertices.shape)}, got shape {tuple(normals.shape)}"
        )
    base = _capped(midpoint_factor(percentage) / 4 / _length(mesh) ** 2, max_sig_rate)
    along = normals[:, :, None] * normals[:, None, :]
    return _like(
        vertices,
        mesh.vertices,
        base[:, None, None] * (isotropic(torch.ones_like(base)) + (1 / shape_ratio - 1) * along),
    )


def naive_point_cloud_converter(
    points: Any, percentage: float = 0.5, n_nearest: int = 4, thr_max: float = 2
) -> tuple[Any, Any, None]:
    """sigmas (N,) = 4 ln(1/p) / L^2, L the mean distance to the nearest others, none counted over thr_max times
    their mean."""
    cloud = as_points(_tensor(points)).points
    places, place = torch.unique(cloud.detach(), dim=0, return_inverse=True)
    length = mean_neighbor_distance(places, n_nearest, thr_max)[place]
    return _like(points, cloud, midpoint_factor(percentage) / 2 / length**2)


def fixed_pointcloud_converter(points: Any, radius: Any, percentage: float = 0.5) -> tuple[Any, Any, None]:
    """sigmas (N,) = 2 ln(1/p) / radius^2, radius a number or (N,)."""
    cloud = as_points(_tensor(points)).points
    radius = torch.as_tensor(radius).to(cloud)
    return _like(points, cloud, (midpoint_factor(percentage) / 4 / radius**2).expand(len(cloud)).clone())


def pytorch3d2gaussian(converter: Callable, **kwargs: Any) -> Callable[..., GaussianMeshes]:
    """A function that makes GaussianMeshes of Meshes or Pointclouds (the first of a batch) by a converter and its
    options."""

    def convert(input_: Any, **mesh_kwargs: Any) -> GaussianMeshes:
        first = input_ if len(input_) == 1 else input_[0]
        if hasattr(first, "verts_packed"):
            made = converter(*as_mesh(first)[:2], **kwargs)
        else:
            made = converter(as_points(first).points, **kwargs)
        return GaussianMeshes(*made, **mesh_kwargs)

    return convert


def cuboid_gauss(
    x_range: Sequence[float],
    y_range: Sequence[float],
    z_range: Sequence[float],
    number_vertices: int,
    percentage: float = 0.5,
    colors: Any = None,
    as_obj: bool = False,
) -> Any:
    """A grid on the faces of a box: (verts, sigmas) as arrays, or GaussianMeshes; with colors (6, C) of the faces
    z-, z+, y-, y+, x-, x+, also the colours (N, C)."""
    low, high = torch.tensor([x_range, y_range, z_range], dtype=torch.float64).T
    gaussians, faces = cuboid(high - low, number_vertices, percentage)
    verts, sigmas = gaussians.means + (low + high) / 2, gaussians.precisions[:, 0, 0] / 4
    made = (GaussianMeshes(verts.float(), sigmas.float()),) if as_obj else (verts.numpy(), sigmas.numpy())
    return _with_colors(made, colors, faces.numpy())


def cuboid_mesh(
    x_range: Sequence[float],
    y_range: Sequence[float],
    z_range: Sequence[float],
    number_vertices: int,
    colors: Any = None,
    as_obj: bool = False,
) -> Any:
    """The same grid as triangles, facing outwards, the faces apart: (verts, faces) as arrays, or PyTorch3D Meshes; with
    colors (6, C) also the colours (N, C)."""
    low, high = np.array([x_range, y_range, z_range], float).T
    w, h, d = high - low
    edge = math.sqrt(2 * (w * h + h * d + d * w) / number_vertices)
    grid = [np.linspace(a, b, max(int((b - a) / edge + 1), 2)) for a, b in zip(low, high, strict=True)]
    verts: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    owners: list[np.ndarray] = []
    for axis in (2, 1, 0):
        for side in (0, 1):
            across, down = ((1, 2), (2, 0), (0, 1))[axis]  # across x down = axis
            rows, cols = len(grid[down]), len(grid[across])
            part = np.full((rows, cols, 3), grid[axis][-side])
            part[..., across], part[..., down] = grid[across], grid[down][:, None]
            corner = np.arange(rows * cols).reshape(rows, cols)[:-1, :-1].reshape(-1, 1)
            quads = (corner + np.array([0, 1, cols, cols + 1, cols, 1])).reshape(-1, 3)
            faces.append(sum(len(part) for part in verts) + (quads if side else quads[:, ::-1]))
            verts.append(part.reshape(-1, 3))
            owners.append(np.full(rows * cols, len(owners)))
    mesh: tuple = (np.concatenate(verts), np.concatenate(faces))
    if as_obj:
        from voge.compat.pytorch3d import meshes_to

        mesh = (meshes_to([mesh]),)
    return _with_colors(mesh, colors, np.concatenate(owners))


def load_off(file_name: str | os.PathLike[str], to_torch: bool = False, ignore_color: bool = False) -> tuple:
    """(vertices, faces) of an OFF file, and the vertex colours of a COFF file."""
    mesh = io.load(file_name)
    if not isinstance(mesh, io.Mesh):
        raise ValueError(f"file_name: {os.fspath(file_name)} holds no mesh")
    found = [mesh.vertices, mesh.faces] + ([] if ignore_color or mesh.colors is None else [mesh.colors])
    return tuple(found if to_torch else [value.numpy() for value in found])


def save_off(
    file_name: str | os.PathLike[str], vertices: Any, faces: Any, vert_color: Any = None, face_color: Any = None
) -> None:
    """Writes an OFF or COFF file. Face colours are refused: no reader of the official files has them."""
    if face_color is not None:
        raise ValueError("face_color: is not written, give vert_color")
    mesh = as_mesh(
        io.Mesh(_tensor(vertices), _tensor(faces), None if vert_color is None else _tensor(vert_color)[:, :3])
    )
    with io.atomic_path(file_name) as path:
        off.save_off(path, mesh)


def load_goff(file_name: str | os.PathLike[str], to_torch: bool = False) -> tuple:
    """(points, sigmas, radians or None) of a GOFF file."""
    with io.reading(file_name) as path:
        found = off.read_goff(path)
    return tuple(found) if to_torch else tuple(None if value is None else value.numpy() for value in found)


def save_goff(file_name: str | os.PathLike[str], points: Any, sigmas: Any, radians: Any = None) -> None:
    """Writes a GOFF file: points (N, 3), sigmas (N,), (N, 3) or (N, 3, 3), radians (N,) or None."""
    with io.atomic_path(file_name) as path:
        off.write_goff(path, _tensor(points), _tensor(sigmas), None if radians is None else _tensor(radians))


def to_torch(*args: Any) -> list[Tensor | None]:
    """Arrays as float32 tensors."""
    return [None if value is None else torch.as_tensor(value).float() for value in args]


def pre_process_pascal(verts: Any, *args: Any) -> tuple:
    """(x, y, z) of PASCAL3D+'s models as (x, z, -y), and what else was given."""
    turned = off.swap_pascal3d(_tensor(verts))
    return (turned if isinstance(verts, Tensor) else turned.numpy(), *args)


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))


def _length(mesh: io.Mesh) -> Tensor:
    length, used = mean_edge_length(mesh.vertices, mesh.faces)
    diagonal = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).norm()
    return torch.where(used, length, 10 * diagonal / len(length))


def _capped(sigmas: Tensor, max_sig_rate: float) -> Tensor:
    return sigmas.clamp(max=max_sig_rate * sigmas.mean()) if max_sig_rate > 0 else sigmas


def _like(given: Any, verts: Tensor, sigmas: Tensor) -> tuple[Any, Any, None]:
    if isinstance(given, Tensor):
        return verts, sigmas, None
    return verts.numpy(), sigmas.numpy(), None


def _with_colors(made: tuple, colors: Any, owners: np.ndarray) -> Any:
    if colors is not None:
        made = (*made, np.asarray(colors)[owners])
    return made if len(made) > 1 else made[0]
