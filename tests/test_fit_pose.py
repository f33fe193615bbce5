"""voge.fit.pose on rendered pictures whose pose is known."""

import dataclasses
import math

import numpy as np
import pytest
import torch

import voge
from voge.fit import Stage
from voge.fit.losses import silhouette_iou
from voge.fit.rigid import exp_so3, rotation_angle

SIZE = (48, 64)
STAGES = (Stage(32, keep=8, steps=25, tolerance=1.4), Stage(64, keep=2, steps=15, rate=0.02))


def degrees(result, camera):
    return float(torch.rad2deg(rotation_angle(result.R, camera.R)))


def thing(seed=0, num=100):
    """An asymmetric, textured object and its camera; pictures of it are as sharp as the Gaussians are."""
    g = torch.Generator().manual_seed(seed)
    shell = torch.nn.functional.normalize(torch.randn(num, 3, generator=g), dim=-1)
    means = shell * torch.tensor([0.9, 0.6, 0.4]) + torch.tensor([0.3, 0.0, 0.0])
    gaussians = voge.Gaussians.from_scales_rotations(means, torch.full((num, 3), 0.1), torch.eye(3).expand(num, 3, 3))
    colors = (0.5 + 0.5 * torch.sin(means @ torch.tensor([[5.0, 1, 2], [-2, 4, 1], [1, -3, 6]]))).clamp(0, 1)
    camera = voge.Cameras.look_at(eye=(1.0, -0.8, -2.6), target=(0.2, 0.1, 0.0), focal=75.0, image_size=SIZE)
    return gaussians, colors, camera


def picture(gaussians, colors, camera, ground=(0.1, 0.5, 0.2)):
    drawn = voge.render(gaussians, camera, colors, background=torch.tensor(ground))
    return drawn.features, (drawn.alpha > 0.5).float()


def turned(camera, degrees, axis=(1.0, 2.0, -1.0), scale=1.0):
    axis = torch.nn.functional.normalize(torch.tensor(axis), dim=0)
    return voge.Cameras(exp_so3(math.radians(degrees) * axis) @ camera.R, scale * camera.t, camera.K, camera.image_size)


@pytest.fixture(scope="module")
def fitted():
    gaussians, colors, camera = thing()
    image, _ = picture(gaussians, colors, camera)
    result = voge.fit.pose(gaussians, image, turned(camera, 25, scale=1.15), colors, stages=STAGES, polish=20)
    return gaussians, colors, camera, image, result


def test_the_pose_is_recovered(fitted):
    _, _, camera, _, result = fitted
    assert degrees(result, camera) < 0.1
    assert (result.t - camera.t).norm() < 0.002 * camera.t.norm()
    assert result.converged and not result.interrupted
    torch.testing.assert_close(result.T[:3, :3], result.R)
    torch.testing.assert_close(result.T[:3, 3], result.t)


def test_the_result_tells_how_it_came(fitted):
    _, _, camera, _, result = fitted
    assert len(result.curve) == len(result.stages) == len(result.path) > 40
    assert result.stages.tolist() == sorted(result.stages.tolist()) and result.stages.max() == 2
    first = result.curve[result.stages == 0]
    assert first[-1] < 0.8 * first[0] and (first.diff() <= 1e-6).all()
    error = rotation_angle(result.path.R, camera.R)
    assert error[-1] < error[0]
    assert result.occluded.shape == SIZE and result.occluded.float().mean() < 0.02
    assert torch.equal(result.finalists[0].R, result.finalists.R[0]) and result.loss == result.finalist_losses[0]


def test_an_equal_seed_gives_an_equal_result(fitted):
    gaussians, colors, camera, image, _ = fitted
    start = turned(camera, 20)
    runs = [
        voge.fit.pose(gaussians, image, start, colors, stages=STAGES[:1], polish=2, starts=6, spread=0.5, seed=seed)
        for seed in (3, 3, 4)
    ]
    assert torch.equal(runs[0].T, runs[1].T)
    assert len(runs[0].candidates) == 18  # in three sizes
    assert not torch.equal(runs[0].candidates.R, runs[2].candidates.R)


