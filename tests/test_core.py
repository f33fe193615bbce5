"""csrc/core in float and double, compiled alone: forward functions and adjoints against voge.reference, SciPy, torch's
autograd and finite differences. The headers also go through NVRTC, which knows no host and no system header."""

import ctypes
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.polynomial.hermite_e import hermegauss
from scipy.stats import norm

from voge import reference

ROOT = Path(__file__).parents[1]
DTYPES = {"f32": np.float32, "f64": np.float64}
CTYPES = {"f32": ctypes.c_float, "f64": ctypes.c_double}
POINTS = [*(("hermite", n) for n in (1, 2, 3, 8)), *(("segments", n) for n in (1, 2, 3, 4, 5))]


class Core:
    """The harness, with NumPy arrays for pointers and the suffix of the scalar type chosen by the arrays."""

    def __init__(self, path):
        self.library = ctypes.CDLL(str(path))

    def function(self, name, kind, restype=None):
        function = self.library[f"{name}_{kind}"]
        function.restype = restype
        return function

    def scalar(self, name, kind, x):
        """cdf or pdf of every entry of x."""
        function = self.function(name, kind, CTYPES[kind])
        return np.array([function(CTYPES[kind](v)) for v in np.asarray(x, DTYPES[kind])], np.float64)

    def hits(self, kind, means, precisions, density, origin, direction, world=False, grads=None):
        """(length, inverse width, exponent, peak) (n, 4) and positive definite (n,); with grads, the five gradients."""
        inputs = [np.ascontiguousarray(x, DTYPES[kind]) for x in (means, precisions, density, origin, direction)]
        n = len(inputs[0])
        if grads is None:
            out, definite = np.empty((n, 4), DTYPES[kind]), np.empty(n, np.int32)
            self.function("hits", kind)(n, *map(pointer, inputs), int(world), pointer(out), pointer(definite))
            return out, definite.astype(bool)
        out = [np.empty_like(x) for x in inputs]
        grads = np.ascontiguousarray(grads, DTYPES[kind])
        self.function("hits_adjoint", kind)(n, *map(pointer, inputs), int(world), pointer(grads), *map(pointer, out))
        return out

    def weigh(self, kind, quadrature, points, peaks, lengths, widths, grad_weights=None):
        """Weights; given their gradient, also those of peaks, lengths, widths. Scratch starts as NaN and is guarded."""
        hits = [np.ascontiguousarray(x, DTYPES[kind]) for x in (peaks, lengths, 1 / np.asarray(widths, np.float64))]
        n, guard = len(hits[0]), 16
        scratch = np.full(self.library.scratch_values(points, n) + guard, np.nan, DTYPES[kind])
        integers = np.full(self.library.scratch_integers(points, n) + guard, -7, np.int32)
        weights, grads = np.full(n, np.nan, DTYPES[kind]), [np.full(n, np.nan, DTYPES[kind]) for _ in range(3)]
        given_grad = None if grad_weights is None else np.ascontiguousarray(grad_weights, DTYPES[kind])
        self.function("weigh", kind)(
            int(quadrature == "segments"),
            points,
            n,
            *map(pointer, hits),
            pointer(weights),
            None if given_grad is None else pointer(given_grad),
            *map(pointer, grads),
            pointer(scratch),
            pointer(integers),
        )
        assert np.isnan(scratch[-guard:]).all()
        assert (integers[-guard:] == -7).all()
        if grad_weights is None:
            return weights
        grads[2] = -grads[2] * hits[2] ** 2  # of 1 / sigma -> of sigma
        return weights, grads


def pointer(array):
    return array.ctypes.data_as(ctypes.c_void_p)


@pytest.fixture(scope="session")
def core(tmp_path_factory):
    compiler = shlex.split(os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++")), "g++"))
    target = tmp_path_factory.mktemp("core") / "harness.so"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*compiler, *flags, str(ROOT / "tests/core/harness.cpp"), "-o", str(target)], check=True)
    return Core(target)


