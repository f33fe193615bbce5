"""voge.convert.fit_mesh: its pictures of a mesh against rays cast at every triangle, its Gaussians against the mesh."""

import math

import numpy as np
import pytest
import torch
import trimesh

import voge
from voge import convert, io
from voge.convert.fitted import Target, difference, pictures
from voge.convert.rasters import raster

BOX = trimesh.creation.box((1.0, 1.4, 0.7))
FEW = {"steps": 60, "views": 8}  # enough to see that it works


def around(num: int, size: int = 48) -> voge.Cameras:
    """Cameras that look at the unit ball from directions which fit_mesh does not use."""
    eyes = torch.nn.functional.normalize(torch.randn(num, 3, generator=torch.Generator().manual_seed(5)), dim=-1)
    return voge.Cameras.look_at(eye=3 * eyes, up=(0.1, 1.0, 0.2), focal=1.3 * size, image_size=(size, size))


def tensors(mesh: trimesh.Trimesh) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces)


def score(gaussians: voge.Gaussians, mesh: trimesh.Trimesh, cameras: voge.Cameras) -> tuple[float, float]:
    """IoU of the silhouettes, and mean error of the depth."""
    lengths, owners = raster(*tensors(mesh), cameras)
    drawn = voge.render(gaussians, cameras, torch.ones(gaussians.num, 1), quadrature="segments")
    found, truth = drawn.alpha > 0.5, owners >= 0
    error = (drawn.depth - lengths).abs()[found & truth].mean()
    return ((found & truth).sum() / (found | truth).sum()).item(), error.item()


# Pictures of a mesh.


def meet(origin: np.ndarray, directions: np.ndarray, mesh: trimesh.Trimesh) -> np.ndarray:
    """Lengths (R,) to the nearest triangle in world space, every ray with every one: Moeller and Trumbore (1997)."""
    corner, e1, e2 = mesh.triangles[:, 0], *np.swapaxes(mesh.triangles[:, 1:] - mesh.triangles[:, :1], 0, 1)
    d = directions[:, None]
    p, s = np.cross(d, e2), origin - corner
    q = np.cross(s, e1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = 1 / (p * e1).sum(-1)
        u, v, t = (s * p).sum(-1) * inverse, (d * q).sum(-1) * inverse, (e2 * q).sum(-1) * inverse
    return np.where((u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0), t, np.inf).min(1)


@pytest.mark.parametrize("mesh", [BOX, trimesh.creation.torus(0.7, 0.25, 24, 12)], ids=["box", "torus"])
def test_raster_meets_what_rays_meet(mesh):
    cameras = around(2, size=24)
    faces = torch.tensor(mesh.faces)
    cameras = cameras.to(torch.float64)
    lengths, owners = raster(torch.tensor(mesh.vertices), faces, cameras)
    for camera, length, owner in zip(cameras, lengths, owners, strict=True):
        rays = camera.rays()
        origin = rays.origins.reshape(3).numpy()
        directions = torch.nn.functional.normalize(rays.directions, dim=-1).reshape(-1, 3).numpy()
        nearest = meet(origin, directions, mesh)
        seen = np.isfinite(nearest)
        assert 50 < seen.sum() < len(seen)
        np.testing.assert_allclose(length.flatten(), nearest, rtol=1e-6)
        face = owner.flatten().numpy()
        np.testing.assert_array_equal(face >= 0, seen)
        place = origin + nearest[seen, None] * directions[seen] - mesh.triangles[face[seen], 0]
        np.testing.assert_allclose((place * mesh.face_normals[face[seen]]).sum(-1), 0, atol=1e-6)


def test_raster_of_a_face_edge_on_and_of_a_point_shows_nothing():
    camera = voge.Cameras.look_at(eye=(0.0, 0, -3), focal=20.0, image_size=(16, 16))[None]
    vertices = torch.tensor([[0.0, 0, 0], [0, 0, 1], [0, 1, 0], [5, 5, 0]])
    for faces in ([[0, 1, 2]], [[0, 0, 0]], [[3, 3, 3]]):
        lengths, owners = raster(vertices, torch.tensor(faces), camera)
        assert lengths.isinf().all() and (owners == -1).all()


def test_pictures_have_the_share_length_and_normal_of_a_sphere():
    """In closed form: the outline, the nearest point of the ball and its direction."""
    vertices, faces = tensors(trimesh.creation.icosphere(5))
    targets = pictures(vertices, faces, 3, torch.Generator().manual_seed(0))
    for target in targets:
        size = target.cameras.image_size[0]
        rays = target.cameras.rays()
        directions = torch.nn.functional.normalize(rays.directions, dim=-1)
        along = -(rays.origins * directions).sum(-1)
        square = 1 - ((rays.origins + along[..., None] * directions).square().sum(-1))
        share = torch.pi * (target.cameras.K[..., 0, 0].max() / math.sqrt(8)) ** 2 / size**2
        torch.testing.assert_close(target.coverage.mean(), share, rtol=0.01, atol=0)
        inner = square > 0.2
        assert (
            inner.sum() > 1000 and (target.coverage[inner] == 1).all() and (target.coverage[square < -0.3] == 0).all()
        )
        expected = along - square.clamp(min=0).sqrt()
        torch.testing.assert_close(target.lengths[inner], expected[inner], rtol=0, atol=2 / size)
        normals = rays.origins + expected[..., None] * directions
        assert (normals * target.normals).sum(-1)[inner].min() > 0.98
    coarse, fine = targets[0], targets[-1]
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(fine.coverage, 4), coarse.coverage)


