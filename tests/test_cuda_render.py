"""backend="cuda", the fused route, with emulated kernels: the renderer's tests again, and equality with "cpu"."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import voge
from tests.cuda_emulation.launcher import EmulatedLauncher
from tests.test_depth_normals import (  # noqa: F401
    test_median_in_a_gap_has_no_gradient_and_no_nan,
    test_normals_of_a_ball_point_outwards,
)
from tests.test_render import (  # noqa: F401
    good,
    intrinsics,
    pose,
    projected,
    put,
    scene,
    test_batches_broadcast,
    test_camera_inside_beside_and_before_gaussians,
    test_equals_the_numpy_definition,
    test_far_thin_gaussians_keep_their_digits,
    test_forward_mode_is_refused,
    test_invariant_to_rigid_motion_order_and_units,
    test_one_gaussian_in_one_pixel_in_closed_form,
    test_rays_of_several_shapes_and_batches,
    test_second_derivatives_raise,
    test_unknown_choices,
    test_zero_one_and_many_channels_and_gaussians,
)
from voge import backends
from voge.backends import cuda, cuda_bins, cuda_launch, kernels

SIZE = 10, 13


@pytest.fixture(autouse=True)
def emulated(monkeypatch):
    """Calls without a backend take "cuda"; its kernels are emulated."""
    choose = backends.choose
    monkeypatch.setattr(backends, "choose", lambda name, device: choose(name or "cuda", device))
    with cuda.use_launcher(EmulatedLauncher()):
        yield


def camera(dtype=torch.float64, distance=3.0, leaves=None):
    R, t = pose(distance=distance, dtype=dtype) if leaves is None else leaves[:2]
    K = intrinsics(dtype) if leaves is None else leaves[2]
    return voge.Cameras(R, t, K * torch.tensor([[0.48], [0.48], [1.0]], dtype=dtype), SIZE)


def listed(c, shared=False):
    """The camera's rays as a list, some of them not valid."""
    rays = c.rays()
    apart = torch.arange(SIZE[1], dtype=c.dtype)[:, None] * 0.01
    valid = torch.ones(SIZE, dtype=torch.bool)
    valid[3, 4:9] = False
    origins = rays.origins[0, 0] if shared else rays.origins.expand(*SIZE, 3) + apart
    return voge.Rays(origins, rays.directions, valid)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kind", "channels", "options"),
    [
        ("camera", 3, {}),
        ("camera", 13, {"max_hits": 5, "points": 3, "normals": True}),
        ("camera", 1, {"medium": "world", "max_hits": 5, "depth": "median", "normals": True}),
        ("inside", 40, {"points": 8, "depth": "median"}),
        ("rays", 3, {"max_hits": 5, "normals": True}),
        ("rays", 33, {"medium": "world", "points": 3}),
        ("shared", 3, {"near": 2.0, "max_hits": 2}),
        ("camera", 3, {"quadrature": "segments"}),
        ("camera", 9, {"quadrature": "segments", "medium": "world", "max_hits": 5, "points": 2, "normals": True}),
        ("inside", 3, {"quadrature": "segments", "points": 3, "depth": "median"}),
        ("rays", 3, {"quadrature": "segments", "points": 5}),
    ],
)
def test_equals_the_cpu(dtype, kind, channels, options):
    inputs = [x.requires_grad_() for x in scene(num=30, channels=channels, dtype=dtype)]
    R, t = (x.requires_grad_() for x in pose(distance=0.3 if kind == "inside" else 3.0, dtype=dtype))
    leaves = [*inputs, R, t, intrinsics(dtype).requires_grad_()]
    results = []
    for backend in ("cuda", "cpu"):
        c = camera(dtype, leaves=leaves[4:])
        target = listed(c, kind == "shared") if kind in ("rays", "shared") else c
        g = voge.Gaussians(*inputs[:3])
        o = voge.render(g, target, inputs[3], absorptivity=1.3, backend=backend, **options)
        results.append([*o[:4], *torch.autograd.grad(projected(o[:4]), leaves)])
    assert results[1][1].max() > 0.3
    tolerance = (1e-5 if dtype == torch.float32 else 1e-10) * (20 if "normals" in options else 2)
    for got, want in zip(*results, strict=True):
        if want is not None:
            torch.testing.assert_close(got, want, rtol=0, atol=tolerance * (1 + want.abs().max().item()))


