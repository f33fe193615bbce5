"""The CUDA backend on a real card against the CPU's; skipped without one. benchmarks/gpu.py runs these first, and those
named small also under compute-sanitizer.
"""

import pytest
import torch

import voge
from benchmarks import command, gpu

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def outcome(device, dtype, size, rays=False, **settings):
    """Image, alpha, depth and all gradients, on the CPU."""
    scene = gpu.slab(command.protocol(gpu.PROTOCOL)["scene"], *size)
    scene = gpu.Scene(*(x.to(device, dtype) if isinstance(x, torch.Tensor) else x for x in scene))
    gaussians, camera = scene.gaussians(), scene.camera()
    leaves = [gaussians.means, gaussians.precisions, gaussians.density, scene.features]
    means, precisions, density, features = leaves = [x.detach().clone().requires_grad_() for x in leaves]
    if rays:
        turn = torch.randperm(size[0] * size[1], generator=torch.Generator().manual_seed(0)).to(device)
        camera = voge.Rays(camera.centers()[None], camera.rays().directions.reshape(-1, 3)[turn])
    seen = voge.render(voge.Gaussians(means, precisions, density), camera, features, **settings)
    weights = torch.linspace(0.5, 1.5, seen.features.numel(), dtype=dtype, device=device).view_as(seen.features)
    loss = (weights * seen.features).sum() + seen.depth.sum() + seen.alpha.sum()
    grads = torch.autograd.grad(loss, leaves)
    return [x.detach().cpu() for x in (seen.features, seen.alpha, seen.depth, *grads)]


def same(device, dtype, *arguments, **settings):
    names = ("features", "alpha", "depth", "means", "precisions", "density", "colours")
    for name, mine, expected in zip(
        names,
        outcome(device, dtype, *arguments, **settings),
        outcome("cpu", dtype, *arguments, **settings),
        strict=True,
    ):
        scale = expected.abs().max()
        torch.testing.assert_close(mine / scale, expected / scale, rtol=0, atol=TOLERANCE[dtype], msg=name)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("quadrature", "points"), [("hermite", 1), ("segments", 1)])
def test_small_pictures_equal_the_cpu_s(dtype, quadrature, points):
    same("cuda", dtype, (16, 24, 60), quadrature=quadrature, points=points)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_small_lists_of_rays_equal_the_cpu_s(dtype):
    same("cuda", dtype, (16, 24, 60), rays=True)


@pytest.mark.parametrize(
    "settings", [{"max_hits": 20}, {"quadrature": "segments", "points": 2}, {"depth": "median"}, {}]
)
def test_pictures_equal_the_cpu_s(settings):
    same("cuda", torch.float64, (256, 256, 2562), **settings)


def test_the_same_bits_in_every_run():
    first, second = (outcome("cuda", torch.float32, (256, 256, 2562)) for _ in range(2))
    assert all(map(torch.equal, first, second))


def test_every_gpu_of_the_process():
    for index in range(torch.cuda.device_count()):
        same(torch.device("cuda", index), torch.float32, (32, 32, 100))
