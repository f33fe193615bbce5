"""Colours that depend on where they are seen from, by real spherical harmonics, as 3DGS scenes have them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from voge import checks

SH_0 = 0.5 / math.sqrt(math.pi)  # the harmonic of degree 0


def colors(coefficients: Tensor, means: Tensor, centers: Tensor) -> Tensor:
    """The colours max(0, 0.5 + sum of coefficient times harmonic) of Gaussians as they are seen from `centers`.

    Gradients reach all three.

    Args:
        coefficients: (..., N, (d + 1)^2, 3) of the harmonics up to degree d, in the order of `basis`.
        means: (..., N, 3), in the world.
        centers: (..., 3), where each picture of the batch is taken from: cameras.centers().

    Returns:
        (..., N, 3); batch dimensions broadcast.

    Raises:
        TypeError, ValueError: types, shapes, devices.
    """
    checks.tensor("coefficients", coefficients, ("N", "K", 3))
    num, dtype, device = coefficients.shape[-3], coefficients.dtype, coefficients.device
    degree = degree_of("coefficients", coefficients.shape[-2])
    checks.tensor("means", means, (num, 3), dtype=dtype, device=device)
    checks.tensor("centers", centers, (3,), dtype=dtype, device=device)
    checks.broadcast_batch(coefficients=coefficients.shape[:-3], means=means.shape[:-2], centers=centers.shape[:-1])
    harmonics = basis(means - centers[..., None, :], degree)
    return (0.5 + (harmonics[..., None, :] @ coefficients)[..., 0, :]).clamp(min=0)


def basis(directions: Tensor, degree: int) -> Tensor:
    """Real spherical harmonics of directions from the camera to what is seen.

    Orthonormal on the sphere; with the Condon-Shortley phase (-1)^m, as 3DGS has it (degree 1 is -y, z, -x):
    Y_lm = (-1)^m sqrt((2 - [m = 0]) (2 l + 1) / (4 pi) (l - |m|)! / (l + |m|)!) d^|m| P_l / dz^|m| C_m, where P_l are
    Legendre's polynomials, and C_m the real part of (x + i y)^|m| for m >= 0, the imaginary part for m < 0.

    Args:
        directions: (..., 3), of any length; of length zero: taken for (0, 0, 1).
        degree: d >= 0.

    Returns:
        (..., (d + 1)^2): degrees l = 0 to d one after the other, in each m = -l to l.
    """
    checks.tensor("directions", directions, (3,))
    checks.integer("degree", degree, 0, None)
    nowhere = (directions == 0).all(-1, keepdim=True)
    directions = torch.where(nowhere, directions.new_tensor([0, 0, 1]), directions)
    x, y, z = torch.nn.functional.normalize(directions, dim=-1, eps=0).unbind(-1)
    harmonics: dict[tuple[int, int], Tensor] = {}
    real, imaginary = torch.ones_like(x), torch.zeros_like(x)  # of (x + i y)^m
    double_factorial = 1  # (2 m - 1)!!
    for m in range(degree + 1):
        before, legendre = torch.zeros_like(z), torch.full_like(z, double_factorial)  # d^m P_l / dz^m at l = m - 1, m
        for l in range(m, degree + 1):  # noqa: E741
            scale = math.sqrt((2 * l + 1) / (4 * math.pi) * math.factorial(l - m) / math.factorial(l + m))
            scale *= (-1) ** m * (math.sqrt(2) if m else 1)
            harmonics[l, m] = scale * legendre * real
            if m:
                harmonics[l, -m] = scale * legendre * imaginary
            before, legendre = legendre, ((2 * l + 1) * z * legendre - (l + m) * before) / (l - m + 1)
        real, imaginary = x * real - y * imaginary, x * imaginary + y * real
        double_factorial *= 2 * m + 1
    return torch.stack([harmonics[l, m] for l in range(degree + 1) for m in range(-l, l + 1)], -1)  # noqa: E741


def degree_of(name: str, number: int) -> int:
    """The degree d of (d + 1)^2 coefficients; ValueError naming the argument where there is none."""
    degree = math.isqrt(max(number, 0)) - 1
    if degree < 0 or (degree + 1) ** 2 != number:
        raise ValueError(f"{name}: expected 1, 4, 9, 16 ... harmonics, (degree + 1)^2, got {number}")
    return degree
