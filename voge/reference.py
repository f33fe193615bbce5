"""The definition of the renderer in plain torch: what every backend must compute, in any dtype, with gradients.

A ray x(t) = o + t d, |d| = 1, meets Gaussian k (mean M, precision P, density a) at its densest point l with optical
depth A and width sigma along the ray. Transmittance is T(t) = exp(-sum_m A_m Phi((t - l_m) / sigma_m)), and Gaussian k
weighs W_k = integral of A_k N(t; l_k, sigma_k) T(t) dt. `hermite` and `segments` approximate this integral, `exact`
computes it.

Everything is dense over (rays, Gaussians): meant for small scenes, tests and reading.
"""

from __future__ import annotations

import math

import torch
from numpy.polynomial.hermite import hermgauss
from numpy.polynomial.legendre import leggauss
from torch import Tensor
from torch.nn.functional import normalize, pad
from torch.special import ndtr

SMALLEST_THRESHOLD = 1e-10  # what threshold 0 means
EMPTY = (-1, 0.0, 0.0, 0.0, 1.0)  # index, weight, length, peak and width of an empty slot
CHUNK = 2**22  # most (ray, Gaussian) pairs that trace() looks at at once

# Cuts of a lone Gaussian of peak A for segments(points=n): b0 + b1 s + b2 s^2 widths from its centre, s = A / (A + 4).
CUTS = {
    1: ((-0.5606, -0.9227, -1.2403),),
    2: ((-1.1731, -0.3581, -1.9044), (0.6017, -1.4776, -1.585)),
    3: ((-1.4919, -0.7602, -0.8658), (-0.207, -1.2482, -1.0411), (1.0633, -1.4451, -1.74)),
    4: ((-1.8972, -0.6343, -0.8306), (-0.855, -0.9961, -0.929), (0.1276, -1.3595, -1.1421), (1.1554, -1.4244, -1.8353)),
    5: (
        (-2.07, -0.5875, -0.8152),
        (-1.2973, -0.8281, -0.8832),
        (-0.3935, -1.1781, -1),
        (0.394, -1.4263, -1.2562),
        (1.3135, -1.372, -2.0187),
    ),
}


