"""voge.compat.colmap against files written by hand in COLMAP's layout, and against pycolmap where it is installed."""

import struct

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from voge.cameras import Cameras
from voge.compat import colmap

CAMERAS = {
    1: ("PINHOLE", 60, 40, (50.5, 51.25, 29.0, 21.5)),
    2: ("SIMPLE_PINHOLE", 60, 40, (45.0, 30.0, 20.0)),
    3: ("OPENCV", 60, 40, (50.0, 51.0, 30.0, 20.0, 0.1, 0.0, 0.0, 0.0)),
    7: ("PINHOLE", 30, 20, (25.0, 25.0, 15.0, 10.0)),
}
IMAGES = {  # name: number, quaternion, translation, camera, points
    "b.png": (5, (0.5, 0.5, -0.5, 0.5), (1.0, 2.0, 3.0), 1, 2),
    "a photo.png": (2, (0.9, 0.1, 0.3, 0.3), (0.0, -1.0, 4.5), 2, 0),
    "c.png": (9, (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 5.0), 3, 1),
    "d.png": (11, (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 5.0), 7, 0),
}
PLAIN = ["b.png", "a photo.png"]


def write_text(folder, cameras=CAMERAS, images=IMAGES):
    lines = [f"{i} {model} {w} {h} {' '.join(map(str, p))}" for i, (model, w, h, p) in cameras.items()]
    (folder / "cameras.txt").write_text("\n".join(["# Camera list", *lines, ""]))
    lines = ["# Image list"]
    for name, (i, q, t, camera, points) in images.items():
        lines += [f"{i} {' '.join(map(str, q + t))} {camera} {name}", " ".join(["1.5 2.5 -1"] * points)]
    (folder / "images.txt").write_text("\n".join([*lines, ""]))


def write_binary(folder, cameras=CAMERAS, images=IMAGES):
    numbers = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "OPENCV": 4}
    data = struct.pack("<Q", len(cameras))
    for i, (model, w, h, p) in cameras.items():
        data += struct.pack(f"<iiQQ{len(p)}d", i, numbers[model], w, h, *p)
    (folder / "cameras.bin").write_bytes(data)
    data = struct.pack("<Q", len(images))
    for name, (i, q, t, camera, points) in images.items():
        data += struct.pack("<i7di", i, *q, *t, camera) + name.encode() + b"\0" + struct.pack("<Q", points)
        data += struct.pack("<ddq", 1.5, 2.5, -1) * points
    (folder / "images.bin").write_bytes(data)


@pytest.fixture(params=[write_text, write_binary], ids=["text", "binary"])
def write(request):
    return request.param


@pytest.fixture(autouse=True)
def _float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def test_values(tmp_path, write):
    write(tmp_path)
    cameras = Cameras.from_colmap(tmp_path, images=PLAIN)
    assert cameras.image_size == (40, 60) and cameras.batch_shape == (2,)
    for i, name in enumerate(PLAIN):
        _, q, t, _, _ = IMAGES[name]
        expected = Rotation.from_quat([*q[1:], q[0]]).as_matrix()
        np.testing.assert_allclose(cameras.R[i].numpy(), expected, atol=1e-14)
        np.testing.assert_array_equal(cameras.t[i].numpy(), t)
    assert cameras.K[0].tolist() == [[50.5, 0, 29], [0, 51.25, 21.5], [0, 0, 1]]
    assert cameras.K[1].tolist() == [[45, 0, 30], [0, 45, 20], [0, 0, 1]]


def test_all_images_come_sorted_by_name(tmp_path, write):
    write(tmp_path, images={name: IMAGES[name] for name in PLAIN})
    names, cameras = colmap.read(tmp_path)
    assert names == sorted(PLAIN)
    assert (cameras.t == Cameras.from_colmap(tmp_path, images=PLAIN).t.flip(0)).all()


def test_default_dtype(tmp_path, write):
    write(tmp_path)
    torch.set_default_dtype(torch.float32)
    assert Cameras.from_colmap(tmp_path, images=PLAIN).dtype == torch.float32


