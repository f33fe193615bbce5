"""voge.trace and Fragments: native against the reference, gradients, operator contracts, threads, refusals."""

import contextlib

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import voge
from tests import definition
from voge.backends import fragments as ops

RULES = [("hermite", 1), ("hermite", 3), ("segments", 1), ("segments", 2)]
FIELDS = ("indices", "weights", "lengths", "peaks", "widths")


def gaussians(seed=0, n=15, batch=(), dtype=torch.float64):
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(*batch, n, 3, 3))
    means = rng.normal(size=(*batch, n, 3)) * [0.5, 0.4, 0.6] + [0, 0, 4]
    precisions = axes @ np.swapaxes(axes, -1, -2) * 2 + 4 * np.eye(3)
    density = rng.uniform(0.3, 2.0, (*batch, n))
    return voge.Gaussians(*(torch.tensor(x, dtype=dtype) for x in (means, precisions, density)))


def camera(batch=(), dtype=torch.float64, size=(6, 9)):
    """Off-centre, not square."""
    K = torch.tensor([[14.0, 0.3, 5.0], [0, 12.0, 2.5], [0, 0, 1]], dtype=dtype)
    t = torch.linspace(0, 0.4, int(np.prod(batch)), dtype=dtype).reshape(*batch, 1).expand(*batch, 3)
    return voge.Cameras(torch.eye(3, dtype=dtype).expand(*batch, 3, 3), t, K.expand(*batch, 3, 3), image_size=size)


def assert_same(ours, theirs, **tolerance):
    assert torch.equal(ours.indices, theirs.indices)
    if ours.offsets is not None:
        assert torch.equal(ours.offsets, theirs.offsets)
    for name in FIELDS[1:]:
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), **tolerance)


