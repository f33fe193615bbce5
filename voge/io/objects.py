"""What a file can hold: a mesh, a point cloud, or Gaussians with their features; and the same objects of other
libraries."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from voge import checks, harmonics
from voge.gaussians import Gaussians
from voge.io.merge import merge


class Mesh(NamedTuple):
    """A triangle mesh. Colours lie in [0, 1]; that of a point is the product of those that are there: of the
    texture, of its face and of its vertices.

    Attributes:
        vertices: (V, 3).
        faces: (F, 3) int64, indices of vertices.
        colors: (V, 3) or None, one a vertex.
        face_colors: (F, 3) or None.
        uv: (V, 2) or None, texture coordinates: u to the right, v up, (0, 0) the lower left corner of the
            image, which repeats where they leave [0, 1].
        texture: (H, W, 3) or None, first row on top.
    """

    vertices: Tensor
    faces: Tensor
    colors: Tensor | None = None
    face_colors: Tensor | None = None
    uv: Tensor | None = None
    texture: Tensor | None = None


class PointCloud(NamedTuple):
    """Points.

    Attributes:
        points: (N, 3).
        colors: (N, 3) in [0, 1] or None.
        normals: (N, 3) unit or None.
    """

    points: Tensor
    colors: Tensor | None = None
    normals: Tensor | None = None


class Scene(NamedTuple):
    """Gaussians with what they carry.

    Attributes:
        gaussians: N of them.
        features: (..., N, C) or None; colours in [0, 1] when C is 3.
        sh: (..., N, K, 3) or None: coefficients of the K = (d + 1)^2 - 1 spherical harmonics above degree 0 of a 3DGS
            file. The features are then the colours of degree 0, 0.5 + harmonics.SH_0 times the coefficient.
    """

    gaussians: Gaussians
    features: Tensor | None = None
    sh: Tensor | None = None

    def colors(self, centers: Tensor) -> Tensor:
        """What to render: the colours (..., N, 3) as seen from `centers` (..., 3), by voge.harmonics.colors.

        The features themselves where there are no harmonics.

        Raises:
            TypeError, ValueError: types, shapes; a scene without features, harmonics without colours.
        """
        if self.features is None:
            raise ValueError("scene: expected features, got None")
        if self.sh is None:
            return self.features
        checks.tensor("features", self.features, (self.gaussians.num, 3))
        checks.tensor("sh", self.sh, (self.gaussians.num, "K", 3), dtype=self.features.dtype)
        batch = checks.broadcast_batch(features=self.features.shape[:-2], sh=self.sh.shape[:-3])
        zero = ((self.features - 0.5) / harmonics.SH_0)[..., None, :]
        parts = [x.expand(*batch, *x.shape[-3:]) for x in (zero, self.sh)]
        return harmonics.colors(torch.cat(parts, -2), self.gaussians.means, centers)


def as_mesh(mesh: Any, faces: Any = None) -> Mesh:
    """Makes a checked Mesh of vertices (..., V, 3) and faces (F, 3), a Mesh, a trimesh mesh or scene, or a PyTorch3D
    Meshes of one.

    Tensors keep dtype and device; arrays of NumPy become tensors of torch's default dtype.

    Raises:
        TypeError: not a mesh.
        ValueError: an empty mesh, vertices that are not finite, faces that name no vertex, several meshes in one
            object.
    """
    if faces is not None:
        mesh = Mesh(mesh, faces)
    elif isinstance(mesh, tuple) and not isinstance(mesh, Mesh) and len(mesh) == 2:
        mesh = Mesh(*mesh)
    elif hasattr(mesh, "verts_packed"):
        mesh = _from_pytorch3d(mesh)
    elif hasattr(mesh, "geometry") and hasattr(mesh, "dump"):
        parts = [_checked(_from_trimesh(part)) for part in mesh.dump() if hasattr(part, "faces")]
        mesh = merge(parts) if parts else Mesh(torch.zeros(0, 3), torch.zeros(0, 3).long())
    elif hasattr(mesh, "visual") and hasattr(mesh, "faces"):
        mesh = _from_trimesh(mesh)
    if not isinstance(mesh, Mesh):
        raise TypeError(
            "mesh: expected vertices and faces, a voge.io.Mesh, a trimesh.Trimesh or PyTorch3D Meshes, "
            f"got {type(mesh).__name__}" + (" without faces" if isinstance(mesh, (Tensor, np.ndarray)) else "")
        )
    return _checked(mesh)


def as_points(points: Any) -> PointCloud:
    """Makes a checked PointCloud of points (N, 3), a PointCloud, a trimesh PointCloud, or a PyTorch3D Pointclouds of
    one.

    Raises:
        TypeError: not a point cloud.
        ValueError: not (N, 3), values that are not finite, several clouds in one object.
    """
    colors = normals = None
    if hasattr(points, "points_packed"):
        if len(points) != 1:
            raise ValueError(f"points: expected Pointclouds of one cloud, got {len(points)}; convert clouds[i]")
        points, colors, normals = points.points_packed(), points.features_packed(), points.normals_packed()
        colors = colors if colors is not None and colors.shape[-1] == 3 else None
    elif isinstance(points, PointCloud):
        points, colors, normals = points
    elif hasattr(points, "vertices"):  # trimesh
        rgba = getattr(points, "colors", None)
        colors = None if rgba is None or len(rgba) != len(points.vertices) else _unit_colors(rgba)
        points = points.vertices
    points = _floating("points", points)
    if points.dim() != 2 or points.shape[-1] != 3:
        raise ValueError(f"points: expected shape (N, 3), got {tuple(points.shape)}")
    if not points.isfinite().all():
        raise ValueError("points: expected finite values, got NaN or infinity")
    rest = {"colors": colors, "normals": normals}
    for name, value in rest.items():
        if value is not None:
            rest[name] = value = _floating(name, value).to(points)
            if value.shape != points.shape:
                raise ValueError(f"{name}: expected shape {tuple(points.shape)}, got {tuple(value.shape)}")
    return PointCloud(points, **rest)


def _checked(mesh: Mesh) -> Mesh:
    vertices = _floating("vertices", mesh.vertices)
    if vertices.dim() < 2 or vertices.shape[-1] != 3:
        raise ValueError(f"vertices: expected shape (..., V, 3), got {tuple(vertices.shape)}")
    faces = torch.as_tensor(np.asarray(mesh.faces) if not isinstance(mesh.faces, Tensor) else mesh.faces)
    if faces.is_floating_point() or faces.is_complex() or faces.dtype == torch.bool:
        raise TypeError(f"faces: expected an integer dtype, got {faces.dtype}")
    if faces.dim() != 2 or faces.shape[-1] != 3:
        raise ValueError(f"faces: expected shape (F, 3), got {tuple(faces.shape)}")
    faces = faces.to(vertices.device, torch.int64)
    if not vertices.shape[-2] or not len(faces):
        raise ValueError(f"mesh: expected vertices and faces, got {vertices.shape[-2]} vertices and {len(faces)} faces")
    if not vertices.isfinite().all():
        raise ValueError("vertices: expected finite values, got NaN or infinity")
    low, high = int(faces.min()), int(faces.max())
    if low < 0 or high >= vertices.shape[-2]:
        raise ValueError(f"faces: expected indices in [0, {vertices.shape[-2]}), got {low if low < 0 else high}")
    rest: dict[str, Tensor | None] = {}
    shapes = {"colors": (vertices.shape[-2], 3), "face_colors": (len(faces), 3), "uv": (vertices.shape[-2], 2)}
    for name in ("colors", "face_colors", "uv", "texture"):
        value = getattr(mesh, name)
        if value is not None:
            value = _floating(name, value).to(vertices)
            if name != "texture" and tuple(value.shape) != shapes[name]:
                raise ValueError(f"{name}: expected shape {shapes[name]}, got {tuple(value.shape)}")
            if name == "texture" and (value.dim() != 3 or value.shape[-1] != 3 or not value.numel()):
                raise ValueError(f"texture: expected shape (H, W, 3), got {tuple(value.shape)}")
        rest[name] = value
    return Mesh(vertices, faces, **rest)


def _floating(name: str, value: Any) -> Tensor:
    """The floating tensor `value`, or a tensor of torch's default dtype with the numbers of an array or a list."""
    if isinstance(value, Tensor):
        if not value.is_floating_point():
            raise TypeError(f"{name}: expected a floating dtype, got {value.dtype}")
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: expected a tensor or an array of numbers, got {type(value).__name__}")
    return torch.tensor(array, dtype=torch.get_default_dtype())


