"""Meshes and point clouds through trimesh: OBJ, STL, GLB, GLTF, PLY, and whatever else it opens."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from voge.io.objects import Mesh, PointCloud, as_mesh, as_points
from voge.io.optional import library

# What trimesh and the readers below it raise on files that are broken.
_BROKEN = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, OSError, EOFError, MemoryError, NameError,
    RuntimeError, AssertionError, struct.error,
)  # fmt: skip
_ARCHIVES = {"zip", "bz2", "tar.gz", "tar.bz2"}  # may expand without end
_WRITTEN = (".glb", ".obj", ".ply", ".stl")  # one file each


def load_mesh(path: Path) -> Mesh | PointCloud:
    """The mesh of a file, all its parts in one, their textures in one image; or its points, where it has no faces.

    Files beside it (materials, textures) are read as well. STL, which repeats every vertex, is merged;
    other vertices keep their order.

    Raises:
        ValueError: a format that trimesh does not open, an archive, a broken file, an empty mesh.
    """
    trimesh = library("trimesh")
    kind = path.suffix[1:].lower()
    formats = trimesh.available_formats() - _ARCHIVES
    if kind not in formats:
        raise ValueError(f"has the suffix {path.suffix!r}, expected one of {', '.join(sorted(formats))}")
    try:
        scene = trimesh.load_scene(str(path), process=kind == "stl")
        parts = scene.geometry.values()
        if not any(hasattr(part, "faces") for part in parts) and any(hasattr(part, "vertices") for part in parts):
            return as_points(next(part for part in parts if hasattr(part, "vertices")))
        return as_mesh(scene)
    except _BROKEN as error:
        raise ValueError(f"cannot be read as {kind.upper()} ({error})") from error


def save_mesh(path: Path, mesh: Mesh) -> None:
    """Writes a mesh as GLB, OBJ, PLY or STL, with its colours as far as the format has any in one file.

    Raises:
        ValueError: another suffix, or a texture in a file that holds none.
    """
    if path.suffix not in _WRITTEN:
        raise ValueError(f"path: a mesh is written as .off, {', '.join(_WRITTEN)}, got {path.suffix!r}")
    if mesh.texture is not None and path.suffix != ".glb":
        raise ValueError(f"path: a texture is written in .glb, got {path.suffix!r}")
    data = to_trimesh(mesh).export(file_type=path.suffix[1:])
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def to_trimesh(mesh: Mesh) -> Any:
    """The mesh as a trimesh.Trimesh with its colours or its texture."""
    trimesh = library("trimesh")
    vertices, faces, colors, face_colors, uv, texture = (
        None if part is None else part.detach().cpu().numpy() for part in mesh
    )
    visual = None
    if texture is not None and uv is not None:
        image = library("PIL.Image").fromarray(_bytes(texture))
        material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, baseColorFactor=[255] * 4)
        visual = trimesh.visual.TextureVisuals(uv, material)
        colors = face_colors = None
    return trimesh.Trimesh(
        vertices, faces, process=False, visual=visual,
        face_colors=None if face_colors is None else _bytes(face_colors),
        vertex_colors=None if colors is None or face_colors is not None else _bytes(colors),
    )  # fmt: skip


def _bytes(colors: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(colors, 0, 1) * 255).astype(np.uint8)
