"""voge.compat.nerf against closed forms and OpenCV's distortion."""

import json
import math

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from voge.cameras import Cameras
from voge.compat import nerf

OPENGL_TO_OPENCV = np.diag([1.0, -1.0, -1.0])


def frames(count=3, seed=0):
    rng = np.random.default_rng(seed)
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(rng.normal(size=(count, 4))).as_matrix()
    poses[:, :3, 3] = rng.normal(size=(count, 3))
    return [{"file_path": f"images/{i}.png", "transform_matrix": pose.tolist()} for i, pose in enumerate(poses)]


def content(**changes):
    return {"fl_x": 50.0, "fl_y": 52.0, "cx": 31.0, "cy": 18.0, "w": 60, "h": 40.0, "frames": frames(), **changes}


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


@pytest.fixture
def file(tmp_path):
    return tmp_path / "transforms.json"


def test_poses_and_intrinsics(file):
    names, cameras = nerf.read(write(file, content()))
    assert names == ["images/0.png", "images/1.png", "images/2.png"]
    assert cameras.batch_shape == (3,) and cameras.image_size == (40, 60) and cameras.dtype == torch.float32
    assert cameras.K[2].tolist() == [[50, 0, 31], [0, 52, 18], [0, 0, 1]]
    for i, frame in enumerate(frames()):
        pose = np.array(frame["transform_matrix"])
        np.testing.assert_allclose(cameras.centers()[i].numpy(), pose[:3, 3], atol=1e-6)
        in_camera = np.array([0.3, -0.2, 2.0])  # right, down, forward
        world = pose[:3, :3] @ OPENGL_TO_OPENCV @ in_camera + pose[:3, 3]
        pixels, depth = cameras[i].project(torch.tensor(world[None], dtype=torch.float32))
        expected = [50 * 0.3 / 2 + 31, 52 * -0.2 / 2 + 18]
        np.testing.assert_allclose(pixels[0].numpy(), expected, atol=1e-4)
        assert math.isclose(float(depth), 2.0, rel_tol=1e-5)
    torch.testing.assert_close(Cameras.from_nerf(file).K, cameras.K)


def test_angles_and_given_image_size(file):
    only_angle = {"camera_angle_x": 2 * math.atan(0.5), "frames": frames()}
    cameras = Cameras.from_nerf(write(file, only_angle), image_size=(40, 60))
    torch.testing.assert_close(cameras.K[0], torch.tensor([[60.0, 0, 30], [0, 60, 20], [0, 0, 1]]))
    both = {**only_angle, "camera_angle_y": 2 * math.atan(0.25), "w": 60, "h": 40}
    torch.testing.assert_close(Cameras.from_nerf(write(file, both)).K[0, 1, 1], torch.tensor(80.0))
    with pytest.raises(ValueError, match=r"no w and h in the file, pass image_size=\(H, W\)"):
        Cameras.from_nerf(write(file, only_angle))
    with pytest.raises(ValueError, match=r"^image_size: .* has \(H, W\) = \(40, 60\), got \(41, 60\)"):
        Cameras.from_nerf(write(file, content()), image_size=(41, 60))


def test_intrinsics_of_a_frame_count_before_those_of_the_file(file):
    value = content()
    value["frames"][1]["fl_x"] = 70.0
    assert Cameras.from_nerf(write(file, value)).K[:, 0, 0].tolist() == [50.0, 70.0, 50.0]
    value["frames"][1]["w"] = 61
    with pytest.raises(ValueError, match="expected one image size"):
        Cameras.from_nerf(write(file, value))


def test_distortion_is_measured_as_opencv_does(file):
    distortion = {"k1": 0.06, "k2": -0.08, "p1": -0.001, "p2": 0.0002}
    write(file, content(**distortion))
    K = np.array([[50.0, 0, 31], [0, 52, 18], [0, 0, 1]])
    corners = np.array([[0, 0], [60, 0], [0, 40], [60, 40]], float)
    plain = np.concatenate([(corners - K[:2, 2]) / K[[0, 1], [0, 1]], np.ones((4, 1))], -1)
    moved = cv2.projectPoints(plain, np.zeros(3), np.zeros(3), K, np.array(list(distortion.values())))[0][:, 0]
    worst = np.linalg.norm(moved - corners, axis=-1).max()
    assert worst > 0.3
    with pytest.warns(UserWarning, match=f"up to {worst:.1f} pixels, is left out"):
        Cameras.from_nerf(file)


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE"])
def test_lenses_agree_with_opencv(file, model):
    fisheye = model == "OPENCV_FISHEYE"
    order = ("k1", "k2", "k3", "k4") if fisheye else ("k1", "k2", "p1", "p2", "k3")
    values = np.random.default_rng(0).uniform(-0.02, 0.02, len(order))
    write(file, content(camera_model=model, **dict(zip(order, values.tolist(), strict=True))))
    _, cameras, lens = nerf.read_lens(file)
    camera = cameras[0]
    points = camera.centers() + torch.tensor([[0.3, -0.2, 2.0], [-0.5, 0.4, 1.5], [0, 0.9, 3]]) @ camera.R
    arguments = (points.numpy().astype(float)[:, None], cv2.Rodrigues(camera.R.numpy().astype(float))[0])
    arguments = (*arguments, camera.t.numpy().astype(float), camera.K.numpy().astype(float), values)
    expected = (cv2.fisheye if fisheye else cv2).projectPoints(*arguments)[0][:, 0]
    pixels, _, valid = lens.project(cameras, points)
    assert valid[0].all() and lens.coefficients.shape == (3, len(order))
    np.testing.assert_allclose(pixels[0].numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "not JSON, or truncated"),
        ("[1, 2]", "expected an object with a list of frames"),
        ({"w": 3, "h": 3}, "expected an object with a list of frames"),
        (content(frames=[]), "expected an object with a list of frames"),
        (content(frames=[3]), r"frames\[0\]: expected an object"),
        (content(frames=[*frames(1), {"file_path": "x"}]), r"frames\[1\]: expected a transform_matrix"),
        (content(frames=[{"transform_matrix": [[1, 2], [3, 4]]}]), r"frames\[0\]: expected a transform_matrix"),
        (content(frames=[{"transform_matrix": [[math.nan] * 4] * 4}]), r"frames\[0\]: expected a transform_matrix"),
        (content(frames=[{"transform_matrix": (2 * np.eye(4)).tolist()}]), "R: expected a rotation"),
        (content(fl_x="wide"), r"frames\[0\]: expected a number fl_x, got 'wide'"),
        (content(fl_x=0), "focal lengths above zero"),
        (content(w=0), "whole numbers h and w"),
        (content(w=59.5), "whole numbers h and w"),
        (content(h=None), "expected a number h"),
        (content(camera_model="OPENCV_FISHEYE"), "expected pinhole cameras, got fisheyes"),
        (content(camera_model="EQUIRECTANGULAR"), "expected a pinhole or fisheye camera, got camera_model 'EQUIRECT"),
        (content(k4=0.1), r"frames\[0\]: expected k1, k2, p1, p2, k3 .* k4"),
        (content(frames=[frames(1)[0], frames(1)[0] | {"is_fisheye": True}]), "expected one kind of lens"),
        ({"w": 4, "h": 4, "frames": frames()}, "expected fl_x or camera_angle_x"),
    ],
)
def test_errors(file, value, words):
    with pytest.raises(ValueError, match=words):
        Cameras.from_nerf(write(file, value))


def test_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"^path: cannot read .*none.json"):
        Cameras.from_nerf(tmp_path / "none.json")
