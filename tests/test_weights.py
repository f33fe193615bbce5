"""The kernels' weights of hostile rays: a partition of what is absorbed, without an order, near the integral."""

import numpy as np
import pytest
import torch

from voge import _cpu, reference
from voge.backends import fragments as ops


def hostile(name, rays=9, seed=0):
    """Peaks, lengths and widths (rays, K) in float64."""
    g = np.random.default_rng(seed)

    def draw(make):
        return [torch.from_numpy(np.stack(x)) for x in zip(*(make() for _ in range(rays)), strict=True)]

    cases = {
        "coincident": lambda: (np.full(6, 0.8), np.full(6, 3.0), np.full(6, 0.25)),
        "nearly coincident": lambda: (np.full(6, 0.8), 3 + g.normal(0, 1e-4, 6), g.uniform(0.1, 0.5, 6)),
        "nested 1:100": lambda: (np.array([2, 2, 2, 0.5]), 2 + g.normal(0, 0.05, 4), np.array([1, 0.1, 0.01, 0.5])),
        "opaque": lambda: (50 * np.exp(-g.uniform(0, 4.6, 8)), g.uniform(0, 3, 8), g.uniform(0.1, 0.5, 8)),
        "very opaque": lambda: (np.full(5, 1e4), 4 + g.uniform(0, 1, 5), g.uniform(0.1, 0.5, 5)),
        "grazing": lambda: (10.0 ** g.uniform(-8, -2, 30), g.uniform(0, 5, 30), g.uniform(0.05, 0.5, 30)),
        "wall in fog": lambda: (np.array([30.0, 3, 3]), 2 + g.normal(0, 0.3, 3), np.array([0.01, 1, 1.5])),
        "far away": lambda: (g.uniform(0.01, 1, 20), 1e4 + np.sort(g.uniform(0, 1, 20)), np.full(20, 0.1)),
        "500 hits": lambda: (np.exp(-g.uniform(0, 6, 500)), g.uniform(0, 20, 500), g.uniform(0.05, 0.8, 500)),
        "one": lambda: (g.uniform(0.01, 9, 1), np.full(1, 2.0), np.full(1, 0.3)),
    }
    return draw(cases[name])


NAMES = ["coincident", "nearly coincident", "nested 1:100", "opaque", "very opaque", "grazing", "wall in fog"]
NAMES += ["far away", "500 hits", "one"]


def weigh(hits, points, dtype, quadrature="segments"):
    peaks, lengths, widths = (x.to(dtype) for x in hits)
    return ops.weights(lengths[None], peaks[None], widths[None], torch.empty(0, dtype=torch.int64), quadrature, points)[
        0
    ]


@pytest.mark.parametrize("isa", _cpu.isas())
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_segments_is_a_partition_without_an_order(name, dtype, isa, monkeypatch):
    monkeypatch.setenv("VOGE_ISA", isa)
    hits = hostile(name)
    tolerance = 4e-6 if dtype == torch.float32 else 1e-11
    absorbed = -torch.expm1(-hits[0].sum(-1))
    turn = torch.randperm(hits[0].shape[-1], generator=torch.Generator().manual_seed(1))
    for points in (1, 2, 3, 5):
        weights = weigh(hits, points, dtype)
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(-1).double(), absorbed, rtol=tolerance, atol=1e-12)
        shuffled = weigh([x[:, turn] for x in hits], points, dtype)
        torch.testing.assert_close(shuffled, weights[:, turn], rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("name", "points", "error"),
    [
        ("nearly coincident", 1, 0.1),
        ("nearly coincident", 3, 2e-3),
        ("opaque", 1, 0.05),
        ("opaque", 5, 1e-3),
        ("wall in fog", 2, 0.03),
        ("nested 1:100", 2, 0.03),
        ("nested 1:100", 5, 5e-3),
        ("one", 1, 1e-6),
    ],
)
def test_segments_is_near_the_integral(name, points, error):
    hits = hostile(name)
    exact = reference.exact(*hits)
    wrong = (weigh(hits, points, torch.float32).double() - exact).abs().sum(-1) / exact.sum(-1)
    assert wrong.mean() < error


@pytest.mark.parametrize("quadrature", ["hermite", "segments"])
@pytest.mark.parametrize("name", ["nearly coincident", "nested 1:100", "opaque", "grazing"])
def test_gradients_equal_the_reference(name, quadrature):
    hits = [x.requires_grad_() for x in hostile(name)]
    upstream = torch.randn(hits[0].shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    peaks, lengths, widths = hits
    for points in (1, 2):
        rule = reference.hermite if quadrature == "hermite" else reference.segments
        want = torch.autograd.grad((rule(peaks, lengths, widths, points) * upstream).sum(), hits)
        weights = ops.weights(
            lengths[None], peaks[None], widths[None], torch.empty(0, dtype=torch.int64), quadrature, points
        )
        got = torch.autograd.grad((weights[0] * upstream).sum(), hits)
        for a, b in zip(got, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * b.abs().max().item())


def test_faint_beside_dense_is_continuous():
    """A thick faint Gaussian's share falls smoothly as a thin dense one passes out of reach."""
    offsets = torch.linspace(2.0, 14.0, 600, dtype=torch.float64)
    one = torch.ones_like(offsets)
    hits = [
        torch.stack([0.5 * one, 20 * one], -1),
        torch.stack([5 * one, 5 + 0.05 * offsets], -1),
        torch.stack([one, 0.05 * one], -1),
    ]
    for dtype, jump in ((torch.float32, 2e-5), (torch.float64, 1e-9)):
        weights = weigh(hits, 1, dtype).double()
        second = weights.diff(dim=0).diff(dim=0)[:, 0].abs()
        assert second.max() < 2 * second.median() + 1e-3 * weights.max()
        smooth = weigh(hits, 1, torch.float64)
        assert (weights - smooth).abs().max() < max(jump, 1e-12)
