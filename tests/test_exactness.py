"""The measurements of exactness, and the other renderers that ours is compared with."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import yaml

import voge
from benchmarks import exactness, results, splatting
from voge import reference

PROTOCOL = yaml.safe_load((results.ROOT / exactness.PROTOCOL).read_text(encoding="utf-8"))


def some_gaussians(num: int, seed: int = 0) -> tuple[voge.Gaussians, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(num, *shape, generator=random, dtype=torch.float64)

    gaussians = voge.Gaussians.from_scales_rotations(
        uniform(-0.5, 0.5, 3), uniform(0.1, 0.4, 3), uniform(-1, 1, 4), uniform(0.1, 3.0)
    )
    return gaussians, uniform(0, 1, 3)


def test_compositing_is_front_to_back():
    peaks, lengths = torch.tensor([0.5, 2.0, 1.0]).double(), torch.tensor([3.0, 1.0, 2.0]).double()
    a = 1 - torch.exp(-peaks)
    expected = torch.stack([a[0] * (1 - a[1]) * (1 - a[2]), a[1], a[2] * (1 - a[1])])
    torch.testing.assert_close(exactness.compositing(peaks, lengths, torch.ones(3).double()), expected)


@pytest.mark.parametrize("name", PROTOCOL["scenes"])
def test_rays_are_those_of_the_scene(name):
    """Peaks, lengths and widths of some pixel each, as the definition has them."""
    p = exactness.quick(PROTOCOL) | {"image_size": [16, 16], "focal": 16.0}
    gaussians, camera = exactness.scene(p, name, 1).check(), exactness.camera(p)
    origins, directions, _ = camera.rays()
    lengths, peaks, _, q = reference.hits(
        gaussians.means, gaussians.precisions, gaussians.density, origins.view(1, 3), directions.view(-1, 3)
    )
    met = (q >= math.log(p["threshold"])) & (lengths > 0)
    sums = torch.where(met, peaks, 0).sum(-1)[met.sum(-1) >= 2]
    for line in exactness.rays(p, name, 1):
        assert len(line[0]) >= 2 and (line[1].diff() >= 0).all()
        assert (sums - line[0].sum()).abs().min() < 1e-9


def test_a_small_run_writes_results_and_the_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["exactness", "--quick", "--out", str(tmp_path)])
    exactness.main()
    capsys.readouterr()
    for name in PROTOCOL["scenes"]:
        error = results.read(f"exactness-{name}", tmp_path)["runs"]
        assert error["segments-2"] < error["segments-1"] == error["ours"] < error["hermite-1"] < error["compositing"]
        assert min(results.read(f"exactness-{name}-ms", tmp_path)["runs"]["segments-2"]) > 0
    assert (tmp_path / "exactness.png").stat().st_size > 10_000


def test_compositing_along_rays_is_a_loop_over_hits():
    gaussians, colors = some_gaussians(12)
    camera = voge.Cameras.look_at(eye=torch.tensor([0.3, 0.2, 3.0]).double(), focal=12.0, image_size=(7, 9))
    found = splatting.composite(gaussians, camera, colors)
    origins, directions, _ = camera.rays()
    lengths, _, _, q = reference.hits(
        gaussians.means, gaussians.precisions, gaussians.density, origins.view(1, 3), directions.view(-1, 3)
    )
    alphas = (1 - torch.exp(-gaussians.density)) * q.exp()
    for ray in range(63):
        color, through = torch.zeros(3).double(), 1.0
        for k in lengths[ray].argsort():
            alpha = min(alphas[ray, k].item(), 0.99) if alphas[ray, k] >= 1 / 255 else 0.0
            color, through = color + through * alpha * colors[k], through * (1 - alpha)
        torch.testing.assert_close(found.view(-1, 3)[ray], color + through, rtol=1e-5, atol=1e-5)


def test_splatting_of_round_gaussians_on_the_axis():
    """There the ellipse is a circle of variance (focal * width / depth)^2 + 0.3, and layers are in order of depth."""
    focal, width = 40.0, 0.1
    gaussians = voge.Gaussians.from_scales_rotations(
        torch.tensor([[0.0, 0.0, 2.0], [0.0, 0.0, 4.0]]).double(),
        torch.full((2, 3), width).double(),
        torch.tensor([[1.0, 0, 0, 0]]).double().expand(2, 4),
        torch.tensor([0.7, 1.2]).double(),
    )
    K = torch.tensor([[focal, 0, 7.5], [0, focal, 7.5], [0, 0, 1]]).double()
    camera = voge.Cameras(torch.eye(3).double(), torch.zeros(3).double(), K, (15, 15))
    colors = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).double()
    found = splatting.splat(gaussians, camera, colors)
    pixels = torch.arange(15).double() + 0.5 - 7.5
    distance = pixels**2 + pixels[:, None] ** 2
    near, far = (
        (1 - math.exp(-a)) * torch.exp(-0.5 * distance / ((focal * width / z) ** 2 + 0.3))
        for a, z in ((0.7, 2.0), (1.2, 4.0))
    )
    near, far = (torch.where(x < 1 / 255, 0, x) for x in (near, far))
    through = (1 - near) * (1 - far)
    expected = near[..., None] * colors[0] + ((1 - near) * far)[..., None] * colors[1] + through[..., None]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


def test_order_jumps_and_the_integral_does_not():
    shares = splatting.weight_of_the_first(torch.tensor([-0.01, 0.01]))
    jumps = {arm: (values[1] - values[0]).abs().item() for arm, values in shares.items()}
    assert jumps["splatting"] > 0.5 and jumps["compositing"] > 0.5 and jumps["integral"] < 0.01
