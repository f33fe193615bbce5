"""The scene: 3D Gaussian ellipsoids."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from voge import checks


class Gaussians:
    """A batch of sets of N Gaussians, rho(x) = a exp(-(x - M)' P (x - M) / 2) up to the normalisation of the medium.

    Args:
        means: (..., N, 3), the centres M in world units.
        precisions: (..., N, 3, 3), the inverse covariances P, symmetric positive definite. An asymmetry of up to 1e-4
            of the largest entry is accepted: (P + P') / 2 is what counts.
        density: (..., N), the scale a > 0 of each; None: 1.

    The batch dimensions broadcast. All are float32, or all float64, on one device. Only types and shapes are checked
    here, so that a set can be made in every step of an optimisation; values are checked when it is rendered, or by
    `check`.

    Raises:
        TypeError, ValueError: types, shapes, devices.
    """

    def __init__(self, means: Tensor, precisions: Tensor, density: Tensor | None = None) -> None:
        self.means = checks.tensor("means", means, ("N", 3), dtype=checks.REAL)
        num, dtype, device = means.shape[-2], means.dtype, means.device
        self.precisions = checks.tensor("precisions", precisions, (num, 3, 3), dtype=dtype, device=device)
        self.density = density
        if density is None:
            self.batch_shape = checks.broadcast_batch(means=means.shape[:-2], precisions=precisions.shape[:-3])
        else:
            checks.tensor("density", density, (num,), dtype=dtype, device=device)
            self.batch_shape = checks.broadcast_batch(
                means=means.shape[:-2], precisions=precisions.shape[:-3], density=density.shape[:-1]
            )

    def __repr__(self) -> str:
        density = "" if self.density is None else ", with density"
        return f"Gaussians(num={self.num}, batch={tuple(self.batch_shape)}{density}, {self.dtype}, {self.device})"

    @property
    def num(self) -> int:
        return self.means.shape[-2]

    @property
    def dtype(self) -> torch.dtype:
        return self.means.dtype

    @property
    def device(self) -> torch.device:
        return self.means.device

    def to(self, *args: Any, **kwargs: Any) -> Gaussians:
        """Another dtype or device, as Tensor.to."""
        density = None if self.density is None else self.density.to(*args, **kwargs)
        return Gaussians(self.means.to(*args, **kwargs), self.precisions.to(*args, **kwargs), density)

    def check(self) -> Gaussians:
        """Returns self if the values are right: finite, precisions symmetric and positive definite, density above zero.

        Raises:
            ValueError: naming the argument and the first index.
        """
        checks.every("means", self.means.isfinite(), "finite values", self.means)
        _check_spd("precisions", self.precisions)
        if self.density is not None:
            checks.every("density", self.density.isfinite(), "finite values", self.density)
            checks.every("density", self.density > 0, "values above zero", self.density)
        return self

    def transform(self, T: Tensor) -> Gaussians:
        """Moves, turns and scales: M -> A M + b, P -> A^-T P A^-1, density unchanged.

        Args:
            T: (..., 4, 4), [[A, b], [0, 1]] with A = s Q, Q orthogonal and s > 0; batch dimensions broadcast.

        Raises:
            TypeError, ValueError: types, shapes; T not finite; A not a similarity (to 1e-3); last row not (0, 0, 0, 1).
        """
        checks.tensor("T", T, (4, 4), dtype=self.dtype, device=self.device)
        checks.broadcast_batch(T=T.shape[:-2], gaussians=self.batch_shape)
        A, b = T[..., :3, :3], T[..., :3, 3]
        square = (A * A).sum((-2, -1))[..., None, None] / 3  # s^2, for A'A = s^2
        if not torch.compiler.is_compiling():
            checks.every("T", T.isfinite(), "finite values", T)
            eye = torch.eye(4, dtype=T.dtype, device=T.device)
            similar = ((A.mT @ A / square - eye[:3, :3]).abs() <= 1e-3).all(-1).all(-1)
            checks.every("T", similar, "a similarity: a rotation times one scale above zero", A)
            checks.every("T", ((T[..., 3, :] - eye[3]).abs() <= 1e-3).all(-1), "a last row (0, 0, 0, 1)", T)
        A, square = A[..., None, :, :], square[..., None, :, :]
        means = self.means @ A[..., 0, :, :].mT + b[..., None, :]
        return Gaussians(means, A @ self.precisions @ A.mT / square**2, self.density)  # A^-1 = A' / s^2

    @classmethod
    def from_covariances(cls, means: Tensor, covariances: Tensor, density: Tensor | None = None) -> Gaussians:
        """Gaussians of covariance matrices (..., N, 3, 3), symmetric positive definite, in squared world units.

        Raises:
            TypeError, ValueError: types, shapes; covariances that are not finite, symmetric (to 1e-4 of the largest
                entry) and positive definite.
        """
        checks.tensor("covariances", covariances, ("N", 3, 3), dtype=checks.REAL)
        _check_spd("covariances", covariances)
        # In float64, so that flat Gaussians lose no more than the rounding of their covariance cost already.
        covariances64 = covariances.double()
        factor = torch.linalg.cholesky_ex((covariances64 + covariances64.mT) / 2).L
        return cls(means, torch.cholesky_inverse(factor).to(covariances.dtype), density)

    @classmethod
    def from_scales_rotations(
        cls, means: Tensor, scales: Tensor, rotations: Tensor, density: Tensor | None = None
    ) -> Gaussians:
        """Gaussians of standard deviations along turned axes: P = R diag(scales^-2) R'.

        Args:
            means: (..., N, 3).
            scales: (..., N, 3), above zero, in world units.
            rotations: quaternions (..., N, 4) as (w, x, y, z), of any length but zero, or matrices (..., N, 3, 3) whose
                columns are the axes.
            density: (..., N) or None.

        Raises:
            TypeError, ValueError: types, shapes; scales not above zero; a zero quaternion; a matrix that is not
                orthogonal (to 1e-3).
        """
        checks.tensor("means", means, ("N", 3), dtype=checks.REAL)
        num, dtype, device = means.shape[-2], means.dtype, means.device
        checks.tensor("scales", scales, (num, 3), dtype=dtype, device=device)
        checks.every("scales", scales.isfinite() & (scales > 0), "finite values above zero", scales)
        if isinstance(rotations, Tensor) and rotations.dim() and rotations.shape[-1] == 4:
            checks.tensor("rotations", rotations, (num, 4), dtype=dtype, device=device)
            checks.every("rotations", rotations.isfinite(), "finite values", rotations)
            checks.every("rotations", (rotations != 0).any(-1), "quaternions of a length above zero")
            rotations = quaternions_to_matrices(rotations)
        else:
            checks.tensor("rotations", rotations, (num, 3, 3), dtype=dtype, device=device)
            eye = torch.eye(3, dtype=dtype, device=device)
            orthogonal = ((rotations.mT @ rotations - eye).abs() <= 1e-3).all(-1).all(-1)
            checks.every("rotations", orthogonal, "orthogonal matrices, or quaternions (..., N, 4)", rotations)
        checks.broadcast_batch(scales=scales.shape[:-2], rotations=rotations.shape[:-3])
        axes = rotations / scales[..., None, :]
        return cls(means, axes @ axes.mT, density)

    @classmethod
    def from_mesh(cls, mesh: Any, faces: Tensor | None = None, percentage: float = 0.5) -> Gaussians:
        """One Gaussian a vertex of a mesh: voge.convert.from_mesh."""
        from voge import convert

        return convert.from_mesh(mesh, faces, percentage)

    @classmethod
    def from_points(cls, points: Any, percentage: float = 0.5) -> Gaussians:
        """One Gaussian a point, as wide as its nearest neighbours are far: voge.convert.points."""
        from voge import convert

        return convert.points(points, percentage=percentage)

    @classmethod
    def sphere(cls, num: int, radius: float = 1.0, percentage: float = 0.5, center: Any = (0.0, 0.0, 0.0)) -> Gaussians:
        """Round Gaussians spread evenly over a sphere around `center` (..., 3): voge.convert.sphere."""
        from voge import convert

        center = center if isinstance(center, Tensor) else torch.tensor(center, dtype=torch.get_default_dtype())
        checks.tensor("center", center, (3,), dtype=checks.REAL, finite=True)
        ball = convert.sphere(num, radius, percentage).to(center)
        return cls(ball.means + center[..., None, :], ball.precisions)

    @classmethod
    def cuboid(cls, extents: Any, num: int, percentage: float = 0.5) -> Gaussians:
        """Gaussians on the faces of an axis-aligned box around the origin: voge.convert.cuboid."""
        from voge import convert

        return convert.cuboid(extents, num, percentage)[0]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Gaussians:
        """The Gaussians of a file (.npz, .safetensors, 3DGS .ply): voge.io.load."""
        from voge import io

        loaded = io.load(path)
        if not isinstance(loaded, io.Scene):
            raise ValueError(f"path: {os.fspath(path)} holds a {type(loaded).__name__}, expected Gaussians")
        return loaded.gaussians

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes .npz, .safetensors or a 3DGS .ply: voge.io.save."""
        from voge import io

        io.save(path, self)


def quaternions_to_matrices(quaternions: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) as (w, x, y, z) of any length but zero."""
    w, x, y, z = torch.nn.functional.normalize(quaternions, dim=-1, eps=0.0).unbind(-1)
    rows = (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip
    return torch.stack(rows, -1).unflatten(-1, (3, 3))


def _check_spd(name: str, matrices: Tensor) -> None:
    """ValueError unless the matrices are finite, symmetric to 1e-4 of their largest entry, and positive definite."""
    if torch.compiler.is_compiling():
        return
    matrices = matrices.detach()
    checks.every(name, matrices.isfinite(), "finite values", matrices)
    asymmetry = (matrices - matrices.mT).abs().amax((-2, -1))
    symmetric = asymmetry <= 1e-4 * matrices.abs().amax((-2, -1))
    checks.every(name, symmetric, "symmetric matrices (to 1e-4 of the largest entry)", matrices)
    info = torch.linalg.cholesky_ex((matrices + matrices.mT).double() / 2).info
    checks.every(name, info == 0, "positive definite matrices", matrices)
