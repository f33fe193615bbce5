"""Pinhole cameras: OpenCV's axes (x right, y down, z forward), pixel coordinates with pixel centres at +0.5."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voge import checks
from voge.backends import cameras as camera_rays
from voge.backends import eager
from voge.rays import Rays


class Cameras:
    """A batch of pinhole cameras that share an image size. Gradients reach R, t and K.

    A world point X lies at x = R X + t in front of the camera and at the pixel (u, v) with (u, v, 1) z = K x.

    Args:
        R: (..., 3, 3), rotation from the world to the camera.
        t: (..., 3), translation, in world units; the camera's centre is at -R' t.
        K: (..., 3, 3), [[fx, skew, cx], [0, fy, cy], [0, 0, 1]] in pixels.
        image_size: (H, W) in pixels.

    The batch dimensions of R, t and K broadcast. All three are float32, or all three float64, on one device.

    Raises:
        TypeError, ValueError: types, shapes, devices; values that are not finite; R not a rotation (to 1e-3);
            a focal length that is not above zero; a last row of K that is not (0, 0, 1).
    """

    def __init__(self, R: Tensor, t: Tensor, K: Tensor, image_size: Sequence[int]) -> None:
        self.R = checks.tensor("R", R, (3, 3), dtype=checks.REAL)
        self.t = checks.tensor("t", t, (3,), dtype=R.dtype, device=R.device)
        self.K = checks.tensor("K", K, (3, 3), dtype=R.dtype, device=R.device)
        self.image_size = checks.image_size("image_size", image_size)
        self.batch_shape = checks.broadcast_batch(R=R.shape[:-2], t=t.shape[:-1], K=K.shape[:-2])
        if eager() and not (R.device.type == "cpu" and camera_rays.are_cameras(R, t, K)):
            _check_values(R, t, K)

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"Cameras(batch={tuple(self.batch_shape)}, {height} x {width} pixels, {self.dtype}, {self.device})"

    @property
    def dtype(self) -> torch.dtype:
        return self.R.dtype

    @property
    def device(self) -> torch.device:
        return self.R.device

    def to(self, *args: Any, **kwargs: Any) -> Cameras:
        """Another dtype or device, as Tensor.to."""
        R, t, K = (x.to(*args, **kwargs) for x in (self.R, self.t, self.K))
        return Cameras(R, t, K, self.image_size)

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("a single camera has no length")
        return self.batch_shape[0]

    def __getitem__(self, index: Any) -> Cameras:
        """The cameras that `index` picks from the batch: anything that indexes a tensor of shape `batch_shape`."""
        batch = self.batch_shape
        picked = torch.arange(batch.numel(), device=self.device).view(batch)[index]
        R, t, K = (
            x.expand((*batch, *size)).reshape(-1, *size)[picked]
            for x, size in ((self.R, (3, 3)), (self.t, (3,)), (self.K, (3, 3)))
        )
        return Cameras(R, t, K, self.image_size)

    def __iter__(self) -> Iterator[Cameras]:
        return (self[i] for i in range(len(self)))

    def centers(self) -> Tensor:
        """The cameras' centres in the world, (..., 3)."""
        return -(self.R.mT @ self.t[..., None])[..., 0]

    def projection(self) -> Tensor:
        """The projection matrices K [R | t], (..., 3, 4)."""
        R, t = self.R.expand((*self.batch_shape, 3, 3)), self.t.expand((*self.batch_shape, 3))
        return self.K @ torch.cat([R, t[..., None]], -1)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where world points appear.

        Args:
            points: (..., P, 3), batch dimensions broadcast against the cameras'.

        Returns:
            pixels (..., P, 2) as (x, y), and depth (..., P) along the optical axis, in world units. Points with depth
            below zero are behind the camera (their pixels are those of the mirrored point); at 0 pixels are not finite.
        """
        checks.tensor("points", points, ("P", 3), dtype=self.dtype, device=self.device)
        checks.broadcast_batch(points=points.shape[:-2], cameras=self.batch_shape)
        view = points @ self.R.mT + self.t[..., None, :]
        depth = view[..., 2]
        return ((view / depth[..., None]) @ self.K.mT)[..., :2], depth

    def rays(self, pixels: Tensor | None = None) -> Rays:
        """The rays through pixels: R' K^-1 (u, v, 1), not normalised, from the camera's centre.

        Args:
            pixels: (..., P, 2) as (x, y), batch dimensions broadcast against the cameras'; None: every pixel's centre.

        Returns:
            Rays with directions (..., H, W, 3) and origins (..., 1, 1, 3); given pixels, directions (..., P, 3) and
            origins (..., 1, 3).
        """
        if pixels is None:
            origins, directions = camera_rays.rays(self.R, self.t, self.K, *self.image_size)
            return Rays(origins[..., None, None, :], directions)
        checks.tensor("pixels", pixels, ("P", 2), dtype=self.dtype, device=self.device)
        checks.broadcast_batch(pixels=pixels.shape[:-2], cameras=self.batch_shape)
        ones = torch.ones_like(pixels[..., :1])
        matrix = self.R.mT @ torch.linalg.inv_ex(self.K).inverse  # inv_ex does not wait for a GPU's report
        return Rays(self.centers()[..., None, :], torch.cat([pixels, ones], -1) @ matrix.mT)

    def _grid(self) -> tuple[Tensor, Tensor, Tensor]:
        """For the renderer: origins (..., 3), directions (..., H, W, 3) of all pixels, projections (B, 3, 4)."""
        return camera_rays.grid(self.R, self.t, self.K, *self.image_size)

    def crop(self, box: Sequence[int]) -> Cameras:
        """The cameras of the part (x0, y0, x1, y1) of the image, x1 and y1 excluded; it may reach beyond the image."""
        sides = tuple(box) if hasattr(box, "__iter__") else (box,)
        if len(sides) != 4 or not all(hasattr(side, "__index__") for side in sides):
            raise TypeError(f"box: expected four ints (x0, y0, x1, y1), got {box!r}")
        x0, y0, x1, y1 = map(int, sides)
        if x1 <= x0 or y1 <= y0:
            raise ValueError(f"box: expected x0 < x1 and y0 < y1 in (x0, y0, x1, y1), got {box!r}")
        shift = self.K.new_tensor([[1, 0, -x0], [0, 1, -y0], [0, 0, 1]])
        return Cameras(self.R, self.t, shift @ self.K, (y1 - y0, x1 - x0))

    def resize(self, image_size: Sequence[int]) -> Cameras:
        """The same cameras with the image stretched to (H, W)."""
        height, width = checks.image_size("image_size", image_size)
        scale = self.K.new_tensor([[width / self.image_size[1]], [height / self.image_size[0]], [1]])
        return Cameras(self.R, self.t, scale * self.K, (height, width))

    @classmethod
    def look_at(
        cls,
        *,
        eye: Tensor | Sequence[float],
        target: Tensor | Sequence[float] = (0.0, 0.0, 0.0),
        up: Tensor | Sequence[float] = (0.0, 1.0, 0.0),
        focal: Tensor | float,
        image_size: Sequence[int],
    ) -> Cameras:
        """Cameras at `eye` that see `target` in the middle of the image and `up` pointing up.

        Args:
            eye, target, up: (..., 3) tensors or three numbers, in the world; they broadcast. `up` of any length.
            focal: in pixels, a number or a tensor (...).
            image_size: (H, W); the principal point is (W / 2, H / 2).

        Raises:
            TypeError, ValueError: shapes; `eye` equal to `target`; `up` parallel to the view direction; focal <= 0.
        """
        given = [x for x in (eye, target, up, focal) if isinstance(x, Tensor) and x.is_floating_point()]
        like = given[0] if given else torch.empty(0)
        eye, target, up = (
            checks.tensor(name, _as_tensor(name, x, like), (3,), dtype=like.dtype, device=like.device)
            for name, x in (("eye", eye), ("target", target), ("up", up))
        )
        focal = checks.tensor("focal", _as_tensor("focal", focal, like), (), dtype=like.dtype, device=like.device)
        height, width = checks.image_size("image_size", image_size)
        batch = checks.broadcast_batch(
            eye=eye.shape[:-1], target=target.shape[:-1], up=up.shape[:-1], focal=focal.shape
        )

        for name, x in (("eye", eye), ("target", target), ("up", up)):
            checks.every(name, x.isfinite(), "finite values", x)
        view = (target - eye).expand((*batch, 3))
        checks.every("target", (view != 0).any(-1), "a target away from the eye")
        forward = torch.nn.functional.normalize(view, dim=-1, eps=0.0)
        right = torch.linalg.cross(forward, up.expand((*batch, 3)))
        parallel = right.norm(dim=-1) <= 1e3 * torch.finfo(right.dtype).eps * up.norm(dim=-1)
        checks.every("up", ~parallel, "a direction that is not parallel to the view from eye to target")
        right = torch.nn.functional.normalize(right, dim=-1, eps=0.0)
        R = torch.stack([right, torch.linalg.cross(forward, right), forward], -2)
        t = -(R @ eye.expand((*batch, 3))[..., None])[..., 0]
        center = focal.new_tensor([[0, 0, width / 2], [0, 0, height / 2], [0, 0, 1]])
        K = focal[..., None, None] * focal.new_tensor([[1, 0, 0], [0, 1, 0], [0, 0, 0]]) + center
        return cls(R, t, K, (height, width))

    @classmethod
    def from_pytorch3d(cls, cameras: Any, image_size: Sequence[int] | None = None) -> Cameras:
        """PyTorch3D's PerspectiveCameras (NDC or screen) or FoVPerspectiveCameras: voge.compat.pytorch3d."""
        from voge.compat import pytorch3d

        return pytorch3d.cameras_from(cameras, image_size)

    @classmethod
    def from_colmap(cls, path: str | os.PathLike[str], images: Sequence[str] | None = None) -> Cameras:
        """The cameras of a COLMAP model, in the order of `images` (names), or of all its images sorted by name.

        Args:
            path: folder with cameras.bin and images.bin, or cameras.txt and images.txt.

        Raises:
            ValueError: files missing, broken or truncated; a camera model with distortion; several image sizes; an
                image that is not in the model.
        """
        from voge.compat import colmap

        return colmap.read(path, images)[1]

    @classmethod
    def from_nerf(cls, path: str | os.PathLike[str], image_size: Sequence[int] | None = None) -> Cameras:
        """The cameras of a transforms.json (NeRF, instant-ngp, nerfstudio), in the order of its frames.

        Args:
            path: the file; poses are camera-to-world with OpenGL's axes.
            image_size: (H, W), for files that do not state w and h.

        Raises:
            ValueError: file missing or broken, several image sizes, no image size.
        """
        from voge.compat import nerf

        return nerf.read(path, image_size)[1]


