"""backend="cuda", the fragments route, with emulated kernels: its tests again, and equality with "cpu"."""

from __future__ import annotations

import types

import pytest
import torch

import voge
from tests import test_fragments, test_weights
from tests.cuda_emulation.launcher import EmulatedLauncher
from tests.test_fragments import (  # noqa: F401
    camera,
    gaussians,
    test_bad_input_is_named,
    test_interpolate_equals_render,
    test_sample_is_the_transpose_of_interpolate,
    test_second_derivatives_of_trace_are_refused,
    test_trace_equals_definition_on_rays_without_a_camera,
    test_trace_equals_reference,
    test_visibility,
)
from tests.test_weights import (  # noqa: F401
    test_gradients_equal_the_reference,
    test_segments_is_near_the_integral,
)
from voge import backends, reference
from voge.backends import cuda, cuda_fragments

DENSE = torch.empty(0, dtype=torch.int64)


def weights(lengths, peaks, widths, offsets, quadrature, points):
    """Of dense slots, as on the CPU: there the most hits of a ray need not be known."""
    most = torch.tensor(lengths.shape[-1])
    return cuda_fragments.weights(lengths, peaks, widths, offsets, most, quadrature, points)


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    """Calls without a backend take "cuda"; its kernels are emulated."""
    choose = backends.choose
    monkeypatch.setattr(backends, "choose", lambda name, device: choose(name or "cuda", device))
    monkeypatch.setattr(test_weights, "ops", types.SimpleNamespace(weights=weights))
    with cuda.use_launcher(EmulatedLauncher()):
        yield


def listed(c, batch=False):
    rays = c.rays()
    valid = torch.ones(rays.directions.shape[:-1], dtype=torch.bool)
    valid[..., 2, :3] = False
    return voge.Rays(rays.origins if batch else rays.origins.expand(rays.directions.shape), rays.directions, valid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_hits", [None, 4])
@pytest.mark.parametrize(
    ("batches", "kind", "rule", "medium"),
    [
        (((2,), (2,)), "camera", ("hermite", 2), "ray"),
        (((), (2,)), "rays", ("segments", 1), "world"),
        (((2,), ()), "camera", ("segments", 2), "ray"),
        (((2, 1), (2,)), "shared", ("hermite", 1), "world"),
    ],
)
def test_equals_the_cpu(dtype, max_hits, batches, kind, rule, medium):
    g, c = gaussians(1, batch=batches[0], dtype=dtype), camera(batches[1], dtype=dtype, size=(5, 7))
    x = torch.linspace(-1, 1, 45, dtype=dtype).reshape(15, 3)
    results = []
    for backend in ("cuda", "cpu"):
        leaves = [y.clone().requires_grad_() for y in (g.means, g.precisions, g.density, c.R, c.t, c.K, x)]
        view = voge.Cameras(*leaves[3:6], image_size=(5, 7))
        target = view if kind == "camera" else listed(view, kind == "shared")
        if kind != "camera" and len(batches[0]) > len(batches[1]):
            target = voge.Rays(*(y.expand(2, *y.shape) for y in target))
        f = voge.trace(
            voge.Gaussians(*leaves[:3]),
            target,
            *(max_hits, 0.01, 0.0, 1.3, medium),
            *rule,
            backend=backend,
        )
        assert f.backend == backend
        y = f.interpolate(leaves[6])
        features, total = f.sample(y.sin())
        loss = (features.cos() * total[..., None]).mean() + (f.lengths * f.weights / f.widths + f.peaks).mean()
        loss = loss + f.visibility("max").mean() + f.alpha().mean()
        grads = torch.autograd.grad(loss, leaves)
        results.append([f.indices, f.weights, f.lengths, f.peaks, f.widths, y, features, total, *grads])
    assert torch.equal(results[0][0], results[1][0])
    assert (results[0][0] >= 0).sum() > 40
    tolerance = 2e-5 if dtype == torch.float32 else 1e-10
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=tolerance * (1 + want.abs().max().item()))


