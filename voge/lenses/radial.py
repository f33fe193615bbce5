"""Radial functions f(r) = r N(r^2) / D(r^2), where N = 1 + a1 s + a2 s^2 + .., D = 1 + b1 s + .. in s = r^2.

Coefficients are sequences of tensors (..., 1), `above` (a1, ..) and `below` (b1, ..) the line, for radii (..., P).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

CELLS = 256  # of the table in which an inverse is looked up first
FOLD = 0.999  # a model ends at this part of the radius where it folds: at the fold its inverse has no derivative


def ratio(s: Tensor, above: Sequence[Tensor], below: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """N(s) / D(s) and its derivative."""
    n, n_slope = _polynomial(s, above)
    if not below:
        return n, n_slope
    d, d_slope = _polynomial(s, below)
    return n / d, (n_slope - n / d * d_slope) / d


def _polynomial(s: Tensor, coefficients: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """1 + c1 s + c2 s^2 + .. and its derivative, by Horner's rule."""
    value, slope = coefficients[-1], torch.zeros_like(s)
    for c in reversed(coefficients[:-1]):
        slope, value = slope * s + value, value * s + c
    return value * s + 1, slope * s + value


def limit(above: Sequence[Tensor], below: Sequence[Tensor]) -> Tensor:
    """The radius (..., 1) up to which f grows, or FOLD times it, to be exact; infinity if f always grows."""
    one = torch.ones_like(above[0])
    slope = [torch.zeros_like(one) for _ in range(len(above) + len(below) + 1)]
    for i, a in enumerate((one, *above)):  # D^2 f' = N D + 2 s (N' D - N D')
        for j, b in enumerate((one, *below)):
            slope[i + j] = slope[i + j] + (1 + 2 * i - 2 * j) * a * b
    s = _first_root(slope[1:])
    if below:
        s = torch.minimum(s, _first_root(below))  # a pole
    return (FOLD * s.sqrt()).to(one.dtype)


def _first_root(coefficients: Sequence[Tensor]) -> Tensor:
    """The smallest positive root of 1 + c1 s + c2 s^2 + .., infinity if there is none; float64, no gradient."""
    c = torch.stack(torch.broadcast_tensors(*coefficients), -1).detach().double()
    order = c.shape[-1]
    # In z = 1/s the polynomial is monic: its roots are the eigenvalues of its companion matrix.
    shift = torch.eye(order, dtype=c.dtype, device=c.device)[:-1].expand(*c.shape[:-1], -1, -1)
    z = torch.linalg.eigvals(torch.cat([-c[..., None, :], shift], -2))
    real = (z.imag.abs() <= 1e-6 * z.real.abs()) & (z.real > 0)
    s = 1 / torch.where(real, z.real, 1)
    terms = c[..., None, :] * s[..., None] ** torch.arange(1, order + 1, dtype=c.dtype, device=c.device)
    # Where the last coefficients vanish, rounding makes small eigenvalues that are no roots.
    exact = (1 + terms.sum(-1)).abs() <= 1e-6 * (1 + terms.abs().sum(-1))
    return torch.where(real & exact, s, math.inf).amin(-1)


def invert(target: Tensor, above: Sequence[Tensor], below: Sequence[Tensor], largest: Tensor) -> tuple[Tensor, Tensor]:
    """The radius r (..., P) in [0, largest] with f(r) = target, and where there is one; f grows that far. No gradient.

    A table names the cell, Newton's method finds the place in it.
    """
    batch = torch.broadcast_shapes(target.shape[:-1], largest.shape[:-1])
    target = target.expand(*batch, -1).contiguous()
    if not target.numel():
        return target, target >= 0

    def f(r: Tensor) -> Tensor:
        return r * ratio(r * r, above, below)[0]

    # The table needs to reach only as far as the largest target.
    most = target.amax(-1, keepdim=True).clamp(min=1e-3)
    radii = most * 2.0 ** torch.arange(30, dtype=target.dtype, device=target.device)
    wide = f(radii) >= most
    wide[..., -1] = True
    reach = torch.minimum(radii.gather(-1, wide.int().argmax(-1, keepdim=True)), largest)
    values = f(reach * torch.linspace(0, 1, CELLS + 1, dtype=target.dtype, device=target.device))
    cell = torch.searchsorted(values, target).clamp(1, CELLS)
    low, high = reach * ((cell - 1) / CELLS), reach * (cell / CELLS)
    r = (low + high) / 2
    for _ in range(4):
        g, slope = ratio(r * r, above, below)
        r = torch.minimum(torch.maximum(r - (r * g - target) / (g + 2 * r * r * slope), low), high)
    return r, target <= values[..., -1:]
