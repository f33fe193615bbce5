"""voge.lenses against OpenCV, PyTorch3D's orthographic cameras, SciPy's rotations, closed forms, finite differences."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation, Slerp

import voge
from voge import lenses
from voge.cameras import Cameras

SIZE = (40, 60)
FULL = torch.tensor(
    [-0.25, 0.1, 0.01, -0.02, -0.03, 0.05, 0.02, 0.01, 0.003, -0.002, 0.004, 0.001, 0.05, -0.04]
).double()
FISHEYE = torch.tensor([0.05, -0.02, 0.01, -0.003]).double()
COUNTS = (4, 5, 8, 12, 14)
gradcheck, gradgradcheck = torch.autograd.gradcheck, torch.autograd.gradgradcheck


def make_cameras(batch=(), seed=0, image_size=SIZE, distance=5.0, skew=False):
    """Cameras at about `distance` from the origin, with two focal lengths and a principal point off the middle."""
    rng = np.random.default_rng(seed)
    R = Rotation.from_quat(rng.normal(size=(math.prod(batch), 4))).as_matrix().reshape(*batch, 3, 3)
    t = rng.uniform((-0.3, -0.3, distance), (0.3, 0.3, distance + 1), (*batch, 3))
    K = np.zeros((*batch, 3, 3))
    K[..., 0, 0], K[..., 1, 1], K[..., 2, 2] = rng.uniform(50, 60, batch), rng.uniform(40, 50, batch), 1
    K[..., :2, 2] = rng.uniform((28, 18), (32, 22), (*batch, 2))
    K[..., 0, 1] = 4.0 if skew else 0.0
    return Cameras(*map(torch.tensor, (R, t, K)), image_size)


def make_points(count=60, batch=(), seed=1):
    return torch.tensor(np.random.default_rng(seed).uniform(-1.5, 1.5, (*batch, count, 3)))


def opencv(camera, points, coefficients, module=cv2):
    rvec = cv2.Rodrigues(camera.R.numpy())[0]
    arguments = (points.numpy()[:, None], rvec, camera.t.numpy(), camera.K.numpy(), coefficients.numpy())
    return module.projectPoints(*arguments)[0][:, 0]


def leaves(*tensors):
    return [x.detach().clone().requires_grad_() for x in tensors]


def along(rays, lengths):
    """The points at `lengths` along rays (..., P)."""
    return rays.origins + lengths[..., None] * torch.nn.functional.normalize(rays.directions, dim=-1)


# --- OpenCV's distortion ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", COUNTS)
def test_opencv_project_and_rays_agree_with_opencv(count):
    camera, points = make_cameras(), make_points()
    pixels, depth, valid = lenses.opencv_project(camera, points, FULL[:count])
    assert valid.all()
    np.testing.assert_allclose(pixels.numpy(), opencv(camera, points, FULL[:count]), atol=1e-10)
    np.testing.assert_allclose(depth.numpy(), camera.project(points)[1].numpy())
    rays = lenses.opencv_rays(camera, FULL[:count], torch.tensor(opencv(camera, points, FULL[:count])))
    assert rays.valid.all() and rays.origins.shape == (1, 3)
    torch.testing.assert_close(along(rays, (points - rays.origins).norm(dim=-1)), points)


@pytest.mark.parametrize("count", COUNTS)
def test_undistort_agrees_with_opencv(count):
    points = torch.tensor(np.random.default_rng(0).uniform(-0.4, 0.4, (50, 2)))
    accurate = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 200, 1e-14)
    expected = cv2.undistortPoints(points.numpy()[:, None], np.eye(3), FULL[:count].numpy(), criteria=accurate)[:, 0]
    found, valid = lenses.undistort(points, FULL[:count])
    assert valid.all()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-9)


def test_no_distortion_is_the_pinhole():
    cameras = make_cameras((2,), skew=True)
    rays = lenses.opencv_rays(cameras, torch.zeros(5).double())
    expected = cameras.rays()
    assert rays.valid.all() and rays.valid.shape == (2, *SIZE)
    torch.testing.assert_close(rays.directions, expected.directions)
    torch.testing.assert_close(rays.origins, expected.origins)


def test_whole_image_leads_back_to_its_pixels():
    cameras = make_cameras((2,), skew=True)
    coefficients = torch.stack([FULL, -FULL])
    for project, make, k in (
        (lenses.opencv_project, lenses.opencv_rays, coefficients),
        (lenses.fisheye_project, lenses.fisheye_rays, torch.stack([FISHEYE, torch.zeros(4).double()])),
    ):
        rays = make(cameras, k)
        assert rays.directions.shape == (2, *SIZE, 3) and rays.origins.shape == (2, 1, 1, 3) and rays.valid.all()
        pixels, _, valid = project(cameras, (rays.origins + rays.directions).flatten(1, 2), k)
        v, u = np.mgrid[0.5:40, 0.5:60]
        assert valid.all()
        np.testing.assert_allclose(pixels[1].numpy().reshape(*SIZE, 2), np.stack([u, v], -1), atol=1e-9)
        np.testing.assert_allclose(pixels[0].numpy(), pixels[1].numpy(), atol=1e-9)


def test_float32_is_as_close_as_its_rounding():
    cameras = make_cameras((2,))
    single = cameras.to(torch.float32)
    for rays, k in ((lenses.opencv_rays, FULL), (lenses.fisheye_rays, FISHEYE)):
        expected, found = rays(cameras, k), rays(single, k.float())
        assert found.valid.equal(expected.valid) and found.directions.dtype == torch.float32
        off = (found.directions - expected.directions).abs().amax(-1)
        assert off.max() < 1e-4 and off.quantile(0.99) < 3e-6  # near the fold rounding counts for more


def test_batches_of_coefficients_broadcast():
    cameras, points = make_cameras((3,)), make_points(5)
    coefficients = torch.stack([FULL[:5], 2 * FULL[:5]])[:, None]
    pixels, _, _ = lenses.opencv_project(cameras, points, coefficients)
    rays = lenses.opencv_rays(cameras, coefficients, pixels)
    assert pixels.shape == (2, 3, 5, 2) and rays.directions.shape == (2, 3, 5, 3)
    for i in range(2):
        for j in range(3):
            expected = opencv(cameras[j], points, coefficients[i, 0])
            np.testing.assert_allclose(pixels[i, j].numpy(), expected, atol=1e-10)
    single = lenses.opencv_rays(cameras[1], coefficients[1, 0], pixels[1, 1])
    torch.testing.assert_close(rays.directions[1, 1], single.directions)


def test_rays_end_where_the_distortion_folds():
    k = torch.tensor([-0.3, 0.0, 0.0, 0.0]).double()
    fold = (1 / 0.9) ** 0.5  # of r (1 - 0.3 r^2)
    reach = fold * (1 - 0.3 * fold**2)
    angle = torch.arange(0, 2 * math.pi, 0.1).double()
    circle = torch.stack([angle.cos(), angle.sin()], -1)
    for part, good in ((0.99, True), (0.9999, True), (1.0001, False), (1.5, False), (40.0, False)):
        points, valid = lenses.undistort(part * reach * circle, k)
        assert (valid == good).all() and points.isfinite().all()
        if good:
            torch.testing.assert_close(lenses.distort(points, k), part * reach * circle)
            assert (points.norm(dim=-1) < fold).all()
    camera = Cameras(torch.eye(3).double(), torch.zeros(3).double(), torch.eye(3).double(), SIZE)
    flat = torch.cat([fold * torch.tensor([[0.99], [1.01], [2.0]]) * circle[:3, None], torch.ones(3, 3, 1)], -1)[
        ..., :3
    ]
    flat = torch.stack([torch.cat([fold * part * circle[3], torch.ones(1)]) for part in (0.99, 1.01, 3.0)])
    pixels, _, valid = lenses.opencv_project(camera, torch.cat([flat, -flat[:1]]), k)
    assert valid.tolist() == [True, False, False, False]
    assert (pixels[1:] == 0).all()


@settings(max_examples=60)
@given(st.lists(st.floats(-0.6, 0.6), min_size=8, max_size=8), st.integers(0, 10**6))
def test_valid_rays_hit_their_pixels_and_no_valid_point_is_missed(values, seed):
    coefficients = torch.tensor(values).double()
    coefficients[2:4] *= 0.05
    points = torch.tensor(np.random.default_rng(seed).uniform(-1.2, 1.2, (200, 2)))
    solution, valid = lenses.undistort(points, coefficients)
    assert solution.isfinite().all()
    torch.testing.assert_close(lenses.distort(solution, coefficients)[valid], points[valid])
    # A pixel at which a valid point appears has a valid ray, to that point.
    camera = Cameras(torch.eye(3).double(), torch.zeros(3).double(), torch.eye(3).double(), SIZE)
    pixels, _, seen = lenses.opencv_project(camera, torch.cat([points, torch.ones(200, 1)], -1), coefficients)
    back, found = lenses.undistort(pixels, coefficients)
    assert (seen & ~found).sum() <= 2  # at the very fold Newton's method can fail
    torch.testing.assert_close(back[seen & found], points[seen & found], atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("count", COUNTS)
def test_opencv_gradients(count):
    cameras, points = make_cameras((2,), image_size=(2, 3)), make_points(4)
    with torch.no_grad():
        pixels = lenses.opencv_project(cameras, points, FULL[:count])[0]
    size = cameras.image_size
    inputs = leaves(cameras.R, cameras.t, cameras.K, FULL[:count])
    assert gradcheck(
        lambda R, t, K, k, X: lenses.opencv_project(Cameras(R, t, K, size), X, k)[:2],
        (*inputs, *leaves(points)),
        fast_mode=True,
    )
    assert gradcheck(
        lambda R, t, K, k, p: lenses.opencv_rays(Cameras(R, t, K, size), k, p)[:2],
        (*inputs, *leaves(pixels)),
        fast_mode=True,
    )
    assert gradgradcheck(lambda p, k: lenses.undistort(p, k)[0], leaves(torch.rand(2, 2).double() * 0.4, FULL[:count]))


# --- Fisheye ----------------------------------------------------------------------------------------------------------


def test_fisheye_agrees_with_opencv():
    camera, points = make_cameras(distance=2.0), make_points()
    points = points[camera.project(points)[1] > 0.05]
    pixels, _, valid = lenses.fisheye_project(camera, points, FISHEYE)
    assert valid.all() and len(points) > 50
    expected = opencv(camera, points, FISHEYE, cv2.fisheye)
    np.testing.assert_allclose(pixels.numpy(), expected, atol=1e-9)
    rays = lenses.fisheye_rays(camera, FISHEYE, torch.tensor(expected))
    assert rays.valid.all()
    torch.testing.assert_close(along(rays, (points - rays.origins).norm(dim=-1)), points)


def test_equidistant_fisheye_has_closed_form_beyond_90_degrees():
    K = torch.tensor([[10.0, 0, 30], [0, 10, 20], [0, 0, 1]]).double()
    camera = Cameras(torch.eye(3).double(), torch.zeros(3).double(), K, SIZE)
    rays = lenses.fisheye_rays(camera, torch.zeros(4).double())
    v, u = np.mgrid[0.5:40, 0.5:60]
    x, y = (u - 30) / 10, (v - 20) / 10
    theta = np.hypot(x, y)
    expected = np.stack([np.sin(theta) * x / theta, np.sin(theta) * y / theta, np.cos(theta)], -1)
    valid = rays.valid.numpy()
    np.testing.assert_array_equal(valid, theta < math.pi)
    assert 0 < valid.sum() < valid.size
    np.testing.assert_allclose(rays.directions.numpy()[valid], expected[valid], atol=1e-12)
    assert (rays.directions.numpy()[~valid] == (0, 0, 1)).all()
    seen = rays.directions[rays.valid]
    pixels, depth, back = lenses.fisheye_project(camera, 3 * seen, torch.zeros(4).double())
    assert back.all() and (depth < -2).any()
    np.testing.assert_allclose(pixels.numpy(), np.stack([u, v], -1)[valid], atol=1e-9)


def test_fisheye_ends_at_its_largest_angle():
    k = torch.tensor([-0.2, 0.0, 0.0, 0.0]).double()
    largest = (1 / 0.6) ** 0.5  # of theta (1 - 0.2 theta^2)
    reach = largest * (1 - 0.2 * largest**2)
    camera = Cameras(torch.eye(3).double(), torch.zeros(3).double(), torch.eye(3).double(), SIZE)
    parts = torch.tensor([0.5, 0.999, 1.001, 3.0]).double()
    pixels = torch.stack([0.6 * parts * reach, 0.8 * parts * reach], -1)
    rays = lenses.fisheye_rays(camera, k, pixels)
    assert rays.valid.tolist() == [True, True, False, False] and rays.directions.isfinite().all()
    angles = largest * torch.tensor([0.9, 1.01]).double()
    points = torch.stack([0.6 * angles.sin(), 0.8 * angles.sin(), angles.cos()], -1)
    assert lenses.fisheye_project(camera, points, k)[2].tolist() == [True, False]


def test_fisheye_gradients_on_the_axis_too():
    cameras, points = make_cameras((2,), image_size=(2, 3), distance=1.2), make_points(4)
    inputs, size = leaves(cameras.R, cameras.t, cameras.K, FISHEYE), cameras.image_size
    with torch.no_grad():
        pixels = lenses.fisheye_project(cameras, points, FISHEYE)[0]
        pixels[:, 0] = cameras.K[:, :2, 2]  # on the axis
        axis = (cameras.centers() + 2 * cameras.R[:, 2])[:, None]
        points = torch.cat([points.expand(2, -1, -1), axis], 1)
    assert gradcheck(
        lambda R, t, K, k, X: lenses.fisheye_project(Cameras(R, t, K, size), X, k)[:2], (*inputs, *leaves(points))
    )
    assert gradcheck(
        lambda R, t, K, k, p: lenses.fisheye_rays(Cameras(R, t, K, size), k, p)[:2], (*inputs, *leaves(pixels))
    )
    pixels, k = leaves(pixels[0, :2], FISHEYE)
    assert gradgradcheck(lambda p, k: lenses.fisheye_rays(cameras[0], k, p).directions, (pixels, k))


# --- What lies outside of a model's domain ----------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["opencv", "fisheye"])
def test_rays_outside_show_the_background_and_gradients_stay_finite(model):
    dtype = torch.float32
    K = torch.tensor([[10.0, 0, 30], [0, 10, 20], [0, 0, 1]], dtype=dtype)
    R, t, K = leaves(torch.eye(3, dtype=dtype), torch.tensor([0, 0, 2.0], dtype=dtype), K)
    (k,) = leaves(torch.tensor([-0.1, 0.0, 0.0, 0.0], dtype=dtype))
    rays = lenses.Lens(model, k).rays(Cameras(R, t, K, SIZE))
    assert 0.05 < rays.valid.float().mean() < 0.95
    ball = voge.Gaussians.sphere(200)
    background = torch.tensor([0.2, 0.3, 0.4])
    o = voge.render(ball, rays, ball.means, background=background)
    assert (o.features[~rays.valid] == background).all() and (o.alpha[~rays.valid] == 0).all()
    assert (o.alpha[rays.valid] > 0.5).any()
    (o.features.square().sum() + o.depth.sum() + o.alpha.sum()).backward()
    for x in (R, t, K, k):
        assert x.grad.isfinite().all() and (x.grad != 0).any()


@pytest.mark.parametrize("project", [lenses.opencv_project, lenses.fisheye_project])
def test_points_without_an_image_have_finite_gradients(project):
    camera = make_cameras()
    center = camera.centers()
    hopeless = torch.stack([center, center - 3 * camera.R[2], center + camera.R[0], center + 1e200 * camera.R[0]])
    points, k = leaves(hopeless, torch.tensor([-0.3, 0.0, 0.0, 0.0]).double())
    pixels, _, valid = project(camera, points, k)
    assert not valid.any()
    assert (pixels == camera.K[:2, 2]).all()
    pixels.sum().backward()
    assert (points.grad == 0).all() and (k.grad == 0).all()


# --- Panorama, orthographic, lidar ------------------------------------------------------------------------------------


def test_equirectangular_axes_and_way_back():
    R, t = torch.eye(3).double(), torch.zeros(3).double()
    rays = lenses.equirectangular_rays(R, t, (3, 8))
    at = {
        (1, 4): (math.sin(math.pi / 8), 0, math.cos(math.pi / 8)),
        (1, 6): (math.cos(math.pi / 8), 0, -math.sin(math.pi / 8)),
    }
    for index, expected in at.items():
        np.testing.assert_allclose(rays.directions[index].numpy(), expected, atol=1e-12)
    assert (rays.directions[0, :, 1] < 0).all()  # up
    np.testing.assert_allclose(rays.directions.norm(dim=-1).numpy(), 1)
    cameras = make_cameras((2,))
    rays = lenses.equirectangular_rays(cameras.R, cameras.t, (11, 20))
    pixels, distance, valid = lenses.equirectangular_project(
        cameras.R, cameras.t, (11, 20), (rays.origins + 3 * rays.directions).flatten(1, 2)
    )
    v, u = np.mgrid[0.5:11, 0.5:20]
    assert valid.all()
    np.testing.assert_allclose(pixels[1].numpy().reshape(11, 20, 2), np.stack([u, v], -1), atol=1e-9)
    np.testing.assert_allclose(distance.numpy(), 3)


def test_equirectangular_agrees_with_colmap():
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (pip install pycolmap)")
    camera, points = make_cameras(), make_points(seed=7) * 10
    peer = pycolmap.Camera(model="EQUIRECTANGULAR", width=60, height=40, params=(60, 40))
    view = points @ camera.R.mT + camera.t
    pixels, _, valid = lenses.equirectangular_project(camera.R, camera.t, SIZE, points)
    assert valid.all()
    np.testing.assert_allclose(pixels.numpy(), peer.img_from_cam(view.numpy()), atol=1e-9)


def test_equirectangular_covers_the_sphere_evenly():
    rays = lenses.equirectangular_rays(torch.eye(3).double(), torch.zeros(3).double(), (200, 400))
    weight = (rays.directions[..., 0] ** 2 + rays.directions[..., 2] ** 2).sqrt()  # cos(elevation)
    solid_angle = weight.sum() * (math.pi / 200) * (2 * math.pi / 400)
    assert math.isclose(float(solid_angle), 4 * math.pi, rel_tol=1e-4)


def test_orthographic_agrees_with_pytorch3d():
    renderer = pytest.importorskip("pytorch3d.renderer", reason="PyTorch3D is not installed")
    camera, points = make_cameras().to(torch.float32), make_points().float()
    flip = torch.diag(torch.tensor([-1.0, -1.0, 1.0]))
    focal = camera.K.diagonal()[None, :2]
    peer = renderer.OrthographicCameras(
        focal_length=focal, principal_point=camera.K[None, :2, 2], R=(flip @ camera.R).mT[None],
        T=(flip @ camera.t)[None], in_ndc=False, image_size=[SIZE],
    )  # fmt: skip
    pixels, depth, valid = lenses.orthographic_project(camera, points)
    expected = peer.transform_points_screen(points, with_xyflip=True)[..., :2]
    torch.testing.assert_close(pixels, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(depth, points @ camera.R[2] + camera.t[2])
    assert valid.all()


def test_orthographic_rays_are_parallel_and_meet_their_points():
    cameras, points = make_cameras((2,), skew=True), make_points()
    pixels, depth, _ = lenses.orthographic_project(cameras, points)
    rays = lenses.orthographic_rays(cameras, pixels)
    torch.testing.assert_close(along(rays, depth), points.expand(2, -1, -1))
    whole = lenses.orthographic_rays(cameras)
    assert whole.origins.shape == whole.directions.shape == (2, *SIZE, 3)
    assert (whole.directions == cameras.R[:, None, None, 2]).all()


def test_orthographic_picture_of_one_gaussian_is_its_projection():
    camera = Cameras(*leaves(torch.eye(3).double(), torch.tensor([0.0, 0, 5]).double(),
                             torch.tensor([[20.0, 0, 30], [0, 20, 20], [0, 0, 1]]).double()), SIZE)  # fmt: skip
    one = voge.Gaussians(torch.zeros(1, 3).double(), torch.eye(3).double()[None] / 0.3**2)
    o = voge.render(one, lenses.orthographic_rays(camera), torch.ones(1, 1).double(), threshold=0, quadrature="hermite")
    v, u = np.mgrid[0.5:40, 0.5:60]
    r2 = ((u - 30) ** 2 + (v - 20) ** 2) / 20**2
    peak = np.exp(-r2 / 2 / 0.3**2)
    np.testing.assert_allclose(o.alpha.detach().numpy(), peak * np.exp(-peak / 2), atol=1e-6)


def test_lidar_axes_and_way_back():
    R, t = torch.eye(3).double(), torch.zeros(3).double()
    quarter = torch.tensor([0.0, math.pi / 2], dtype=torch.float64)
    rays = lenses.lidar_rays(R, t, quarter, torch.tensor([0.0, math.pi / 6, -math.pi / 2], dtype=torch.float64))
    assert rays.directions.shape == (3, 2, 3)
    expected = [[(0, 0, 1), (1, 0, 0)], [(0, -0.5, 0.75**0.5), (0.75**0.5, -0.5, 0)], [(0, 1, 0), (0, 1, 0)]]
    np.testing.assert_allclose(rays.directions.numpy(), expected, atol=1e-12)
    cameras = make_cameras((2,))
    azimuths = torch.linspace(-3, 3, 9).double()
    elevations = torch.tensor([[0.3, 0.1, -0.2], [0.2, 0.0, -0.4]]).double()
    rays = lenses.lidar_rays(cameras.R, cameras.t, azimuths, elevations)
    assert rays.directions.shape == (2, 3, 9, 3) and rays.origins.shape == (2, 1, 1, 3)
    angles, distance, valid = lenses.lidar_project(
        cameras.R, cameras.t, (rays.origins + 7 * rays.directions).flatten(1, 2)
    )
    assert valid.all()
    torch.testing.assert_close(angles[..., 0].unflatten(-1, (3, 9)), azimuths.expand(2, 3, 9))
    torch.testing.assert_close(angles[..., 1].unflatten(-1, (3, 9)), elevations[..., None].expand(2, 3, 9))
    torch.testing.assert_close(distance, torch.full_like(distance, 7))


def test_no_azimuth_on_the_vertical_axis():
    R, t = torch.eye(3).double(), torch.zeros(3).double()
    (points,) = leaves(torch.tensor([[0.0, 2, 0], [0, 0, 0], [0, -1, 0], [0, 0, -1]]).double())
    angles, distance, valid = lenses.lidar_project(R, t, points)
    assert valid.tolist() == [False, False, False, True]
    assert distance.tolist() == [2, 0, 1, 1] and angles[3].tolist() == [math.pi, 0]
    (angles.sum() + distance.sum()).backward()
    assert points.grad.isfinite().all()


def test_gradients_of_panorama_orthographic_and_lidar():
    cameras, points = make_cameras((2,), image_size=(2, 3)), make_points(3)
    R, t, K, X = leaves(cameras.R, cameras.t, cameras.K, points)
    azimuths, elevations = leaves(torch.tensor([0.1, 2.0]).double(), torch.tensor([[0.2], [-0.3]]).double())
    (pixels,) = leaves(torch.rand(3, 2).double())
    assert gradcheck(lambda R, t, p: lenses.equirectangular_rays(R, t, (4, 5), p)[:2], (R, t, pixels))
    assert gradcheck(lambda R, t, X: lenses.equirectangular_project(R, t, (4, 5), X)[:2], (R, t, X))
    assert gradcheck(lambda R, t, K, p: lenses.orthographic_rays(Cameras(R, t, K, (2, 3)), p)[:2], (R, t, K, pixels))
    assert gradcheck(lambda R, t, K, X: lenses.orthographic_project(Cameras(R, t, K, (2, 3)), X)[:2], (R, t, K, X))
    assert gradcheck(lambda *x: lenses.lidar_rays(*x)[:2], (R, t, azimuths, elevations))
    assert gradcheck(lambda *x: lenses.lidar_project(*x)[:2], (R, t, X))


# --- Rolling shutter --------------------------------------------------------------------------------------------------


def moved(camera, angle=0.3, seed=3):
    """The camera after a turn by `angle` and a step."""
    rng = np.random.default_rng(seed)
    axis = rng.normal(size=3)
    turn = torch.tensor(Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix())
    R = turn @ camera.R
    center = camera.centers() + torch.tensor(rng.uniform(-0.3, 0.3, 3))
    return Cameras(R, -(R @ center[..., None])[..., 0], camera.K, camera.image_size)


@pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-3, 0.3, 2.5, 3.1])
def test_interpolate_agrees_with_scipy(angle):
    start = make_cameras()
    end = moved(start, angle)
    times = torch.tensor([-0.3, 0.0, 0.25, 0.8, 1.0]).double()
    between = lenses.interpolate(start, end, times)
    assert between.batch_shape == (5,) and between.image_size == SIZE
    turn = Slerp([0, 1], Rotation.from_matrix(np.stack([start.R.mT.numpy(), end.R.mT.numpy()])))
    inside = times.numpy()[1:]
    np.testing.assert_allclose(between.R[1:].mT.numpy(), turn(inside).as_matrix(), atol=1e-7 if angle < 1e-6 else 1e-12)
    expected = start.centers() + times[:, None] * (end.centers() - start.centers())
    torch.testing.assert_close(between.centers(), expected)
    torch.testing.assert_close(between.R @ between.R.mT, torch.eye(3).double().expand(5, 3, 3))


@pytest.mark.parametrize("angle", [0.0, 0.005, 0.4])
def test_gradients_of_interpolate(angle):
    start = make_cameras()
    end = moved(start, angle)
    times = torch.tensor([0.2, 0.9]).double()

    def poses(t0, t1, K0, K1, omega, times):
        x, y, z = omega.unbind(-1)
        o = torch.zeros_like(x)
        turn = torch.linalg.matrix_exp(torch.stack([o, -z, y, z, o, -x, -y, x, o]).view(3, 3))
        a = Cameras(start.R, t0, K0, SIZE)
        between = lenses.interpolate(a, Cameras(turn @ end.R, t1, K1, SIZE), times)
        return between.R, between.t, between.K

    inputs = leaves(start.t, end.t, start.K, end.K + torch.eye(3).double() * 0, torch.zeros(3).double(), times)
    assert gradcheck(poses, inputs)


def test_rows_of_a_rolling_shutter_are_the_rows_of_its_cameras():
    start = make_cameras()
    rows = lenses.interpolate(start, moved(start))
    rays = lenses.rolling_shutter_rays(rows)
    assert rays.shape == SIZE and rays.origins.shape == (40, 1, 3)
    lens = lenses.Lens("opencv", FULL[:5])
    bent = lenses.rolling_shutter_rays(rows, lens.rays)
    assert bent.valid.shape == SIZE
    for row in (0, 17, 39):
        torch.testing.assert_close(rays.directions[row], rows[row].rays().directions[row])
        torch.testing.assert_close(rays.origins[row, 0], rows[row].centers())
        torch.testing.assert_close(bent.directions[row], lens.rays(rows[row]).directions[row])


@pytest.mark.parametrize("lens", [None, lenses.Lens("opencv", FULL[:5]), lenses.Lens("fisheye", FISHEYE)])
def test_rolling_shutter_leads_back_to_its_pixels(lens):
    start = make_cameras((2,))
    shutter = lenses.interpolate(start, moved(start, 0.2))
    make, project = (Cameras.rays, Cameras.project) if lens is None else (lens.rays, lens.project)
    rays = lenses.rolling_shutter_rays(shutter, make)
    points = along(rays, torch.tensor(5.0).double())[..., 4:-4, 4:-4, :]
    pixels, _, valid = lenses.rolling_shutter_project(shutter, points.flatten(-3, -2), project)
    v, u = np.mgrid[4.5:36, 4.5:56]
    assert valid.all()
    np.testing.assert_allclose(pixels[1].unflatten(0, u.shape).numpy(), np.stack([u, v], -1), atol=1e-8)
    # Between rows: the row found sees the point there, too.
    X = make_points(20, seed=5) * 0.5
    pixels, depth, valid = lenses.rolling_shutter_project(shutter, X, project)
    assert valid.all()
    exact = lenses.interpolate(start, moved(start, 0.2), pixels[..., 1].detach() / SIZE[0])
    again = project(exact, X[:, None])
    torch.testing.assert_close(again[0][..., 0, :], pixels, atol=0.02, rtol=0)
    torch.testing.assert_close(again[1][..., 0], depth, atol=0.02, rtol=0)


def test_a_resting_shutter_is_an_ordinary_camera_and_misses_what_it_does_not_see():
    camera = make_cameras()
    rows = lenses.interpolate(camera, camera)
    points = make_points(30) * 0.5
    pixels, depth, valid = lenses.rolling_shutter_project(rows, points)
    expected = camera.project(points)
    assert valid.all()
    torch.testing.assert_close(pixels, expected[0])
    torch.testing.assert_close(depth, expected[1])
    far = torch.stack([camera.centers() - camera.R[2], camera.centers() + camera.R[2] + 2 * camera.R[1]])
    assert not lenses.rolling_shutter_project(rows, far)[2].any()


def test_gradients_of_a_rolling_shutter():
    start = make_cameras(image_size=(4, 3))
    end = moved(start, 0.1)
    K = torch.tensor([[3.0, 0, 1.5], [0, 3, 2], [0, 0, 1]]).double()
    R, t = lenses.interpolate(start, end).R, lenses.interpolate(start, end).t
    k, X = FISHEYE, make_points(3) * 0.3

    def rays(R, t, K, k):
        return lenses.rolling_shutter_rays(Cameras(R, t, K, (4, 3)), lenses.Lens("fisheye", k).rays)[:2]

    def project(R, t, K, k, X):
        return lenses.rolling_shutter_project(Cameras(R, t, K, (4, 3)), X, lenses.Lens("fisheye", k).project)[:2]

    assert lenses.rolling_shutter_project(Cameras(R, t, K, (4, 3)), X, lenses.Lens("fisheye", k).project)[2].all()
    assert gradcheck(rays, leaves(R, t, K, k))
    assert gradcheck(project, leaves(R, t, K, k, X))


def test_a_moving_scene_renders():
    camera = voge.Cameras.look_at(eye=(0, 0, -3), focal=30.0, image_size=(24, 32))
    other = voge.Cameras.look_at(eye=(0.8, 0, -3), focal=30.0, image_size=(24, 32))
    ball = voge.Gaussians.sphere(300)
    o = voge.render(ball, lenses.rolling_shutter_rays(lenses.interpolate(camera, other)), ball.means)
    for row in (6, 12, 18):
        time = torch.tensor([(row + 0.5) / 24])
        frozen = voge.render(ball, lenses.interpolate(camera, other, time), ball.means)
        torch.testing.assert_close(o.features[row], frozen.features[0, row], atol=1e-4, rtol=0)


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda c: lenses.opencv_rays(c, torch.zeros(6).double()), ValueError, "^coefficients: expected 4 or 5 or 8"),
        (lambda c: lenses.opencv_rays(c, torch.zeros(5)), TypeError, "^coefficients: expected torch.float64"),
        (lambda c: lenses.opencv_rays(c, [0.0] * 5), TypeError, "^coefficients: expected a torch.Tensor"),
        (lambda c: lenses.opencv_rays(c, torch.full((5,), math.nan).double()), ValueError, "^coefficients: .*finite"),
        (lambda c: lenses.opencv_rays(c, torch.zeros(2, 5).double()), ValueError, "^cameras: batch"),
        (lambda c: lenses.opencv_rays(c, FULL, torch.zeros(4, 3).double()), ValueError, "^pixels: .*shape"),
        (lambda c: lenses.opencv_rays(c, FULL, torch.full((4, 2), math.inf).double()), ValueError, "^pixels: .*finite"),
        (lambda c: lenses.Lens("thin", FULL).rays(c), ValueError, r"^model: expected one of \('opencv', 'fisheye'\)"),
        (lambda c: lenses.fisheye_rays(c, torch.zeros(5).double()), ValueError, "^coefficients: expected 4 of them"),
        (lambda c: lenses.fisheye_project(c, torch.zeros(4, 2).double(), FISHEYE), ValueError, "^points: .*shape"),
        (lambda c: lenses.orthographic_project(c, torch.zeros(4, 3)), TypeError, "^points: "),
        (lambda c: lenses.undistort(torch.zeros(4, 3).double(), FULL), ValueError, "^points: .*shape"),
        (lambda c: lenses.equirectangular_rays(2 * c.R, c.t, (3, 4)), ValueError, "^R: expected a rotation"),
        (lambda c: lenses.equirectangular_rays(c.R, c.t, (0, 4)), ValueError, "^image_size: "),
        (lambda c: lenses.equirectangular_rays("R", c.t, (3, 4)), TypeError, "^R: "),
        (lambda c: lenses.lidar_rays(c.R, c.t, torch.zeros(()).double(), FULL), ValueError, "^azimuths: .*shape"),
        (lambda c: lenses.lidar_rays(c.R, c.t, FULL, FULL.float()), TypeError, "^elevations: "),
        (lambda c: lenses.interpolate(c, c, torch.zeros(3)), TypeError, "^times: "),
        (lambda c: lenses.interpolate(c, c.resize((3, 3))), ValueError, "^end: expected image size"),
        (lambda c: lenses.interpolate(c, moved(c, math.pi)), ValueError, "^end: .*less than half a turn"),
        (lambda c: lenses.rolling_shutter_rays(c), ValueError, r"^cameras: expected batch shape \(\.\.\., 40\)"),
    ],
)
def test_errors(call, error, words):
    camera = make_cameras((3,))
    with pytest.raises(error, match=words):
        call(camera)