@pytest.mark.parametrize("quadrature", ["hermite", "segments"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_every_number_of_points(quadrature, dtype):
    """Rays of 0 to 70 hits, ragged and dense."""
    g = torch.Generator().manual_seed(3)
    counts = torch.tensor([0, 1, 31, 32, 33, 70])
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    total = int(counts.sum())
    hits = [torch.rand(total, generator=g, dtype=torch.float64) * a + b for a, b in ((8, 1), (0.5, 0.01), (0.4, 0.05))]
    lengths, peaks, widths = (x.to(dtype).requires_grad_() for x in hits)
    upstream = torch.randn(total, generator=g, dtype=torch.float64).to(dtype)
    rule = reference.hermite if quadrature == "hermite" else reference.segments
    for points in range(1, 9 if quadrature == "hermite" else 6):
        w = cuda_fragments.weights(lengths, peaks, widths, offsets, counts.max(), quadrature, points)
        got = [w, *torch.autograd.grad((w * upstream).sum(), (lengths, peaks, widths))]
        leaves = [x.detach().to(dtype).double().requires_grad_() for x in hits]
        of_rays = [x.split(counts.tolist()) for x in leaves]
        w = torch.cat([rule(p[None], x[None], s[None], points)[0] for x, p, s in zip(*of_rays, strict=True)])
        want = [w, *torch.autograd.grad((w * upstream.double()).sum(), leaves)]
        tolerance = 3e-5 if dtype == torch.float32 else 1e-10
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=0, atol=tolerance * (1 + b.abs().max().item()))


@pytest.mark.parametrize("max_hits", [None, 4])
def test_products_equal_the_cpu(max_hits):
    """gather, scatter and pair, whose derivatives are each other, for few and for many channels."""
    f = voge.trace(gaussians(6, batch=(2,), n=5), camera((2,), size=(2, 3)), max_hits=max_hits)
    indices, offsets = f._flat(f.indices), f._offsets
    ours, theirs = cuda_fragments.products, test_fragments.ops.products
    g = torch.Generator().manual_seed(0)
    for items, channels in ((1, 2), (2, 1), (2, 40)):
        w, x, y = (
            torch.rand(s, generator=g, dtype=torch.float64, requires_grad=True)
            for s in (indices.shape, (items, 5, channels), (12, channels))
        )
        for name, args in (
            ("gather", (w, indices, offsets, x)),
            ("scatter", (w, indices, offsets, y, items, 5)),
            ("pair", (x, y, indices, offsets)),
        ):
            leaves = [a for a in args if isinstance(a, torch.Tensor) and a.requires_grad]
            results = []
            for products in (ours, theirs):
                out = getattr(products, name)(*args)
                first = torch.autograd.grad(out.sin().sum(), leaves, create_graph=True)
                second = torch.autograd.grad(sum(d.square().sum() for d in first), leaves)
                results.append([out, *first, *second])
            for got, want in zip(*results, strict=True):
                torch.testing.assert_close(got, want)


def test_indices_of_no_gaussian_count_as_empty():
    w, indices = torch.ones(1, 1, 3, dtype=torch.float64), torch.tensor([[[3, -2, 1]]])
    x, y = torch.ones(1, 3, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    gather, scatter, pair = cuda_fragments.products
    assert gather(w, indices, DENSE, x).tolist() == [[1]]
    assert scatter(w, indices, DENSE, y, 1, 3).flatten().tolist() == [0, 1, 0]
    assert pair(x, y, indices, DENSE).flatten().tolist() == [0, 0, 1]


def test_same_bits_in_any_schedule():
    g, c, results = gaussians(8, n=30, dtype=torch.float32), camera(dtype=torch.float32), []
    x = torch.rand(30, 5, generator=torch.Generator().manual_seed(0))
    for mode, seed in (("in_order", 0), ("shuffled", 1), ("shuffled", 2)):
        with cuda.use_launcher(EmulatedLauncher(mode, seed)):
            leaves = [y.clone().requires_grad_() for y in (g.means, g.precisions, g.density, c.R, c.t, x)]
            f = voge.trace(voge.Gaussians(*leaves[:3]), voge.Cameras(*leaves[3:5], c.K, image_size=c.image_size))
            y = f.interpolate(leaves[5])
            features, total = f.sample(y)
            grads = torch.autograd.grad(features.square().mean() + total.mean(), leaves)
            results.append([f.indices, f.weights, y, features, total, *grads])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_nothing_to_hit():
    for g in (gaussians(n=0), gaussians()):
        for target in (camera(), listed(camera())):
            for max_hits in (None, 3):
                f = voge.trace(g, target, max_hits=max_hits, near=100.0)
                assert (f.indices == -1).all()
                assert (f.alpha() == 0).all()
                assert f.interpolate(torch.ones(g.num, 2, dtype=torch.float64)).abs().max() == 0
                features, total = f.sample(torch.ones(6, 9, 2, dtype=torch.float64))
                assert features.shape == (g.num, 2)
                assert not features.any() and not total.any() and not f.visibility("max").any()


@pytest.mark.parametrize("max_hits", [None, 4])
def test_operator_contract(max_hits):
    g, c = gaussians(7, n=6), camera((2,), size=(2, 3))
    f = voge.trace(g, c, max_hits=max_hits)
    indices, offsets = f._flat(f.indices), f._offsets
    origins, directions, _ = c.rays()
    scene = [g.means[None], g.precisions[None], g.density[None], origins.reshape(2, 1, 3), directions.reshape(2, 6, 3)]
    scene = [x.clone().requires_grad_() for x in scene]
    slots = [f._flat(x).detach().clone().requires_grad_() for x in (f.lengths, f.peaks, f.widths)]
    w, x, y = (torch.rand(s, dtype=torch.float64, requires_grad=True) for s in (indices.shape, (2, 6, 3), (12, 3)))
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    for op, args in (
        (cuda_fragments.hits, (indices, offsets, *scene, False)),
        (cuda_fragments.weights, (*slots, offsets, torch.tensor(6), "segments", 2)),
        (cuda_fragments.products.gather, (w, indices, offsets, x)),
        (cuda_fragments.products.scatter, (w, indices, offsets, y, 2, 6)),
        (cuda_fragments.products.pair, (x, y, indices, offsets)),
    ):
        torch.library.opcheck(op, args, test_utils=tests)


@pytest.mark.parametrize("max_hits", [None, 4])
def test_traces_into_one_graph(max_hits):
    g, c, x = gaussians(n=6), camera(size=(2, 3)), torch.rand(6, 3, dtype=torch.float64)

    def loss(means):
        f = voge.trace(voge.Gaussians(means, g.precisions, g.density), c, max_hits=max_hits)
        return (f.interpolate(x) ** 2).sum()

    a, b = (g.means.clone().requires_grad_() for _ in range(2))
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        torch.compile(loss, fullgraph=True, backend="aot_eager")(a).backward()
    loss(b).backward()
    torch.testing.assert_close(a.grad, b.grad)
