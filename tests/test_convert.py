"""voge.convert: the laws by numbers worked out here, silhouettes against rasterised triangles, colours against their
source."""

import math

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

import voge
from voge import convert, io
from voge.convert.surfaces import sample_texture

# Vertices of a mesh.


def law(vertices, faces, percentage):
    """The vertex law, one vertex after the other."""
    precisions = []
    for i in range(len(vertices)):
        neighbors = {j for face in faces if i in face for j in face} - {i}
        length = np.mean([np.linalg.norm(vertices[i] - vertices[j]) for j in neighbors])
        precisions.append(4 / (length**2 / (2 * math.log(1 / percentage)) + 1e-10))
    return np.array(precisions)


@pytest.mark.parametrize("percentage", [0.2, 0.5, 0.9])
def test_from_mesh_is_the_official_law(percentage):
    mesh = trimesh.creation.icosphere(1)
    vertices = torch.tensor(mesh.vertices) * torch.tensor([1, 2, 0.5])
    gaussians = convert.from_mesh(vertices, torch.tensor(mesh.faces), percentage)
    expected = law(vertices.numpy(), mesh.faces.tolist(), percentage)
    np.testing.assert_allclose(gaussians.precisions, expected[:, None, None] * np.eye(3), rtol=1e-8)
    assert gaussians.means is vertices and gaussians.density is None


def test_density_in_the_middle_of_an_edge_is_the_percentage():
    mesh = trimesh.creation.icosahedron()  # all edges are equal
    gaussians = convert.from_mesh(torch.tensor(mesh.vertices), torch.tensor(mesh.faces), 0.3)
    i, j = mesh.edges_unique[0]
    half = (gaussians.means[j] - gaussians.means[i]) / 2
    assert math.isclose(torch.exp(-0.5 * half @ gaussians.precisions[i] @ half), 0.3, rel_tol=1e-9)
    assert math.isclose(torch.exp(-2 * half @ gaussians.precisions[i] @ half), 0.3**4, rel_tol=1e-9)


def test_from_mesh_passes_gradients_and_batches():
    mesh = trimesh.creation.icosahedron()
    faces = torch.tensor(mesh.faces)
    vertices = (torch.tensor(mesh.vertices) * torch.tensor([1, 1.1, 0.9])).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: convert.from_mesh(v, faces).precisions, vertices)
    batch = torch.stack([vertices, 2 * vertices])
    gaussians = convert.from_mesh(batch, faces)
    assert gaussians.batch_shape == (2,)
    torch.testing.assert_close(gaussians.precisions[0], 4 * gaussians.precisions[1])
    torch.testing.assert_close(gaussians.precisions[0], convert.from_mesh(vertices, faces).precisions)


def test_from_mesh_of_a_vertex_of_many_edges():
    """A fan of 500 triangles around one vertex, which a table of 20 neighbours would not hold."""
    angle = torch.arange(500).double() * (2 * math.pi / 500)
    vertices = torch.cat([torch.zeros(1, 3), torch.stack([angle.cos(), angle.sin(), 0 * angle], -1)])
    rim = torch.arange(500)
    faces = torch.stack([torch.zeros(500).long(), 1 + rim, 1 + (rim + 1) % 500], -1)
    assert math.isclose(convert.from_mesh(vertices, faces).precisions[0, 0, 0], 8 * math.log(2), rel_tol=1e-6)


CAMERA = voge.Cameras.look_at(eye=(1.0, 2, -4), focal=60.0, image_size=(32, 40))


def picture(gaussians, features):
    return voge.render(gaussians, CAMERA, features, threshold=1e-4)