def _unit_colors(rgba: Any) -> Tensor:
    """uint8 colours of trimesh, with or without alpha, as (..., 3) in [0, 1]."""
    return _floating("colors", np.asarray(rgba)[..., :3] / 255.0)


def _from_pytorch3d(meshes: Any) -> Mesh:
    if len(meshes) != 1:
        raise ValueError(f"mesh: expected Meshes of one mesh, got {len(meshes)}; convert meshes[i]")
    colors = None
    if hasattr(meshes.textures, "verts_features_packed"):
        colors = meshes.textures.verts_features_packed()
        colors = colors if colors.shape[-1] == 3 else None
    return Mesh(meshes.verts_packed(), meshes.faces_packed(), colors)


def _from_trimesh(mesh: Any) -> Mesh:
    visual = mesh.visual
    plain = Mesh(_floating("vertices", mesh.vertices), torch.tensor(np.asarray(mesh.faces)))
    if visual.kind == "face":
        return plain._replace(face_colors=_unit_colors(visual.face_colors))
    if visual.kind == "vertex":
        return plain._replace(colors=_unit_colors(visual.vertex_colors))
    if visual.kind != "texture":
        return plain
    material = visual.material
    image = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    if image is None or visual.uv is None:
        return plain._replace(colors=_unit_colors(material.main_color).expand_as(plain.vertices))
    factor = getattr(material, "baseColorFactor", None)
    if factor is not None and (_unit_colors(factor) < 1).any():
        plain = plain._replace(colors=_unit_colors(factor).expand_as(plain.vertices))
    return plain._replace(uv=_floating("uv", visual.uv)[:, :2], texture=_unit_colors(image.convert("RGB")))