def scene(seed, n=7):
    rng = np.random.default_rng(seed)
    axes = rng.normal(size=(n, 3, 3))
    precisions = axes @ axes.transpose(0, 2, 1) + np.eye(3)
    means = rng.normal(size=(n, 3)) * 0.5 + [0, 0, 3]
    return means, precisions, rng.uniform(0.3, 2, n), np.array([0.1, -0.2, 0.1]), np.array([0.2, 0.1, 1.4])


def six(matrices):
    """(n, 3, 3) symmetric -> (n, 6): xx xy xz yy yz zz."""
    return matrices[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]


def ray(seed, n=8, peak=2.0):
    rng = np.random.default_rng(seed)
    return rng.uniform(0.01, peak, n), rng.uniform(1, 3, n), rng.uniform(0.05, 0.6, n)


def tensors(*arrays, grad=False):
    return [torch.tensor(np.asarray(x, np.float64), requires_grad=grad) for x in arrays]


HOSTILE = {
    "lone": ([0.8], [2.0], [0.3]),
    "coincident": ([1.0, 0.5, 2.0], [2.0, 2.0, 2.0], [0.2, 0.2, 0.2]),
    "nested 1:100": ([2.0, 2.0, 2.0, 0.5], [2.0, 2.02, 1.97, 2.01], [1.0, 0.1, 0.01, 0.5]),
    "opaque": (50 * np.exp(-np.linspace(0, 4.6, 8)), np.linspace(0, 3, 8), np.linspace(0.1, 0.5, 8)),
    "grazing": ([1e-10, 1.0, 3e-8, 1e-10], [1.0, 1.2, 1.1, 9.0], [0.3, 0.1, 0.2, 0.4]),
    "far apart": ([1.0, 1.0, 1.0], [1.0, 1e3, 2e4], [0.1, 1e-3, 10.0]),
    "wall in fog": ([30.0, 3.0, 3.0], [2.0, 2.2, 2.5], [0.01, 1.0, 1.5]),
    "empty slots": ([1.0, 0.0, 0.7, 0.0], [1.0, 0.0, 1.3, 0.0], [0.2, 1.0, 0.3, 1.0]),
    "nothing": ([0.0, 0.0], [0.0, 0.0], [1.0, 1.0]),
    "no slots": ([], [], []),
    "five hundred": tuple(np.random.default_rng(8).uniform((0.001, 0, 0.02), (0.1, 6, 0.3), (500, 3)).T),
}


# The normal distribution, against SciPy.


@pytest.mark.parametrize(("kind", "eps"), [("f32", 1.2e-7), ("f64", 2.3e-16)])
def test_normal_distribution(core, kind, eps):
    z = np.linspace(-8, 8, 2001).astype(DTYPES[kind]).astype(np.float64)
    cdf = core.scalar("cdf", kind, z)
    np.testing.assert_allclose(cdf, norm.cdf(z), rtol=70 * eps)  # rounding of z sqrt(1/2) grows with z^2
    np.testing.assert_allclose(cdf[z > 0], norm.cdf(z[z > 0]), rtol=0, atol=2 * eps)
    np.testing.assert_allclose(core.scalar("pdf", kind, z), norm.pdf(z), rtol=40 * eps)


def test_hermite_nodes(core):
    node, weight = ctypes.c_double(), ctypes.c_double()
    for points in range(1, 9):
        nodes, weights = hermegauss(points)
        for i in range(points):
            core.function("node", "f64")(points, i, ctypes.byref(node), ctypes.byref(weight))
            assert abs(node.value - nodes[i]) < 2e-15
            assert abs(weight.value - weights[i] / np.sqrt(2 * np.pi)) < 2e-15