def hits(
    means: Tensor,  # (..., N, 3)
    precisions: Tensor,  # (..., N, 3, 3), (P + P') / 2 is used
    density: Tensor | None,  # (..., N), None is 1
    origins: Tensor,  # (..., R or 1, 3)
    directions: Tensor,  # (..., R, 3), any length but zero
    absorptivity: float | Tensor = 1.0,
    medium: str = "ray",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """How every ray meets every Gaussian: lengths l, peaks A, widths sigma and exponents q <= 0, each (..., R, N)."""
    precisions = (precisions + precisions.mT) / 2
    d = normalize(directions, dim=-1, eps=0)[..., None, :]  # (..., R, 1, 3)
    v = means[..., None, :, :] - origins[..., None, :]
    pd = torch.einsum("...nij,...rj->...rni", precisions, d[..., 0, :])
    s = (pd * d).sum(-1)
    lengths = (pd * v).sum(-1) / s
    u = v - lengths[..., None] * d
    q = -0.5 * (u * torch.einsum("...nij,...rnj->...rni", precisions, u)).sum(-1)
    widths = s.rsqrt()
    peaks = absorptivity * q.exp()
    if density is not None:
        peaks = peaks * density[..., None, :]
    if medium == "world":
        peaks = peaks * (math.sqrt(2 * math.pi) * widths)
    elif medium != "ray":
        raise ValueError(f'medium must be "ray" or "world", got {medium!r}')
    return lengths, peaks, widths, q


def select(
    lengths: Tensor, q: Tensor, max_hits: int | None = None, threshold: float = 0.01, near: float = 0.0
) -> Tensor:
    """Mask (..., R, N) of the hits: exp(q) >= threshold, l > near, and of these the max_hits nearest.

    Equal lengths: the lower index is nearer.
    """
    mask = (q >= math.log(threshold or SMALLEST_THRESHOLD)) & (lengths > near)
    if max_hits is None:
        return mask
    order = torch.where(mask, lengths, math.inf).argsort(dim=-1, stable=True)
    return mask & (order.argsort(-1) < max_hits)


def hermite(peaks: Tensor, lengths: Tensor, widths: Tensor, points: int = 1) -> Tensor:
    """Weights (..., K) by Gauss-Hermite: W_k = A_k sum_i w_i T(l_k + sqrt(2) sigma_k x_i). Peak 0 is no hit.

    One point is the rule of VoGE (Wang et al., ICLR 2023).
    """
    if points < 1:
        raise ValueError(f"points must be at least 1, got {points}")
    nodes, shares = (torch.as_tensor(a, dtype=peaks.dtype, device=peaks.device) for a in hermgauss(points))
    t = lengths[..., None] + math.sqrt(2) * widths[..., None] * nodes  # (..., K, points)
    z = (t[..., None] - lengths[..., None, None, :]) / widths[..., None, None, :]
    transmittance = torch.exp(-(peaks[..., None, None, :] * ndtr(z)).sum(-1))
    return peaks * (transmittance * (shares / math.sqrt(math.pi))).sum(-1)


def segments(peaks: Tensor, lengths: Tensor, widths: Tensor, points: int = 1) -> Tensor:
    """Weights (..., K) by slabs: >= 0, sum 1 - T(inf), exact for a lone Gaussian. Peak 0 is no hit.

    The line is cut near quantiles of each lone Gaussian's absorption; in a slab between two cuts every Gaussian's share
    of the density changes linearly with optical depth.
    """
    if points not in CUTS:
        raise ValueError(f"points of segments must be one of {tuple(CUTS)}, got {points}")
    if peaks.shape[-1] == 0:
        return peaks
    tiny = torch.finfo(peaks.dtype).tiny ** 0.5

    t = _cuts(peaks, lengths, widths, points)

    # Shares of the density at the cuts, optical depths of the slabs: (..., cuts, K) and (..., cuts + 1, K).
    a, z = peaks[..., None, :], (t[..., None] - lengths[..., None, :]) / widths[..., None, :]
    rho = a * torch.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * widths[..., None, :])
    total = rho.sum(-1, keepdim=True)
    share = rho / torch.where(total > 0, total, 1)
    d = a * pad(ndtr(z), (0, 0, 1, 0)).diff(dim=-2, append=torch.ones_like(z[..., :1, :]))
    depth = d.sum(-1, keepdim=True)
    mean = d / torch.where(depth > 0, depth, 1)

    # What a slab absorbs: T f d with constant shares, moved by their change within the bounds T e d <= W <= T d.
    start = torch.exp(-pad(depth.cumsum(-2)[..., :-1, :], (0, 0, 1, 0)))
    e = torch.exp(-depth)
    f = _one_minus_exp_over(depth)
    first, last = share[..., :1, :] - mean[..., :1, :], mean[..., -1:, :] - share[..., -1:, :]
    change = torch.cat([2 * first, share.diff(dim=-2), 2 * last], -2)
    c = torch.clamp((f - (1 + e) / 2) * change, d * (e - f), d * (1 - f))
    gain, loss = c.clamp(min=0), -c.clamp(max=0)
    gained, lost = gain.sum(-1, keepdim=True), loss.sum(-1, keepdim=True)
    moved = torch.minimum(gained, lost)
    c = gain * (moved / gained.clamp(min=tiny)) - loss * (moved / lost.clamp(min=tiny))
    return (start * (f * d + c).clamp(min=0)).sum(-2)  # the clamp is for rounding alone


def _cuts(peaks: Tensor, lengths: Tensor, widths: Tensor, points: int) -> Tensor:
    """Places (..., K * points) of the cuts in order; those of absent Gaussians fall on the last real one, where they
    change nothing."""
    hit = (peaks > 0)[..., None].expand(*peaks.shape, points)
    b0, b1, b2 = torch.tensor(CUTS[points], dtype=peaks.dtype, device=peaks.device).T
    s = (peaks / (peaks + 4))[..., None]
    t = lengths[..., None] + widths[..., None] * (b0 + s * (b1 + s * b2))
    t, hit = t.flatten(-2), hit.flatten(-2)
    last = torch.where(hit, t, t.amin(-1, keepdim=True)).amax(-1, keepdim=True)
    return torch.where(hit, t, last).sort(-1).values


def _one_minus_exp_over(x: Tensor) -> Tensor:
    """(1 - exp(-x)) / x for x >= 0, smooth at 0."""
    small = x < 0.01
    y = torch.where(small, x, 0)
    series = 1 - y / 2 * (1 - y / 3 * (1 - y / 4 * (1 - y / 5 * (1 - y / 6 * (1 - y / 7)))))
    y = torch.where(small, 1, x)
    return torch.where(small, series, -torch.expm1(-y) / y)