@pytest.mark.parametrize("kind", ["repeated", "unreferenced", "degenerate"])
def test_from_mesh_of_a_dirty_mesh_shows_the_clean_one(kind):
    mesh = trimesh.creation.icosphere(1)
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces)
    colors = torch.rand(len(vertices), 3)
    expected = picture(convert.from_mesh(vertices, faces), colors)
    if kind == "repeated":  # every face has its own corners, as in STL
        vertices, colors = vertices[faces].reshape(-1, 3), colors[faces].reshape(-1, 3)
        faces = torch.arange(len(vertices)).view(-1, 3)
    elif kind == "unreferenced":
        vertices, colors = torch.cat([torch.rand(9, 3) * 2, vertices]), torch.cat([torch.rand(9, 3), colors])
        faces = faces + 9
    else:  # points and lines between neighbours
        faces = torch.cat([faces, faces[:5, [0, 0, 0]], faces[:5, [0, 1, 1]]])
    gaussians = convert.from_mesh(vertices, faces).check()
    assert gaussians.num == len(vertices)
    result = picture(gaussians, colors)
    torch.testing.assert_close(result.features, expected.features, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.alpha, expected.alpha, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mesh", "faces", "error", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, 3).long(), ValueError, "0 vertices"),
        (torch.rand(3, 3), torch.zeros(0, 3).long(), ValueError, "0 faces"),
        (torch.rand(3, 2), torch.tensor([[0, 1, 2]]), ValueError, r"vertices.*\(\.\.\., V, 3\)"),
        (torch.rand(3, 3), torch.tensor([[0, 1, 3]]), ValueError, r"indices in \[0, 3\), got 3"),
        (torch.rand(3, 3), torch.tensor([[0, 1, -1]]), ValueError, "got -1"),
        (torch.rand(3, 3), torch.tensor([[0.0, 1, 2]]), TypeError, "integer"),
        (torch.rand(3, 3), torch.tensor([0, 1, 2]), ValueError, r"faces.*\(F, 3\)"),
        (torch.rand(3, 3) / 0, torch.tensor([[0, 1, 2]]), ValueError, "finite"),
        (torch.ones(3, 3).long(), torch.tensor([[0, 1, 2]]), TypeError, "floating"),
        (torch.ones(3, 3), torch.tensor([[0, 1, 2]]), ValueError, "points"),
        (torch.rand(3, 3), None, TypeError, "without faces"),
        ("cow.obj", None, TypeError, "str"),
    ],
)
@pytest.mark.parametrize("converter", [convert.from_mesh, convert.surface])
def test_what_is_no_mesh(converter, mesh, faces, error, message):
    if converter is convert.surface and message == "points":
        message = "area"
    with pytest.raises(error, match=message):
        converter(mesh, faces)


@pytest.mark.parametrize("percentage", [0, 1, -0.5, float("nan")])
def test_percentage_is_a_share(percentage):
    for make in (
        lambda: convert.from_mesh(trimesh.creation.icosahedron(), percentage=percentage),
        lambda: convert.points(torch.rand(9, 3), percentage=percentage),
        lambda: convert.sphere(9, percentage=percentage),
        lambda: convert.cuboid((1, 1, 1), 9, percentage),
    ):
        with pytest.raises(ValueError, match="percentage"):
            make()


# Surfaces of meshes.


def rasterise(vertices, faces, size):
    """Which pixel centres (H, W) the triangles of projected vertices (V, 2) cover."""
    covered = np.zeros(size, bool)
    for triangle in vertices[faces]:
        x0, y0 = np.floor(triangle.min(0)).astype(int).clip(0)
        x1, y1 = np.ceil(triangle.max(0)).astype(int).clip(0, (size[1], size[0]))
        x, y = np.arange(x0, x1) + 0.5, np.arange(y0, y1)[:, None] + 0.5
        sides = []
        for a, b in zip(triangle, np.roll(triangle, -1, 0), strict=True):
            sides.append((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]))
        covered[y0:y1, x0:x1] |= np.all(np.array(sides) >= 0, 0) | np.all(np.array(sides) <= 0, 0)
    return covered


MESHES = {
    "icosphere": lambda: trimesh.creation.icosphere(3),
    "box": lambda: trimesh.creation.box((1, 1.4, 0.7)),
    "torus": lambda: trimesh.creation.torus(1, 0.35),
    "cone": lambda: trimesh.creation.cone(1, 2),
}