@pytest.mark.parametrize("medium", ["ray", "world"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("max_hits", [None, 2, 20])
def test_trace_equals_reference(max_hits, rule, medium):
    options = {"max_hits": max_hits, "quadrature": rule[0], "points": rule[1], "medium": medium, "absorptivity": 1.3}
    ours = voge.trace(gaussians(), camera(), **options)
    assert (ours.peaks > 0).sum() > 50
    assert_same(ours, voge.trace(gaussians(), camera(), **options, backend="reference"))


@pytest.mark.parametrize("max_hits", [None, 4])
def test_batches_and_float32(max_hits):
    for g, c in (((2,), (2,)), ((), (2,)), ((2,), ()), ((2, 1), (3,))):
        for dtype in (torch.float64, torch.float32):
            scene = gaussians(1, batch=g, dtype=dtype), camera(c, dtype=dtype)
            ours, theirs = (voge.trace(*scene, max_hits=max_hits, backend=b) for b in ("cpu", "reference"))
            assert_same(ours, theirs)
            batch = torch.broadcast_shapes(g, c)
            shape = (*batch, 6, 9)
            if max_hits:
                assert ours.weights.shape == (*shape, 4)
            x = torch.rand(15, 2, dtype=dtype)
            assert ours.interpolate(x).shape == (*shape, 2)
            assert ours.alpha().shape == shape
            features, total = ours.sample(torch.rand(*shape, 3, dtype=dtype))
            assert features.shape == (*batch, 15, 3)
            assert total.shape == ours.visibility("max").shape == (*batch, 15)


def test_trace_equals_definition_on_rays_without_a_camera():
    g, rng = gaussians(2), np.random.default_rng(5)
    density = g.density.numpy()
    origins, directions = rng.normal(size=(7, 3)) * 0.1, rng.normal(size=(7, 3)) * 0.1 + [0, 0, 2]
    valid = torch.arange(7) != 3
    directions[3] = np.nan
    f = voge.trace(g, voge.Rays(torch.tensor(origins), torch.tensor(directions), valid), max_hits=15)
    for r in range(7):
        hits = (
            [] if r == 3 else definition.hits(g.means.numpy(), g.precisions.numpy(), density, origins[r], directions[r])
        )
        n = len(hits)
        assert f.indices[r, :n].tolist() == [h[0] for h in hits]
        assert (f.indices[r, n:] == -1).all()
        np.testing.assert_allclose(f.weights[r, :n], definition.weights(hits), rtol=1e-9)
    assert (f.indices >= 0).sum() > 20


@pytest.mark.parametrize("max_hits", [None, 5])
def test_interpolate_equals_render(max_hits):
    x = torch.rand(15, 4, dtype=torch.float64)
    f = voge.trace(gaussians(), camera(), max_hits=max_hits)
    image = voge.render(gaussians(), camera(), x, max_hits=max_hits)
    torch.testing.assert_close(f.interpolate(x), image.features)
    torch.testing.assert_close(f.alpha(), image.alpha)


@pytest.mark.parametrize("max_hits", [None, 5])
def test_sample_is_the_transpose_of_interpolate(max_hits):
    f = voge.trace(gaussians(batch=(2,)), camera((2,)), max_hits=max_hits)
    x, image = torch.rand(2, 15, 3, dtype=torch.float64), torch.rand(2, 6, 9, 3, dtype=torch.float64)
    features, total = f.sample(image)
    torch.testing.assert_close((f.interpolate(x) * image).sum(), (x * features).sum())
    torch.testing.assert_close(total, f.visibility())
    torch.testing.assert_close(total.sum(), f.weights.sum())


@pytest.mark.parametrize("max_hits", [None, 5])
def test_visibility(max_hits):
    f = voge.trace(gaussians(), camera(), max_hits=max_hits)
    for reduce, fold in (("sum", sum), ("max", max)):
        seen = [[0.0] for _ in range(15)]
        for k, w in zip(f.indices.flatten().tolist(), f.weights.flatten().tolist(), strict=True):
            if k >= 0:
                seen[k].append(w)
        torch.testing.assert_close(f.visibility(reduce), torch.tensor([fold(s) for s in seen], dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("max_hits", [None, 6])
def test_trace_gradcheck_rays(max_hits, rule):
    """Threshold 0: every Gaussian in front of the ray is hit, wherever the differences step."""
    g = gaussians(3, n=4)
    origins = torch.tensor([[0.1, 0, 0]], dtype=torch.float64)
    directions = torch.tensor([[0.1, 0.05, 1], [-0.2, 0.3, 2]], dtype=torch.float64)
    inputs = [g.means, g.precisions * 0.2, g.density, origins, directions, torch.tensor(1.2, dtype=torch.float64)]
    inputs = [x.clone().requires_grad_() for x in inputs]

    def run(means, precisions, density, origins, directions, absorptivity):
        scene = voge.Gaussians(means, precisions, density), voge.Rays(origins, directions)
        options = {"max_hits": max_hits, "threshold": 0, "quadrature": rule[0], "points": rule[1]}
        f = voge.trace(*scene, absorptivity=absorptivity, **options)
        hit = f.indices >= 0
        assert hit.sum() == 8
        return f.weights, f.lengths, f.peaks, f.widths

    assert gradcheck(run, inputs)


def test_trace_gradcheck_camera_and_shared_batches():
    g, c = gaussians(4, n=3), camera((2,), size=(1, 2))
    inputs = [x.clone().requires_grad_() for x in (g.means, g.density, c.R, c.t, torch.rand(3, 2, dtype=torch.float64))]

    def run(means, density, R, t, x):
        f = voge.trace(
            voge.Gaussians(means, g.precisions, density), voge.Cameras(R, t, c.K, image_size=(1, 2)), threshold=0
        )
        return f.interpolate(x), f.alpha(), f.visibility("max"), *f.sample(f.interpolate(x))

    assert gradcheck(run, inputs)


@pytest.mark.parametrize("max_hits", [None, 5])
def test_gradients_equal_the_reference(max_hits):
    g, c = gaussians(5, batch=(2, 1)), camera((3,))
    factor = torch.rand(2, 3, 6, 9, 3, dtype=torch.float64)
    grads = []
    for backend in ("cpu", "reference"):
        inputs = [x.clone().requires_grad_() for x in (g.means, g.precisions, g.density, c.R, c.t, c.K)]
        x = torch.linspace(-1, 1, 45, dtype=torch.float64).reshape(15, 3).requires_grad_()
        scene = voge.Gaussians(*inputs[:3]), voge.Cameras(*inputs[3:], image_size=(6, 9))
        f = voge.trace(*scene, max_hits=max_hits, points=2, backend=backend)
        loss = (f.interpolate(x) * factor).sum() + (f.lengths * f.weights / f.widths).sum()
        grads.append(torch.autograd.grad(loss, [*inputs, x]))
    for a, b in zip(*grads, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("max_hits", [None, 4])
def test_products_have_derivatives_of_any_order(max_hits):
    """gather, scatter and pair: native against the plain torch bodies, first and second differences."""
    f = voge.trace(gaussians(6, batch=(2,), n=5), camera((2,), size=(2, 3)), max_hits=max_hits)
    indices, offsets = f._flat(f.indices), f._offsets
    w = torch.rand(indices.shape, dtype=torch.float64, requires_grad=True)
    y = torch.rand(12, 2, dtype=torch.float64, requires_grad=True)
    for items in (1, 2):
        x = torch.rand(items, 5, 2, dtype=torch.float64, requires_grad=True)
        calls = (
            (ops.gather, (w, indices, offsets, x)),
            (ops.scatter, (w, indices, offsets, y, items, 5)),
            (ops.pair, (x, y, indices, offsets)),
        )
        for op, args in calls:
            torch.testing.assert_close(op(*args), op._init_fn(*args))
            assert gradcheck(op, args)
            assert gradgradcheck(op, args)


def test_second_derivatives_of_trace_are_refused():
    g = gaussians()
    means = g.means.clone().requires_grad_()
    f = voge.trace(voge.Gaussians(means, g.precisions, g.density), camera())
    (grad,) = torch.autograd.grad(f.alpha().sum(), means, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivatives"):
        grad.sum().backward()


@pytest.mark.parametrize("max_hits", [None, 4])
def test_opcheck(max_hits):
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
        (ops.hits, (indices, offsets, *scene, False)),
        (ops.weights, (*slots, offsets, "segments", 2)),
        (ops.gather, (w, indices, offsets, x)),
        (ops.scatter, (w, indices, offsets, y, 2, 6)),
        (ops.pair, (x, y, indices, offsets)),
    ):
        torch.library.opcheck(op, args, test_utils=tests)


@pytest.mark.parametrize("max_hits", [None, 4])
def test_compile_fullgraph(max_hits):
    g, c, x = gaussians(), camera(), torch.rand(15, 3, dtype=torch.float64)

    def loss(means):
        f = voge.trace(voge.Gaussians(means, g.precisions, g.density), c, max_hits=max_hits)
        return (f.interpolate(x) ** 2).sum() + f.sample(f.interpolate(x))[0].sum()

    capture = contextlib.nullcontext()
    if max_hits is None:  # a result whose size depends on the data
        capture = torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True)
    with capture:
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        a, b = (means.clone().requires_grad_() for means in (g.means, g.means))
        compiled(a).backward()
    loss(b).backward()
    torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("max_hits", [None, 20])
def test_threads_change_no_bit(max_hits):
    g, c = gaussians(8, n=200, batch=(2,), dtype=torch.float32), camera((2,), dtype=torch.float32, size=(33, 40))
    x, results, before = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)), [], torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            inputs = [t.clone().requires_grad_() for t in (g.means, g.precisions, g.density, c.R, c.t, x)]
            f = voge.trace(voge.Gaussians(*inputs[:3]), voge.Cameras(*inputs[3:5], c.K, image_size=(33, 40)), max_hits)
            y = f.interpolate(inputs[5])
            features, total = f.sample(y)
            (features.square().mean() + total.mean() + f.visibility("max").mean()).backward()
            results.append(
                [f.indices, f.weights, y, features, total, *(t.grad for t in (inputs[0], *inputs[1:3], inputs[5]))]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_nothing_to_hit():
    for g in (gaussians(n=0), gaussians()):
        for max_hits in (None, 3):
            for backend in ("cpu", "reference"):
                f = voge.trace(g, camera(), max_hits=max_hits, near=100.0, backend=backend)
                assert (f.indices == -1).all()
                assert f.alpha().shape == (6, 9)
                assert (f.alpha() == 0).all()
                assert f.interpolate(torch.ones(g.num, 2, dtype=torch.float64)).abs().max() == 0
                features, total = f.sample(torch.ones(6, 9, 2, dtype=torch.float64))
                assert features.shape == (g.num, 2)
                assert total.shape == f.visibility("max").shape == (g.num,)
                assert not features.any()
                assert not f.visibility("max").any()


def test_bad_input_is_named():
    g, c = gaussians(batch=(2,)), camera((2,))
    f = voge.trace(g, c)
    double = {"dtype": torch.float64}
    for call, error, message in (
        (lambda: f.interpolate(torch.ones(14, 3, **double)), ValueError, "x"),
        (lambda: f.interpolate(torch.ones(15, 3)), TypeError, "x"),
        (lambda: f.interpolate(np.ones((15, 3))), TypeError, "x"),
        (lambda: f.interpolate(torch.ones(3, 15, 3, **double)), ValueError, "x: .*broadcasts to .2,."),
        (lambda: f.sample(torch.ones(9, 6, 3, **double)), ValueError, "image"),
        (lambda: f.sample(torch.ones(4, 6, 9, 3, **double)), ValueError, "image: .*broadcasts to .2,."),
        (lambda: f.visibility("mean"), ValueError, "reduce"),
        (lambda: voge.trace(g, c, max_hits=0), ValueError, "max_hits"),
        (lambda: voge.trace(g, c, quadrature="segments", points=6), ValueError, "points"),
        (lambda: voge.trace(voge.Gaussians(g.means, -g.precisions), c), ValueError, "precisions.*positive definite"),
        (lambda: voge.trace(g, "camera"), TypeError, "camera"),
    ):
        with pytest.raises(error, match=message):
            call()


def test_an_index_out_of_range_is_refused_before_it_is_read():
    w, offsets = torch.ones(1, 1, 1, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
    for k in (3, -2):
        indices = torch.full((1, 1, 1), k)
        with pytest.raises(ValueError, match="indices"):
            ops.gather(w, indices, offsets, torch.ones(1, 3, 1, dtype=torch.float64))
        with pytest.raises(ValueError, match="indices"):
            ops.scatter(w, indices, offsets, torch.ones(1, 1, dtype=torch.float64), 1, 3)
