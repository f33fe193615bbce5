"""PyTorch3D's cameras, meshes and point clouds, in and out. What comes in is read without importing PyTorch3D.

PyTorch3D's camera axes are x left, y up, z forward, and it multiplies rows: x = X R + T. Its NDC runs from -1 to 1 over
the shorter side of the image, its screen coordinates are our pixels.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from voge import checks
from voge.cameras import Cameras
from voge.io.objects import Mesh, PointCloud, as_mesh, as_points

_FLIP = (-1.0, -1.0, 1.0)  # PyTorch3D's camera axes in ours, and back


def cameras_from(cameras: Any, image_size: Sequence[int] | None = None) -> Cameras:
    """Makes Cameras of PyTorch3D's PerspectiveCameras or FoVPerspectiveCameras; gradients pass.

    Args:
        cameras: a batch of B; the result has batch shape (B,).
        image_size: (H, W); None: the one the cameras hold (FoVPerspectiveCameras hold none).

    Raises:
        TypeError: another kind of object.
        ValueError: no image size, several image sizes, or a calibration matrix that is not a pinhole camera's.
    """
    kinds = {kind.__name__ for kind in type(cameras).__mro__}
    if not kinds & {"PerspectiveCameras", "FoVPerspectiveCameras"}:
        raise TypeError(
            "cameras: expected voge.Cameras, or PyTorch3D's PerspectiveCameras or FoVPerspectiveCameras, "
            f"got {type(cameras).__name__}"
        )
    if image_size is None:
        image_size = _held_image_size(cameras)
    height, width = checks.image_size("image_size", image_size)
    R, T = cameras.R, cameras.T.to(cameras.R)
    flip = R.new_tensor(_FLIP)
    focal, center = (x.to(R) for x in _calibration(cameras, "FoVPerspectiveCameras" in kinds))
    if cameras.in_ndc():
        scale = min(height, width) / 2
        focal, center = scale * focal, focal.new_tensor([width / 2, height / 2]) - scale * center
    last = focal.new_tensor([0, 0, 1]).expand(len(focal), 1, 3)
    K = torch.cat([torch.cat([focal, center[..., None]], -1), last], -2)
    return Cameras(flip[:, None] * R.mT, flip * T, K, (height, width))


def cameras_to(cameras: Cameras, in_ndc: bool = False) -> Any:
    """Makes PyTorch3D PerspectiveCameras, in screen space or NDC; batch dimensions are flattened, gradients pass.

    Raises:
        ImportError: PyTorch3D is missing.
    """
    renderer = _import("pytorch3d.renderer")
    height, width = cameras.image_size
    R, T, K = _flat(cameras)
    focal, center, skew = torch.stack([K[:, 0, 0], K[:, 1, 1]], -1), K[:, :2, 2], K[:, 0, 1]
    if in_ndc:
        scale = min(height, width) / 2
        focal, skew, center = focal / scale, skew / scale, (K.new_tensor([width / 2, height / 2]) - center) / scale
    matrix = None
    if skew.any():  # only a calibration matrix holds it; PyTorch3D then leaves focal length and principal point aside
        matrix = K.new_zeros(len(K), 4, 4)
        matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 0, 1], matrix[:, :2, 2] = focal[:, 0], focal[:, 1], skew, center
        matrix[:, 2, 3] = matrix[:, 3, 2] = 1
    return renderer.PerspectiveCameras(
        focal_length=focal, principal_point=center, R=R, T=T, K=matrix, in_ndc=in_ndc, device=cameras.device,
        image_size=K.new_tensor([[height, width]]).expand(len(K), 2),
    )  # fmt: skip


def fov_cameras_to(cameras: Cameras, znear: float = 1.0, zfar: float = 100.0) -> Any:
    """Makes PyTorch3D FoVPerspectiveCameras; batch dimensions are flattened, gradients pass. They hold no image size.

    Raises:
        ImportError: PyTorch3D is missing.
        ValueError: a principal point off the middle of the image, or skew: a field of view cannot express them.
    """
    renderer = _import("pytorch3d.renderer")
    height, width = cameras.image_size
    R, T, K = _flat(cameras)
    middle = K.new_tensor([width / 2, height / 2])
    centred = ((K[:, :2, 2] - middle).abs().amax(-1) <= 1e-3) & (K[:, 0, 1].abs() <= 1e-3)
    checks.every("cameras", centred, "a principal point in the middle of the image and no skew", K)
    fov = 2 * torch.atan(min(height, width) / 2 / K[:, 1, 1])
    return renderer.FoVPerspectiveCameras(
        znear=znear, zfar=zfar, aspect_ratio=K[:, 1, 1] / K[:, 0, 0], fov=fov, degrees=False, R=R, T=T,
        device=cameras.device,
    )  # fmt: skip


def meshes_from(meshes: Any) -> list[Mesh]:
    """The meshes of a batch; colours where it has vertex colours."""
    return [as_mesh(meshes[i]) for i in range(len(meshes))]


def meshes_to(meshes: Sequence[Any]) -> Any:
    """Makes PyTorch3D Meshes of meshes (anything voge.io.as_mesh takes); vertex colours where all have them.

    Raises:
        ImportError: PyTorch3D is missing.
    """
    structures, renderer = _import("pytorch3d.structures"), _import("pytorch3d.renderer")
    parts = [as_mesh(mesh) for mesh in meshes]
    colors = [part.colors for part in parts if part.colors is not None]
    textures = renderer.TexturesVertex(colors) if colors and len(colors) == len(parts) else None
    return structures.Meshes([part.vertices for part in parts], [part.faces for part in parts], textures)


def pointclouds_from(clouds: Any) -> list[PointCloud]:
    """The clouds of a batch; colours where it has three features a point."""
    return [as_points(clouds[i]) for i in range(len(clouds))]


def pointclouds_to(clouds: Sequence[Any]) -> Any:
    """Makes PyTorch3D Pointclouds of clouds (anything voge.io.as_points takes); colours and normals where all do.

    Raises:
        ImportError: PyTorch3D is missing.
    """
    structures = _import("pytorch3d.structures")
    parts = [as_points(cloud) for cloud in clouds]
    colors = [part.colors for part in parts if part.colors is not None]
    normals = [part.normals for part in parts if part.normals is not None]
    return structures.Pointclouds(
        [part.points for part in parts],
        normals=normals if normals and len(normals) == len(parts) else None,
        features=colors if colors and len(colors) == len(parts) else None,
    )


def _held_image_size(cameras: Any) -> list[int]:
    held = getattr(cameras, "image_size", None)
    if held is None:
        raise ValueError(f"image_size: these {type(cameras).__name__} hold none, pass image_size=(H, W)")
    sizes = {tuple(size) for size in torch.as_tensor(held).reshape(-1, 2).tolist()}
    if len(sizes) > 1:
        raise ValueError(f"cameras: expected one image size, got {sorted(sizes)}")
    return [round(size) for size in sizes.pop()]


def _calibration(cameras: Any, fov: bool) -> tuple[Tensor, Tensor]:
    """Focal lengths with skew (B, 2, 2) and principal points (B, 2), in NDC or pixels, as PyTorch3D computes them."""
    K = cameras.K
    if K is not None:
        rest = torch.cat([K[:, :2, 3], K[:, 3, :2], K[:, 3, 2:3] - 1, K[:, 3, 3:]], -1)
        checks.every("cameras.K", (rest == 0).all(-1), "a pinhole camera's calibration matrix", K)
        return K[:, :2, :2], K[:, :2, 2]
    if not fov:
        batch = len(cameras.R)
        return torch.diag_embed(cameras.focal_length.expand(batch, 2)), cameras.principal_point.expand(batch, 2)
    angle = cameras.fov * (math.pi / 180) if cameras.degrees else cameras.fov
    y = 1 / torch.tan(angle / 2)
    return torch.diag_embed(torch.stack([y / cameras.aspect_ratio, y], -1)), y.new_zeros(len(y), 2)


def _flat(cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
    """R and T in PyTorch3D's convention, and K, of the flattened batch."""
    batch = cameras.batch_shape
    flip = cameras.R.new_tensor(_FLIP)
    R = (flip[:, None] * cameras.R).mT.expand((*batch, 3, 3)).reshape(-1, 3, 3)
    T = (flip * cameras.t).expand((*batch, 3)).reshape(-1, 3)
    return R, T, cameras.K.expand((*batch, 3, 3)).reshape(-1, 3, 3)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{name} is missing: install PyTorch3D (pip install easypytorch3d)") from error