# The parts of a lone Gaussian's absorption in front of the cuts, where there are three and more.
SHARES = {3: (0.07, 0.42, 0.85), 4: (0.03, 0.2, 0.55, 0.87), 5: (0.02, 0.1, 0.35, 0.65, 0.9)}


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize("peak", [1e-4, 0.05, 0.7, 8.0, 60.0])
def test_lone_cuts_and_their_derivative(core, kind, peak):
    """The cuts are near their quantiles and equal the reference's; the derivative equals a difference quotient."""
    function = core.function("lone_cut", kind, CTYPES[kind])
    derivative, unused = CTYPES[kind](), CTYPES[kind]()
    for points, polynomials in reference.CUTS.items():
        for i, (b0, b1, b2) in enumerate(polynomials):
            c, s = function(points, i, CTYPES[kind](peak), ctypes.byref(derivative)), peak / (peak + 4)
            assert abs(c - (b0 + b1 * s + b2 * s * s)) < 1e-6
            if points in SHARES:
                x = SHARES[points][i]
                assert abs(c - norm.ppf(-np.log1p(x * np.expm1(-peak)) / peak)) < 0.08
            h = 1e-2 * peak
            ends = [function(points, i, CTYPES[kind](a), ctypes.byref(unused)) for a in (peak - h, peak + h)]
            slope = (ends[1] - ends[0]) / (2 * h)
            assert abs(derivative.value - slope) < {"f32": 2e-6 / h + 1e-3, "f64": 1e-3}[kind] * abs(slope) + 1e-4


# Hits, against the reference.


@pytest.mark.parametrize("medium", ["ray", "world"])
@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 2e-5), ("f64", 1e-12)])
def test_hits(core, kind, tolerance, medium):
    means, precisions, density, origin, direction = scene(0)
    out, definite = core.hits(kind, means, six(precisions), density, origin, direction, medium == "world")
    assert definite.all()
    lengths, peaks, widths, q = (
        x[0].numpy()
        for x in reference.hits(*tensors(means, precisions, density, origin[None], direction[None]), 1.0, medium)
    )
    assert (q > -4).any()
    np.testing.assert_allclose(out, np.stack([lengths, 1 / widths, q, peaks], 1), rtol=tolerance)


@pytest.mark.parametrize("medium", ["ray", "world"])
@pytest.mark.parametrize(("kind", "tolerance"), [("f32", 5e-5), ("f64", 1e-11)])
def test_hits_adjoint(core, kind, tolerance, medium):
    means, precisions, density, origin, direction = scene(1)
    grads = np.random.default_rng(2).normal(size=(len(means), 3))
    inputs = tensors(means, precisions, density, origin[None], direction[None], grad=True)
    lengths, peaks, widths, _ = reference.hits(*inputs, 1.0, medium)
    loss = (torch.stack([lengths[0], peaks[0], 1 / widths[0]], -1) * torch.tensor(grads)).sum()
    truth = [g.numpy() for g in torch.autograd.grad(loss, inputs)]
    truth[1], truth[3], truth[4] = six(truth[1]), truth[3][0], truth[4][0]
    ours = core.hits(kind, means, six(precisions), density, origin, direction, medium == "world", grads)
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * abs(b).max())


def test_cholesky_refuses_what_is_not_positive_definite(core):
    bad = np.array(
        [
            np.diag([1.0, 1.0, -1.0]),
            np.diag([0.0, 1.0, 1.0]),
            [[1, 2, 0], [2, 1, 0], [0, 0, 1]],
            np.full((3, 3), np.nan),
            np.diag([1.0, np.nan, 1]),
        ]
    )
    for kind in DTYPES:
        _, definite = core.hits(kind, np.zeros((5, 3)), six(bad), np.ones(5), np.zeros(3), np.array([0, 0, 1.0]))
        assert not definite.any()


