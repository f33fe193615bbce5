"""Levenberg-Marquardt for functions that are cheap to evaluate in batches: no derivative is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

DAMPINGS = (1e-2, 1.0, 1e2)  # factors on the damping, tried together


class Terms(NamedTuple):
    """The function at S points.

    Attributes:
        loss: (S,), what is minimised.
        residuals: (S, M).
        curvature: (S, M), w: the Hessian of the loss is near J' diag(w) J, with J the Jacobian of the residuals.
    """

    loss: Tensor
    residuals: Tensor
    curvature: Tensor


class Minimum(NamedTuple):
    """Where `levenberg_marquardt` ended.

    Attributes:
        x: (B, P).
        loss: (B,).
        converged: (B,) bool, the last step was shorter than the tolerance.
    """

    x: Tensor
    loss: Tensor
    converged: Tensor


def central_differences(
    evaluate: Callable[[Tensor], Terms], x: Tensor, free: Tensor, step: float
) -> tuple[Terms, Tensor, Tensor]:
    """Terms at x (B, P), gradient (B, F) of the loss, Jacobian (B, M, F) of the residuals, in one call of `evaluate`.

    Args:
        evaluate: points (S, P) -> Terms.
        free: (F,) int64, which of the P numbers move.
        step: half the distance of the two points of a difference.
    """
    batch, size = x.shape
    offsets = step * torch.eye(size, dtype=x.dtype, device=x.device)[free]
    points = torch.cat([x[:, None], x[:, None] + offsets, x[:, None] - offsets], 1)
    terms = evaluate(points.flatten(0, 1))
    loss, residuals = terms.loss.unflatten(0, (batch, -1)), terms.residuals.unflatten(0, (batch, -1))
    _, above, below = loss.split([1, len(free), len(free)], 1)
    gradient = (above - below) / (2 * step)
    _, above, below = residuals.split([1, len(free), len(free)], 1)
    jacobian = ((above - below) / (2 * step)).mT
    centre = Terms(loss[:, 0], residuals[:, 0], terms.curvature.unflatten(0, (batch, -1))[:, 0])
    return centre, gradient, jacobian


def gauss_newton(jacobian: Tensor, curvature: Tensor) -> Tensor:
    """J' diag(w) J (B, F, F), in float64, of J (B, M, F) and w (B, M)."""
    return ((jacobian * curvature[..., None]).mT @ jacobian).double()


def levenberg_marquardt(
    evaluate: Callable[[Tensor], Terms],
    x: Tensor,
    free: Tensor,
    *,
    iterations: int = 12,
    step: float = 5e-3,
    tolerance: float = 1e-4,
    callback: Callable[[Tensor, Tensor], None] | None = None,
) -> Minimum:
    """Minimises the loss from x (B, P), each row by itself, moving the numbers `free` only.

    The direction is that of the loss's own gradient, by central differences; the residuals give the curvature (so the
    loss may have terms that are no squares). Several dampings are tried in one call; a step that does not lower the
    loss is not taken. Source: J. Nocedal, S. Wright, Numerical Optimization, 10.3.

    Args:
        evaluate: points (B * n, P), n for each row -> Terms.
        step: of the differences. tolerance: a row has converged when its step is shorter in every number.
        callback: called with x (B, P) and loss (B,) after every iteration.
    """
    damping = torch.full((len(x),), 1e-2, dtype=torch.float64, device=x.device)
    converged = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    loss = torch.full_like(x[:, 0], float("inf"))
    for _ in range(iterations):
        terms, gradient, jacobian = central_differences(evaluate, x, free, step)
        loss, hessian = terms.loss, gauss_newton(jacobian, terms.curvature)
        diagonal = hessian.diagonal(dim1=-2, dim2=-1)
        diagonal = diagonal + 1e-6 * diagonal.amax(-1, keepdim=True) + 1e-12
        trials = damping[:, None] * damping.new_tensor(DAMPINGS)
        system = hessian[:, None] + torch.diag_embed(trials[..., None] * diagonal[:, None])
        steps = torch.linalg.solve(system, -gradient.double()[:, None, :, None])[..., 0].clamp(-0.2, 0.2).to(x.dtype)
        points = x[:, None].repeat(1, len(DAMPINGS), 1)
        points[..., free] += steps
        tried = evaluate(points.flatten(0, 1)).loss.unflatten(0, (len(x), -1))
        best = tried.argmin(1, keepdim=True)
        lowest, length = tried.gather(1, best)[:, 0], steps.abs().amax(-1).gather(1, best)[:, 0]
        better = lowest < loss
        x = torch.where(better[:, None], points.gather(1, best[..., None].expand(-1, -1, x.shape[1]))[:, 0], x)
        loss = torch.where(better, lowest, loss)
        damping = torch.where(better, trials.gather(1, best)[:, 0], damping * 1e3).clamp(1e-9, 1e9)
        converged = torch.where(better, length < tolerance, (length < tolerance) | (damping > 1e5))
        if callback is not None:
            callback(x, loss)
        if converged.all():
            break
    return Minimum(x, loss, converged)
