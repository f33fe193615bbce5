"""The renderer's definition in NumPy, one ray and one Gaussian at a time: what tests hold against every backend.

It shares no code and no arrangement of formulas with the package: the exponent comes from completing the square,
the rest from loops.
"""

import math

import numpy as np
from scipy.special import erf

# Gauss-Hermite nodes and weights from the tables of Abramowitz and Stegun (25.10).
HERMITE = {
    1: ([0.0], [1.77245385090552]),
    2: ([-0.707106781186548, 0.707106781186548], [0.886226925452758] * 2),
    5: (
        [-2.02018287045609, -0.958572464613819, 0.0, 0.958572464613819, 2.02018287045609],
        [0.0199532420590459, 0.393619323152241, 0.945308720482942, 0.393619323152241, 0.0199532420590459],
    ),
}


def camera_rays(R, t, K, size):
    """Origin (3,) and directions (H, W, 3) of an OpenCV camera; pixel centres at +0.5."""
    height, width = size
    directions = np.empty((height, width, 3))
    for y in range(height):
        for x in range(width):
            directions[y, x] = R.T @ np.linalg.solve(K, np.array([x + 0.5, y + 0.5, 1.0]))
    return -R.T @ t, directions


def hits(
    means,
    precisions,
    density,
    origin,
    direction,
    threshold=0.01,
    near=0.0,
    absorptivity=1.0,
    medium="ray",
    max_hits=None,
):
    """Hits of one ray by ascending length: a list of (index, length, peak, width)."""
    d = direction / math.sqrt(float(direction @ direction))
    found = []
    for k, (mean, precision) in enumerate(zip(means, precisions, strict=True)):
        mu = mean - origin
        a, b, c = d @ precision @ d, mu @ precision @ d, mu @ precision @ mu
        opacity = math.exp(min(0.0, -(c - b * b / a) / 2))
        if opacity < (threshold or 1e-10) or b / a <= near:
            continue
        peak = absorptivity * opacity * (1.0 if density is None else density[k])
        if medium == "world":
            peak *= math.sqrt(2 * math.pi / a)
        found.append((k, b / a, peak, 1 / math.sqrt(a)))
    return sorted(found, key=lambda hit: (hit[1], hit[0]))[:max_hits]


def transmittance(t, ray):
    return math.exp(-sum(peak * (1 + erf((t - length) / (width * math.sqrt(2)))) / 2 for _, length, peak, width in ray))


def weights(ray, points=1):
    """Gauss-Hermite weight of every hit of one ray."""
    nodes, shares = HERMITE[points]
    return [
        peak
        * sum(w * transmittance(length + math.sqrt(2) * width * x, ray) for x, w in zip(nodes, shares, strict=True))
        / math.sqrt(math.pi)
        for _, length, peak, width in ray
    ]


def render(means, precisions, density, features, origins, directions, points=1, **options):
    """Features (..., C), alpha (...), depth (...) along directions (..., 3); the origins broadcast against them."""
    origins = np.broadcast_to(origins, directions.shape)
    shape = directions.shape[:-1]
    image, alpha, depth = np.zeros((*shape, features.shape[-1])), np.zeros(shape), np.zeros(shape)
    for i in np.ndindex(*shape):
        ray = hits(means, precisions, density, origins[i], directions[i], **options)
        for (k, length, _, _), w in zip(ray, weights(ray, points), strict=True):
            image[i] += w * features[k]
            alpha[i] += w
            depth[i] += w * length
        if alpha[i] > 0:
            depth[i] /= alpha[i]
    return image, alpha, depth
