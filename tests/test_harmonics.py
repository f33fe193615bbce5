"""Spherical harmonics against scipy, the published constants of 3DGS, and their own orthonormality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import special

import voge
from voge import harmonics

# Constants as 3DGS publishes them, by degree.
C1 = 0.4886025119029199
C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
C3 = (-0.5900435899266435, 2.890611442640554, -0.4570457994644658, 0.3731763325901154, -0.4570457994644658,
      1.445305721320277, -0.5900435899266435)  # fmt: skip


def directions(num: int, seed: int = 0) -> torch.Tensor:
    d = torch.randn(num, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return d / d.norm(dim=-1, keepdim=True)


def published(d: torch.Tensor) -> torch.Tensor:
    """The polynomials of degree 0 to 3 of a unit direction, written out."""
    x, y, z = d.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack([
        torch.full_like(x, 0.28209479177387814), -C1 * y, C1 * z, -C1 * x,
        C2[0] * x * y, C2[1] * y * z, C2[2] * (2 * zz - xx - yy), C2[3] * x * z, C2[4] * (xx - yy),
        C3[0] * y * (3 * xx - yy), C3[1] * x * y * z, C3[2] * y * (4 * zz - xx - yy),
        C3[3] * z * (2 * zz - 3 * xx - 3 * yy), C3[4] * x * (4 * zz - xx - yy), C3[5] * z * (xx - yy),
        C3[6] * x * (xx - 3 * yy),
    ], -1)  # fmt: skip


@pytest.mark.skipif(not hasattr(special, "sph_harm_y"), reason="sph_harm_y is in scipy 1.15 and later")
def test_basis_equals_scipy():
    d = directions(500)
    theta, phi = np.arccos(d[:, 2].numpy()), np.arctan2(d[:, 1].numpy(), d[:, 0].numpy())
    found, columns = harmonics.basis(3 * d, 6), []
    for degree in range(7):
        for m in range(-degree, degree + 1):
            y = special.sph_harm_y(degree, abs(m), theta, phi)
            columns.append(y.real if m == 0 else math.sqrt(2) * (y.real if m > 0 else y.imag))
    np.testing.assert_allclose(found.numpy(), np.stack(columns, -1), rtol=0, atol=1e-13)


@pytest.mark.parametrize("degree", range(4))
def test_basis_has_the_published_order_signs_and_constants(degree):
    d = directions(200, 1)
    torch.testing.assert_close(harmonics.basis(d, degree), published(d)[:, : (degree + 1) ** 2], rtol=0, atol=1e-14)
    single = harmonics.basis(d.float(), degree)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), harmonics.basis(d.float().double(), degree), rtol=0, atol=2e-6)


def test_basis_is_orthonormal():
    """Exact quadrature on the sphere: Gauss-Legendre in z, equal steps in azimuth."""
    z, share = np.polynomial.legendre.leggauss(8)
    azimuth = 2 * math.pi * np.arange(16) / 16
    radius = np.sqrt(1 - z * z)[:, None]
    d = np.stack(np.broadcast_arrays(radius * np.cos(azimuth), radius * np.sin(azimuth), z[:, None]), -1)
    y = harmonics.basis(torch.from_numpy(d), 7).numpy()
    gram = np.einsum("ijk,ijl,i->kl", y, y, share) * 2 * math.pi / 16
    np.testing.assert_allclose(gram, np.eye(64), rtol=0, atol=1e-13)


def test_colors_of_a_batch_of_cameras():
    """Every camera sees its own colours: 0.5 + the published polynomials, cut off at 0."""
    random = torch.Generator().manual_seed(2)
    coefficients = torch.randn(5, 16, 3, generator=random).double()
    means = torch.randn(5, 3, generator=random).double()
    cameras = voge.Cameras.look_at(eye=4 * directions(6, 3).view(2, 3, 3), focal=50.0, image_size=(8, 8))
    found = harmonics.colors(coefficients, means, cameras.centers())
    assert found.shape == (2, 3, 5, 3)
    cut = 0
    for i in range(2):
        for j in range(3):
            for k in range(5):
                way = means[k] - cameras[i, j].centers()
                color = 0.5 + published(way / way.norm()) @ coefficients[k]
                cut += int((color < 0).sum())
                torch.testing.assert_close(found[i, j, k], color.clamp(min=0), rtol=0, atol=1e-12)
    assert cut > 10


def test_gradients_reach_coefficients_means_and_centers():
    random = torch.Generator().manual_seed(4)
    coefficients = 0.05 * torch.randn(3, 16, 3, generator=random).double()  # no colour is cut off
    means, centers = torch.randn(3, 3, generator=random).double(), 3 + torch.rand(2, 3, generator=random).double()
    inputs = [x.requires_grad_() for x in (coefficients, means, centers)]
    assert harmonics.colors(*inputs).min() > 0.05
    assert torch.autograd.gradcheck(harmonics.colors, inputs)
    assert torch.autograd.gradgradcheck(harmonics.colors, inputs)


def test_gradients_reach_the_camera_through_the_picture():
    """Moving a camera along its axis through a lone Gaussian's centre changes nothing but the colour's direction."""
    gaussians = voge.Gaussians(torch.zeros(1, 3).double(), 25 * torch.eye(3).double()[None])
    coefficients = torch.zeros(1, 4, 3).double()
    coefficients[0, 3] = torch.tensor([0.5, -0.5, 0.1])  # -x: what depends on left and right

    def pixel(eye: torch.Tensor) -> torch.Tensor:
        camera = voge.Cameras.look_at(eye=eye, focal=20.0, image_size=(3, 3))
        seen = harmonics.colors(coefficients, gaussians.means, camera.centers())
        return voge.render(gaussians, camera, seen).features[1, 1]

    eye = torch.tensor([0.3, 0.2, 3.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(pixel, [eye])
    (slope,) = torch.autograd.grad(pixel(eye)[0], eye)
    assert slope[0] > 0.01  # to the right it becomes redder: the Gaussian is then seen towards -x


def test_directions_of_length_zero_are_finite():
    means = torch.zeros(2, 3).requires_grad_()
    centers = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).requires_grad_()
    seen = harmonics.colors(0.1 * torch.ones(2, 16, 3), means, centers)
    seen.sum().backward()
    assert seen.isfinite().all() and means.grad.isfinite().all() and centers.grad.isfinite().all()
    assert not centers.grad[0].any()


def test_wrong_arguments():
    coefficients, means, centers = torch.zeros(4, 9, 3), torch.zeros(4, 3), torch.zeros(3)
    with pytest.raises(ValueError, match=r"coefficients: expected .* harmonics.* got 8"):
        harmonics.colors(coefficients[:, :8], means, centers)
    with pytest.raises(ValueError, match=r"coefficients: expected .* got 0"):
        harmonics.colors(coefficients[:, :0], means, centers)
    with pytest.raises(ValueError, match="means"):
        harmonics.colors(coefficients, means[:3], centers)
    with pytest.raises(TypeError, match="means"):
        harmonics.colors(coefficients, means.double(), centers)
    with pytest.raises(ValueError, match="centers"):
        harmonics.colors(coefficients, means, torch.zeros(2))
    with pytest.raises(ValueError, match=r"coefficients.*centers|centers.*coefficients"):
        harmonics.colors(coefficients.expand(2, 4, 9, 3), means, torch.zeros(3, 3))
    with pytest.raises(ValueError, match="degree"):
        harmonics.basis(means, -1)