def test_float64_and_uint8_and_numpy(fitted):
    gaussians, colors, camera, image, _ = fitted
    byte = (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    result = voge.fit.pose(
        gaussians.to(torch.float64), byte, turned(camera, 10).to(torch.float64), colors.double(), stages=STAGES[1:]
    )
    assert result.R.dtype == torch.float64 and degrees(result, camera.to(torch.float64)) < 0.3


def test_an_occluder_is_switched_off_and_found():
    gaussians, colors, camera = thing()
    image, mask = picture(gaussians, colors, camera)
    occluder = torch.zeros(SIZE, dtype=torch.bool)
    occluder[:, :22] = True
    hidden = (occluder & (mask > 0.5)).sum() / (mask > 0.5).sum()
    assert 0.2 < hidden < 0.5
    image[occluder] = torch.tensor([1.0, 0.0, 1.0])
    start = turned(camera, 20)
    result = voge.fit.pose(gaussians, image, start, colors, starts=8, spread=0.6, stages=STAGES, polish=20)
    assert degrees(result, camera) < 0.5
    assert result.occluded[occluder & (mask > 0.5)].float().mean() > 0.7
    assert result.occluded[~occluder].float().mean() < 0.05


def test_nothing_known_but_a_mask():
    gaussians, colors, camera = thing()
    image, mask = picture(gaussians, colors, camera)
    nowhere = voge.Cameras(torch.eye(3), torch.zeros(3), camera.K, SIZE)
    stages = (Stage(32, keep=16, steps=25, tolerance=1.4), Stage(64, keep=2, steps=15, rate=0.02))
    result = voge.fit.pose(gaussians, image, nowhere, colors, mask=mask, stages=stages)
    assert len(result.candidates) == len(result.candidate_losses) == 256
    assert degrees(result, camera) < 1.0  # the mask is cut hard from a soft outline


@pytest.mark.parametrize("grain", [1, 6])
def test_nothing_known_in_front_of_noise(grain):
    gaussians, colors, camera = thing()
    noise = torch.rand(1, 3, SIZE[0] // grain, SIZE[1] // grain, generator=torch.Generator().manual_seed(grain))
    noise = torch.nn.functional.interpolate(noise, SIZE, mode="bilinear")[0].movedim(0, -1)
    small = voge.Cameras(camera.R, camera.t + torch.tensor([0.7, 0.3, 1.5]), camera.K, SIZE)
    image = voge.render(gaussians, small, colors, background=noise).features
    nowhere = voge.Cameras(torch.eye(3), torch.zeros(3), camera.K, SIZE)
    result = voge.fit.pose(gaussians, image, nowhere, colors, stages=STAGES)
    assert degrees(result, camera) < 2
    assert (result.t - small.t).norm() < 0.03 * small.t.norm()


def test_silhouette_alone():
    gaussians, colors, camera = thing()
    _, mask = picture(gaussians, colors, camera)
    start = turned(camera, 10, scale=1.1)
    result = voge.fit.pose(gaussians, None, start, mask=mask.numpy() > 0.5, stages=STAGES)

    def loss(camera):
        return silhouette_iou((voge.render(gaussians, camera, colors).alpha > 0.5).float(), mask)

    assert loss(start) > 0.2 and loss(result.cameras) < 0.07


@pytest.mark.parametrize("lighting", ["affine", "local"])
def test_unknown_light(lighting):
    gaussians, colors, camera = thing()
    image, _ = picture(gaussians, 0.6 * colors + 0.3, camera)
    start = turned(camera, 8)
    result = voge.fit.pose(gaussians, image, start, colors, lighting=lighting, stages=STAGES[1:])
    assert degrees(result, camera) < 1.0


def test_features_of_any_number_of_channels():
    gaussians, _, camera = thing()
    features = torch.nn.functional.normalize(
        torch.randn(gaussians.num, 8, generator=torch.Generator().manual_seed(1)), dim=1
    )
    maps = voge.render(gaussians, camera, features).features
    result = voge.fit.pose(gaussians, maps, turned(camera, 15), features, stages=STAGES)
    assert degrees(result, camera) < 0.5


def test_an_encoder_sees_the_colours():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 8, 1))
    gaussians, colors, camera = thing()
    image, _ = picture(gaussians, colors, camera, ground=(0.5, 0.5, 0.5))
    start = turned(camera, 20)
    result = voge.fit.pose(gaussians, image, start, colors, encoder=network, stages=STAGES)
    assert degrees(result, camera) < 8


