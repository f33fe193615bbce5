"""voge.render on the native kernels against the reference, an independent NumPy definition, and its own promises."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import voge
from tests import definition
from voge import _cpu

EYE = torch.eye(3, dtype=torch.float64)


def scene(num=40, channels=3, batch=(), dtype=torch.float64, seed=0):
    """Random anisotropic Gaussians around the origin, with density and features."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(*batch, num, 3, generator=g, dtype=torch.float64) * 0.6
    a = torch.randn(*batch, num, 3, 3, generator=g, dtype=torch.float64) * 3
    density = torch.rand(*batch, num, generator=g, dtype=torch.float64) + 0.5
    features = torch.rand(*batch, num, channels, generator=g, dtype=torch.float64)
    return [x.to(dtype) for x in (means, a @ a.mT + 4 * EYE, density, features)]


def pose(seed=1, distance=3.0, dtype=torch.float64):
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    R = q * torch.linalg.det(q)
    return R.to(dtype), torch.tensor([0.1, -0.2, distance], dtype=dtype)


def intrinsics(dtype=torch.float64):
    return torch.tensor([[30.0, 1.0, 15.0], [0.0, 33.0, 9.0], [0.0, 0.0, 1.0]], dtype=dtype)


def camera(distance=3.0, dtype=torch.float64, size=(21, 27)):
    return voge.Cameras(*pose(distance=distance, dtype=dtype), intrinsics(dtype), size)


def projected(outputs, seed=3):
    """One number that depends on every output."""
    g = torch.Generator().manual_seed(seed)
    given = [x for x in outputs if x is not None]
    return sum((x * torch.randn(x.shape, generator=g, dtype=torch.float64).to(x)).sum() for x in given)


@pytest.mark.parametrize("points", [1, 5])
@pytest.mark.parametrize("distance", [3.0, 0.3])
def test_equals_the_numpy_definition(points, distance):
    means, precisions, density, features = scene()
    c = camera(distance)
    o = voge.render(voge.Gaussians(means, precisions, density), c, features, points=points)
    origins, directions = definition.camera_rays(*(x.numpy() for x in (c.R, c.t, c.K)), c.image_size)
    image, alpha, depth = definition.render(
        *(x.numpy() for x in (means, precisions, density, features)), origins, directions, points=points
    )
    assert o.alpha.max() > 0.5
    np.testing.assert_allclose(o.features.reshape(-1, 3), image.reshape(-1, 3), atol=1e-6)
    np.testing.assert_allclose(o.alpha.reshape(-1), alpha.reshape(-1), atol=1e-6)
    np.testing.assert_allclose(o.depth.reshape(-1), depth.reshape(-1), atol=1e-6)


