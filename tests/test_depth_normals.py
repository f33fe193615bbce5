"""o.depth and o.normals against what they are by definition, by a dense quadrature of its own."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr

import voge
from tests.test_render import camera, scene


def dense(means, precisions, density, origin, direction, world, steps=5000):
    """t, T(t), and the density and its gradient (steps, 3) along one ray, of the hits with a peak of 0.01."""
    d = direction / np.linalg.norm(direction)
    V = means - origin
    s = np.einsum("i,nij,j->n", d, precisions, d)
    length = np.einsum("i,nij,nj->n", d, precisions, V) / s
    u = V - length[:, None] * d
    q = -0.5 * np.einsum("ni,nij,nj->n", u, precisions, u)
    hit = (q >= np.log(0.01)) & (length > 0)
    length, sigma, q, V, P = length[hit], s[hit] ** -0.5, q[hit], V[hit], precisions[hit]
    A = density[hit] * np.exp(q) * (math.sqrt(2 * math.pi) * sigma if world else 1)
    t = np.linspace((length - 9 * sigma).min(), (length + 9 * sigma).max(), steps)
    z = (t[:, None] - length) / sigma
    rho = A * np.exp(-z * z / 2) / (math.sqrt(2 * math.pi) * sigma)
    gradient = -np.einsum("nij,tnj->tni", P, t[:, None, None] * d - V) * rho[..., None]
    return t, np.exp(-(A * ndtr(z)).sum(1)), rho.sum(1), gradient.sum(1)


@pytest.mark.parametrize("medium", ["ray", "world"])
def test_converge_to_the_definition(medium):
    means, precisions, density, features = scene()
    g, c = voge.Gaussians(means, precisions, density), camera()
    kinds = {"hermite 1": ("hermite", 1), "segments 1": ("segments", 1), "segments 5": ("segments", 5)}
    outputs = {
        name: voge.render(g, c, features, medium=medium, quadrature=q, points=n, depth="median", normals=True)
        for name, (q, n) in kinds.items()
    }
    rays = c.rays()
    errors = {name: [] for name in kinds}
    for y, x in ((4, 9), (10, 13), (12, 5), (15, 20), (9, 17)):
        t, T, rho, gradient = dense(
            *(v.numpy() for v in (means, precisions, density, rays.origins[0, 0], rays.directions[y, x])),
            world=medium == "world",
        )
        step = t[1] - t[0]
        normal = -(T[:, None] * gradient).sum(0) * step
        normal /= np.linalg.norm(normal)
        half = np.interp((1 - T[-1]) / 2, 1 - T, t)
        expected = (T * rho * t).sum() / (T * rho).sum()
        assert abs(half - expected) > 1e-3  # the two kinds of depth are not the same
        for name, o in outputs.items():
            angle = np.arccos(min(1.0, float(o.normals[y, x] @ torch.from_numpy(normal))))
            errors[name].append(math.degrees(angle))
            assert abs(o.normals[y, x].norm() - 1) < 1e-12
            assert abs(o.depth[y, x] - half) < 1e-4
    # Degrees; none of the three is exact, the last one nearly so.
    assert max(errors["segments 5"]) < 1
    assert max(errors["segments 1"]) < 6
    assert max(errors["hermite 1"]) < 25


def test_normals_of_a_ball_point_outwards():
    """Of one opaque isotropic Gaussian, at its median depth."""
    g = voge.Gaussians(torch.zeros(1, 3), 4 * torch.eye(3)[None], torch.tensor([30.0]))
    c = voge.Cameras.look_at(eye=(0.0, 0.0, -4.0), focal=40.0, image_size=(33, 33))
    o = voge.render(g, c, torch.ones(1, 1), normals=True, quadrature="segments", points=5, depth="median")
    seen = o.alpha > 0.9
    points = c.rays().origins + o.depth[..., None] * torch.nn.functional.normalize(c.rays().directions, dim=-1)
    outwards = torch.nn.functional.normalize(points, dim=-1)
    assert seen.sum() > 300
    assert (outwards * o.normals).sum(-1)[seen].min() > math.cos(math.radians(2))
    assert (o.normals[o.alpha == 0] == 0).all()
    assert (o.depth[o.alpha == 0] == 0).all()


def test_median_in_a_gap_has_no_gradient_and_no_nan():
    """Two thin sheets of which the first takes exactly half of what both take."""
    first = math.log(2 / (1 + math.exp(-2.0)))
    means = torch.tensor([[0.0, 0, 2], [0.0, 0, 6]], dtype=torch.float64, requires_grad=True)
    density = torch.tensor([first, 2 - first], dtype=torch.float64)
    precisions = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1) * 400
    rays = voge.Rays(torch.zeros(3, dtype=torch.float64), torch.tensor([0.0, 0, 1], dtype=torch.float64))
    o = voge.render(voge.Gaussians(means, precisions, density), rays, means.detach(), depth="median")
    assert 2 < o.depth.item() < 6
    (grad,) = torch.autograd.grad(o.depth, means)
    assert (grad == 0).all()