# Weights, against the reference: forward, then adjoint.


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("rule", POINTS, ids=lambda r: f"{r[0]}{r[1]}")
def test_weights(core, rule, name):
    quadrature, points = rule
    hits = HOSTILE[name]
    truth = getattr(reference, quadrature)(*tensors(*hits), points).numpy()
    np.testing.assert_allclose(core.weigh("f64", quadrature, points, *hits), truth, rtol=1e-9, atol=2e-13)
    np.testing.assert_allclose(core.weigh("f32", quadrature, points, *hits), truth, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "no slots"])
@pytest.mark.parametrize("rule", POINTS, ids=lambda r: f"{r[0]}{r[1]}")
def test_weights_adjoint(core, rule, name):
    quadrature, points = rule
    inputs = tensors(*HOSTILE[name], grad=True)
    grad_weights = np.random.default_rng(3).normal(size=len(inputs[0]))
    weights = getattr(reference, quadrature)(*inputs, points)
    truth = [g.numpy() for g in torch.autograd.grad((weights * torch.tensor(grad_weights)).sum(), inputs)]
    _, ours = core.weigh("f64", quadrature, points, *HOSTILE[name], grad_weights)
    hit = np.asarray(HOSTILE[name][0]) > 0  # empty slots have no gradient worth comparing, but a finite one
    for a, b in zip(ours, truth, strict=True):
        assert np.isfinite(a).all()
        if rule[0] == "segments" and name == "coincident":
            continue  # cuts of different hits coincide: a kink
        np.testing.assert_allclose(a[hit], b[hit], rtol=1e-6, atol=1e-8 * max(1, abs(b).max(initial=0)))


@pytest.mark.parametrize("rule", POINTS, ids=lambda r: f"{r[0]}{r[1]}")
def test_weights_adjoint_against_finite_differences(core, rule):
    quadrature, points = rule
    for seed in range(5):
        hits = [np.array(x) for x in ray(seed, peak=2.0 if seed % 2 else 12.0)]
        grad_weights = np.random.default_rng(seed + 50).normal(size=8)
        _, ours = core.weigh("f64", quadrature, points, *hits, grad_weights)
        for values, grad in zip(hits, ours, strict=True):
            for k in range(8):
                ends = []
                for step in (-1e-6, 1e-6):
                    keep, values[k] = values[k], values[k] + step
                    ends.append(core.weigh("f64", quadrature, points, *hits) @ grad_weights)
                    values[k] = keep
                slope = (ends[1] - ends[0]) / 2e-6
                assert abs(slope - grad[k]) < 2e-6 * (1 + abs(slope))


@pytest.mark.parametrize("rule", POINTS, ids=lambda r: f"{r[0]}{r[1]}")
def test_weights_adjoint_in_float(core, rule):
    quadrature, points = rule
    for seed in range(5):
        hits = [x.astype(np.float32).astype(np.float64) for x in ray(seed)]
        grad_weights = np.random.default_rng(seed + 50).normal(size=8).astype(np.float32)
        _, single = core.weigh("f32", quadrature, points, *hits, grad_weights)
        _, double = core.weigh("f64", quadrature, points, *hits, grad_weights)
        for a, b in zip(single, double, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-4 * max(1, abs(b).max()))