@pytest.mark.parametrize("isa", _cpu.isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "medium", "max_hits", "quadrature", "points", "depth", "normals"),
    [
        ("camera", "ray", None, "hermite", 1, "expected", False),
        ("camera", "ray", 5, "hermite", 3, "expected", True),
        ("camera", "world", 5, "hermite", 1, "median", True),
        ("inside", "ray", 5, "hermite", 1, "expected", False),
        ("inside", "ray", None, "hermite", 3, "median", False),
        ("rays", "ray", 5, "hermite", 1, "expected", True),
        ("rays", "world", None, "hermite", 3, "expected", False),
        ("camera", "ray", None, "segments", 1, "expected", False),
        ("camera", "world", 5, "segments", 2, "median", True),
        ("inside", "ray", 5, "segments", 3, "expected", True),
        ("rays", "world", None, "segments", 5, "expected", False),
    ],
)
def test_equals_the_reference(isa, dtype, medium, max_hits, quadrature, points, kind, depth, normals, monkeypatch):
    monkeypatch.setenv("VOGE_ISA", isa)
    inputs = [x.requires_grad_() for x in scene(channels=13, dtype=dtype)]
    R, t = (x.requires_grad_() for x in pose(distance=0.3 if kind == "inside" else 3.0, dtype=dtype))
    K = intrinsics(dtype).requires_grad_()
    tau = torch.tensor(1.3, dtype=dtype, requires_grad=True)
    leaves = [*inputs, R, t, K, tau]

    def both(backend):
        c = voge.Cameras(R, t, K, (21, 27))
        if kind == "rays":
            rays = c.rays()
            apart = torch.arange(27, dtype=dtype)[:, None] * 0.01
            valid = torch.ones(21, 27, dtype=torch.bool)
            valid[3, 4:9] = False
            c = voge.Rays(rays.origins.expand(21, 27, 3) + apart, rays.directions, valid)
        means, precisions, density, features = inputs
        o = voge.render(
            voge.Gaussians(means, precisions, density),
            c,
            features,
            max_hits=max_hits,
            absorptivity=tau,
            medium=medium,
            quadrature=quadrature,
            points=points,
            background=torch.linspace(0, 1, 13, dtype=dtype),
            depth=depth,
            normals=normals,
            backend=backend,
        )
        return o, torch.autograd.grad(projected(o), leaves)

    (o, grads), (expected, expected_grads) = both("cpu"), both("reference")
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    for got, want in zip(o[:3], expected[:3], strict=True):
        torch.testing.assert_close(got, want, atol=tolerance, rtol=tolerance)
    if normals:  # of length 1 however faint the ray is: errors are relative to its alpha
        torch.testing.assert_close(o.normals, expected.normals, atol=50 * tolerance, rtol=0)
    for got, want in zip(grads, expected_grads, strict=True):
        assert (got - want).abs().max() <= (50 if normals else 5) * tolerance * want.abs().max() + tolerance


def test_far_thin_gaussians_keep_their_digits():
    """A thousand units away, a thousandth wide: nodes of the rule are told apart although l + c sigma cannot be."""
    means = torch.tensor([[0.0, 0.0, 1000.0], [0.0, 0.0, 1000.0]], dtype=torch.float64)
    precisions = torch.stack([EYE * 1e6, EYE * 4e6])
    K = torch.tensor([[1e6, 0, 0.5], [0, 1e6, 0.5], [0, 0, 1]], dtype=torch.float64)
    c = voge.Cameras(EYE, torch.zeros(3, dtype=torch.float64), K, (1, 1))
    exact = voge.render(voge.Gaussians(means, precisions), c, means, points=5)
    single = voge.render(
        voge.Gaussians(means.float(), precisions.float()), c.to(torch.float32), means.float(), points=5
    )
    torch.testing.assert_close(single.alpha, exact.alpha.float(), rtol=1e-5, atol=0)


def test_batches_broadcast():
    means, precisions, density, features = scene(batch=(2,))
    R, t = pose()
    cameras = voge.Cameras(R, torch.stack([t, t + 0.1, t - 0.1])[:, None], intrinsics(), (9, 11))
    shared = features[0]
    for x in (means, shared):
        x.requires_grad_()
    o = voge.render(voge.Gaussians(means, precisions, density), cameras, shared)
    assert o.features.shape == (3, 2, 9, 11, 3)
    grads = torch.autograd.grad(projected(o), (means, shared))
    singles, total = [], 0
    for i in range(3):
        for j in range(2):
            one = voge.render(
                voge.Gaussians(means[j], precisions[j], density[j]),
                voge.Cameras(R, cameras.t[i, 0], cameras.K, (9, 11)),
                shared,
            )
            singles.append(one)
    stacked = [torch.stack([s[k] for s in singles]).view_as(o[k]) for k in range(3)]
    for got, want in zip(o[:3], stacked, strict=True):
        torch.testing.assert_close(got, want, atol=0, rtol=0)
    total = torch.autograd.grad(projected(stacked), (means, shared))
    for got, want in zip(grads, total, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)


