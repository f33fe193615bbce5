"""Files in and out: `load`, `save`, and `atomic_path` for everything the package writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from voge.gaussians import Gaussians
from voge.io import arrays, meshes, off, ply, splats
from voge.io.atomic import atomic_path
from voge.io.objects import Mesh, PointCloud, Scene, as_mesh, as_points
from voge.io.reading import reading

__all__ = ["Mesh", "PointCloud", "Scene", "as_mesh", "as_points", "atomic_path", "load", "reading", "save"]


def load(path: str | os.PathLike[str]) -> Mesh | PointCloud | Scene:
    """What the file holds, on the CPU; nothing of it is ever unpickled or fetched.

    .npz, .safetensors: a Scene, as `save` wrote it. .ply: a Scene (3DGS), a Mesh or a PointCloud, by its content.
    .off: a Mesh; .goff: a Scene (the official package's). The rest (.obj, .stl, .glb, .gltf ...), by trimesh: a Mesh
    or a PointCloud.

    Raises:
        ValueError: a file that is missing, broken, empty or of an unknown kind.
        ImportError: naming the extra of this package that reads it.
    """
    with reading(path) as path:
        suffix = path.suffix.lower()
        if suffix == ".npz":
            return arrays.load_npz(path)
        if suffix == ".safetensors":
            return arrays.load_safetensors(path)
        if suffix in (".off", ".goff"):
            return off.load_off(path)
        if suffix == ".ply":
            elements = ply.read_header(path)
            if set(splats.PROPERTIES) <= set(elements["vertex"].scalars):
                return splats.load_splats(path)
            if "face" not in elements or not elements["face"].rows:
                return ply.load_points(path)
        return meshes.load_mesh(path)


def save(path: str | os.PathLike[str], content: Any, features: Tensor | None = None) -> None:
    """Writes Gaussians or a Scene (.npz, .safetensors, 3DGS .ply, .goff), a PointCloud (.ply) or a Mesh (.off, .obj,
    .ply, .stl, .glb).

    Args:
        content: Gaussians, Scene, Mesh, PointCloud, or what `as_mesh` takes.
        features: (..., N, C) of Gaussians.

    Raises:
        TypeError: another content.
        ValueError: a suffix that cannot hold it, batches where the format has none, a folder that cannot be written to.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if isinstance(content, Gaussians):
        content = Scene(content, features)
    elif features is not None:
        raise TypeError(f"features: go with Gaussians, got {type(content).__name__}")
    if not isinstance(content, (Scene, PointCloud)):
        content = as_mesh(content)
    with atomic_path(path) as temporary:
        if isinstance(content, Scene):
            _save_scene(temporary, suffix, content)
        elif isinstance(content, PointCloud):
            if suffix != ".ply":
                raise ValueError(f"path: a point cloud is written as .ply, got {suffix!r}")
            ply.save_points(temporary, as_points(content))
        elif suffix == ".off":
            off.save_off(temporary, content)
        else:
            meshes.save_mesh(temporary, content)


def _save_scene(path: Path, suffix: str, scene: Scene) -> None:
    scene.gaussians.check()
    if suffix == ".npz":
        arrays.save_npz(path, scene)
    elif suffix == ".safetensors":
        arrays.save_safetensors(path, scene)
    elif suffix not in (".ply", ".goff"):
        raise ValueError(f"path: Gaussians are written as .npz, .safetensors, .ply or .goff, got {suffix!r}")
    elif len(scene.gaussians.batch_shape):
        raise ValueError(f"gaussians: {suffix} holds one set, got a batch {tuple(scene.gaussians.batch_shape)}")
    elif suffix == ".ply":
        splats.save_splats(path, scene)
    elif scene.gaussians.density is not None:
        raise ValueError("gaussians: .goff holds no density")
    else:
        off.write_goff(path, scene.gaussians.means, scene.gaussians.precisions / 4)