def test_difference_is_zero_for_what_is_wanted_and_grows_with_every_part():
    camera = around(1)
    normals = torch.tensor([0.0, 0, -1]).expand(1, 2, 2, 3)
    target = Target(camera, torch.tensor([[[1.0, 1], [0, 0]]]), torch.tensor([[[2.0, 2], [0, 0]]]), normals)
    right = voge.render(voge.Gaussians.sphere(9), camera, torch.ones(9, 1), normals=True)
    right = right._replace(alpha=target.coverage, depth=target.lengths, normals=normals)
    assert difference(right, target) == 0
    torch.testing.assert_close(difference(right._replace(alpha=1 - target.coverage), target), torch.tensor(1.0))
    far = difference(right._replace(depth=target.lengths + 1), target)  # linear: (1 - 0.02 / 2) on half of the pixels
    torch.testing.assert_close(far, torch.tensor(0.495))
    assert difference(right._replace(normals=-normals), target) > 0


# The fit.


@pytest.mark.parametrize("name", ["box", "torus"])
def test_few_fitted_gaussians_are_closer_than_few_of_the_surface(name):
    mesh = {"box": BOX, "torus": trimesh.creation.torus(0.7, 0.25)}[name]
    fitted = convert.fit_mesh(mesh, 40, **FEW)
    assert fitted.gaussians.check().num == 40 and not fitted.interrupted
    assert len(fitted.curve) == 60
    iou, depth = score(fitted.gaussians, mesh, around(6))
    surface_iou, surface_depth = score(convert.surface(mesh, num=40)[0], mesh, around(6))
    assert iou > {"box": 0.93, "torus": 0.88}[name] and iou > surface_iou + 0.02
    assert depth < 0.09 and depth < 0.5 * surface_depth


def test_a_thin_plate_stays_thin():
    plate = trimesh.creation.box((1.6, 1.2, 0.02))
    fitted = convert.fit_mesh(plate, 12, **FEW).gaussians
    assert score(fitted, plate, around(6))[0] > 0.9
    widths = torch.linalg.eigvalsh(fitted.precisions.double()).rsqrt()
    assert widths[:, -1].median() < 0.03 and fitted.means[:, 2].abs().max() < 0.03


def test_it_moves_and_scales_with_the_mesh():
    move = torch.tensor([5.0, -3, 100])
    vertices, faces = tensors(BOX)
    one = convert.fit_mesh((vertices, faces), 6, steps=6, views=4).gaussians
    other = convert.fit_mesh((50 * vertices + move, faces), 6, steps=6, views=4).gaussians
    torch.testing.assert_close(other.means, 50 * one.means + move, rtol=0, atol=0.05)
    torch.testing.assert_close(other.precisions * 2500, one.precisions, rtol=0.02, atol=1)
    torch.testing.assert_close(other.density, one.density, rtol=0.01, atol=0)