@pytest.mark.parametrize("name", MESHES)
def test_silhouettes_of_surfaces_follow_the_mesh(name):
    mesh = MESHES[name]()
    gaussians, _ = convert.surface(mesh, num=5000)
    assert gaussians.num == 5000
    gaussians.check()
    for eye in ([0.1, 0.2, -1], [1, 0.6, -0.7], [0.5, -1, 0.2]):
        eye = torch.tensor(eye) / torch.tensor(eye).norm() * 6
        camera = voge.Cameras.look_at(eye=eye, focal=500.0, image_size=(256, 256))
        pixels, _ = camera.project(torch.tensor(mesh.vertices).float())
        expected = rasterise(pixels.double().numpy(), mesh.faces, (256, 256))
        found = (voge.render(gaussians, camera, torch.ones(5000, 1)).alpha > 0.5).numpy()
        assert expected.sum() > 5000
        iou = (found & expected).sum() / (found | expected).sum()
        assert iou >= 0.975, iou


def test_surface_is_even_flat_and_on_the_mesh():
    mesh = trimesh.creation.box((1, 2, 3))
    gaussians, where = convert.surface(mesh, num=2000)
    place = (torch.tensor(mesh.vertices[mesh.faces])[where.faces] * where.barycentric[..., None]).sum(1)
    width = math.sqrt(22 / 2000 / math.pi)
    assert (place - gaussians.means).norm(dim=-1).max() < width
    torch.testing.assert_close(where.normals, torch.tensor(mesh.face_normals).float()[where.faces])
    sides = torch.bincount(where.normals.abs().argmax(-1)) / 2000  # as the areas are
    torch.testing.assert_close(sides, torch.tensor([12 / 22, 6 / 22, 4 / 22]), rtol=0, atol=0.02)
    scales, axes = torch.linalg.eigh(gaussians.precisions.double())
    assert (scales[:, 2].rsqrt() < 0.3 * scales[:, 1].rsqrt()).float().mean() > 0.99
    along = (axes[:, :, 2] * where.normals).sum(-1).abs()
    assert along.median() > 0.999 and (along > 0.98).float().mean() > 0.99
    inner = (mesh.extents / 2 - gaussians.means.abs().numpy() > 4 * width).sum(-1) == 2  # far from edges
    torch.testing.assert_close(scales[inner, 0].rsqrt().mean(), torch.tensor(width).double(), rtol=0.05, atol=0)
    assert torch.equal(convert.surface(mesh, num=2000)[0].means, gaussians.means)  # nothing is random


def test_one_layer_of_a_surface_has_an_optical_depth_of_two():
    plate = io.Mesh(torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]), torch.tensor([[0, 1, 2], [0, 2, 3]]))
    gaussians, _ = convert.surface(plate, num=3000)
    offsets = torch.rand(500, 1, 3) * torch.tensor([0.8, 0.8, 0]) + torch.tensor([0.1, 0.1, 0]) - gaussians.means
    depth = torch.exp(-0.5 * torch.einsum("rni,nij,rnj->rn", offsets, gaussians.precisions, offsets)).sum(-1)
    torch.testing.assert_close(depth.mean(), torch.tensor(2.0), rtol=0.05, atol=0)
    assert depth.std() < 0.3


@pytest.mark.parametrize("num", [1, 2, 7, 40])
def test_few_gaussians_are_enough_to_be_valid(num):
    gaussians, where = convert.surface(trimesh.creation.icosphere(2), num=num)
    assert gaussians.check().num == num and len(where.faces) == num
    assert torch.bincount(where.patch_of, minlength=num).min() > 0


def test_surface_of_dirty_meshes():
    mesh = trimesh.creation.icosphere(2)
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces)
    clean = convert.surface(vertices, faces, num=300)[0]
    faces = torch.cat([faces, faces[:5, [0, 0, 0]], faces[:5, [0, 1, 1]]])
    dirty = convert.surface(torch.cat([vertices, 50 * torch.rand(9, 3)]), faces, num=300)[0].check()
    torch.testing.assert_close(dirty.means, clean.means)
    torch.testing.assert_close(dirty.precisions, clean.precisions)


