"""The kernels that weigh hits in slots, called directly: hard rays, slots in any order, memory of either kind."""

import pytest
import torch

from tests.cuda_emulation.launcher import EmulatedLauncher
from voge import reference
from voge.backends.cuda_launch import hit_values

RULES = [("hermite", 1), ("hermite", 3), ("segments", 1), ("segments", 2)]


def weigh(lengths, peaks, widths, quadrature, points, upstream=None, shared=True):
    """Weights (rays, slots), with `upstream` the gradients of lengths, peaks and widths instead."""
    rays, slots = lengths.shape
    values = hit_values(lengths.dtype, quadrature == "segments", points, backward=upstream is not None)
    scratch = None if shared else lengths.new_full((rays * values * slots,), torch.nan)
    arrays = [torch.full_like(lengths, torch.nan) for _ in range(1 if upstream is None else 3)]
    inputs = [x.contiguous() for x in (lengths, peaks, widths)]
    numbers = [None, slots, rays, int(quadrature == "segments"), points, slots if shared else 0, slots, scratch]
    EmulatedLauncher().launch(
        "weigh_slots" + ("_backward" if upstream is not None else "") + f"_f{lengths.element_size() * 8}",
        rays,
        32,
        [*inputs, *numbers, *([] if upstream is None else [upstream.contiguous()]), *arrays],
        shared * slots * values * lengths.element_size(),
    )
    return arrays[0] if upstream is None else arrays


def rays(seed, count=40, n=2):
    g = torch.Generator().manual_seed(seed)
    uniform = torch.rand(3, n, count, generator=g, dtype=torch.float64)
    return uniform[0] * 8 + 1, uniform[1] * 0.6 + 0.02, uniform[2] * 0.4 + 0.05


HARD = {  # lengths, peaks, widths
    "opaque": ([3.0, 3.2, 3.1, 4.0, 2.5], [60.0, 25.0, 8.0, 40.0, 5.0], [0.2, 0.3, 0.1, 0.4, 0.3]),
    "nested": ([5.0, 5.02, 4.9, 3.0, 7.0], [2.0, 1.0, 3.0, 0.5, 0.7], [10.0, 0.1, 0.2, 0.1, 5.0]),
    "same place": ([3.0, 3.0, 3.0, 3.0, 3.0], [0.4, 0.9, 0.2, 1.4, 0.6], [0.3, 0.5, 0.2, 0.9, 0.4]),
}


@pytest.mark.parametrize("ray", HARD)
@pytest.mark.parametrize(("quadrature", "points"), RULES)
def test_hard_rays_equal_the_reference(ray, quadrature, points):
    lengths, peaks, widths = (torch.tensor([x], dtype=torch.float64, requires_grad=True) for x in HARD[ray])
    rule = reference.hermite if quadrature == "hermite" else reference.segments
    want = rule(peaks, lengths, widths, points)
    hits = [x.detach() for x in (lengths, peaks, widths)]
    torch.testing.assert_close(weigh(*hits, quadrature, points), want.detach(), rtol=0, atol=1e-12)
    upstream = torch.linspace(-1, 1, 5, dtype=torch.float64)[None]
    grads = torch.autograd.grad((want * upstream).sum(), (lengths, peaks, widths))
    for got, grad in zip(weigh(*hits, quadrature, points, upstream), grads, strict=True):
        torch.testing.assert_close(got, grad, rtol=0, atol=1e-11 * (1 + grad.abs().max().item()))


@pytest.mark.parametrize(("quadrature", "points"), RULES)
def test_slots_in_any_order_with_empty_ones_between(quadrature, points):
    lengths, peaks, widths = rays(0)
    upstream = torch.randn(lengths.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    order = lengths.argsort(-1)
    plain = [x.gather(-1, order) for x in (lengths, peaks, widths, upstream)]
    holes = [x.new_full((2, 80), y) for x, y in zip(plain, (9.0, 0.0, 1.0, 7.0), strict=True)]
    place = torch.stack([torch.randperm(80, generator=torch.Generator().manual_seed(k))[:40] for k in range(2)])
    for x, y in zip(holes, plain, strict=True):
        x.scatter_(-1, place, y)
    empty = torch.ones(2, 80, dtype=torch.bool).scatter(-1, place, False)
    for backward in (False, True):
        want = weigh(*plain[:3], quadrature, points, *plain[3:] * backward)
        got = weigh(*holes[:3], quadrature, points, *holes[3:] * backward)
        for a, b in zip(got, want, strict=True) if backward else ((got, want),):
            assert torch.equal(a.gather(-1, place), b)
            assert (a[empty] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("quadrature", "points"), RULES)
def test_either_memory_gives_the_same_bits(quadrature, points, dtype):
    hits = [x.to(dtype) for x in rays(2, count=33)]
    upstream = torch.ones_like(hits[0])
    assert torch.equal(weigh(*hits, quadrature, points), weigh(*hits, quadrature, points, shared=False))
    both = (weigh(*hits, quadrature, points, upstream, shared=shared) for shared in (True, False))
    for a, b in zip(*both, strict=True):
        assert torch.equal(a, b)