def _as_tensor(name: str, value: Any, like: Tensor) -> Tensor:
    """Numbers as a tensor of the dtype and device of `like`; tensors as they are."""
    if isinstance(value, Tensor):
        return value
    try:
        return like.new_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}: expected a torch.Tensor or numbers, got {value!r:.80}") from None


def _check_values(R: Tensor, t: Tensor, K: Tensor) -> None:
    """ValueError naming the first value that is not a camera's."""
    r, k = R.detach().cpu().numpy(), K.detach().cpu().numpy()  # few numbers, for which NumPy is several times faster
    with np.errstate(invalid="ignore"):
        rotation = (np.abs(r @ r.swapaxes(-1, -2) - np.eye(3)) <= 1e-3).all((-1, -2)) & (np.linalg.det(r) > 0)
        last_row = (np.abs(k[..., 2, :] - (0, 0, 1)) <= 1e-3).all(-1)
    for name, good, expected, value in (
        ("R", np.isfinite(r), "finite values", R),
        ("t", np.isfinite(t.detach().cpu().numpy()), "finite values", t),
        ("K", np.isfinite(k), "finite values", K),
        ("R", rotation, "a rotation: R R' = 1 to 1e-3, and det R = 1", R),
        ("K", k[..., [0, 1], [0, 1]] > 0, "focal lengths above zero", K.diagonal(dim1=-2, dim2=-1)),
        ("K", last_row, "a last row (0, 0, 1)", K),
    ):
        if not good.all():
            checks.every(name, torch.as_tensor(np.asarray(good), device=R.device), expected, value)
