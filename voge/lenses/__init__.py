"""Cameras that are no pinholes: distortion, fisheye, panorama, orthographic, lidar, rolling shutter.

`x_rays` gives the voge.Rays of a model's pixels, `x_project` where world points appear in it. Poses take the world to
the camera, x = R X + t, with OpenCV's axes (x right, y down, z forward); pixel centres are at +0.5. Everything is
batched, and differentiable in poses, intrinsics and coefficients, twice if need be.

A lens stands in front of voge.Cameras, which hold its pose, its matrix K and its image size. Where a model has no
answer (beyond the radius at which its distortion folds the image over itself, say), `valid` is False: such rays show
the background, what comes with them is finite, and their gradient is zero.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from voge.cameras import Cameras
from voge.lenses.fisheye import fisheye_project, fisheye_rays
from voge.lenses.opencv import distort, opencv_project, opencv_rays, undistort
from voge.lenses.orthographic import orthographic_project, orthographic_rays
from voge.lenses.rolling_shutter import interpolate, rolling_shutter_project, rolling_shutter_rays
from voge.lenses.spherical import equirectangular_project, equirectangular_rays, lidar_project, lidar_rays
from voge.rays import Rays

__all__ = [
    "Lens", "distort", "equirectangular_project", "equirectangular_rays", "fisheye_project", "fisheye_rays",
    "interpolate", "lidar_project", "lidar_rays", "opencv_project", "opencv_rays", "orthographic_project",
    "orthographic_rays", "rolling_shutter_project", "rolling_shutter_rays", "undistort",
]  # fmt: skip


class Lens(NamedTuple):
    """A lens as files of calibrations name it.

    Attributes:
        model: "opencv" or "fisheye".
        coefficients: (..., n), as `opencv_rays` and `fisheye_rays` take them; batch dimensions broadcast against the
            cameras'.
    """

    model: str
    coefficients: Tensor

    def rays(self, cameras: Cameras, pixels: Tensor | None = None) -> Rays:
        """`opencv_rays` or `fisheye_rays` with these coefficients."""
        return self._functions()[0](cameras, self.coefficients, pixels)

    def project(self, cameras: Cameras, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`opencv_project` or `fisheye_project` with these coefficients."""
        return self._functions()[1](cameras, points, self.coefficients)

    def _functions(self) -> tuple[Any, Any]:
        if self.model not in _MODELS:
            raise ValueError(f"model: expected one of {tuple(_MODELS)}, got {self.model!r}")
        return _MODELS[self.model]


_MODELS = {"opencv": (opencv_rays, opencv_project), "fisheye": (fisheye_rays, fisheye_project)}
