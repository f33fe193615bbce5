"""Meshes, point clouds and simple bodies as Gaussians."""

from voge.convert.fitted import FittedMesh, fit_mesh
from voge.convert.meshes import from_mesh
from voge.convert.point_clouds import points
from voge.convert.primitives import box, cuboid, plane, sphere
from voge.convert.scenes import scene
from voge.convert.surfaces import Surface, surface, surface_colors

__all__ = [
    "FittedMesh", "Surface", "box", "cuboid", "fit_mesh", "from_mesh", "plane", "points", "scene", "sphere", "surface",
    "surface_colors",
]  # fmt: skip
