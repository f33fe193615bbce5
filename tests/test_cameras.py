"""voge.Cameras against closed forms, SciPy's rotations and OpenCV's projection."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from voge.backends import cameras as camera_rays
from voge.cameras import Cameras, _check_values

SIZE = (40, 60)


def random_cameras(batch=(), seed=0, image_size=SIZE, dtype=torch.float64):
    """Cameras with skew, two focal lengths and a principal point off the middle, 4 to 8 away from the origin."""
    rng = np.random.default_rng(seed)
    count = math.prod(batch)
    R = Rotation.from_quat(rng.normal(size=(count, 4))).as_matrix().reshape(*batch, 3, 3)
    t = rng.uniform((-0.5, -0.5, 4), (0.5, 0.5, 8), (*batch, 3))
    K = np.zeros((*batch, 3, 3))
    K[..., 0, 0], K[..., 1, 1] = rng.uniform(30, 90, (2, *batch))
    K[..., 0, 1] = rng.uniform(-9, 9, batch)
    K[..., :2, 2] = rng.uniform(5, 35, (*batch, 2))
    K[..., 2, 2] = 1
    return Cameras(*(torch.tensor(x, dtype=dtype) for x in (R, t, K)), image_size)


def random_points(count=7, batch=(), seed=1):
    return torch.tensor(np.random.default_rng(seed).uniform(-1, 1, (*batch, count, 3)))


def test_project_agrees_with_opencv():
    cameras, points = random_cameras(), random_points()
    K = cameras.K.clone()
    K[0, 1] = 0  # OpenCV knows no skew
    rvec = cv2.Rodrigues(cameras.R.numpy())[0]
    expected = cv2.projectPoints(points.numpy(), rvec, cameras.t.numpy(), K.numpy(), None)[0][:, 0]
    pixels, _ = Cameras(cameras.R, cameras.t, K, SIZE).project(points)
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-9)


def test_project_is_the_projection_matrix():
    cameras, points = random_cameras((3, 1)), random_points(batch=(2,))
    pixels, depth = cameras.project(points)
    assert pixels.shape == (3, 2, 7, 2) and depth.shape == (3, 2, 7)
    homogeneous = torch.cat([points, torch.ones(2, 7, 1)], -1)
    uvz = torch.einsum("bcij,cnj->bcni", cameras.projection().expand(3, 2, 3, 4), homogeneous)
    torch.testing.assert_close(pixels, uvz[..., :2] / uvz[..., 2:])
    torch.testing.assert_close(depth, uvz[..., 2])


def test_rays_of_a_camera_at_the_origin_have_closed_form():
    K = torch.tensor([[50.0, 5, 21], [0, 40, 17], [0, 0, 1]], dtype=torch.float64)
    rays = Cameras(torch.eye(3).double(), torch.zeros(3).double(), K, SIZE).rays()
    assert rays.directions.shape == (40, 60, 3) and rays.origins.shape == (1, 1, 3)
    v, u = np.mgrid[0.5:40, 0.5:60]
    y = (v - 17) / 40
    expected = np.stack([(u - 21 - 5 * y) / 50, y, np.ones_like(y)], -1)
    np.testing.assert_allclose(rays.directions.numpy(), expected, atol=1e-13)
    assert (rays.origins == 0).all()


def test_rays_lead_back_to_the_points_they_came_from():
    cameras, points = random_cameras((3,)), random_points()
    pixels, depth = cameras.project(points)
    rays = cameras.rays(pixels)
    assert rays.directions.shape == (3, 7, 3) and rays.origins.shape == (3, 1, 3)
    torch.testing.assert_close(rays.origins + depth[..., None] * rays.directions, points.expand(3, 7, 3))


def test_rays_of_the_grid_are_those_of_its_pixels():
    cameras = random_cameras((2, 1))
    v, u = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(60) + 0.5, indexing="ij")
    pixels = torch.stack([u, v], -1).reshape(-1, 2).double()
    grid, listed = cameras.rays(), cameras.rays(pixels)
    assert grid.directions.shape == (2, 1, 40, 60, 3) and grid.origins.shape == (2, 1, 1, 1, 3)
    torch.testing.assert_close(grid.directions.reshape(2, 1, -1, 3), listed.directions)
    torch.testing.assert_close(grid.origins[..., 0, :], listed.origins)


def test_batches_of_R_t_K_broadcast():
    cameras = random_cameras((3,))
    mixed = Cameras(cameras.R, cameras.t[0], cameras.K[1], SIZE)
    assert mixed.batch_shape == (3,)
    for i in range(3):
        single = Cameras(cameras.R[i], cameras.t[0], cameras.K[1], SIZE)
        torch.testing.assert_close(mixed.rays().directions[i], single.rays().directions)
        torch.testing.assert_close(mixed.rays().origins[i], single.rays().origins)
        torch.testing.assert_close(mixed.projection()[i], single.projection())
    shared = Cameras(cameras.R[0], cameras.t, cameras.K[0], SIZE)
    assert shared.rays().origins.shape == (3, 1, 1, 3) and shared.projection().shape == (3, 3, 4)


def test_indexing_picks_cameras():
    cameras = random_cameras((2, 3))
    mixed = Cameras(cameras.R, cameras.t[0], cameras.K[1, 2], SIZE)
    assert len(mixed) == 2 and [one.batch_shape for one in mixed] == [(3,), (3,)]
    assert mixed[1, 2].batch_shape == () and mixed[:, 1:].batch_shape == (2, 2)
    torch.testing.assert_close(mixed[1, 2].R, cameras.R[1, 2])
    torch.testing.assert_close(mixed[1, 2].t, cameras.t[0, 2])
    torch.testing.assert_close(mixed[..., torch.tensor([True, False, True])].R, cameras.R[:, [0, 2]])
    with pytest.raises(IndexError):
        mixed[2]
    with pytest.raises(TypeError, match="no length"):
        len(mixed[0, 0])


boxes = st.tuples(st.integers(-20, 50), st.integers(-20, 50), st.integers(1, 80), st.integers(1, 80))


@settings(max_examples=50, deadline=None)
@given(boxes, st.integers(1, 100), st.integers(1, 100), st.integers(0, 1000))
def test_crop_and_resize_commute_with_project(box, height, width, seed):
    cameras, points = random_cameras((2,), seed), random_points(seed=seed)
    x0, y0, w, h = box
    pixels, depth = cameras.project(points)
    cropped = cameras.crop((x0, y0, x0 + w, y0 + h))
    resized = cropped.resize((height, width))
    assert cropped.image_size == (h, w) and resized.image_size == (height, width)
    moved = pixels - torch.tensor([x0, y0])
    torch.testing.assert_close(cropped.project(points)[0], moved)
    torch.testing.assert_close(resized.project(points)[0], moved * torch.tensor([width / w, height / h]))
    torch.testing.assert_close(resized.project(points)[1], depth)


def test_crop_is_the_part_of_the_grid():
    cameras = random_cameras()
    torch.testing.assert_close(cameras.crop((3, 5, 33, 29)).rays().directions, cameras.rays().directions[5:29, 3:33])


def test_resize_to_half_has_rays_between_four_pixels():
    cameras = random_cameras()
    means = cameras.rays().directions.reshape(20, 2, 30, 2, 3).mean((1, 3))  # linear in the pixel, hence exact
    torch.testing.assert_close(cameras.resize((20, 30)).rays().directions, means)


def test_look_at_sees_target_in_the_middle_and_up_above():
    eye = random_points(5, seed=2) * 5
    target, up = random_points(5, seed=3), random_points(5, seed=4)
    cameras = Cameras.look_at(eye=eye, target=target, up=up, focal=50.0, image_size=SIZE)
    assert cameras.batch_shape == (5,) and cameras.dtype == torch.float64
    torch.testing.assert_close(cameras.centers(), eye)
    torch.testing.assert_close(cameras.R @ cameras.R.mT, torch.eye(3).double().expand(5, 3, 3))
    pixels, depth = cameras.project(torch.stack([target, target + 1e-3 * up], -2))
    torch.testing.assert_close(pixels[:, 0], torch.tensor([30.0, 20.0]).double().expand(5, 2))
    torch.testing.assert_close(depth[:, 0], (target - eye).norm(dim=-1))
    torch.testing.assert_close(pixels[:, 1, 0], torch.full((5,), 30.0).double())
    assert (pixels[:, 1, 1] < 20).all()  # up is towards lower rows


def test_look_at_closed_form_from_numbers():
    cameras = Cameras.look_at(eye=(0, 0, 5), focal=100, image_size=(8, 6))  # looks along -z, as OpenGL's camera
    torch.testing.assert_close(cameras.R, torch.diag(torch.tensor([1.0, -1, -1])))
    torch.testing.assert_close(cameras.t, torch.tensor([0.0, 0, 5]))
    torch.testing.assert_close(cameras.K, torch.tensor([[100.0, 0, 3], [0, 100, 4], [0, 0, 1]]))


def test_look_at_broadcasts_eyes_and_focals():
    focal = torch.tensor([[100.0], [200.0]])
    cameras = Cameras.look_at(eye=torch.tensor([[0.0, 0, 5], [1, 2, 3], [3, 1, 0]]), focal=focal, image_size=(8, 6))
    assert cameras.batch_shape == (2, 3)
    assert (cameras.K[:, 0, 0, 0] == torch.tensor([100.0, 200.0])).all()


def test_gradients():
    cameras, points = random_cameras((2,), image_size=(2, 3)), random_points(3)
    leaves = [x.detach().requires_grad_() for x in (cameras.R, cameras.t, cameras.K)]
    pixels = random_points(2)[..., :2].requires_grad_()
    points.requires_grad_()
    assert torch.autograd.gradcheck(lambda R, t, K: Cameras(R, t, K, (2, 3)).rays()[:2], leaves)
    assert torch.autograd.gradcheck(lambda R, t, K, p: Cameras(R, t, K, (2, 3)).rays(p)[:2], (*leaves, pixels))
    assert torch.autograd.gradcheck(lambda R, t, K, p: Cameras(R, t, K, (2, 3)).project(p), (*leaves, points))
    assert torch.autograd.gradcheck(lambda R, t, K: Cameras(R, t, K, (2, 3)).projection(), leaves)


def test_second_derivatives():
    cameras = random_cameras((2,), image_size=(2, 3))
    leaves = [x.detach().requires_grad_() for x in (cameras.R, cameras.t[0], cameras.K)]
    assert torch.autograd.gradgradcheck(lambda R, t, K: Cameras(R, t, K, (2, 3)).rays()[:2], leaves)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shared", ["", "R", "t", "K", "RtK"])
def test_native_rays_are_those_of_the_plain_definition(dtype, shared):
    cameras = random_cameras((2, 3), image_size=(5, 7), dtype=dtype)
    R, t, K = (
        (x[1, :1] if name in shared else x).clone().requires_grad_()
        for name, x in (("R", cameras.R), ("t", cameras.t), ("K", cameras.K))
    )
    torch.library.opcheck(camera_rays.camera_rays, (R, t, K, 5, 7))
    native, plain = camera_rays.camera_rays(R, t, K, 5, 7), camera_rays.plain_camera_rays(R, t, K, 5, 7)
    torch.testing.assert_close(native, plain)
    grads = [torch.randn(x.shape, dtype=dtype, generator=torch.Generator().manual_seed(0)) for x in native]
    torch.testing.assert_close(*(torch.autograd.grad(x, (R, t, K), grads) for x in (native, plain)))
    with torch.no_grad():
        direct = camera_rays.rays(R, t, K, 5, 7)
    assert all(torch.equal(a, b) for a, b in zip(direct, native, strict=True))


def test_gradients_do_not_depend_on_the_number_of_threads():
    cameras = random_cameras((2,), image_size=(300, 200), dtype=torch.float32)
    weights = torch.randn(2, 300, 200, 3, generator=torch.Generator().manual_seed(0))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        leaves = [x.clone().requires_grad_() for x in (cameras.R, cameras.t, cameras.K)]
        rays = Cameras(*leaves, cameras.image_size).rays()
        results.append(torch.autograd.grad((rays.directions * weights).sum() + rays.origins.sum(), leaves))
    torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_gradients_of_look_at():
    eye, target, up = (random_points(2, seed=i).requires_grad_() for i in range(3))
    focal = torch.tensor([40.0, 50.0]).double().requires_grad_()

    def make(eye, target, up, focal):
        cameras = Cameras.look_at(eye=eye, target=target, up=up, focal=focal, image_size=SIZE)
        return cameras.R, cameras.t, cameras.K

    assert torch.autograd.gradcheck(make, (eye, target, up, focal))


def test_compiles_in_one_graph():
    def camera_sums(R, t, K, points, eye):
        cameras = Cameras(R, t, K, (4, 5))
        other = Cameras.look_at(eye=eye, focal=9.0, image_size=(4, 5)).crop((1, 0, 3, 4)).resize((2, 2))
        return cameras.rays().directions.sum() + cameras.project(points)[0].sum() + other.rays().directions.sum()

    cameras = random_cameras((2,))
    arguments = (cameras.R, cameras.t, cameras.K, random_points(), random_points()[0])
    compiled = torch.compile(camera_sums, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), camera_sums(*arguments))


def test_to_changes_dtype():
    cameras = random_cameras((2,)).to(torch.float32)
    assert cameras.dtype == cameras.t.dtype == cameras.K.dtype == torch.float32 and cameras.image_size == SIZE
    assert "batch=(2,)" in repr(cameras)


def valid():
    K = torch.tensor([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]])
    return {"R": torch.eye(3), "t": torch.zeros(3), "K": K, "image_size": SIZE}


def changed(x, index, value):
    x = x.clone()
    x[index] = value
    return x


BASE = valid()


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("R", torch.eye(4), ValueError, r"expected shape \(\.\.\., 3, 3\), got \(4, 4\)"),
        ("R", np.eye(3), TypeError, "got ndarray"),
        ("R", torch.eye(3).half(), TypeError, "got torch.float16"),
        ("R", torch.eye(3) * 2, ValueError, "expected a rotation"),
        ("R", torch.diag(torch.tensor([1.0, 1, -1])), ValueError, "expected a rotation"),
        ("R", changed(BASE["R"], (0, 0), math.nan), ValueError, "finite"),
        ("R", torch.stack([torch.eye(3), torch.ones(3, 3)]), ValueError, r"at index \(1,\)"),
        ("t", torch.zeros(3).double(), TypeError, "expected torch.float32, got torch.float64"),
        ("t", torch.zeros(3, 1), ValueError, "shape"),
        ("t", torch.tensor([0.0, 0, math.inf]), ValueError, r"finite values, got inf at index \(2,\)"),
        ("t", torch.zeros(3, device="meta"), ValueError, "meta"),
        ("K", changed(BASE["K"], (0, 0), 0.0), ValueError, "focal lengths above zero"),
        ("K", changed(BASE["K"], (1, 1), -5.0), ValueError, "focal lengths above zero"),
        ("K", changed(BASE["K"], (2, 0), 1.0), ValueError, "last row"),
        ("K", changed(BASE["K"], (0, 2), math.nan), ValueError, r"finite values, got nan at index \(0, 2\)"),
        ("image_size", (0, 3), ValueError, "at least 1"),
        ("image_size", (4.0, 3), TypeError, "two ints"),
    ],
)
def test_constructor_errors(name, value, error, words):
    with pytest.raises(error, match=f"^{name}: .*{words}"):
        Cameras(**{**BASE, name: value})


@settings(max_examples=200)
@given(
    st.integers(0, 10**6), st.sampled_from(["R", "t", "K"]), st.sampled_from([1e-5, 3e-4, 3e-3, -1.0, math.nan, 1e40])
)
def test_native_checks_are_those_that_name_the_error(seed, name, change):
    cameras = random_cameras((2,), seed, dtype=torch.float32 if seed % 2 else torch.float64)
    values = {"R": cameras.R, "t": cameras.t, "K": cameras.K}
    x = values[name].clone()
    x.view(-1)[seed % x.numel()] += change
    values[name] = x
    try:
        _check_values(**values)
        good = True
    except ValueError:
        good = False
    assert camera_rays.are_cameras(**values) == good


def test_batches_that_do_not_broadcast():
    with pytest.raises(ValueError, match=r"^t: batch \(2,\) does not broadcast with batch \(3,\) of R"):
        Cameras(**{**BASE, "R": torch.eye(3).expand(3, 3, 3), "t": torch.zeros(2, 3)})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"up": (0, 0, -2)}, ValueError, "^up: .*parallel"),
        ({"eye": (1.1, 2.3, 0.7), "up": (3.3, 6.9, 2.1)}, ValueError, "^up: .*parallel"),
        ({"up": (0, 0, 0)}, ValueError, "^up: .*parallel"),
        ({"target": (0, 0, -5)}, ValueError, "^target: .*away from the eye"),
        ({"eye": (0, math.nan, 0)}, ValueError, "^eye: .*finite"),
        ({"eye": (0, 0)}, ValueError, "^eye: .*shape"),
        ({"eye": torch.zeros(3).double(), "target": torch.ones(3)}, TypeError, "^target: .*float64"),
        ({"eye": torch.zeros(2, 3), "up": torch.ones(3, 3)}, ValueError, "^up: batch"),
        ({"eye": "abc"}, TypeError, "^eye: expected a torch.Tensor or numbers, got 'abc'"),
        ({"focal": None}, TypeError, "^focal: expected a torch.Tensor or numbers"),
        ({"focal": -3}, ValueError, "focal lengths above zero"),
        ({"focal": torch.ones(1, dtype=torch.int64)}, TypeError, "^focal: .*floating"),
        ({"image_size": 64}, TypeError, "^image_size: "),
    ],
)
def test_look_at_errors(change, error, words):
    with pytest.raises(error, match=words):
        Cameras.look_at(**{"eye": (0, 0, -5), "focal": 50, "image_size": SIZE, **change})


def test_errors_of_methods():
    cameras = Cameras(**BASE)
    for call, error, words in (
        (lambda: cameras.project(torch.zeros(3)), ValueError, "^points: .*shape"),
        (lambda: cameras.project(torch.zeros(2, 3).double()), TypeError, "^points: "),
        (lambda: cameras.rays(torch.zeros(5, 3)), ValueError, "^pixels: .*shape"),
        (lambda: random_cameras((2,)).rays(torch.zeros(3, 5, 2).double()), ValueError, "^cameras: batch"),
        (lambda: cameras.crop((0, 0, 5)), TypeError, "^box: "),
        (lambda: cameras.crop(5), TypeError, "^box: "),
        (lambda: cameras.crop((0, 0, 5.0, 5)), TypeError, "^box: "),
        (lambda: cameras.crop((5, 0, 5, 5)), ValueError, "^box: .*x0 < x1"),
        (lambda: cameras.resize((5, 0)), ValueError, "^image_size: "),
    ):
        with pytest.raises(error, match=words):
            call()