hit_lists = st.lists(
    st.tuples(
        st.one_of(st.floats(1e-10, 60), st.sampled_from([1e-10, 1.0, 50.0])),
        st.one_of(st.floats(-2, 2), st.sampled_from([0.0, 0.5])),
        st.one_of(st.floats(-2, 1), st.just(0.0)),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hit_lists, st.sampled_from([1, 2, 3, 4, 5]), st.randoms(use_true_random=False))
def test_segments_partition_any_list(core, hits, points, random):
    """Coincident, nested, opaque, grazing hits: weights >= 0, sum 1 - T(inf), no order, finite gradients."""
    peaks, lengths, widths = np.array(hits).T
    widths = 10**widths
    for kind, tolerance in (("f64", 1e-12), ("f32", 5e-6)):
        weights, grads = core.weigh(kind, "segments", points, peaks, lengths, widths, np.cos(np.arange(len(hits))))
        assert (weights >= 0).all()
        assert abs(weights.sum(dtype=np.float64) + np.expm1(-peaks.sum())) < tolerance
        assert all(np.isfinite(g).all() for g in grads)
        order = random.sample(range(len(hits)), len(hits))
        again = core.weigh(kind, "segments", points, peaks[order], lengths[order], widths[order])
        np.testing.assert_allclose(again, weights[order], rtol=0, atol=100 * tolerance)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(hit_lists, st.sampled_from(POINTS))
def test_weights_of_any_list(core, hits, rule):
    quadrature, points = rule
    peaks, lengths, widths = np.array(hits).T
    truth = getattr(reference, quadrature)(*tensors(peaks, lengths, 10**widths), points).numpy()
    ours = core.weigh("f64", quadrature, points, peaks, lengths, 10**widths)
    np.testing.assert_allclose(ours, truth, rtol=1e-8, atol=1e-11)


# The headers as device code.


def test_headers_compile_for_the_device():
    """NVRTC, for an architecture of its own choice; every kernel body is instantiated for float and double."""
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        pytest.skip(f"cuda-bindings cannot be imported: {error}")
    source = """
    #include "core/hit.h"
    #include "core/segments.h"
    using namespace voge::scalar;
    template <class T> __device__ void everything(int points, int n, T* x, int* order) {
      Lower3<T> factor;
      if (!cholesky(Sym3<T>{x[0], x[1], x[2], x[3], x[4], x[5]}, factor)) return;
      const Vec3<T> offset{x[6], x[7], x[8]}, direction{x[9], x[10], x[11]};
      const Hit<T> hit = find_hit(factor, transpose_times(factor, offset), direction);
      const T depth = peak(x[12], hit, true);
      const HitGradient<T> g = hit_adjoint(offset, x[12], direction, hit, depth, true, x[13], x[14], x[15]);
      const Vec3<T> v = normalise_adjoint(direction, g.direction);
      x[16] = v.x + g.mean.x + g.precision.xx + g.density;
      const Hits<T> hits{n, x + 20, x + 20 + n, x + 20 + 2 * n};
      const HitsGradient<T> grad{x + 20 + 3 * n, x + 20 + 4 * n, x + 20 + 5 * n};
      hermite(points, hits, x + 20 + 6 * n);
      hermite_adjoint(points, hits, x + 20 + 7 * n, grad);
      segments(points, hits, x + 20 + 6 * n, x + 20 + 8 * n, order);
      segments_adjoint(points, hits, x + 20 + 7 * n, grad, x + 20 + 8 * n, order);
    }
    extern "C" __global__ void f32(int points, int n, float* x, int* order) { everything(points, n, x, order); }
    extern "C" __global__ void f64(int points, int n, double* x, int* order) { everything(points, n, x, order); }
    """

    def check(result):
        error, *values = result
        assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, error
        return values[0] if values else None

    try:
        program = check(nvrtc.nvrtcCreateProgram(source.encode(), b"core.cu", 0, [], []))
    except RuntimeError as error:
        pytest.skip(f"NVRTC's library cannot be loaded: {error}")
    options = [b"--std=c++17", f"-I{ROOT / 'csrc'}".encode()]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    # NVRTC writes into these bytes. Never a single one: Python shares those, and an empty log would make every b" " of
    # this process a zero byte.
    log = bytes(1 + check(nvrtc.nvrtcGetProgramLogSize(program)))
    check(nvrtc.nvrtcGetProgramLog(program, log))
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()
    ptx = bytes(1 + check(nvrtc.nvrtcGetPTXSize(program)))
    check(nvrtc.nvrtcGetPTX(program, ptx))
    assert b".entry f32" in ptx
    assert b".entry f64" in ptx