def test_rays_of_several_shapes_and_batches():
    means, precisions, density, features = scene(batch=(2,))
    rays = camera().rays()
    flat = voge.Rays(rays.origins.expand(21, 27, 3), rays.directions)
    image = voge.render(voge.Gaussians(means[1], precisions[1], density[1]), camera(), features[1])
    batch = voge.Rays(flat.origins.expand(2, 21, 27, 3), flat.directions.expand(2, 21, 27, 3))
    o = voge.render(voge.Gaussians(means, precisions, density), batch, features)
    torch.testing.assert_close(o.features[1], image.features, atol=1e-12, rtol=1e-12)
    one = voge.render(
        voge.Gaussians(means[1], precisions[1], density[1]),
        voge.Rays(rays.origins[0, 0], rays.directions[4, 5]),
        features[1],
    )
    assert one.features.shape == (3,) and one.alpha.shape == ()
    torch.testing.assert_close(one.features, image.features[4, 5], atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("kind", ["camera", "rays"])
@pytest.mark.parametrize(
    ("quadrature", "points", "depth", "normals"),
    [
        ("hermite", 1, "expected", False),
        ("hermite", 4, "median", True),
        ("segments", 1, "median", False),
        ("segments", 2, "expected", True),
    ],
)
def test_gradcheck(kind, quadrature, points, depth, normals):
    means, precisions, density, features = scene(num=6)
    R, t = pose()
    K = intrinsics()[:2] * torch.tensor([[0.2], [0.2]], dtype=torch.float64)
    rays = voge.Cameras(R, t, torch.cat([K, intrinsics()[2:]]), (3, 5)).rays()
    origins, directions = rays.origins.expand(3, 5, 3).clone(), rays.directions.clone()

    def run(means, root, density, features, a, b):
        g = voge.Gaussians(means, root @ root.mT, density)
        r = voge.Rays(a, b) if kind == "rays" else voge.Cameras(R, a, torch.cat([b, intrinsics()[2:]]), (3, 5))
        return voge.render(
            g, r, features, threshold=0, quadrature=quadrature, points=points, depth=depth, normals=normals
        )[: 4 if normals else 3]

    last = (origins, directions) if kind == "rays" else (t, K)
    leaves = (means, torch.linalg.cholesky(precisions), density, features, *last)
    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in leaves], atol=1e-6)


def test_second_derivatives_raise():
    means, precisions, density, features = scene(num=6)
    o = voge.render(voge.Gaussians(means.requires_grad_(), precisions, density), camera(), features)
    (grad,) = torch.autograd.grad(o.alpha.square().sum(), means, create_graph=True)
    with pytest.raises(RuntimeError, match="no second derivatives"):
        grad.sum().backward()


def test_forward_mode_is_refused():
    means, precisions, density, features = scene(num=6)

    def run(means, backend=None):
        return voge.render(voge.Gaussians(means, precisions, density), camera(), features, backend=backend).alpha

    with pytest.raises(RuntimeError, match="no forward-mode derivatives"):
        torch.func.jvp(run, (means,), (torch.ones_like(means),))
    _, tangent = torch.func.jvp(lambda m: run(m, "reference"), (means,), (torch.ones_like(means),))
    assert tangent.abs().max() > 0


def test_opcheck():
    means, precisions, density, features = (x.requires_grad_() for x in scene(num=6))
    rays = camera().rays()
    args = (means[None], precisions[None], density[None], features[None])
    args = (*args, rays.origins.reshape(1, 1, 3), rays.directions.reshape(1, -1, 3), None, None)
    torch.library.opcheck(torch.ops.voge.render, (*args, 0, 0, 0, 0.01, 0.0, False, False, 1, False, True))


def test_compiles_as_one_graph():
    means, precisions, density, features = scene(dtype=torch.float32)
    R, t = pose(dtype=torch.float32)
    K = intrinsics(torch.float32)

    def loss(means, t):
        c = voge.Cameras(R, t, K, (21, 27))
        o = voge.render(voge.Gaussians(means, precisions, density), c, features, max_hits=5)
        return o.features.square().sum() + o.depth.sum()

    leaves = [means.requires_grad_(), t.requires_grad_()]
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for got, want in zip(
        torch.autograd.grad(compiled(*leaves), leaves), torch.autograd.grad(loss(*leaves), leaves), strict=True
    ):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("kind", ["camera", "rays"])