@pytest.mark.parametrize(("num", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_num_is_a_count(num, error):
    for make in (
        lambda: convert.surface(trimesh.creation.icosahedron(), num=num),
        lambda: convert.sphere(num),
        lambda: convert.cuboid((1, 1, 1), num),
        lambda: convert.plane(torch.rand(2, 2, 3), (1, 1), num),
        lambda: convert.points(torch.rand(5, 3), num_neighbors=num),
    ):
        with pytest.raises(error, match="num"):
            make()


# Colours of surfaces.


def test_sample_texture():
    texture = torch.rand(4, 6, 3)
    u, v = (torch.arange(6) + 0.5) / 6, 1 - (torch.arange(4) + 0.5) / 4  # the middles of the texels
    uv = torch.stack(torch.broadcast_tensors(u, v[:, None]), -1).reshape(-1, 2)
    for shift in (0, 1, -3):  # it repeats
        torch.testing.assert_close(sample_texture(texture, uv + shift).view(4, 6, 3), texture, rtol=0, atol=1e-5)
    corner = sample_texture(texture, torch.tensor([[0.0, 1.0]]))  # continued, unless it repeats
    torch.testing.assert_close(corner[0], texture[0, 0])
    between = sample_texture(texture, torch.tensor([[2 / 6, 1 - 1.5 / 4]]))
    torch.testing.assert_close(between[0], (texture[1, 1] + texture[1, 2]) / 2)


def test_texture_of_a_plate_shows_upright():
    """The corners of the image are where their texture coordinates are, and every Gaussian has the colour around it."""
    rows, cols = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    texture = torch.stack([cols, rows, torch.zeros_like(rows)], -1)  # red grows to the right, green downwards
    corners = torch.tensor([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    vertices = torch.cat([corners, torch.zeros(4, 1)], -1)
    mesh = io.Mesh(vertices, torch.tensor([[0, 1, 2], [0, 2, 3]]), uv=corners, texture=texture)
    gaussians, where = convert.surface(mesh, num=1000)
    colors = convert.surface_colors(mesh, where)
    x, y, _ = gaussians.means.unbind(-1)
    torch.testing.assert_close(colors, torch.stack([x, 1 - y, 0 * x], -1), rtol=0, atol=0.03)


def test_colours_of_faces_vertices_and_materials():
    box = trimesh.creation.box((1, 1, 1))
    box.visual.face_colors = np.where(np.abs(box.face_normals) > 0.5, 255, 0).astype(np.uint8)
    gaussians, where = convert.surface(box, num=600)
    torch.testing.assert_close(convert.surface_colors(box, where), where.normals.abs(), rtol=0, atol=0.2)
    assert (convert.surface_colors(box, where) - where.normals.abs()).abs().mean() < 0.02
    ball = trimesh.creation.icosphere(3)
    ball.visual.vertex_colors = ((ball.vertices + 1) * 127.5).astype(np.uint8)
    gaussians, where = convert.surface(ball, num=600)
    torch.testing.assert_close(convert.surface_colors(ball, where), (gaussians.means + 1) / 2, rtol=0, atol=0.03)
    ball.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.SimpleMaterial(diffuse=[51, 102, 153, 255])
    )
    torch.testing.assert_close(convert.surface_colors(ball, where), torch.tensor([[0.2, 0.4, 0.6]]).expand(600, 3))
    plain = convert.surface_colors(trimesh.creation.icosphere(3), where)
    assert plain.shape == (600, 3) and plain.unique().numel() == 1
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    ball.visual = trimesh.visual.TextureVisuals(np.random.default_rng(0).random((642, 2)), image=image)
    torch.testing.assert_close(convert.surface_colors(ball, where), torch.tensor([[1.0, 0, 0]]).expand(600, 3))


def test_scene_takes_all_that_a_file_holds(tmp_path):
    ball = trimesh.creation.icosphere(2)
    for content in (ball, io.as_mesh(ball), trimesh.Scene([ball])):
        gaussians, features, _ = convert.scene(content, num=100)
        assert gaussians.num == 100 and features.shape == (100, 3)
    cloud = io.PointCloud(torch.rand(20, 3), torch.rand(20, 3))
    for content in (
        cloud,
        trimesh.PointCloud(cloud.points.numpy(), colors=(cloud.colors.numpy() * 255).astype(np.uint8)),
    ):
        gaussians, features, _ = convert.scene(content)
        assert gaussians.num == 20 and features.shape == (20, 3)
    assert convert.scene(gaussians).gaussians is gaussians
    assert convert.scene(io.Scene(gaussians, features)).features is features
    with pytest.raises(TypeError, match="int"):
        convert.scene(3)


def test_pytorch3d_objects():
    structures = pytest.importorskip("pytorch3d.structures", reason="PyTorch3D is not installed")
    mesh = trimesh.creation.icosahedron()
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces)
    theirs = structures.Meshes([vertices], [faces])
    torch.testing.assert_close(convert.from_mesh(theirs).precisions, convert.from_mesh(vertices, faces).precisions)
    torch.testing.assert_close(
        convert.surface(theirs, num=50)[0].means, convert.surface(vertices, faces, num=50)[0].means
    )
    clouds = structures.Pointclouds([vertices])
    torch.testing.assert_close(convert.points(clouds).precisions, convert.points(vertices).precisions)
    with pytest.raises(ValueError, match="got 2"):
        convert.from_mesh(structures.Meshes([vertices] * 2, [faces] * 2))


# Points.


def test_points_by_their_nearest_neighbours():
    points = torch.rand(200, 3, dtype=torch.float64)
    gaussians = convert.points(points, percentage=0.3)
    distances = (points[:, None] - points).norm(dim=-1)
    nearest = distances.sort(-1).values[:, 1:5]
    length = nearest.minimum(2 * nearest.mean(-1, keepdim=True)).mean(-1)
    expected = 8 * math.log(1 / 0.3) / length**2
    torch.testing.assert_close(gaussians.precisions, expected[:, None, None] * torch.eye(3).double())
    assert gaussians.density is None


def test_an_outlying_neighbour_is_clipped():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [97, 0, 0]])
    length = (3 * 1 + 2 * (3 + 97) / 4) / 4  # of the first: 1, 1, 1 and twice the mean instead of 97
    torch.testing.assert_close(convert.points(points).precisions[0, 0, 0], torch.tensor(8 * math.log(2) / length**2))