def test_errors_of_content(tmp_path, write):
    write(tmp_path)
    for images, words in (
        (["c.png"], "camera 3 is of model OPENCV, expected PINHOLE"),
        (["b.png", "d.png"], r"^images: expected one image size, got \(H, W\) = \[\(20, 30\), \(40, 60\)\]"),
        (["x.png"], "^images: 'x.png' is not among the 4 images"),
        ([], "^images: expected at least one"),
    ):
        with pytest.raises(ValueError, match=words):
            Cameras.from_colmap(tmp_path, images=images)
    write(tmp_path, cameras={1: CAMERAS[1]})
    with pytest.raises(ValueError, match=r"'a photo.png' has camera 2, which is not in the file"):
        Cameras.from_colmap(tmp_path, images=PLAIN)
    write(tmp_path, images={"b.png": (5, (0.0,) * 4, (0.0,) * 3, 1, 0)})
    with pytest.raises(ValueError, match=r"'b.png' has no rotation"):
        Cameras.from_colmap(tmp_path)


def test_missing_files(tmp_path):
    with pytest.raises(ValueError, match=r"^path: expected cameras.bin and images.bin, or .*"):
        Cameras.from_colmap(tmp_path)


@pytest.mark.parametrize("name", ["cameras.bin", "images.bin"])
def test_truncated_binary_files_at_every_length(tmp_path, name):
    write_binary(tmp_path)
    data = (tmp_path / name).read_bytes()
    for size in range(len(data)):
        (tmp_path / name).write_bytes(data[:size])
        with pytest.raises(ValueError, match=f"{name}: truncated"):
            Cameras.from_colmap(tmp_path, images=PLAIN)


def test_hostile_binary_files(tmp_path):
    write_binary(tmp_path)
    good = (tmp_path / "cameras.bin").read_bytes()
    for data, words in (
        (struct.pack("<Q", 2**63) + good[8:], "cameras.bin: (truncated|camera .* unknown model)"),
        (struct.pack("<QiiQQ", 1, 1, 99, 4, 4), "cameras.bin: camera 1 is of unknown model 99"),
        (good + b"x", "cameras.bin: expected to end at byte"),
    ):
        (tmp_path / "cameras.bin").write_bytes(data)
        with pytest.raises(ValueError, match=words):
            Cameras.from_colmap(tmp_path)
    write_binary(tmp_path, images={"b.png": IMAGES["b.png"]})
    data = bytearray((tmp_path / "images.bin").read_bytes())
    data[-56:-48] = struct.pack("<Q", 2**63)  # the number of points
    (tmp_path / "images.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"images.bin: truncated"):
        Cameras.from_colmap(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("cameras.txt", "1 PINHOLE 60 40 50 51 29", "line 1: PINHOLE has 4 parameters, got 3"),
        ("cameras.txt", "1 PINHOLE 60", "line 1: expected CAMERA_ID MODEL"),
        ("cameras.txt", "# list\n\n1 PINHOLE 60 x 50 51 29 21", "line 3: expected CAMERA_ID MODEL"),
        ("cameras.txt", "1 LENS 60 40 50", "line 1: unknown camera model 'LENS'"),
        ("cameras.txt", "1 PINHOLE 60 40 nan 51 29 21\n2 PINHOLE 60 40 50 51 29 21", "K: expected finite values"),
        ("images.txt", "1 1 0 0 0 0 0 5 1", "line 1: expected IMAGE_ID"),
        ("images.txt", "1 1 0 0 x 0 0 5 1 b.png", "line 1: expected IMAGE_ID"),
        ("images.txt", b"\xff\xfe", "not a text file"),
    ],
)
def test_broken_text_files(tmp_path, name, content, words):
    write_text(tmp_path)
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=words):
        Cameras.from_colmap(tmp_path, images=PLAIN)


