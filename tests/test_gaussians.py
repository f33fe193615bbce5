"""voge.Gaussians against closed forms, NumPy's inverse and SciPy's rotations."""

import math
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from voge.gaussians import Gaussians, quaternions_to_matrices


def random_set(batch=(), num=5, seed=0, density=True):
    """Anisotropic Gaussians in float64."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(*batch, num, 3, 3))
    precisions = factor @ factor.swapaxes(-1, -2) + np.eye(3)
    means = rng.normal(size=(*batch, num, 3))
    a = torch.tensor(rng.uniform(0.5, 2, (*batch, num))) if density else None
    return Gaussians(torch.tensor(means), torch.tensor(precisions), a)


def exponents(gaussians, points):
    """(x - M)' P (x - M) at points (..., P, 3): (..., P, N)."""
    offsets = points[..., :, None, :] - gaussians.means[..., None, :, :]
    return torch.einsum("...pni,...nij,...pnj->...pn", offsets, gaussians.precisions, offsets)


def random_similarity(seed=0, batch=(), scale=1.7):
    rng = np.random.default_rng(seed)
    T = np.zeros((*batch, 4, 4))
    rotation = Rotation.from_quat(rng.normal(size=(math.prod(batch), 4))).as_matrix()
    T[..., :3, :3] = scale * rotation.reshape(*batch, 3, 3)
    T[..., :3, 3] = rng.normal(size=(*batch, 3))
    T[..., 3, 3] = 1
    return torch.tensor(T)


def test_properties():
    gaussians = random_set((2, 1))
    mixed = Gaussians(gaussians.means[0, 0], gaussians.precisions, gaussians.density.expand(2, 3, 5))
    assert mixed.batch_shape == (2, 3) and mixed.num == 5 and mixed.dtype == torch.float64
    assert mixed.device == torch.device("cpu") and "num=5, batch=(2, 3), with density" in repr(mixed)
    single = mixed.to(torch.float32)
    assert single.dtype == single.precisions.dtype == single.density.dtype == torch.float32
    assert random_set(density=False).to(torch.float32).density is None


def test_no_gaussians_are_legal():
    empty = Gaussians(torch.zeros(0, 3), torch.zeros(0, 3, 3), torch.zeros(0))
    assert empty.num == 0 and empty.check() is empty
    assert empty.transform(torch.eye(4)).num == 0
    assert Gaussians.from_covariances(torch.zeros(0, 3), torch.zeros(0, 3, 3)).num == 0
    for rotations in (torch.zeros(0, 4), torch.zeros(0, 3, 3)):
        assert Gaussians.from_scales_rotations(torch.zeros(0, 3), torch.zeros(0, 3), rotations).num == 0


def test_constructor_is_cheap():
    means, precisions = torch.zeros(1000, 3), torch.eye(3).expand(1000, 3, 3)
    best = math.inf
    for _ in range(200):
        start = time.perf_counter()
        Gaussians(means, precisions)
        best = min(best, time.perf_counter() - start)
    assert best < 20e-6


def test_compiles_in_one_graph():
    def total(means, scales, quaternions, precisions, T):
        one = Gaussians.from_scales_rotations(means, scales, quaternions).transform(T)
        return one.precisions.sum() + Gaussians.from_covariances(means, precisions).precisions.sum()

    base = random_set()
    arguments = (base.means, base.means.abs() + 0.1, torch.ones(5, 4).double(), base.precisions, random_similarity())
    compiled = torch.compile(total, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), total(*arguments))


def test_quaternions_agree_with_scipy():
    quaternions = np.random.default_rng(0).normal(size=(20, 4))
    expected = Rotation.from_quat(quaternions[:, [1, 2, 3, 0]]).as_matrix()  # SciPy's order is x, y, z, w
    np.testing.assert_allclose(quaternions_to_matrices(torch.tensor(quaternions)).numpy(), expected, atol=1e-12)