def exact(peaks: Tensor, lengths: Tensor, widths: Tensor) -> Tensor:
    """Weights (..., K) by float64 Gauss-Legendre quadrature on a mesh that follows every Gaussian: slow, the judge."""
    nodes, shares = (torch.as_tensor(a, device=peaks.device) for a in leggauss(12))
    steps = torch.linspace(-9, 9, 37, dtype=torch.float64, device=peaks.device)

    def ray(a: Tensor, l: Tensor, s: Tensor) -> Tensor:  # noqa: E741
        mesh = (l.detach()[:, None] + s.detach()[:, None] * steps).unique()
        half = mesh.diff()[:, None] / 2
        t, dt = (mesh[:-1, None] + half * (1 + nodes)).flatten(), (half * shares).flatten()
        z = (t[:, None] - l) / s
        transmittance = torch.exp(-(a * ndtr(z)).sum(1))
        return ((dt * transmittance)[:, None] * a * torch.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * s)).sum(0)

    a, l, s = (x.double().reshape(-1, x.shape[-1]) for x in torch.broadcast_tensors(peaks, lengths, widths))  # noqa: E741
    weights = [ray(*r) for r in zip(a, l, s, strict=True)]
    return torch.stack(weights).reshape(peaks.shape) if weights else peaks.double()


def trace(
    means: Tensor,
    precisions: Tensor,
    density: Tensor | None,
    origins: Tensor,
    directions: Tensor,
    *,
    valid: Tensor | None = None,  # (..., R) bool; other rays hit nothing
    max_hits: int | None = None,
    threshold: float = 0.01,
    near: float = 0.0,
    absorptivity: float | Tensor = 1.0,
    medium: str = "ray",
    quadrature: str = "hermite",
    points: int = 1,
) -> tuple[Tensor, ...]:
    """Hits of every ray by ascending length: indices (-1 is none), weights, lengths, peaks, widths, each (..., R, K).

    K is max_hits, or with None the most hits of any ray.
    """
    if quadrature not in ("hermite", "segments"):
        raise ValueError(f'quadrature must be "hermite" or "segments", got {quadrature!r}')
    weigh = hermite if quadrature == "hermite" else segments
    origins, directions = torch.broadcast_tensors(origins, directions)
    if valid is not None:  # the other rays may hold anything, NaN included
        directions = torch.where(valid[..., None], directions, directions.new_tensor([0, 0, 1]))
        origins = torch.where(valid[..., None], origins, 0)

    def some(rays: slice) -> tuple[Tensor, ...]:
        lengths, peaks, widths, q = hits(
            means, precisions, density, origins[..., rays, :], directions[..., rays, :], absorptivity, medium
        )
        mask = select(lengths, q, max_hits, threshold, near)
        if valid is not None:
            mask = mask & valid[..., rays, None]
        most = max_hits if max_hits is not None else int(mask.sum(-1).max()) if mask.numel() else 0
        spare = (0, max(0, most - mask.shape[-1]))
        mask = pad(mask, spare)
        indices = torch.where(mask, pad(lengths, spare), math.inf).argsort(dim=-1, stable=True)[..., :most]
        mask = mask.gather(-1, indices)
        lengths, peaks, widths = (
            torch.where(mask, pad(x, spare).gather(-1, indices), empty)
            for x, empty in zip((lengths, peaks, widths), EMPTY[2:], strict=True)
        )
        return torch.where(mask, indices, -1), weigh(peaks, lengths, widths, points), lengths, peaks, widths

    batch = torch.broadcast_shapes(means.shape[:-2], directions.shape[:-2])
    rays, chunk = directions.shape[-2], max(1, CHUNK // max(1, math.prod(batch) * means.shape[-2]))
    pieces = [some(slice(r, r + chunk)) for r in range(0, max(1, rays), chunk)]
    most = max(piece[0].shape[-1] for piece in pieces)
    return tuple(
        torch.cat([pad(x, (0, most - x.shape[-1]), value=empty) for x in parts], -2)
        for *parts, empty in zip(*pieces, EMPTY, strict=True)
    )


def render(
    means: Tensor,
    precisions: Tensor,
    density: Tensor | None,
    features: Tensor,  # (..., N, C)
    origins: Tensor,
    directions: Tensor,
    *,
    depth: str = "expected",
    normals: bool = False,
    quadrature: str = "hermite",
    points: int = 1,
    **options,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Composite along every ray: features sum W x (..., R, C), alpha sum W and depth (..., R), normals (..., R, 3).

    Depth is sum W l / sum W, or with "median" where half of the absorption lies in front; normals, if wanted, are minus
    the integral of T grad rho. Options are those of trace(). No background is added; a ray without a hit has zeros.
    """
    indices, weights, lengths, peaks, widths = trace(
        means, precisions, density, origins, directions, quadrature=quadrature, points=points, **options
    )
    alpha = weights.sum(-1)
    if depth == "median":
        length = median(peaks, lengths, widths)
    else:
        length = (weights * lengths).sum(-1) / torch.where(alpha > 0, alpha, 1)
    if not normals:
        return interpolate(indices, weights, features), alpha, length, means.new_zeros(*alpha.shape, 3)
    stops = stopped_hermite if quadrature == "hermite" else stopped_segments
    stopped = stops(peaks, lengths, widths, points) * widths**2
    d = normalize(directions, dim=-1, eps=0)
    P = (precisions + precisions.mT) / 2
    # sum_k P_k (W_k (l_k d - V_k) - sigma_k^2 S_k d): P is linear in what is interpolated along the ray.
    number = interpolate(indices, weights * lengths - stopped, P.flatten(-2)).unflatten(-1, (3, 3))
    offset = (P @ means[..., None])[..., 0]
    pull = (
        interpolate(indices, weights, offset)
        - (interpolate(indices, weights, P.flatten(-2)).unflatten(-1, (3, 3)) @ origins[..., None])[..., 0]
    )
    return interpolate(indices, weights, features), alpha, length, (number @ d[..., None])[..., 0] - pull


def stopped_hermite(peaks: Tensor, lengths: Tensor, widths: Tensor, points: int = 1) -> Tensor:
    """S (..., K): the integral of -T' rho_k = T R rho_k, R = sum rho, by the nodes of hermite()."""
    nodes, shares = (torch.as_tensor(a, dtype=peaks.dtype, device=peaks.device) for a in hermgauss(points))
    t = lengths[..., None] + math.sqrt(2) * widths[..., None] * nodes
    z = (t[..., None] - lengths[..., None, None, :]) / widths[..., None, None, :]
    a = peaks[..., None, None, :]
    through = torch.exp(-(a * ndtr(z)).sum(-1))
    total = (a * torch.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * widths[..., None, None, :])).sum(-1)
    return peaks * (through * total * (shares / math.sqrt(math.pi))).sum(-1)


def stopped_segments(peaks: Tensor, lengths: Tensor, widths: Tensor, points: int = 1) -> Tensor:
    """The same by the slabs of segments(): in each, rho_k changes linearly with optical depth."""
    if peaks.shape[-1] == 0:
        return peaks
    t = _cuts(peaks, lengths, widths, points)
    a, z = peaks[..., None, :], (t[..., None] - lengths[..., None, :]) / widths[..., None, :]
    rho = pad(a * torch.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * widths[..., None, :]), (0, 0, 1, 1))
    depth = (a * pad(ndtr(z), (0, 0, 1, 0)).diff(dim=-2, append=torch.ones_like(z[..., :1, :]))).sum(-1, keepdim=True)
    start = torch.exp(-pad(depth.cumsum(-2)[..., :-1, :], (0, 0, 1, 0)))
    f, e = _one_minus_exp_over(depth), torch.exp(-depth)
    at_end = f - e
    return (start * (rho[..., :-1, :] * (1 - e - at_end) + rho[..., 1:, :] * at_end)).sum(-2)


