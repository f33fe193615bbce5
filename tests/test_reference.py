"""voge.reference against an independent definition in NumPy, closed forms, quadrature and finite differences."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from torch.autograd import gradcheck, gradgradcheck

from tests import definition
from voge import reference

RULES = [*(("hermite", n) for n in (1, 2, 5)), *(("segments", n) for n in reference.CUTS)]


def scene(seed, n=12, rays=9, channels=3, batch=()):
    """Anisotropic Gaussians two to five units ahead of rays that spread around +z; float64."""
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(*batch, n, 3, 3))
    means = rng.normal(size=(*batch, n, 3)) * [0.5, 0.5, 0.7] + [0, 0, 3.5]
    precisions = axes @ np.swapaxes(axes, -1, -2) * 2 + 3 * np.eye(3)
    density = rng.uniform(0.3, 2.0, (*batch, n))
    features = rng.normal(size=(*batch, n, channels))
    origins = rng.normal(size=(*batch, rays, 3)) * 0.05
    directions = np.concatenate([rng.normal(size=(*batch, rays, 2)) * 0.1, np.ones((*batch, rays, 1))], -1) * 1.7
    return [torch.tensor(x) for x in (means, precisions, density, features, origins, directions)]


def ray(seed, shape=(8,), peak=2.0):
    rng = np.random.default_rng(seed)
    return [
        torch.tensor(x)
        for x in (rng.uniform(0.01, peak, shape), rng.uniform(1, 3, shape), rng.uniform(0.05, 0.6, shape))
    ]


@pytest.mark.parametrize("medium", ["ray", "world"])
@pytest.mark.parametrize("points", [1, 5])
@pytest.mark.parametrize("max_hits", [None, 3, 20])
def test_render_equals_definition(medium, points, max_hits):
    means, precisions, density, features, origins, directions = scene(0)
    options = {
        "max_hits": max_hits,
        "threshold": 0.02,
        "near": 2.8,
        "absorptivity": 1.3,
        "medium": medium,
        "points": points,
    }
    ours = reference.render(means, precisions, density, features, origins, directions, **options)[:3]
    truth = definition.render(
        *(x.numpy() for x in (means, precisions, density, features, origins, directions)), **options
    )
    assert truth[1].max() > 0.5
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_trace_equals_definition():
    means, precisions, density, _, origins, directions = scene(1)
    indices, weights, lengths, peaks, widths = reference.trace(means, precisions, density, origins, directions)
    counts = []
    for r in range(len(directions)):
        hits = definition.hits(*(x.numpy() for x in (means, precisions, density, origins[r], directions[r])))
        n = len(hits)
        counts.append(n)
        np.testing.assert_allclose(torch.stack([indices, lengths, peaks, widths], -1)[r, :n], hits, rtol=1e-9)
        np.testing.assert_allclose(weights[r, :n], definition.weights(hits), rtol=1e-9)
        empty = [x[r, n:].tolist() for x in (indices, weights, lengths, peaks, widths)]
        assert empty == [[v] * (indices.shape[-1] - n) for v in reference.EMPTY]
    assert indices.shape[-1] == max(counts) > min(counts)


def test_max_hits_keeps_the_nearest_and_ties_go_to_the_lower_index():
    lengths = torch.tensor([[3.0, 1.0, 2.0, 1.0, -1.0, 1.0]])
    q = torch.tensor([[0.0, -0.1, 0.0, -0.2, 0.0, -9.0]])
    assert reference.select(lengths, q).tolist() == [[True, True, True, True, False, False]]
    assert reference.select(lengths, q, max_hits=1).tolist() == [[False, True, False, False, False, False]]
    assert reference.select(lengths, q, max_hits=3).tolist() == [[False, True, True, True, False, False]]
    assert reference.select(lengths, q, near=1.0).tolist() == [[True, False, True, False, False, False]]
    assert reference.select(lengths, q, threshold=0).tolist() == [[True, True, True, True, False, True]]
    assert not reference.select(lengths, q - 24, threshold=0).any()


def test_broadcasts_batches():
    means, precisions, density, features, origins, directions = scene(2, batch=(2,))
    together = reference.render(
        means[:, None], precisions[:, None], density[:, None], features[:, None], origins, directions, points=2
    )
    for i in range(2):
        for j in range(2):
            alone = reference.render(
                means[i], precisions[i], density[i], features[i], origins[j], directions[j], points=2
            )
            for a, b in zip(together, alone, strict=True):
                torch.testing.assert_close(a[i, j], b)


def test_one_origin_serves_all_rays_and_directions_need_no_unit_length():
    means, precisions, density, features, origins, directions = scene(3)
    a = reference.render(means, precisions, density, features, origins[:1], directions)
    b = reference.render(means, precisions, density, features, origins[:1].expand_as(directions), directions * 5)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y)


def test_chunks_of_rays_change_nothing(monkeypatch):
    args = scene(4, batch=(2,))
    valid = torch.rand(2, 9, generator=torch.Generator().manual_seed(0)) > 0.2
    whole = reference.render(*args, valid=valid)
    monkeypatch.setattr(reference, "CHUNK", 2 * 12 * 2)
    for a, b in zip(reference.render(*args, valid=valid), whole, strict=True):
        torch.testing.assert_close(a, b)


def test_invalid_rays_are_background_whatever_they_hold():
    means, precisions, density, features, origins, directions = scene(5)
    valid = torch.arange(len(directions)) % 2 == 0
    directions[1], directions[3], origins[3] = 0, math.nan, math.inf
    inputs = [x.requires_grad_() for x in (means, precisions, density, features, origins, directions)]
    out = reference.render(*inputs, valid=valid)
    assert all((x[~valid] == 0).all() for x in out)
    assert (out[1][valid] > 0).any()
    grads = torch.autograd.grad(sum(x.sum() for x in out), inputs)
    assert all(g.isfinite().all() for g in grads)
    assert (grads[-1][~valid] == 0).all()


@pytest.mark.parametrize("quadrature", ["hermite", "segments"])
def test_no_gaussians_and_no_hits_give_zero(quadrature):
    means, precisions, density, features, origins, directions = scene(6)
    for count, near in ((0, 0.0), (12, 99.0)):
        for max_hits in (None, 4):
            inputs = [x[:count].clone().requires_grad_() for x in (means, precisions, density, features)]
            options = {"near": near, "max_hits": max_hits, "quadrature": quadrature}
            out = reference.render(*inputs, origins, directions, **options)[:3]
            assert [x.shape for x in out] == [(9, 3), (9,), (9,)]
            assert all((x == 0).all() for x in out)
            grads = torch.autograd.grad(sum(x.sum() for x in out), inputs, allow_unused=True)
            assert all(g is None or (g == 0).all() for g in grads)


def test_world_medium_is_the_volume_seen_from_every_side():
    means, precisions, density, _, origins, directions = scene(7, n=1, rays=3)
    for direction in directions:
        _, peaks, _, _ = reference.hits(means, precisions, density, origins[:1], direction[None], 0.7, "world")
        d = direction / direction.norm()
        t = torch.linspace(-20, 20, 20001, dtype=torch.float64)
        x = origins[0] + t[:, None] * d - means[0]
        rho = 0.7 * density[0] * torch.exp(-0.5 * (x @ precisions[0] * x).sum(-1))
        torch.testing.assert_close(peaks[0, 0], torch.trapezoid(rho, t))


def test_asymmetric_precisions_are_symmetrised():
    means, precisions, density, _, origins, directions = scene(8)
    skew = torch.zeros(3, 3, dtype=torch.float64)
    skew[0, 1], skew[1, 0] = 0.5, -0.5
    for a, b in zip(
        *(reference.hits(means, p, density, origins, directions) for p in (precisions, precisions + skew)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_a_lone_gaussian_is_exact_with_segments():
    for a in (1e-9, 1e-3, 0.7, 50.0):
        peaks, lengths, widths = (torch.tensor([x], dtype=torch.float64) for x in (a, 2.0, 0.3))
        for points in reference.CUTS:
            torch.testing.assert_close(
                reference.segments(peaks, lengths, widths, points).sum(), -torch.expm1(-peaks).sum(), rtol=1e-12, atol=0
            )


def test_two_coincident_thin_hits_have_the_known_weights():
    # Equal Gaussians share their absorption; hermite at one point sees half of the depth of both.
    peaks, lengths, widths = (torch.tensor(x, dtype=torch.float64) for x in ([1.0, 1], [2.0, 2], [0.1, 0.1]))
    torch.testing.assert_close(reference.hermite(peaks, lengths, widths), torch.full_like(peaks, math.exp(-1)))
    torch.testing.assert_close(reference.segments(peaks, lengths, widths), torch.full_like(peaks, -math.expm1(-2) / 2))
    torch.testing.assert_close(reference.exact(peaks, lengths, widths), torch.full_like(peaks, -math.expm1(-2) / 2))


def test_exact_agrees_with_adaptive_quadrature():
    from scipy.integrate import quad

    peaks, lengths, widths = (x.numpy() for x in ray(0, (4,), 5.0))
    for k, weight in enumerate(reference.exact(*map(torch.tensor, (peaks, lengths, widths)))):

        def absorbed(t, k=k):
            return (
                peaks[k] * norm.pdf(t, lengths[k], widths[k]) * math.exp(-(peaks * norm.cdf(t, lengths, widths)).sum())
            )

        assert abs(quad(absorbed, -4, 8, limit=500, epsabs=1e-11)[0] - weight) < 1e-9


@pytest.mark.parametrize("rule", RULES)
def test_rules_approach_the_quadrature(rule):
    """Mean relative error of a dense cloud of 60 hits."""
    quadrature, points = rule
    limits = {"hermite": {1: 0.3, 2: 0.15, 5: 0.03}, "segments": {1: 2e-2, 2: 6e-4, 3: 2e-4, 4: 6e-5, 5: 2e-5}}
    rng = np.random.default_rng(0)
    rays = [(np.exp(-rng.uniform(0, 4.6, 60)), rng.uniform(0, 6, 60), rng.uniform(0.05, 0.6, 60)) for _ in range(5)]
    rays = [torch.tensor(np.stack(x)) for x in zip(*rays, strict=True)]
    truth = reference.exact(*rays)
    error = ((getattr(reference, quadrature)(*rays, points) - truth).abs().sum(-1) / truth.sum(-1)).mean()
    assert error < limits[quadrature][points]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(1e-9, 60), st.floats(-2, 2), st.floats(-2, 1)), min_size=1, max_size=10),
    st.sampled_from(list(reference.CUTS)),
    st.randoms(use_true_random=False),
)
def test_segments_is_a_partition_without_an_order(hits, points, random):
    peaks, lengths, widths = torch.tensor(hits, dtype=torch.float64).T
    widths = 10**widths
    weights = reference.segments(peaks, lengths, widths, points)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(), -torch.expm1(-peaks.sum()), rtol=1e-12, atol=1e-15)
    order = random.sample(range(len(hits)), len(hits))
    torch.testing.assert_close(reference.segments(peaks[order], lengths[order], widths[order], points), weights[order])


@pytest.mark.parametrize("rule", RULES)
def test_absent_hits_are_inert(rule):
    quadrature, points = rule
    weigh = getattr(reference, quadrature)
    hits = ray(1, (3, 5))
    inert = [torch.tensor([[v, v]], dtype=torch.float64).expand(3, 2) for v in (0.0, 0.0, 1.0)]
    padded = [torch.cat([x, y], -1).requires_grad_() for x, y in zip(hits, inert, strict=True)]
    hits = [x.requires_grad_() for x in hits]
    factor = torch.linspace(-1, 2, 7, dtype=torch.float64)
    a, b = weigh(*hits, points), weigh(*padded, points)
    torch.testing.assert_close(b[:, :5], a)
    assert (b[:, 5:] == 0).all()
    for x, y in zip(
        *(torch.autograd.grad((w * factor[: w.shape[-1]]).sum(), v) for w, v in ((a, hits), (b, padded))), strict=True
    ):
        torch.testing.assert_close(y[:, :5], x)
        assert y.isfinite().all()


@pytest.mark.parametrize("rule", RULES)
def test_weights_gradcheck(rule):
    quadrature, points = rule
    hits = [x.requires_grad_() for x in ray(2, (2, 5))]
    assert gradcheck(lambda *h: getattr(reference, quadrature)(*h, points), hits)


def test_exact_gradcheck_and_segments_gradients_approach_it():
    hits = [x.requires_grad_() for x in ray(3, (4,))]
    assert gradcheck(reference.exact, hits)
    factor = torch.tensor([1.0, -0.5, 2.0, 0.3], dtype=torch.float64)
    truth, ours = (
        torch.autograd.grad((w * factor).sum(), hits) for w in (reference.exact(*hits), reference.segments(*hits, 5))
    )
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("rule", [("hermite", 1), ("hermite", 3), ("segments", 2)])
@pytest.mark.parametrize("medium", ["ray", "world"])
def test_render_gradcheck(rule, medium):
    quadrature, points = rule
    inputs = [*scene(9, n=4, rays=2, channels=2), torch.tensor(1.3, dtype=torch.float64)]
    inputs = [x.requires_grad_() for x in inputs]

    def run(*inputs):
        *inputs, absorptivity = inputs
        return reference.render(
            *inputs, threshold=0, absorptivity=absorptivity, medium=medium, quadrature=quadrature, points=points
        )

    assert gradcheck(run, inputs)


def test_hits_and_hermite_gradgradcheck():
    means, precisions, density, _, origins, directions = (x.requires_grad_() for x in scene(10, n=2, rays=1))
    assert gradgradcheck(lambda *x: reference.hits(*x), (means, precisions, density, origins, directions))
    assert gradgradcheck(lambda *h: reference.hermite(*h, 2), [x.requires_grad_() for x in ray(4, (3,))])


def test_float32_stays_close_for_distant_thin_gaussians():
    """(V - l d)' P (V - l d) keeps the digits that c - b^2 / a loses."""
    args = [
        torch.tensor(x, dtype=torch.float64)
        for x in ([[0.003, 0.002, 600.0]], [(np.eye(3) * 2e4).tolist()], [1.0], [[0.0, 0, 0]], [[0.0, 0, 1]])
    ]
    single = [reference.hits(*(x.float() for x in args))[1], reference.hits(*args)[1]]
    torch.testing.assert_close(single[0].double(), single[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"medium": "fog"}, "medium must be"),
        ({"quadrature": "simpson"}, "quadrature must be"),
        ({"points": 0}, "points must be"),
        ({"quadrature": "segments", "points": 6}, "points of segments"),
    ],
)
def test_unknown_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        reference.render(*scene(11), **options)