def test_bit_identical_for_every_number_of_threads(kind):
    inputs = [x.requires_grad_() for x in scene(num=400, dtype=torch.float32)]
    R, t = (x.requires_grad_() for x in pose(dtype=torch.float32))
    tau = torch.tensor(1.2, requires_grad=True)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            c = voge.Cameras(R, t, intrinsics(torch.float32), (45, 70))
            target = voge.Rays(*c.rays()[:2]) if kind == "rays" else c
            means, precisions, density, features = inputs
            o = voge.render(voge.Gaussians(means, precisions, density), target, features, max_hits=20, absorptivity=tau)
            results.append([*o[:3], *torch.autograd.grad(projected(o), [*inputs, R, t, tau])])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_same_from_many_python_threads():
    means, precisions, density, features = scene(num=100, dtype=torch.float32)
    g, c = voge.Gaussians(means, precisions, density), camera(dtype=torch.float32)
    expected = voge.render(g, c, features).features
    wrong = []

    def work():
        for _ in range(10):
            if not torch.equal(voge.render(g, c, features).features, expected):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_survives_fork():
    code = """
import os, torch, voge
g = voge.Gaussians(torch.zeros(1, 3), torch.eye(3)[None] * 4)
c = voge.Cameras.look_at(eye=(0., 0., -3.), target=(0., 0., 0.), up=(0., 1., 0.), focal=60., image_size=(64, 64))
torch.set_num_threads(2)
a = voge.render(g, c, torch.ones(1, 3)).features
pid = os.fork()
if pid == 0:
    b = voge.render(g, c, torch.ones(1, 3)).features
    os._exit(0 if torch.equal(a, b) else 3)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_zero_one_and_many_channels_and_gaussians():
    c = camera()
    empty = voge.Gaussians(torch.zeros(0, 3, dtype=torch.float64), torch.zeros(0, 3, 3, dtype=torch.float64))
    background = torch.tensor([0.1, 0.2], dtype=torch.float64)
    o = voge.render(empty, c, torch.zeros(0, 2, dtype=torch.float64), background=background)
    assert torch.equal(o.features, background.expand(21, 27, 2)) and o.depth.abs().max() == 0
    means, precisions, density, features = scene(channels=0)
    assert voge.render(voge.Gaussians(means, precisions, density), c, features).features.shape == (21, 27, 0)


def test_one_gaussian_in_one_pixel_in_closed_form():
    g = voge.Gaussians(torch.tensor([[0.0, 0.0, 5.0]]), 4 * torch.eye(3)[None])
    K = torch.tensor([[10.0, 0, 0.5], [0, 10, 0.5], [0, 0, 1]])
    c = voge.Cameras(torch.eye(3), torch.zeros(3), K, (1, 1))
    o = voge.render(g, c, torch.tensor([[2.0]]))
    assert o.alpha.item() == pytest.approx(np.exp(-0.5), rel=1e-6)  # half of its own depth lies in front
    assert o.features.item() == pytest.approx(2 * np.exp(-0.5), rel=1e-6) and o.depth.item() == pytest.approx(
        5, rel=1e-6
    )


def test_camera_inside_beside_and_before_gaussians():
    """Behind the camera nothing is seen; an ellipsoid across the camera's plane is seen where it reaches in front."""
    precision = torch.diag(torch.tensor([4.0, 4.0, 0.04], dtype=torch.float64))
    K = torch.tensor([[20.0, 0, 16], [0, 20, 16], [0, 0, 1]], dtype=torch.float64)
    c = voge.Cameras(EYE, torch.zeros(3, dtype=torch.float64), K, (32, 32))
    feature = torch.ones(1, 1, dtype=torch.float64)
    for z, seen in ((-40.0, False), (-1.0, None), (0.5, True), (10.0, True)):
        g = voge.Gaussians(torch.tensor([[0.1, 0.2, z]], dtype=torch.float64), precision[None])
        o, r = voge.render(g, c, feature), voge.render(g, c, feature, backend="reference")
        torch.testing.assert_close(o.features, r.features, atol=1e-12, rtol=1e-12)
        if seen is not None:
            assert (o.alpha.max() > 0) == seen


