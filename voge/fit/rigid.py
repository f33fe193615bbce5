"""Rigid motions: exponential map, angle between rotations, an even cover of SO(3)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from voge.gaussians import quaternions_to_matrices

PSI = 1.533751168755204288118041  # real root of x^4 = x + 4


def exp_so3(omega: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of the rotation vectors `omega` (..., 3), in radians (Rodrigues' formula).

    Differentiable everywhere, at zero too; exactly the identity there.
    """
    x, y, z = omega.unbind(-1)
    o = torch.zeros_like(x)
    W = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).unflatten(-1, (3, 3))
    angle2 = (omega * omega).sum(-1)[..., None, None]
    small = angle2 < 1e-6
    safe = torch.where(small, torch.ones_like(angle2), angle2)  # keeps the gradient of the root finite
    angle = safe.sqrt()
    a = torch.where(small, 1 - angle2 / 6, angle.sin() / angle)
    b = torch.where(small, 0.5 - angle2 / 24, (1 - angle.cos()) / safe)
    return torch.eye(3, dtype=omega.dtype, device=omega.device) + a * W + b * (W @ W)


def rotation_angle(A: Tensor, B: Tensor) -> Tensor:
    """Angle (...) in radians, 0 to pi, of the rotation between A and B (..., 3, 3).

    2 asin(|A - B| / (2 sqrt 2)) with the Frobenius norm: accurate for small angles, unlike the arc cosine of the trace.
    """
    chord = (A - B).flatten(-2).norm(dim=-1) / math.sqrt(8.0)
    return 2 * chord.clamp(max=1.0).asin()


def even_rotations(count: int, seed: int = 0) -> Tensor:
    """`count` rotations (count, 3, 3), float64, evenly spread over SO(3) and turned as a whole at random by `seed`.

    Super-Fibonacci spirals: M. Alexa, CVPR 2022.
    """
    s = torch.arange(count, dtype=torch.float64) + 0.5
    near, far = (s / count).sqrt(), (1 - s / count).sqrt()
    a, b = 2 * math.pi * s / math.sqrt(2.0), 2 * math.pi * s / PSI
    spiral = torch.stack([near * a.sin(), near * a.cos(), far * b.sin(), far * b.cos()], -1)
    turn = torch.randn(4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return quaternions_to_matrices(spiral) @ quaternions_to_matrices(turn)


def rotations_within(spread: float, count: int, seed: int = 0) -> Tensor:
    """`count` rotations (count, 3, 3), float64, evenly spread over those of at most `spread` radians; the first is 1.

    `spread` = pi is the whole group. The cover is a ball cut out of an even cover of everything.
    """
    identity = torch.eye(3, dtype=torch.float64)[None]
    if count <= 1:
        return identity[: max(count, 0)]
    spread = min(spread, math.pi)
    share = (spread - math.sin(spread)) / math.pi  # volume of the ball of that angle in SO(3)
    cover = even_rotations(math.ceil((count - 1) / max(share, 1e-4)), seed)
    angle = rotation_angle(cover, identity)
    nearest = angle.argsort()[: count - 1].sort().values
    return torch.cat([identity, cover[nearest]])


def orthonormal(R: Tensor) -> Tensor:
    """The rotation matrices (..., 3, 3) nearest to R: removes what rounding added."""
    U, _, Vh = torch.linalg.svd(R.double())
    return (U @ Vh).to(R.dtype)