def median(peaks: Tensor, lengths: Tensor, widths: Tensor) -> Tensor:
    """The length (...) in front of which half of the absorption lies, differentiable; 0 without a hit."""
    if peaks.shape[-1] == 0:
        return peaks.new_zeros(peaks.shape[:-1])

    def depth_at(t: Tensor) -> Tensor:
        return (peaks * ndtr((t[..., None] - lengths) / widths)).sum(-1)

    wanted = -torch.log((1 + torch.exp(-peaks.sum(-1))) / 2)
    hit = peaks > 0
    with torch.no_grad():
        low = torch.where(hit, lengths - 9 * widths, math.inf).amin(-1)
        high = torch.where(hit, lengths + 9 * widths, -math.inf).amax(-1)
        span, some = high - low, hit.any(-1)
        low, high = torch.where(some, low, 0), torch.where(some, high, 0)
        for _ in range(80):
            t = (low + high) / 2
            before = depth_at(t) < wanted
            low, high = torch.where(before, t, low), torch.where(before, high, t)
        z = (t[..., None] - lengths) / widths
        slope = (peaks * torch.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * widths)).sum(-1)
        slope = torch.where(slope > 1e-3 * peaks.sum(-1) / span, slope, math.inf)
    return t + torch.where(some, (wanted - depth_at(t)) / slope, 0)  # Newton's step carries the gradient


def interpolate(indices: Tensor, weights: Tensor, features: Tensor) -> Tensor:
    """Weighted sum (..., R, C) of the features (..., N, C) of each ray's hits (..., R, K)."""
    batch = torch.broadcast_shapes(indices.shape[:-2], features.shape[:-2])
    rays, most, channels = *indices.shape[-2:], features.shape[-1]
    if features.shape[-2] == 0:
        return weights.new_zeros(*batch, rays, channels)
    rows = indices.clamp(min=0).flatten(-2).expand(*batch, -1)[..., None].expand(*batch, rays * most, channels)
    gathered = features.expand(*batch, *features.shape[-2:]).gather(-2, rows).unflatten(-2, (rays, most))
    return (weights[..., None] * gathered).sum(-2)