def test_equal_seeds_give_equal_gaussians():
    runs = [convert.fit_mesh(BOX, 5, steps=6, views=4, seed=seed).gaussians for seed in (3, 3, 4)]
    assert torch.equal(runs[0].means, runs[1].means) and torch.equal(runs[0].precisions, runs[1].precisions)
    assert not torch.equal(runs[0].means, runs[2].means)


def test_dtype_follows_the_mesh_and_settings_reach_the_renderer():
    vertices, faces = tensors(BOX)
    fitted = convert.fit_mesh(io.Mesh(vertices.double(), faces), 3, steps=3, views=2)
    assert fitted.gaussians.dtype == torch.float64 and not fitted.gaussians.means.requires_grad
    sparse = convert.fit_mesh(BOX, 6, steps=3, views=2, quadrature="hermite", max_hits=1)
    assert not torch.allclose(sparse.curve, convert.fit_mesh(BOX, 6, steps=3, views=2).curve)
    with pytest.raises(ValueError, match="quadrature"):
        convert.fit_mesh(BOX, 3, quadrature="no")


def test_colours_go_to_the_gaussians_where_they_are():
    """A box with every side in a colour of its own, drawn by its Gaussians, beside the box itself."""
    mesh = BOX.copy()
    sides = torch.tensor(mesh.face_normals * 0.5 + 0.5).float()
    mesh.visual.face_colors = np.rint(255 * sides.numpy()).astype(np.uint8)
    fitted = convert.fit_mesh(mesh, 60, **FEW)
    assert torch.bincount(fitted.surface.patch_of, minlength=60).min() > 0
    colors = convert.surface_colors(mesh, fitted.surface)
    drawn = voge.render(fitted.gaussians, around(4), colors, quadrature="segments")
    _, owners = raster(*tensors(mesh), around(4))
    seen = (owners >= 0) & (drawn.alpha > 0.5)
    apart = (drawn.features / drawn.alpha[..., None] - sides[owners]).abs().amax(-1)[seen]
    assert apart.median() < 0.05 and (apart < 0.25).float().mean() > 0.85


def test_progress_and_interruption():
    calls = []

    def progress(step, steps, loss):
        calls.append((step, steps, loss))
        if step == 4:
            raise KeyboardInterrupt

    fitted = convert.fit_mesh(BOX, 5, steps=9, views=3, progress=progress)
    assert fitted.interrupted and fitted.gaussians.check().num == 5 and len(fitted.surface.faces) == 5
    assert [call[:2] for call in calls] == [(i, 9) for i in range(1, 5)]
    assert [call[2] for call in calls] == pytest.approx(fitted.curve.tolist())


@pytest.mark.parametrize("n", [1, 2, 600])
def test_any_number_is_valid(n, monkeypatch):
    monkeypatch.setattr("voge.convert.fitted.PAIRS", 10**6)  # samples in several parts
    fitted = convert.fit_mesh(BOX, n, steps=3, views=2)
    assert fitted.gaussians.check().num == n
    assert torch.bincount(fitted.surface.patch_of, minlength=n).min() > 0


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"n": 0}, ValueError, "n: expected an int of at least 1"),
        ({"n": 2.0}, TypeError, "n: expected an int"),
        ({"steps": 0}, ValueError, "steps"),
        ({"views": 0}, ValueError, "views"),
        ({"rate": 0.0}, ValueError, "rate"),
        ({"mesh": 3}, TypeError, "mesh"),
        ({"mesh": (torch.zeros(0, 3), torch.zeros(0, 3).long())}, ValueError, "mesh: expected vertices and faces"),
        ({"mesh": (torch.ones(3, 3), torch.tensor([[0, 1, 2]]))}, ValueError, "area above zero"),
        ({"mesh": (torch.full((3, 3), math.nan), torch.tensor([[0, 1, 2]]))}, ValueError, "finite"),
        ({"mesh": (torch.rand(2, 3, 3), torch.tensor([[0, 1, 2]]))}, ValueError, r"\(V, 3\)"),
    ],
)
def test_wrong_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        convert.fit_mesh(**{"mesh": BOX, "n": 4} | arguments)