@pytest.mark.parametrize("kind", ["camera", "rays"])
def test_batches_of_everything(kind):
    """Gaussians, rays or features of one scene or of all."""
    for batches in ((2, 1, 1), (1, 2, 2), (1, 1, 2), (2, 2, 1)):
        g_batch, r_batch, f_batch = batches
        means, precisions, density, _ = scene(num=12, batch=(g_batch,))
        features = torch.rand(f_batch, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        t = camera().t + torch.linspace(0, 0.3, r_batch, dtype=torch.float64)[:, None]
        leaves = [x.requires_grad_() for x in (means, precisions, density, features, t)]
        results = []
        for backend in ("cuda", "cpu"):
            c = voge.Cameras(camera().R, t, camera().K, SIZE)
            target = voge.Rays(c.rays().origins, c.rays().directions) if kind == "rays" else c
            o = voge.render(voge.Gaussians(means, precisions, density), target, features, backend=backend)
            results.append([*o[:3], *torch.autograd.grad(projected(o[:3]), leaves)])
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_many_gaussians_in_long_lists(monkeypatch):
    """Lists beyond the shared memory lie in a buffer, and a tree has several levels."""
    means, precisions, density, features = scene(num=1100, channels=2)
    c = camera(leaves=[*pose(), intrinsics()])
    for target in (c, listed(c)):
        leaves = [x.clone().requires_grad_() for x in (means, precisions * 200, density, features)]
        results = []
        for backend, shared in (("cpu", 0), ("cuda", 24 * 1024), ("cuda", 256)):
            monkeypatch.setattr(cuda_launch, "SHARED", shared)
            o = voge.render(voge.Gaussians(*leaves[:3]), target, leaves[3], backend=backend)
            results.append([*o[:3], *torch.autograd.grad(projected(o[:3]), leaves)])
        for a, b, want in zip(results[1], results[2], results[0], strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["camera", "rays"])
def test_same_bits_in_any_schedule(kind):
    leaves = [x.requires_grad_() for x in scene(num=30, dtype=torch.float32)]
    t = camera(torch.float32).t.requires_grad_()
    results = []
    for mode, seed in (("in_order", 0), ("in_order", 0), ("shuffled", 1), ("shuffled", 2)):
        with cuda.use_launcher(EmulatedLauncher(mode, seed)):
            c = camera(torch.float32, leaves=[pose(dtype=torch.float32)[0], t, intrinsics(torch.float32)])
            target = listed(c) if kind == "rays" else c
            o = voge.render(voge.Gaussians(*leaves[:3]), target, leaves[3], normals=True)
            results.append([*o[:4], *torch.autograd.grad(projected(o[:4]), [*leaves, t])])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert torch.equal(a, b)


def test_capacity_of_uneven_lists(monkeypatch):
    """A list longer than room was made for is an overflow, too."""
    monkeypatch.setattr(cuda_bins, "LIST", 2)
    monkeypatch.setattr(cuda_bins, "UNEVEN", 1)
    leaves = scene(num=30)
    for target in (camera(), listed(camera())):
        g = voge.Gaussians(*leaves[:3])
        o = voge.render(g, target, leaves[3], capacity=100)
        assert o.overflow > 100 and o.features.isnan().all()
        again = voge.render(g, target, leaves[3], capacity=int(o.overflow))
        assert again.overflow == 0
        assert torch.equal(again.features, voge.render(g, target, leaves[3]).features)
        short = voge.render(g, target, leaves[3], capacity=int(o.overflow) - 1)
        assert short.overflow == o.overflow


class NoWait(TorchDispatchMode):
    """Refuses what waits for a GPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(func) and "nonzero" not in str(func), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["camera", "rays"])
def test_capacity(kind, monkeypatch):
    leaves = [x.requires_grad_() for x in scene(num=30)]
    background = torch.ones(3, dtype=torch.float64)
    target = listed(camera()) if kind == "rays" else camera()
    g = voge.Gaussians(*leaves[:3])
    waits = []
    sizes = cuda_bins._sizes
    monkeypatch.setattr(cuda_bins, "_sizes", lambda *args: waits.append(sizes(*args)) or sizes(*args))
    plain = voge.render(g, target, leaves[3], background=background)
    want = torch.autograd.grad(projected(plain[:3]), leaves)
    assert plain.overflow is None
    assert len(waits) == 2  # one forward, one backward
    pairs = waits[0][0]
    for capacity in (pairs, pairs + 1000, pairs - 1, 1):
        with NoWait():
            o = voge.render(g, target, leaves[3], background=background, capacity=capacity)
            loss = projected(o[:3])
            got = torch.autograd.grad(loss, leaves)
        if capacity >= pairs:
            assert o.overflow == 0
            for a, b in zip((*o[:3], *got), (*plain[:3], *want), strict=True):
                assert torch.equal(a, b)
        else:
            assert o.overflow == pairs
            assert all(x.isnan().all() for x in (*o[:3], *got))
    assert len(waits) == 2


@pytest.mark.parametrize(
    ("error", "name", "changes"),
    [
        (ValueError, "means", {"means": put((2, 1), float("nan"))}),
        (ValueError, "precisions", {"precisions": put((1, 0, 0), float("nan"))}),
        (ValueError, "precisions", {"precisions": put((1, 0, 1), 9.0)}),
        (ValueError, "precisions", {"precisions": lambda p: -p}),
        (ValueError, "density", {"density": put(3, 0.0)}),
        (ValueError, "features", {"features": put((4, 0), float("nan"))}),
        (ValueError, "directions", {"cameras": lambda c: voge.Rays(*(torch.zeros(4, 3, dtype=torch.float64),) * 2)}),
        (
            ValueError,
            "origins",
            {"cameras": lambda c: voge.Rays(torch.full((3,), torch.inf).double(), torch.ones(4, 3).double())},
        ),
    ],
)
def test_bad_values_are_named(error, name, changes):
    with pytest.raises(error, match=name):
        good(**changes)
    good(capacity=9000, **changes)  # nobody looks


def test_flags_have_texts_of_their_own():
    """Where the checks of the Python side find nothing."""
    means, precisions, density, features = (x[None] for x in scene(num=2))
    rays = torch.zeros(1, 1, 3, dtype=torch.float64), torch.ones(1, 4, 3, dtype=torch.float64)
    settings = 0, 0, 0, 0.01, 0.0, False, False, 1, False, False, 0
    with pytest.raises(ValueError, match="density: a value is not finite and above zero"):
        cuda.render(means, precisions, -density, features, *rays, None, None, *settings)


def test_capture_of_a_graph_needs_a_capacity(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(cuda_bins, "on_gpu", lambda x: True)
    with pytest.raises(RuntimeError, match="capacity"):
        good()


def test_no_rays_and_no_gaussians():
    means, precisions, density, features = (x.requires_grad_() for x in scene(num=3))
    none = voge.Rays(torch.zeros(3, dtype=torch.float64), torch.zeros(0, 3, dtype=torch.float64))
    o = voge.render(voge.Gaussians(means, precisions, density), none, features)
    assert o.features.shape == (0, 3)
    assert all((g == 0).all() for g in torch.autograd.grad(o.features.sum(), (means, features)))
    empty = [x[:0] for x in (means, precisions, density, features)]
    o = voge.render(voge.Gaussians(*empty[:3]), listed(camera()), empty[3], normals=True)
    assert (o.features == 0).all() and (o.normals == 0).all()
    assert torch.autograd.grad(o.features.sum() + o.depth.sum(), means)[0].abs().max() == 0


def test_operator_contract():
    means, precisions, density, features = (x.requires_grad_() for x in scene(num=6))
    rays = camera().rays()
    args = (means[None], precisions[None], density[None], features[None])
    args = (*args, rays.origins.reshape(1, 1, 3), rays.directions.reshape(1, -1, 3), None, None)
    settings = 0, 0, 0, 0.01, 0.0, False, False, 1, False, True, 0
    torch.library.opcheck(torch.ops.voge.cuda_render, (*args, *settings))


def test_compiles_as_one_graph():
    means, precisions, density, features = scene(num=10, dtype=torch.float32)
    c = camera(torch.float32)

    def loss(means):
        o = voge.render(voge.Gaussians(means, precisions, density), c, features, max_hits=5)
        return o.features.square().sum() + o.depth.sum()

    means.requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (got,), (want,) = (torch.autograd.grad(f(means), means) for f in (compiled, loss))
    torch.testing.assert_close(got, want)


def test_choice_of_backend(monkeypatch):
    monkeypatch.undo()
    cpu, meta = torch.device("cpu"), torch.device("meta")
    assert backends.choose("cuda", cpu) == "cuda"
    monkeypatch.setattr(cuda_launch, "_replacement", None)
    assert backends.choose(None, torch.device("cuda", 1)) == "cuda"
    assert backends.choose(None, cpu) == "cpu"
    for name, device, words in (("cuda", cpu, "CUDA device, got cpu"), (None, meta, "no native backend")):
        with pytest.raises(ValueError, match=words):
            backends.choose(name, device)


def test_tensors_on_two_devices_are_refused():
    means, precisions, density, features = scene(num=3)
    g = voge.Gaussians(means, precisions, density)
    with pytest.raises(ValueError, match=r"features: .*meta"):
        voge.render(g, camera(), features.to("meta"))
    rays = voge.Rays(torch.zeros(3, device="meta").double(), torch.ones(4, 3, device="meta").double())
    with pytest.raises(ValueError, match=r"rays: .*meta"):
        voge.render(g, rays, features)


def test_sorting_in_ranges():
    g = torch.Generator().manual_seed(0)
    for keys in (torch.randint(0, 9, (200,), generator=g), torch.full((50,), 3), torch.empty(0, dtype=torch.int64)):
        want = keys.sort(stable=True).indices
        for limit in (7, 30, 1000):
            assert torch.equal(cuda_launch.stable_order(keys, 9, limit), want)


def test_scenes_with_many_rays_are_sorted_one_by_one(monkeypatch):
    rays = voge.Rays(torch.zeros(2, 1, 3).double(), listed(camera()).directions.flatten(0, 1).expand(2, -1, 3))
    means, precisions, density, features = scene(num=9, batch=(2,))
    g = voge.Gaussians(means + torch.tensor([0, 0, 3.0]), precisions, density)
    want = voge.render(g, rays, features)
    monkeypatch.setattr(cuda_bins, "SORT", 100)
    assert torch.equal(voge.render(g, rays, features).features, want.features)


def test_arguments_of_kernels_are_checked():
    x, flag = torch.zeros(3), torch.zeros(1, dtype=torch.int32)
    cpu = torch.device("cpu")
    kinds = [kind for _, kind in kernels.SIGNATURES["check_finite"]]
    assert kernels.plain("check_finite_f32", (x, 3, 32, None), cpu) == list(
        zip(kinds, (x.data_ptr(), 3, 32, 0), strict=True)
    )
    for kernel, arguments, error, words in (
        ("check_finite", (x, 3, 32, flag), ValueError, "no CUDA kernel"),
        ("nothing_f32", (), ValueError, "no CUDA kernel"),
        ("check_finite_f32", (x, 3, 32), TypeError, "expected 4 arguments, got 3"),
        ("check_finite_f64", (x, 3, 32, flag), TypeError, "x: expected a torch.float64 tensor, got torch.float32"),
        ("check_finite_f32", ([0.0], 3, 32, flag), TypeError, "got list"),
        ("check_finite_f32", (x, 3, 2**31, flag), ValueError, "bit: expected an integer that fits i32"),
        ("check_finite_f32", (x, 3.0, 32, flag), ValueError, "total"),
        ("check_finite_f32", (x.to("meta"), 3, 32, flag), ValueError, "expected a tensor on cpu, got one on meta"),
        ("check_finite_f32", (torch.zeros(6)[::2], 3, 32, flag), ValueError, "not contiguous"),
    ):
        with pytest.raises(error, match=words):
            kernels.plain(kernel, arguments, cpu)


def test_memory_of_a_hit_is_what_the_kernels_count():
    """In units of the kernels' floats; the table in csrc/cuda/hits.h is the original."""
    for dtype, integers in ((torch.float32, (1, 1, 2, 3)), (torch.float64, (1, 1, 1, 2))):
        cases = ((False, 1, False, False), (False, 3, True, True), (True, 1, False, False), (True, 2, True, True))
        for case, base, extra in zip(cases, (7, 19, 11, 24), integers, strict=True):
            assert cuda_launch.hit_values(dtype, *case) == base + extra