def test_from_scales_rotations_closed_form():
    half = math.sqrt(0.5)
    means, scales = torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 4.0]])
    quarter_turn_about_z = torch.tensor([[half, 0, 0, half]])  # x goes to y
    gaussians = Gaussians.from_scales_rotations(means, scales, quarter_turn_about_z)
    torch.testing.assert_close(gaussians.precisions[0], torch.diag(torch.tensor([1 / 4, 1, 1 / 16])))


@pytest.mark.parametrize("matrices", [False, True])
def test_from_scales_rotations_is_the_inverse_covariance(matrices):
    rng = np.random.default_rng(1)
    scales, quaternions = rng.uniform(0.1, 3, (2, 6, 3)), rng.normal(size=(2, 6, 4))
    R = Rotation.from_quat(quaternions.reshape(-1, 4)[:, [1, 2, 3, 0]]).as_matrix().reshape(2, 6, 3, 3)
    expected = np.linalg.inv(R @ (scales[..., None] ** 2 * np.eye(3)) @ R.swapaxes(-1, -2))
    rotations = torch.tensor(R if matrices else 3 * quaternions)
    gaussians = Gaussians.from_scales_rotations(torch.zeros(6, 3).double(), torch.tensor(scales), rotations)
    assert gaussians.batch_shape == (2,)
    np.testing.assert_allclose(gaussians.precisions.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_from_covariances_inverts():
    gaussians = random_set((2,))
    inverse = Gaussians.from_covariances(gaussians.means, gaussians.precisions, gaussians.density)
    np.testing.assert_allclose(inverse.precisions.numpy(), np.linalg.inv(gaussians.precisions.numpy()), rtol=1e-10)
    assert inverse.density is gaussians.density


@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_from_covariances_of_flat_gaussians_in_float32(unit):
    """Condition number 1e6: the error must be that of rounding the covariance, not of the inversion."""
    rng = np.random.default_rng(2)
    R = Rotation.from_quat(rng.normal(size=(50, 4))).as_matrix()
    covariances = torch.tensor(R @ np.diag((unit * np.array([1, 1, 1e-3])) ** 2) @ R.swapaxes(-1, -2)).float()
    covariances = (covariances + covariances.mT) / 2
    precisions = Gaussians.from_covariances(torch.zeros(50, 3), covariances).precisions
    expected = np.linalg.inv(covariances.double().numpy())
    error = np.abs(precisions.double().numpy() - expected).max((1, 2)) / np.abs(expected).max((1, 2))
    assert error.max() < 2e-7


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 1000), st.floats(1e-3, 1e3), st.booleans())
def test_transform_moves_the_density_along(seed, scale, mirrored):
    gaussians, T = random_set((2,), seed=seed), random_similarity(seed, (2,), scale)
    if mirrored:
        T = T @ torch.diag(torch.tensor([1.0, 1, -1, 1]).double())
    moved = gaussians.transform(T)
    points = torch.tensor(np.random.default_rng(seed).normal(size=(2, 4, 3)))
    images = points @ T[:, :3, :3].mT + T[:, None, :3, 3]
    torch.testing.assert_close(exponents(moved, images), exponents(gaussians, points))
    assert moved.density is gaussians.density
    moved.check()


def test_transform_broadcasts_and_composes():
    gaussians, T, S = random_set(), random_similarity(1, (3,)), random_similarity(2, (2, 1), 0.3)
    both = gaussians.transform(T).transform(S)
    assert both.batch_shape == (2, 3)
    once = gaussians.transform(S @ T)
    torch.testing.assert_close(both.means, once.means)
    torch.testing.assert_close(both.precisions, once.precisions)


def test_gradients():
    gaussians, T = random_set((2,), num=2), random_similarity().requires_grad_()
    means, precisions = gaussians.means.requires_grad_(), gaussians.precisions.requires_grad_()
    rng = np.random.default_rng(3)
    scales = torch.tensor(rng.uniform(0.5, 2, (2, 2, 3)), requires_grad=True)
    quaternions = torch.tensor(rng.normal(size=(2, 2, 4)), requires_grad=True)
    check = torch.autograd.gradcheck
    assert check(lambda m, P, T: _tensors(Gaussians(m, P).transform(T)), (means, precisions, T))
    assert check(lambda m, C: _tensors(Gaussians.from_covariances(m, C)), (means, precisions))
    assert check(lambda m, s, q: _tensors(Gaussians.from_scales_rotations(m, s, q)), (means, scales, quaternions))
    matrices = quaternions_to_matrices(quaternions.detach()).requires_grad_()
    assert check(lambda m, s, R: _tensors(Gaussians.from_scales_rotations(m, s, R)), (means, scales, matrices))


