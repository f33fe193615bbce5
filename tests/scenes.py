"""Small scenes that several tests share."""

from __future__ import annotations

import torch

from voge.gaussians import Gaussians


def some_gaussians(num=7, density=True, dtype=torch.float32, batch=()):
    """Gaussians of random places, scales and turns, with their scales (..., N, 3) and quaternions (..., N, 4)."""
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(*batch, num, 3, generator=generator, dtype=dtype) + 0.1
    quaternions = torch.randn(*batch, num, 4, generator=generator, dtype=dtype)
    means = torch.randn(*batch, num, 3, generator=generator, dtype=dtype)
    a = torch.rand(*batch, num, generator=generator, dtype=dtype) + 0.1 if density else None
    return Gaussians.from_scales_rotations(means, scales, quaternions, a), scales, quaternions


def assert_same(left, right):
    """Every bit of two sets of Gaussians."""
    for name in ("means", "precisions", "density"):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0)