@pytest.mark.parametrize("free", ["rotation", "translation", ("tx", "rz")])
def test_what_is_not_free_stays(free):
    gaussians, colors, camera = thing()
    image, _ = picture(gaussians, colors, camera)
    start = turned(camera, 15, scale=1.05)
    result = voge.fit.pose(gaussians, image, start, colors, free=free, stages=STAGES[:1], polish=3)
    middle = (gaussians.means.amin(0) + gaussians.means.amax(0)) / 2
    before, after = start.R @ middle + start.t, result.R @ middle + result.t
    assert result.covariance.diagonal().gt(0).tolist() == [
        name in free or name[0] == {"rotation": "r", "translation": "t"}.get(free)
        for name in ("rx", "ry", "rz", "tx", "ty", "tz")
    ]
    if free == "rotation":
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)
        assert not torch.equal(result.R, start.R)
    elif free == "translation":
        assert torch.equal(result.R, start.R)
        assert not torch.allclose(after, before)
    else:
        torch.testing.assert_close(after[1:], before[1:], rtol=0, atol=1e-6)
        torch.testing.assert_close((result.R @ start.R.T)[2], torch.tensor([0.0, 0.0, 1.0]), rtol=0, atol=1e-5)
        assert after[0] != before[0]


def test_focal_length():
    gaussians, colors, camera = thing()
    image, _ = picture(gaussians, colors, camera)
    K = camera.K * torch.tensor([[1.1], [1.1], [1.0]])
    K[:2, 2] = camera.K[:2, 2]
    start = voge.Cameras(camera.R, camera.t, K, SIZE)
    result = voge.fit.pose(gaussians, image, start, colors, free="focal", stages=STAGES)
    torch.testing.assert_close(result.cameras.K, camera.K, rtol=5e-3, atol=0)
    assert torch.equal(result.R, camera.R)
    torch.testing.assert_close(result.t, camera.t)


def test_several_starts_and_those_that_see_nothing_are_left_out():
    gaussians, colors, camera = thing()
    image, _ = picture(gaussians, colors, camera)
    away = turned(camera, 10)
    starts = [turned(camera, 170), turned(camera, 15), voge.Cameras(away.R, -away.t, away.K, SIZE)]
    batch = voge.Cameras(torch.stack([c.R for c in starts]), torch.stack([c.t for c in starts]), camera.K, SIZE)
    result = voge.fit.pose(gaussians, image, batch, colors, stages=STAGES)
    assert len(result.candidates) == 2 and result.candidate_losses.argmin() == 1
    assert degrees(result, camera) < 0.5