def _tensors(gaussians):
    return gaussians.means, gaussians.precisions


def test_bodies_and_converters_reach_the_class():
    ball = Gaussians.sphere(100, radius=2.0, center=torch.tensor([[1.0, 2.0, 3.0], [0, 0, 0]]).double())
    assert ball.batch_shape == (2,) and ball.dtype == torch.float64
    radii = (ball.means - torch.tensor([[[1.0, 2.0, 3.0]], [[0, 0, 0]]])).norm(dim=-1)
    torch.testing.assert_close(radii, torch.full_like(radii, 2), atol=1e-5, rtol=0)
    box = Gaussians.cuboid((2.0, 4.0, 6.0), num=200).check()
    torch.testing.assert_close(box.means.abs().amax(0), torch.tensor([1.0, 2.0, 3.0]))
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    for square in (Gaussians.from_mesh(vertices, faces), Gaussians.from_mesh((vertices, faces))):
        torch.testing.assert_close(square.check().means, vertices)
    torch.testing.assert_close(Gaussians.from_points(vertices).check().means, vertices)
    with pytest.raises(ValueError, match="mesh: "):
        Gaussians.from_mesh(torch.zeros(0, 3), torch.zeros(0, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^center: .*finite"):
        Gaussians.sphere(10, center=(0, 0, math.nan))


def test_save_and_load(tmp_path):
    gaussians = random_set().to(torch.float32)
    gaussians.save(tmp_path / "scene.npz")
    loaded = Gaussians.load(tmp_path / "scene.npz")
    for name in ("means", "precisions", "density"):
        torch.testing.assert_close(getattr(loaded, name), getattr(gaussians, name), rtol=0, atol=0)
    (tmp_path / "square.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    with pytest.raises(ValueError, match=r"^path: .*square.off holds a Mesh, expected Gaussians"):
        Gaussians.load(tmp_path / "square.off")


def changed(x, index, value):
    x = x.clone()
    x[index] = value
    return x


BASE = {"means": torch.zeros(4, 3), "precisions": torch.eye(3).repeat(4, 1, 1), "density": torch.ones(4)}


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("means", torch.zeros(4, 2), ValueError, "expected shape"),
        ("means", torch.zeros(3), ValueError, "expected shape"),
        ("means", np.zeros((4, 3)), TypeError, "got ndarray"),
        ("means", torch.zeros(4, 3).half(), TypeError, "got torch.float16"),
        ("means", torch.zeros(4, 3, dtype=torch.int32), TypeError, "floating"),
        ("precisions", torch.zeros(5, 3, 3), ValueError, r"expected shape \(\.\.\., 4, 3, 3\), got \(5, 3, 3\)"),
        ("precisions", torch.ones(4, 3), ValueError, "expected shape"),
        ("precisions", BASE["precisions"].double(), TypeError, "expected torch.float32, got torch.float64"),
        ("precisions", BASE["precisions"].to("meta"), ValueError, "meta"),
        ("density", torch.ones(4, 1), ValueError, "expected shape"),
        ("density", torch.ones(4).double(), TypeError, "got torch.float64"),
        ("density", 1.0, TypeError, "got float"),
    ],
)
def test_constructor_errors(name, value, error, words):
    with pytest.raises(error, match=f"^{name}: .*{words}"):
        Gaussians(**{**BASE, name: value})


def test_batches_that_do_not_broadcast():
    with pytest.raises(ValueError, match=r"^density: batch \(3,\) does not broadcast with batch \(2,\) of means"):
        Gaussians(torch.zeros(2, 4, 3), BASE["precisions"], torch.ones(3, 4))


@pytest.mark.parametrize(
    ("name", "index", "value", "words"),
    [
        ("means", (2, 1), math.nan, r"finite values, got nan at index \(2, 1\)"),
        ("means", (2, 1), math.inf, r"finite values, got inf at index \(2, 1\)"),
        ("precisions", (3, 0, 1), math.nan, r"finite values, got nan at index \(3, 0, 1\)"),
        ("precisions", (3, 0, 1), 2e-4, r"symmetric .* at index \(3,\)"),
        ("precisions", (1, 2, 2), 0.0, r"positive definite .* at index \(1,\)"),
        ("precisions", (1, 2, 2), -1.0, r"positive definite .* at index \(1,\)"),
        ("density", 3, 0.0, r"above zero, got 0.0 at index \(3,\)"),
        ("density", 3, -1.0, r"above zero, got -1.0 at index \(3,\)"),
        ("density", 3, math.nan, "finite"),
    ],
)
def test_check_names_the_first_bad_value(name, index, value, words):
    Gaussians(**BASE).check()
    with pytest.raises(ValueError, match=f"^{name}: expected .*{words}"):
        Gaussians(**{**BASE, name: changed(BASE[name], index, value)}).check()


def test_slight_asymmetry_is_accepted():
    Gaussians(**{**BASE, "precisions": changed(BASE["precisions"], (3, 0, 1), 0.9e-4)}).check()


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.ones(4, 3), ValueError, "expected shape"),
        (changed(BASE["precisions"], (1, 0, 0), 0.0), ValueError, r"positive definite .* at index \(1,\)"),
        (changed(BASE["precisions"], (1, 0, 2), 0.1), ValueError, r"symmetric .* at index \(1,\)"),
        (changed(BASE["precisions"], (1, 0, 2), math.nan), ValueError, "finite"),
        (None, TypeError, "got NoneType"),
    ],
)
def test_from_covariances_errors(value, error, words):
    with pytest.raises(error, match=f"^covariances: .*{words}"):
        Gaussians.from_covariances(BASE["means"], value)


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("scales", changed(torch.ones(4, 3), (2, 1), 0.0), ValueError, r"above zero, got 0.0 at index \(2, 1\)"),
        ("scales", changed(torch.ones(4, 3), (2, 1), -1.0), ValueError, r"above zero, got -1.0 at index \(2, 1\)"),
        ("scales", changed(torch.ones(4, 3), (2, 1), math.inf), ValueError, "got inf"),
        ("scales", torch.ones(4), ValueError, "expected shape"),
        ("rotations", changed(torch.ones(4, 4), 3, 0.0), ValueError, r"above zero at index \(3,\)"),
        ("rotations", changed(torch.ones(4, 4), 3, math.nan), ValueError, "finite"),
        ("rotations", 2 * BASE["precisions"], ValueError, r"orthogonal matrices.* at index \(0,\)"),
        ("rotations", torch.ones(4, 3), ValueError, "expected shape"),
        ("rotations", torch.ones(5, 4), ValueError, r"expected shape \(\.\.\., 4, 4\), got \(5, 4\)"),
        ("rotations", torch.ones(4, 4).double(), TypeError, "got torch.float64"),
        ("rotations", None, TypeError, "got NoneType"),
    ],
)
def test_from_scales_rotations_errors(name, value, error, words):
    arguments = {"scales": torch.ones(4, 3), "rotations": torch.ones(4, 4), name: value}
    with pytest.raises(error, match=f"^{name}: .*{words}"):
        Gaussians.from_scales_rotations(BASE["means"], **arguments)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (torch.eye(3), ValueError, "expected shape"),
        (torch.eye(4).double(), TypeError, "got torch.float64"),
        (torch.zeros(4, 4), ValueError, "similarity"),
        (torch.diag(torch.tensor([1.0, 2, 1, 1])), ValueError, "similarity"),
        (changed(torch.eye(4), (3, 0), 1.0), ValueError, "last row"),
        (changed(torch.eye(4), (0, 3), math.nan), ValueError, r"finite values, got nan at index \(0, 3\)"),
    ],
)
def test_transform_errors(value, error, words):
    with pytest.raises(error, match=f"^T: .*{words}"):
        Gaussians(**BASE).transform(value)