LENSES = {
    "SIMPLE_PINHOLE": (50.0, 30.0, 20.0),
    "PINHOLE": (50.0, 51.0, 30.0, 20.0),
    "SIMPLE_RADIAL": (50.0, 30.0, 20.0, -0.1),
    "RADIAL": (50.0, 30.0, 20.0, -0.1, 0.03),
    "OPENCV": (50.0, 51.0, 30.0, 20.0, -0.1, 0.03, 0.01, -0.02),
    "FULL_OPENCV": (50.0, 51.0, 30.0, 20.0, -0.1, 0.03, 0.01, -0.02, 0.02, 0.05, -0.01, 0.004),
    "SIMPLE_FISHEYE": (50.0, 30.0, 20.0),
    "FISHEYE": (50.0, 51.0, 30.0, 20.0),
    "SIMPLE_RADIAL_FISHEYE": (50.0, 30.0, 20.0, 0.05),
    "RADIAL_FISHEYE": (50.0, 30.0, 20.0, 0.05, -0.02),
    "OPENCV_FISHEYE": (50.0, 51.0, 30.0, 20.0, 0.05, -0.02, 0.01, -0.003),
}


@pytest.mark.parametrize("model", LENSES)
def test_lenses_agree_with_pycolmap(tmp_path, model):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (pip install pycolmap)")
    write_text(tmp_path, {1: (model, 60, 40, LENSES[model])}, {"b.png": (5, (1.0, 0, 0, 0), (0.0, 0, 4), 1, 0)})
    names, cameras, lens = colmap.read_lens(tmp_path)
    assert names == ["b.png"] and lens.model == ("fisheye" if "FISHEYE" in model else "opencv")
    points = np.random.default_rng(0).uniform(-1.5, 1.5, (20, 3))
    peer = pycolmap.Camera(model=model, width=60, height=40, params=LENSES[model])
    pixels, _, valid = lens.project(cameras, torch.tensor(points))
    assert valid.all()
    np.testing.assert_allclose(pixels[0].numpy(), peer.img_from_cam(points + np.array([0, 0, 4])), atol=1e-9)
    rays = lens.rays(cameras, pixels)
    flat = rays.directions[0] / rays.directions[0, :, 2:]
    np.testing.assert_allclose(flat[:, :2].numpy(), peer.cam_from_img(pixels[0].numpy())[:, :2], atol=1e-6)


def test_lenses_of_several_images(tmp_path, write):
    write(tmp_path)
    names, cameras, lens = colmap.read_lens(tmp_path, ["c.png", "a photo.png"])
    assert names == ["c.png", "a photo.png"] and cameras.batch_shape == (2,)
    assert lens.coefficients.tolist() == [[0.1, *[0] * 7], [0] * 8]
    assert lens.rays(cameras).valid.shape == (2, 40, 60)


def test_lenses_that_are_not_ours(tmp_path):
    fov, fisheye = ("FOV", 60, 40, (50.0, 50.0, 30.0, 20.0, 0.9)), ("FISHEYE", 60, 40, (50.0, 50.0, 30.0, 20.0))
    write_text(tmp_path, {**CAMERAS, 1: fov})
    with pytest.raises(ValueError, match=r"camera 1 is of model FOV, expected one of SIMPLE_PINHOLE, PINHOLE, "):
        colmap.read_lens(tmp_path, ["b.png"])
    write_text(tmp_path, {**CAMERAS, 1: fisheye})
    with pytest.raises(ValueError, match=r"^images: expected one kind of lens"):
        colmap.read_lens(tmp_path, PLAIN)


def test_agrees_with_pycolmap(tmp_path):
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (pip install pycolmap)")
    # COLMAP itself ends names in text files at a space.
    images = {name.replace(" ", "_"): (*IMAGES[name][:4], 0) for name in PLAIN}
    write_text(tmp_path, images=images)
    (tmp_path / "points3D.txt").write_text("# no points\n")
    model = pycolmap.Reconstruction(tmp_path)
    (tmp_path / "binary").mkdir()
    model.write_binary(tmp_path / "binary")
    points = np.random.default_rng(0).uniform(-1, 1, (9, 3))
    for folder in (tmp_path, tmp_path / "binary"):
        names, cameras = colmap.read(folder)
        pixels = cameras.project(torch.tensor(points))[0]
        for i, name in enumerate(names):
            image = next(image for image in model.images.values() if image.name == name)
            expected = np.stack([image.project_point(point) for point in points])
            np.testing.assert_allclose(pixels[i].numpy(), expected, atol=1e-9)