def good(**changes):
    means, precisions, density, features = scene(num=5)
    given = {"means": means, "precisions": precisions, "density": density, "features": features, "cameras": camera()}
    options = {k: v for k, v in changes.items() if k not in given}
    given |= {k: v(given[k]) if callable(v) else v for k, v in changes.items() if k in given}
    g = voge.Gaussians(given["means"], given["precisions"], given["density"])
    return voge.render(g, given["cameras"], given["features"], **options)


def put(index, value):
    def change(x):
        x = x.clone()
        x[index] = value
        return x

    return change


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize(
    ("error", "name", "changes"),
    [
        (ValueError, "means", {"means": put((2, 1), float("nan"))}),
        (ValueError, "means", {"means": put((0, 0), float("inf"))}),
        (ValueError, "precisions", {"precisions": put((1, 0, 0), float("nan"))}),
        (ValueError, "precisions", {"precisions": put((1, 0, 1), 9.0)}),
        (ValueError, "precisions", {"precisions": lambda p: -p}),
        (ValueError, "density", {"density": put(3, 0.0)}),
        (ValueError, "density", {"density": put(3, -1.0)}),
        (ValueError, "features", {"features": put((4, 0), float("nan"))}),
        (ValueError, "features", {"features": lambda f: f[:4]}),
        (TypeError, "features", {"features": lambda f: f.float()}),
        (TypeError, "cameras", {"cameras": lambda c: c.to(torch.float32)}),
        (ValueError, "threshold", {"threshold": 1.0}),
        (ValueError, "threshold", {"threshold": -0.1}),
        (ValueError, "threshold", {"threshold": float("nan")}),
        (ValueError, "max_hits", {"max_hits": 0}),
        (TypeError, "max_hits", {"max_hits": 2.5}),
        (ValueError, "near", {"near": -1.0}),
        (ValueError, "absorptivity", {"absorptivity": 0.0}),
        (ValueError, "points", {"points": 9}),
        (ValueError, "medium", {"medium": "fog"}),
        (ValueError, "quadrature", {"quadrature": "simpson"}),
        (ValueError, "background", {"background": torch.zeros(5, 3, dtype=torch.float64)}),
        (ValueError, "background", {"background": torch.full((3,), float("nan"), dtype=torch.float64)}),
        (ValueError, "directions", {"cameras": lambda c: voge.Rays(*(torch.zeros(4, 3, dtype=torch.float64),) * 2)}),
        (TypeError, "directions", {"cameras": lambda c: voge.Rays(torch.zeros(4, 3), [1])}),
    ],
)
def test_bad_input(backend, error, name, changes):
    with pytest.raises(error, match=name):
        good(backend=backend, **changes)


def test_unknown_choices():
    with pytest.raises(ValueError, match="backend"):
        good(backend="vulkan")
    with pytest.raises(ValueError, match="depth: expected one of"):
        good(depth="nearest")
    with pytest.raises(ValueError, match="capacity"):
        good(capacity=0)
    assert good().normals is None


def test_invariant_to_rigid_motion_order_and_units():
    means, precisions, density, features = scene()
    g, c = voge.Gaussians(means, precisions, density), camera()
    o = voge.render(g, c, features, points=2)
    Q, move = pose(seed=5)
    moved = voge.Gaussians(means @ Q.mT + move, Q @ precisions @ Q.mT, density)
    cm = voge.Cameras(c.R @ Q.mT, c.t - c.R @ Q.mT @ move, c.K, c.image_size)
    scaled = voge.Gaussians(means * 7, precisions / 49, density)
    cs = voge.Cameras(c.R, c.t * 7, c.K, c.image_size)
    turn = torch.randperm(len(means), generator=torch.Generator().manual_seed(0))
    shuffled = voge.Gaussians(means[turn], precisions[turn], density[turn])
    for other in (
        voge.render(moved, cm, features, points=2),
        voge.render(scaled, cs, features, points=2),
        voge.render(shuffled, c, features[turn], points=2),
    ):
        torch.testing.assert_close(other.features, o.features, atol=1e-10, rtol=1e-10)
