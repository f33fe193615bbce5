"""voge.compat.pytorch3d against PyTorch3D's own projections, meshes and point clouds."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from pytorch3d.renderer import (
    FoVOrthographicCameras,
    FoVPerspectiveCameras,
    PerspectiveCameras,
    TexturesVertex,
    look_at_view_transform,
)
from pytorch3d.structures import Meshes, Pointclouds
from scipy.spatial.transform import Rotation

from voge import io
from voge.cameras import Cameras
from voge.compat import as_cameras
from voge.compat import pytorch3d as compat
from voge.gaussians import Gaussians

SIZES = [(64, 64), (200, 300), (321, 123)]


def view(batch=3, seed=0, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    R = torch.tensor(Rotation.from_quat(rng.normal(size=(batch, 4))).as_matrix(), dtype=dtype)
    T = torch.tensor(rng.uniform((-0.5, -0.5, 6), (0.5, 0.5, 9), (batch, 3)), dtype=dtype)
    points = torch.tensor(rng.uniform(-1, 1, (batch, 50, 3)), dtype=dtype)
    return {"R": R, "T": T}, points


def intrinsics(size, in_ndc, batch=3, seed=1, dtype=torch.float32):
    """Two focal lengths and a principal point off the middle."""
    rng = np.random.default_rng(seed)
    focal, center = rng.uniform(1, 3, (batch, 2)), rng.uniform(-0.4, 0.4, (batch, 2))
    if not in_ndc:
        focal, center = focal * min(size) / 2, np.array(size[::-1]) / 2 + center * min(size) / 2
    return {
        "focal_length": torch.tensor(focal, dtype=dtype),
        "principal_point": torch.tensor(center, dtype=dtype),
        "image_size": torch.tensor([size]).expand(batch, 2),
        "in_ndc": in_ndc,
    }


def assert_same_pixels(cameras, peer, points, **options):
    pixels, depth = cameras.project(points)
    expected = peer.transform_points_screen(points, **options)[..., :2]
    assert expected.abs().max() > 20
    torch.testing.assert_close(pixels, expected.expand_as(pixels), atol=1e-4, rtol=0)
    view_z = peer.get_world_to_view_transform().transform_points(points)[..., 2]
    torch.testing.assert_close(depth, view_z.expand_as(depth), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("in_ndc", [True, False])
def test_perspective_cameras(size, in_ndc):
    pose, points = view()
    peer = PerspectiveCameras(**pose, **intrinsics(size, in_ndc))
    cameras = Cameras.from_pytorch3d(peer)
    assert cameras.image_size == size and cameras.batch_shape == (3,)
    assert_same_pixels(cameras, peer, points)
    torch.testing.assert_close(cameras.centers(), peer.get_camera_center(), atol=1e-5, rtol=0)
    for there in (compat.cameras_to(cameras), compat.cameras_to(cameras, in_ndc=True)):
        assert_same_pixels(cameras, there, points)
        back = Cameras.from_pytorch3d(there)
        for name in ("R", "t", "K"):
            torch.testing.assert_close(getattr(back, name), getattr(cameras, name), atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("in_ndc", [True, False])
def test_perspective_cameras_in_float64(size, in_ndc):
    """In PyTorch3D the projection alone knows float64: the steps before and after it are written out here."""
    pose, points = view(dtype=torch.float64)
    options = intrinsics(size, in_ndc, dtype=torch.float64)
    peer = PerspectiveCameras(**pose, **options)
    in_view = points @ pose["R"] + pose["T"][:, None]
    projected = peer.get_projection_transform().transform_points(in_view)[..., :2]
    if in_ndc:  # x left, y up, from the middle of the image, in halves of its shorter side
        expected = torch.tensor(size[::-1]) / 2 - min(size) / 2 * projected
    else:  # f x / z + p with x left, y up
        expected = 2 * options["principal_point"][:, None] - projected
    torch.testing.assert_close(Cameras.from_pytorch3d(peer).project(points)[0], expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("degrees", [True, False])
def test_fov_cameras(size, degrees):
    pose, points = view()
    fov = torch.tensor([40.0, 60.0, 75.0])
    aspect = torch.tensor([1.0, 1.3, 0.7])
    peer = FoVPerspectiveCameras(
        **pose, fov=fov if degrees else fov.deg2rad(), degrees=degrees, aspect_ratio=aspect, znear=0.1
    )
    cameras = Cameras.from_pytorch3d(peer, image_size=size)
    assert_same_pixels(cameras, peer, points, image_size=(size,))
    there = compat.fov_cameras_to(cameras, znear=0.5, zfar=20.0)
    assert isinstance(there, FoVPerspectiveCameras) and there.zfar[0] == 20
    assert_same_pixels(cameras, there, points, image_size=(size,))


def test_one_rotation_for_many_points_and_default_cameras():
    R, T = look_at_view_transform(5.0, 20.0, 30.0)
    peer = FoVPerspectiveCameras(R=R, T=T)  # one camera, all else by default
    assert_same_pixels(as_cameras(peer, image_size=(256, 200)), peer, view()[1][:1], image_size=((256, 200),))
    peer = PerspectiveCameras(focal_length=2.0, R=R, T=T)  # a focal length for both axes, no image size
    assert_same_pixels(as_cameras(peer, (256, 200)), peer, view()[1][:1], image_size=((256, 200),))


@pytest.mark.parametrize("in_ndc", [True, False])
def test_calibration_matrix_with_skew(in_ndc):
    pose, points = view()
    scale = 1.0 if in_ndc else 50.0
    K = torch.tensor([[2.0, 0.3, 0.1, 0], [0, 1.5, -0.2, 0], [0, 0, 0, 1], [0, 0, 1, 0]]).repeat(3, 1, 1)
    K[:, :2, :3] *= scale
    peer = PerspectiveCameras(**pose, K=K, in_ndc=in_ndc, image_size=((100, 150),))
    cameras = Cameras.from_pytorch3d(peer)
    assert (cameras.K[:, 0, 1] > 0).all()
    assert_same_pixels(cameras, peer, points)
    assert_same_pixels(cameras, compat.cameras_to(cameras, in_ndc=not in_ndc), points)


def test_fov_camera_with_its_own_projection_matrix():
    pose, points = view()
    peer = FoVPerspectiveCameras(**pose)
    K = peer.compute_projection_matrix(peer.znear, peer.zfar, 50.0, 1.2, True)
    given = FoVPerspectiveCameras(**pose, K=K)
    assert_same_pixels(as_cameras(given, (100, 150)), given, points, image_size=((100, 150),))


def test_batches_are_flattened_on_the_way_out():
    pose, points = view(6)
    cameras = Cameras.from_pytorch3d(PerspectiveCameras(**pose, **intrinsics((40, 60), False, 6)))
    grid = Cameras(cameras.R.view(2, 3, 3, 3), cameras.t.view(2, 3, 3), cameras.K[0], (40, 60))
    there = compat.cameras_to(grid)
    assert len(there.R) == 6
    pixels, _ = grid.project(points.view(2, 3, 50, 3))
    torch.testing.assert_close(
        pixels.reshape(6, 50, 2), there.transform_points_screen(points)[..., :2], atol=1e-4, rtol=0
    )


def test_gradients_pass_both_ways():
    pose, points = view(dtype=torch.float64)
    options = intrinsics((30, 50), True, dtype=torch.float64)
    leaves = [pose["T"], options["focal_length"], options["principal_point"]]

    def in_and_out(T, focal, center):
        given = {**options, "focal_length": focal, "principal_point": center}
        cameras = Cameras.from_pytorch3d(PerspectiveCameras(R=pose["R"], T=T, **given))
        there = compat.cameras_to(cameras)
        return cameras.project(points[:, :2])[0], there.T, there.focal_length, there.principal_point

    assert torch.autograd.gradcheck(in_and_out, [leaf.requires_grad_() for leaf in leaves])


def test_errors():
    pose, _ = view()
    cameras = Cameras.look_at(eye=(0, 0, 3), focal=9, image_size=(4, 4))
    assert as_cameras(cameras) is cameras
    cube = PerspectiveCameras(**pose, K=torch.eye(4).repeat(3, 1, 1), image_size=((4, 4),))
    sizes = PerspectiveCameras(**pose, image_size=((4, 4), (4, 5), (4, 4)))
    for call, error, words in (
        (lambda: as_cameras(FoVOrthographicCameras(**pose), (4, 4)), TypeError, "^cameras: .*FoVOrthographicCameras"),
        (lambda: as_cameras(torch.eye(4)), TypeError, "^cameras: .*got Tensor"),
        (lambda: as_cameras(FoVPerspectiveCameras(**pose)), ValueError, r"^image_size: .*pass image_size=\(H, W\)"),
        (lambda: as_cameras(PerspectiveCameras(**pose)), ValueError, "^image_size: "),
        (lambda: as_cameras(sizes), ValueError, "^cameras: expected one image size"),
        (lambda: as_cameras(cube), ValueError, "^cameras.K: .*pinhole"),
        (lambda: compat.fov_cameras_to(cameras.crop((0, 0, 3, 4))), ValueError, "^cameras: .*middle"),
    ):
        with pytest.raises(error, match=words):
            call()


def test_missing_pytorch3d_is_named(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "pytorch3d"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without("pytorch3d"), *sys.meta_path])
    cameras = Cameras.look_at(eye=(0, 0, 3), focal=9, image_size=(4, 4))
    for call in (
        lambda: compat.cameras_to(cameras),
        lambda: compat.fov_cameras_to(cameras),
        lambda: compat.meshes_to([]),
        lambda: compat.pointclouds_to([]),
    ):
        with pytest.raises(ImportError, match=r"^pytorch3d\.\w+ is missing: install PyTorch3D"):
            call()


class _Without:
    """An import hook that hides one package."""

    def __init__(self, package):
        self.package = package

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == self.package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_reading_does_not_import_pytorch3d():
    code = (
        "import sys, torch; from voge.compat import as_cameras\n"
        "class PerspectiveCameras:\n"
        "    R, T, K, image_size = torch.eye(3)[None], torch.zeros(1, 3), None, None\n"
        "    focal_length, principal_point, in_ndc = torch.ones(1, 2), torch.zeros(1, 2), lambda self: True\n"
        "assert as_cameras(PerspectiveCameras(), (4, 6)).K[0, 0, 0] == 2\n"
        "heavy = {'pytorch3d', 'scipy', 'trimesh', 'cv2'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_meshes_in_and_out():
    vertices = [torch.rand(4, 3), torch.rand(5, 3, requires_grad=True)]
    faces = [torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([[0, 1, 4]])]
    colors = [torch.rand(4, 3), torch.rand(5, 3)]
    batch = Meshes(vertices, faces, TexturesVertex(colors))
    parts = compat.meshes_from(batch)
    for part, v, f, c in zip(parts, vertices, faces, colors, strict=True):
        assert (part.vertices == v).all() and (part.faces == f).all() and (part.colors == c).all()
    parts[1].vertices.sum().backward()
    assert (vertices[1].grad == 1).all()
    assert all(part.colors is None for part in compat.meshes_from(Meshes(vertices, faces)))

    there = compat.meshes_to(parts)
    assert (there.verts_packed() == batch.verts_packed()).all() and (there.faces_packed() == batch.faces_packed()).all()
    assert (there.textures.verts_features_packed() == torch.cat(colors)).all()
    assert compat.meshes_to([(vertices[0], faces[0])]).textures is None
    torch.testing.assert_close(Gaussians.from_mesh(batch[0]).means, vertices[0])


def test_point_clouds_in_and_out():
    points, features = [torch.rand(6, 3), torch.rand(4, 3)], [torch.rand(6, 3), torch.rand(4, 3)]
    clouds = Pointclouds(points, features=features)
    parts = compat.pointclouds_from(clouds)
    for part, p, c in zip(parts, points, features, strict=True):
        assert isinstance(part, io.PointCloud) and (part.points == p).all() and (part.colors == c).all()
    there = compat.pointclouds_to(parts)
    assert (there.points_packed() == torch.cat(points)).all() and (there.features_packed() == torch.cat(features)).all()
    assert compat.pointclouds_to(points).features_packed() is None
    torch.testing.assert_close(Gaussians.from_points(clouds[0]).means, points[0])