def test_points_on_a_grid_have_the_percentage_halfway():
    grid = torch.stack(torch.meshgrid(*[torch.arange(6.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    precision = convert.points(grid, percentage=0.4).precisions[100, 0, 0]
    assert math.isclose(math.exp(-0.5 * precision * 0.25), 0.4, rel_tol=1e-5)


def test_points_flat_along_normals():
    points, normals = torch.rand(50, 3), torch.randn(50, 3)
    flat, round_ = convert.points(points, normals).check(), convert.points(points)
    unit = torch.nn.functional.normalize(normals, dim=-1)
    stretch = flat.precisions @ unit[..., None] / (round_.precisions @ unit[..., None])
    torch.testing.assert_close(stretch, torch.full_like(stretch, stretch[0, 0, 0].item()), rtol=1e-3, atol=0)
    assert stretch[0, 0, 0] > 50
    across = torch.linalg.cross(unit, torch.randn(50, 3))[..., None]
    torch.testing.assert_close(flat.precisions @ across, round_.precisions @ across, rtol=1e-3, atol=1e-2)


def test_repeated_points_count_once():
    points, colors = torch.rand(60, 3) * 2 - 1, torch.rand(60, 3)
    expected = picture(convert.points(points), colors)
    twice = convert.points(torch.cat([points, points[:20]]))
    result = picture(twice, torch.cat([colors, colors[:20]]))
    torch.testing.assert_close(result.features, expected.features, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("points", "normals", "error", "message"),
    [
        (torch.rand(1, 3), None, ValueError, "two different points"),
        (torch.ones(4, 3), None, ValueError, "two different points"),
        (torch.rand(0, 3), None, ValueError, "two different points"),
        (torch.rand(4, 2), None, ValueError, r"\(N, 3\)"),
        (torch.rand(2, 4, 3), None, ValueError, r"\(N, 3\)"),
        (torch.full((4, 3), math.nan), None, ValueError, "finite"),
        (torch.ones(4, 3).int(), None, TypeError, "floating"),
        ("points", None, TypeError, "str"),
        (torch.rand(4, 3), torch.rand(3, 3), ValueError, "normals"),
        (torch.rand(4, 3), torch.zeros(4, 3), ValueError, "normals"),
    ],
)
def test_what_is_no_point_cloud(points, normals, error, message):
    with pytest.raises(error, match=message):
        convert.points(points, normals)


# Simple bodies.


@pytest.mark.parametrize(("extents", "num"), [((2, 2, 2), 102), ((1, 2, 3), 500), ((0.01, 1, 1), 300), ((1, 1, 1), 1)])
def test_cuboid(extents, num):
    gaussians, faces = convert.cuboid(extents, num, 0.6)
    x, y, z = extents
    edge = math.sqrt(2 * (x * y + y * z + z * x) / num)
    samples = [np.linspace(-side / 2, side / 2, max(int(side / edge + 1), 2)) for side in extents]
    lattice = np.stack(np.meshgrid(*samples, indexing="ij"), -1).reshape(-1, 3)
    shell = lattice[(np.abs(np.abs(lattice) - np.array(extents) / 2) < 1e-9).any(-1)]
    found = np.array(sorted(map(tuple, gaussians.means.double().numpy().round(5))))
    np.testing.assert_allclose(found, sorted(map(tuple, shell.round(5))), atol=1e-5)  # all, and each once
    np.testing.assert_allclose(
        gaussians.precisions,
        np.broadcast_to(8 * math.log(1 / 0.6) / edge**2 * np.eye(3), (gaussians.num, 3, 3)),
        rtol=1e-5,
    )
    for face in range(6):  # z-, z+, y-, y+, x-, x+
        axis, side = 2 - face // 2, face % 2 - 0.5
        np.testing.assert_allclose(gaussians.means[faces == face][:, axis], side * extents[axis], rtol=1e-6)
    assert torch.bincount(faces, minlength=6).min() > 0


def test_sphere():
    gaussians = convert.sphere(500, 2.0, 0.4).check()
    torch.testing.assert_close(gaussians.means.norm(dim=-1), torch.full((500,), 2.0))
    distances = (gaussians.means[:, None] - gaussians.means).norm(dim=-1).fill_diagonal_(9)
    nearest = distances.amin(-1)
    assert nearest.max() / nearest.min() < 1.3
    half = torch.exp(-0.5 * gaussians.precisions[:, 0, 0] * (nearest / 2) ** 2)
    assert (half - 0.4).abs().max() < 0.12
    assert gaussians.means.mean(0).norm() < 1e-2


def test_plane_shows_its_image():
    """A camera whose pixels see one Gaussian each gives back the image, its corners in their places."""
    image = torch.rand(12, 16, 3)
    gaussians, features, _ = convert.plane(image, (16.0, 12.0))
    gaussians.check()
    assert torch.equal(features, image.reshape(-1, 3))
    K = torch.tensor([[100.0, 0, 0], [0, 100, 0], [0, 0, 1]])
    camera = voge.Cameras(torch.eye(3), torch.tensor([0.0, 0, 100]), K, image_size=(12, 16))
    result = voge.render(gaussians, camera, features)
    seen = result.features / result.alpha[..., None]
    correlation = np.corrcoef(seen.flatten(), image.flatten())[0, 1]
    assert correlation > 0.9
    flipped = np.corrcoef(seen.flip(1).flatten(), image.flatten())[0, 1]
    assert abs(flipped) < 0.3
    assert (result.alpha[3:-3, 3:-3] - 2 * math.exp(-1)).abs().max() < 0.02  # depth 2, hermite at one point
    wide = voge.Cameras(
        torch.eye(3),
        torch.tensor([0.0, 0, 100]),
        K + torch.tensor([[0, 0, 6.0], [0, 0, 6], [0, 0, 0]]),
        image_size=(24, 28),
    )
    alpha = voge.render(gaussians, wide, features).alpha
    inside = torch.zeros(24, 28, dtype=torch.bool)
    inside[6:18, 6:22] = True
    assert torch.equal(alpha > 0.3, inside)


def test_plane_with_fewer_gaussians_has_their_mean_colours():
    image = torch.rand(60, 80, 4)
    gaussians, features, _ = convert.plane(image, (4, 3), num=12)
    assert gaussians.num == 12
    expected = image.view(3, 20, 4, 20, 4).mean((1, 3)).view(12, 4)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(gaussians.means[5], torch.tensor([1.5, 1.5, 0]), rtol=0, atol=0.02)


def test_images_of_a_box_face_outwards():
    """Seen straight from outside, with y down, every face shows its image upright and not mirrored."""
    images = [torch.rand(9, 9, 3) for _ in range(6)]
    gaussians, features, _ = convert.box(images, (2, 2, 2))
    gaussians.check()
    views = {
        0: ((0, 0, -1), (0, 1, 0)),
        1: ((0, 0, 1), (0, 1, 0)),
        2: ((0, -1, 0), (0, 0, -1)),
        3: ((0, 1, 0), (0, 0, 1)),
        4: ((-1, 0, 0), (0, 1, 0)),
        5: ((1, 0, 0), (0, 1, 0)),
    }
    for face, (outward, down) in views.items():
        outward, down = torch.tensor(outward).float(), torch.tensor(down).float()
        R = torch.stack([torch.linalg.cross(down, -outward), down, -outward])  # rows: right, down, into the scene
        assert torch.linalg.det(R) > 0
        K = torch.tensor([[450.0, 0, 4.5], [0, 450, 4.5], [0, 0, 1]])
        camera = voge.Cameras(R, torch.tensor([0.0, 0, 101]), K, image_size=(9, 9))
        result = voge.render(gaussians, camera, features)
        seen = result.features / result.alpha[..., None]
        assert np.corrcoef(seen.flatten(), images[face].flatten())[0, 1] > 0.85


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: convert.cuboid((1, 2), 9), ValueError, "extents"),
        (lambda: convert.cuboid((1, 2, 0), 9), ValueError, "extents"),
        (lambda: convert.cuboid((1, 2, math.inf), 9), ValueError, "extents"),
        (lambda: convert.sphere(9, -1), ValueError, "radius"),
        (lambda: convert.plane(torch.rand(4, 4), (1, 1)), ValueError, "image"),
        (lambda: convert.plane(torch.rand(0, 4, 3), (1, 1)), ValueError, "image"),
        (lambda: convert.plane(torch.rand(4, 4, 3), (1, -1)), ValueError, "size"),
        (lambda: convert.plane(torch.ones(4, 4, 3).byte(), (1, 1)), TypeError, "image"),
        (lambda: convert.box([torch.rand(4, 4, 3)] * 5, (1, 1, 1)), ValueError, "six"),
        (lambda: convert.box([torch.rand(4, 4, 3)] * 5 + [torch.rand(4, 4, 1)], (1, 1, 1)), ValueError, "channels"),
    ],
)
def test_wrong_bodies(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_missing_scipy_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.spatial", None)
    with pytest.raises(ImportError, match=r"voge\[io\]"):
        convert.points(torch.rand(5, 3))
    with pytest.raises(ImportError, match=r"voge\[io\]"):
        convert.surface(trimesh.creation.icosahedron(), num=10)
    convert.from_mesh(trimesh.creation.icosahedron())
