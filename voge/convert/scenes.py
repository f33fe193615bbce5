"""Anything that a file holds, as Gaussians with features."""

from __future__ import annotations

from typing import Any

from voge.convert.point_clouds import points
from voge.convert.surfaces import surface, surface_colors
from voge.gaussians import Gaussians
from voge.io.objects import Scene, as_mesh, as_points


def scene(content: Any, num: int = 5000) -> Scene:
    """Gaussians with colours: a Scene as it is, a mesh by `surface`, a point cloud by `points`.

    Args:
        content: what voge.io.load returns, Gaussians, or mesh and point cloud objects of trimesh and PyTorch3D.
        num: how many Gaussians on a mesh.

    Returns:
        Its features are None where Gaussians or points come without.

    Raises:
        TypeError, ValueError: as `surface` and `points`.
    """
    if isinstance(content, Scene):
        return content
    if isinstance(content, Gaussians):
        return Scene(content)
    if (
        hasattr(content, "points")
        or hasattr(content, "points_packed")
        or (not hasattr(content, "faces") and hasattr(content, "vertices"))
    ):
        cloud = as_points(content)
        return Scene(points(cloud), cloud.colors)
    mesh = as_mesh(content)
    gaussians, where = surface(mesh, num=num)
    return Scene(gaussians, surface_colors(mesh, where))