@pytest.mark.parametrize("scale, least, most", [(1, 0.7, 1.4), (2, 0.55, 1.6)])
def test_covariance_is_the_scatter_of_noisy_fits(scale, least, most):
    """In a picture as it is, and in one twice as large, whose noise neighbours share when it is made smaller."""
    gaussians, colors, camera = thing()
    height, width = (scale * side for side in SIZE)
    camera = camera.resize((height, width))
    image, _ = picture(gaussians, colors, camera)
    g = torch.Generator().manual_seed(0)
    middle = (gaussians.means.amin(0) + gaussians.means.amax(0)) / 2
    start = turned(camera, 1, scale=1.01)
    errors, predicted = [], []
    for _ in range(24):
        noisy = image + 0.05 * torch.randn(image.shape, generator=g)
        result = voge.fit.pose(gaussians, noisy, start, colors, stages=(Stage(64, 1, 1, rate=1e-4),))
        turn = result.R @ camera.R.T
        vector = torch.stack([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
        shift = result.R @ middle + result.t - camera.R @ middle - camera.t
        errors.append(torch.cat([vector, shift]))
        predicted.append(result.covariance.diagonal())
    ratio = (torch.stack(predicted).mean(0) / torch.stack(errors).square().mean(0)).sqrt()
    assert (ratio > least).all() and (ratio < most).all(), ratio


@pytest.mark.parametrize("stop", [1, 30])
def test_ctrl_c_keeps_the_best_pose_so_far(stop):
    gaussians, colors, camera = thing()
    image, _ = picture(gaussians, colors, camera)
    start, calls = turned(camera, 20), []

    def progress(name, step, steps, loss):
        calls.append((name, step, steps, loss))
        if len(calls) == stop:
            raise KeyboardInterrupt

    result = voge.fit.pose(gaussians, image, start, colors, stages=STAGES, progress=progress)
    assert result.interrupted and not result.converged
    assert len(result.curve) == stop and result.curve[-1] == pytest.approx(calls[-1][3])
    torch.testing.assert_close(result.R, result.path.R[-1], rtol=0, atol=1e-5)
    assert degrees(result, camera) < (21 if stop == 1 else 10)


def test_ctrl_c_before_the_first_step(monkeypatch):
    gaussians, colors, camera = thing()
    image, _ = picture(gaussians, colors, camera)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("voge.fit.search.Track.enter", interrupt)
    result = voge.fit.pose(gaussians, image, turned(camera, 20), colors, stages=STAGES)
    assert result.interrupted
    assert degrees(result, camera) == pytest.approx(20, abs=0.1)


def test_the_result_is_frozen(fitted):
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted[-1].loss = 0.0


BAD = {
    "image size": ({"image": torch.zeros(48, 60, 3)}, ValueError, "image"),
    "image rank": ({"image": torch.zeros(48)}, ValueError, "image"),
    "image type": ({"image": "photo.png"}, TypeError, "image"),
    "image NaN": ({"image": torch.full((*SIZE, 3), math.nan)}, ValueError, "image"),
    "image channels": ({"image": torch.zeros(*SIZE, 1)}, ValueError, "features"),
    "mask size": ({"mask": torch.ones(10, 10)}, ValueError, "mask"),
    "mask empty": ({"mask": np.zeros(SIZE)}, ValueError, "mask"),
    "no features, no mask": ({"features": None}, ValueError, "features, mask"),
    "features rows": ({"features": torch.zeros(3, 3)}, ValueError, "features"),
    "features NaN": ({"features": torch.full((100, 3), math.nan)}, ValueError, "features"),
    "cameras type": ({"cameras": None}, TypeError, "cameras"),
    "cameras dtype": ({"cameras": thing()[2].to(torch.float64)}, ValueError, "cameras"),
    "gaussians type": ({"gaussians": None}, TypeError, "gaussians"),
    "gaussians batch": (
        {"gaussians": voge.Gaussians(torch.zeros(2, 100, 3), torch.eye(3).expand(100, 3, 3))},
        ValueError,
        "gaussians",
    ),
    "precision": ({"gaussians": voge.Gaussians(torch.zeros(100, 3), torch.zeros(100, 3, 3))}, ValueError, "precisions"),
    "free": ({"free": "pitch"}, ValueError, "free"),
    "lighting": ({"lighting": "dark"}, ValueError, "lighting"),
    "tolerance": ({"tolerance": 0.0}, ValueError, "tolerance"),
    "clutter": ({"clutter": 1.5}, ValueError, "clutter"),
    "starts": ({"starts": 0}, ValueError, "starts"),
    "starts type": ({"starts": 2.5}, TypeError, "starts"),
    "spread": ({"spread": math.nan}, ValueError, "spread"),
    "spread sign": ({"spread": -1.0}, ValueError, "spread"),
    "spread type": ({"spread": "wide"}, TypeError, "spread"),
    "free type": ({"free": 3}, TypeError, "free"),
    "polish": ({"polish": -1}, ValueError, "polish"),
    "polish type": ({"polish": 1.5}, TypeError, "polish"),
    "seed": ({"seed": "x"}, TypeError, "seed"),
    "progress": ({"progress": 3}, TypeError, "progress"),
    "encoder type": ({"encoder": 3}, TypeError, "encoder"),
    "stages": ({"stages": ()}, ValueError, "stages"),
    "stages type": ({"stages": 3}, TypeError, "stages"),
    "stages of what": ({"stages": ("a",)}, TypeError, "stages"),
    "a setting of render": ({"max_hits": 0}, ValueError, "max_hits"),
    "encoder": ({"encoder": torch.nn.Flatten()}, ValueError, "encoder"),
}


@pytest.mark.parametrize("case", BAD)
def test_misuse_is_named(case):
    gaussians, colors, camera = thing()
    change, error, word = BAD[case]
    arguments = {"gaussians": gaussians, "image": torch.zeros(*SIZE, 3), "cameras": camera, "features": colors} | change
    with pytest.raises(error, match=word):
        voge.fit.pose(**arguments)


def test_a_timm_backbone_by_name():
    pytest.importorskip("timm", reason="timm is not installed (pip install 'voge[fit]')")
    encoder = voge.fit.backbone("resnet10t", pretrained=False, level=1)
    maps = voge.fit.features.encode(encoder, torch.rand(2, 64, 48, 3))
    assert maps.shape[:3] == (2, 16, 12)
    torch.testing.assert_close(maps.norm(dim=-1), torch.ones(2, 16, 12), rtol=0, atol=1e-4)


def test_a_missing_timm_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match=r"voge\[fit\]"):
        voge.fit.backbone("resnet18")
