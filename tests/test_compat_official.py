"""voge.compat.official against the official law, written here in NumPy, in float64, pixel by pixel."""

import math

import numpy as np
import pytest
import torch
import trimesh
from scipy.special import erf

from voge import Cameras
from voge.compat import official

renderer = pytest.importorskip("pytorch3d.renderer", reason="PyTorch3D is not installed")

SIZE = (12, 16)
FOCAL, CENTER = (30.0, 26.0), (7.3, 6.4)  # x, y


def law(verts, S, R, T, K, thr, tau):
    """Weights, indices, lengths (H, W, K) for densities exp(-(x - M)' S (x - M)), as the official package means them.

    One camera of PyTorch3D: X_cam = X R + T, x left, y up, pixel centres at +0.5.
    """
    height, width = SIZE
    weights, lengths = np.zeros((height, width, K)), np.full((height, width, K), 1e10)
    indices = np.full((height, width, K), -1)
    origin = -R @ T
    for row in range(height):
        for col in range(width):
            d = np.array([-(col + 0.5 - CENTER[0]) / FOCAL[0], -(row + 0.5 - CENTER[1]) / FOCAL[1], 1])
            d = R @ d / np.linalg.norm(d)
            hits = []
            for k in range(len(verts)):
                mu = verts[k] - origin
                a, b = d @ S[k] @ d, mu @ S[k] @ d
                length = b / a
                q = mu @ S[k] @ mu - b * b / a
                if q < -math.log(thr + 1e-10) and length > 0:
                    hits.append((length, k, q, a))
            hits = sorted(hits)[:K]
            for m, (length, index, q, _) in enumerate(hits):
                depth = sum(math.exp(-qk) * (erf((length - lk) * math.sqrt(ak)) + 1) / 2 for lk, _, qk, ak in hits)
                weights[row, col, m] = math.exp(-tau * depth) * math.exp(-q) / math.exp(-0.5)
                lengths[row, col, m], indices[row, col, m] = length, index
    return weights, indices, lengths


def some_sigmas(num, generator):
    A = torch.randn(num, 3, 3, dtype=torch.float64, generator=generator)
    return A @ A.mT + 2 * torch.eye(3, dtype=torch.float64)


@pytest.fixture(scope="module")
def scene():
    generator = torch.Generator().manual_seed(3)
    verts = torch.randn(14, 3, dtype=torch.float64, generator=generator) * 0.7
    R, T = renderer.look_at_view_transform(dist=4.0, elev=torch.tensor([20.0, -30.0]), azim=torch.tensor([40.0, 130.0]))
    U, _, V = torch.linalg.svd(R.double())  # a rotation in float64 as well
    R = U @ V
    cameras = renderer.PerspectiveCameras(
        focal_length=torch.tensor([FOCAL], dtype=torch.float64),
        principal_point=torch.tensor([CENTER], dtype=torch.float64),
        R=R,
        T=T.double(),
        image_size=(SIZE,),
        in_ndc=False,
    )
    return verts, some_sigmas(14, generator), cameras


def render(scene, sigmas=None, **settings):
    verts, matrices, cameras = scene
    made = official.GaussianRenderer(cameras, official.GaussianRenderSettings(image_size=SIZE, **settings))
    return made(official.GaussianMeshesNaive(verts, matrices if sigmas is None else sigmas))


@pytest.mark.parametrize(
    "settings", [{}, {"max_assign": 4}, {"absorptivity": 2.5}, {"thr_activation": 0}, {"thr_activation": 0.3}]
)
def test_fragments_follow_the_official_law(scene, settings):
    verts, sigmas, cameras = scene
    frag = render(scene, **settings)
    K, thr, tau = (
        settings.get(name, default)
        for name, default in (("max_assign", 20), ("thr_activation", 0.01), ("absorptivity", 1))
    )
    assert frag.vert_weight.shape == (2, *SIZE, K) and frag.vert_index.dtype == torch.int32
    for i in range(2):
        weights, indices, lengths = law(
            verts.numpy(), 2 * sigmas.numpy(), cameras.R[i].numpy(), cameras.T[i].numpy(), K, thr, tau
        )
        assert (indices >= 0).any(-1).mean() > 0.5  # the scene is in the picture
        index = torch.where(frag.vert_index[i] < 0, -1, frag.vert_index[i] - 14 * i)  # of the flattened batch
        np.testing.assert_array_equal(index, indices)
        np.testing.assert_allclose(frag.vert_weight[i], weights, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(frag.vert_hit_length[i], lengths, rtol=1e-9)
        np.testing.assert_array_equal(frag.valid_num[i], (indices >= 0).sum(-1))


@pytest.mark.parametrize("shape", ["numbers", "diagonals"])
def test_shapes_of_sigmas(scene, shape):
    sigmas = torch.rand(14, dtype=torch.float64) + 2
    sigmas = sigmas if shape == "numbers" else torch.stack([sigmas, 2 * sigmas, 3 * sigmas], -1)
    matrices = torch.diag_embed(sigmas.view(14, -1).expand(14, 3))
    torch.testing.assert_close(render(scene, sigmas).vert_weight, render(scene, matrices).vert_weight, rtol=0, atol=0)


def test_inverse_sigma(scene):
    inverse = torch.linalg.inv(scene[1])
    torch.testing.assert_close(render(scene, inverse, inverse_sigma=True).vert_weight, render(scene).vert_weight)


def test_images(scene):
    frag, colors = render(scene), torch.rand(14, 3, dtype=torch.float64)
    for i in range(2):
        hit = (frag.vert_index[i] >= 0).numpy()
        index = np.where(hit, frag.vert_index[i].numpy() - 14 * i, 0)
        weights = np.where(hit, frag.vert_weight[i].numpy(), 0)
        image = np.einsum("hwk,hwkc->hwc", weights, colors.numpy()[index])
        silhouette = np.minimum(weights.sum(-1), 1)[..., None]
        np.testing.assert_allclose(official.interpolate_attr(frag, colors)[i], image, rtol=1e-12)
        np.testing.assert_allclose(official.get_silhouette(frag)[i], silhouette[..., 0], rtol=1e-12)
        np.testing.assert_allclose(
            official.to_white_background(frag, colors)[i], np.minimum(image + 1 - silhouette, 1), rtol=1e-12
        )
        blue = official.to_colored_background(frag, colors, (0, 0, 1), thr=0.5)[i]
        expected = image.copy()
        expected[..., 2:] += silhouette <= 0.5
        np.testing.assert_allclose(blue, np.minimum(expected, 1), rtol=1e-12)
    repeated = official.interpolate_attr(frag, colors.repeat(2, 1))  # as scripts with batches do
    torch.testing.assert_close(repeated, official.interpolate_attr(frag, colors))


def test_interpolating_twice_gives_the_same(scene):
    frag, colors = render(scene), torch.rand(14, 3, dtype=torch.float64)
    first = official.interpolate_attr(frag, colors)
    torch.testing.assert_close(official.interpolate_attr(frag, colors), first, rtol=0, atol=0)
    assert (frag.vert_index == -1).any()


def test_samplers(scene):
    frag, image = render(scene), torch.rand(2, *SIZE, 5, dtype=torch.float64)
    features, sums = official.sample_features(frag, image)
    largest = official.scatter_max_weight(frag)
    assert features.shape == (28, 5) and sums.shape == largest.shape == (28,)
    expected, expected_sums, expected_largest = np.zeros((28, 5)), np.zeros(28), np.zeros(28)
    for place in np.ndindex(*frag.vert_index.shape):
        index, weight = int(frag.vert_index[place]), float(frag.vert_weight[place])
        if index >= 0:
            expected[index] += weight * image[place[:3]].numpy()
            expected_sums[index] += weight
            expected_largest[index] = max(expected_largest[index], weight)
    np.testing.assert_allclose(features, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(sums, expected_sums, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(largest, expected_largest, rtol=1e-12)
    torch.testing.assert_close(official.sample_features(frag, image, 14)[1], sums[:14] + sums[14:])
    with pytest.raises(ValueError, match="n_vert"):
        official.scatter_max_weight(frag, 3)
    with pytest.raises(ValueError, match="image"):
        official.sample_features(frag, image[:, :, :3])


def test_gradients_reach_everything(scene):
    verts, sigmas, cameras = scene
    made = official.GaussianRenderer(cameras, official.GaussianRenderSettings(image_size=SIZE))
    R, T = cameras.R.clone().requires_grad_(), cameras.T.clone().requires_grad_()
    gaussians = official.GaussianMeshes(verts, sigmas)
    colors = torch.rand(14, 3, dtype=torch.float64, requires_grad=True)
    target = torch.rand(2, *SIZE, 3, dtype=torch.float64)

    def loss():
        return (official.to_white_background(made(gaussians, R=R, T=T), colors) - target).square().sum()

    loss().backward()
    step = 1e-6
    for value in (gaussians.verts, gaussians.sigmas, colors, T):
        direction = torch.randn_like(value)
        direction = (direction + direction.mT) / 2 if value is gaussians.sigmas else direction
        with torch.no_grad():
            value += step * direction
            high = loss()
            value -= 2 * step * direction
            low = loss()
            value += step * direction
        slope = float((value.grad * direction).sum())
        assert slope != 0
        assert math.isclose(float(high - low) / (2 * step), slope, rel_tol=2e-4, abs_tol=1e-5)
    assert R.grad.abs().sum() > 0


def test_pose_of_one_call(scene):
    """R, T, focal and principal count for their call, None is the cameras' own, and the cameras stay as they are."""
    verts, sigmas, cameras = scene
    made = official.GaussianRenderer(cameras, {"image_size": SIZE})
    gaussians = official.GaussianMeshesNaive(verts, sigmas)
    own, R, T = made(gaussians), cameras.R.clone(), cameras.T.clone()
    single = official.GaussianRenderer(cameras[0], {"image_size": SIZE})
    assert len(single(gaussians)) == 1
    torch.testing.assert_close(single(gaussians, R=R, T=T).vert_weight, own.vert_weight)
    torch.testing.assert_close(single(gaussians, R=R[1], T=T[1]).vert_weight[0], own.vert_weight[1])
    for frag in (made(gaussians), made(gaussians, R=None, T=None)):
        torch.testing.assert_close(frag.vert_weight, own.vert_weight, rtol=0, atol=0)
    assert torch.equal(cameras.R, R) and torch.equal(cameras.T, T)
    wide = made(gaussians, focal=20.0, principal=(8.0, 6.0))
    expected = renderer.PerspectiveCameras(
        focal_length=20.0, principal_point=((8.0, 6.0),), R=R, T=T, image_size=(SIZE,), in_ndc=False
    )
    expected = official.GaussianRenderer(expected, {"image_size": SIZE})(gaussians)
    torch.testing.assert_close(wide.vert_weight, expected.vert_weight, rtol=1e-5, atol=1e-6)


def test_our_cameras_do_as_well(scene):
    verts, sigmas, cameras = scene
    ours = Cameras.from_pytorch3d(cameras, SIZE)
    made = official.GaussianRenderer(ours, official.GaussianRenderSettings(image_size=SIZE))
    torch.testing.assert_close(made(official.GaussianMeshesNaive(verts, sigmas)).vert_weight, render(scene).vert_weight)
    single = official.GaussianRenderer(ours[0], official.GaussianRenderSettings(image_size=SIZE))
    assert len(single(official.GaussianMeshesNaive(verts, sigmas))) == 1


def test_settings(scene):
    verts, sigmas, cameras = scene
    with pytest.warns(UserWarning, match="batch_size, principal_point"):
        official.GaussianRenderSettings(batch_size=-1, principal_point=(8, 8))
    assert official.GaussianRenderSettings(image_size=100)["image_size"] == (100, 100)
    gaussians = official.GaussianMeshesNaive(verts, sigmas)
    official.GaussianRenderer(cameras, {"image_size": SIZE, "principal": CENTER[::-1]})(gaussians)
    with pytest.raises(ValueError, match="principal"):
        official.GaussianRenderer(cameras, {"image_size": SIZE, "principal": (1, 2)})(gaussians)
    ndc = renderer.PerspectiveCameras()
    with pytest.raises(ValueError, match="in_ndc"):
        official.GaussianRenderer(ndc, {"image_size": SIZE})(gaussians)
    frag = render(scene, max_point_per_bin=-1)
    torch.testing.assert_close(frag.vert_weight, render(scene, max_point_per_bin=1).vert_weight, rtol=0, atol=0)


def test_gaussians_behind_the_camera_are_not_seen(scene):
    _, sigmas, cameras = scene
    center = cameras.get_camera_center()[:1].double()
    behind = center + 0.5 * center / center.norm()  # the cameras look at the origin
    made = official.GaussianRenderer(cameras[0], {"image_size": SIZE})
    assert made(official.GaussianMeshesNaive(behind, sigmas[:1])).valid_num.sum() == 0
    ahead = center - 1.5 * center / center.norm()
    assert made(official.GaussianMeshesNaive(ahead, sigmas[:1])).valid_num.sum() > 0


def test_fragments_behave(scene):
    frag = render(scene)
    assert len(frag) == 2 and frag.shape[0] == frag.vert_weight.shape
    first = frag[0]
    assert first.vert_weight.shape == (*SIZE, 20)
    assert first.unsqueeze().squeeze().vert_index.shape == first.vert_index.shape
    copied = frag.copy()
    copied.vert_index.fill_(7)
    assert (frag.vert_index != 7).any() and set(frag.to_dict()) == {
        "vert_weight",
        "vert_index",
        "valid_num",
        "vert_hit_length",
    }
    for wrong in (frag.squeeze, frag.unsqueeze, lambda: first[0]):
        with pytest.raises(ValueError, match="fragments"):
            wrong()


def test_meshes_copy_and_train_what_was_asked():
    verts, sigmas, radians = torch.rand(5, 3), torch.rand(5), torch.rand(5)
    meshes = official.GaussianMeshes(verts, sigmas, gradianted_args=[True, False, True])
    assert [len(value) for value in meshes.grad_parameters()] == [5]
    verts.zero_()
    assert meshes.verts.abs().sum() > 0
    assert meshes()[2] is None and not meshes.sigmas.requires_grad
    assert len(official.DeformedGaussianMeshes(verts, sigmas, radians).grad_parameters()) == 3
    naive = official.GaussianMeshesNaive(verts, sigmas, radians)[1:3].to("cpu")
    assert naive()[0].shape == (2, 3) and naive()[2].shape == (2,)


# Ray tracing and aggregation.


def test_dense_rays_and_the_nearest_of_them(scene):
    verts, sigmas, _ = scene
    S, rays = (
        2 * sigmas,
        torch.nn.functional.normalize(torch.randn(40, 3, dtype=torch.float64) + torch.tensor([0, 0, 3]), dim=-1),
    )
    mus = verts + torch.tensor([0, 0, 4])
    length, act, dsd = official.ray_trace_voge_ray(mus, S, rays)
    a = torch.einsum("ri,nij,rj->rn", rays, S, rays)
    b = torch.einsum("ni,nij,rj->rn", mus, S, rays)
    torch.testing.assert_close(dsd, a)
    torch.testing.assert_close(length, b / a)
    torch.testing.assert_close(act, torch.einsum("ni,nij,nj->n", mus, S, mus) - b * b / a)
    round_ = official.ray_trace_voge_ray(mus, 3.0, rays)[2]
    torch.testing.assert_close(round_, torch.full_like(round_, 3.0))

    length.requires_grad_(), act.requires_grad_()
    found = official.find_nearest_k(length, act, dsd, 5, 0.01)
    traced = official.ray_tracing(None, mus, S, rays.view(1, 5, 8, 3), (5, 8), 0.01, 5)
    for one, other in zip(found, traced, strict=True):
        torch.testing.assert_close(one, other.view(40, 5), rtol=1e-8, atol=1e-8)
    hit = found[0] >= 0
    assert hit.any() and not hit.all()
    assert (found[2][~hit] == 1e10).all() and (found[1][~hit] == 1e10).all()
    (torch.where(hit, found[1], 0).sum() + 2 * torch.where(hit, found[2], 0).sum()).backward()  # with rays of few hits
    seen = torch.zeros(40, 14).double()
    seen[torch.nonzero(hit)[:, 0], found[0][hit].long()] = 1
    torch.testing.assert_close(length.grad, seen)
    torch.testing.assert_close(act.grad, 2 * seen)

    furthest = official.find_farest_k(length.detach(), act.detach(), dsd, 14, 0.01)
    nearest = official.find_nearest_k(length.detach(), act.detach(), dsd, 14, 0.01)
    for r in range(40):
        count = int((nearest[0][r] >= 0).sum())
        assert nearest[0][r, :count].tolist() == furthest[0][r, :count].flip(0).tolist()
        assert (furthest[1][r, count:] == 1e10).all()
    assert official.find_nearest_k(length, act, dsd, 20, 0.01)[0].shape == (40, 20)


def test_aggregation(scene):
    frag = render(scene, absorptivity=1.7)
    act, dsd = torch.rand(6, 4).double(), torch.rand(6, 4).double() + 1
    length = torch.rand(6, 4).double().sort(-1).values + 3
    index = torch.arange(4).expand(6, 4)
    weight, _, count, _ = official.aggregation(index, act, length, dsd, 1.7)
    crossed = official.get_cross_activation(length, dsd)
    torch.testing.assert_close(weight, official.assign2weight(act, crossed, 1.7))
    expected = np.zeros((6, 4))
    q, a, t = act.numpy(), dsd.numpy(), length.numpy()
    for r, m in np.ndindex(6, 4):
        depth = sum(math.exp(-q[r, k]) * (erf((t[r, m] - t[r, k]) * math.sqrt(a[r, k])) + 1) / 2 for k in range(4))
        expected[r, m] = math.exp(-1.7 * depth - q[r, m] + 0.5)
    assert (count == 4).all()
    colors = torch.rand(28, 3).double()
    merged = official.merge_final(colors, frag.vert_weight, frag.vert_index, frag.valid_num)
    torch.testing.assert_close(merged, official.interpolate_attr(frag, colors))


def test_expend_sigma():
    rotation = torch.linalg.qr(torch.randn(4, 3, 3)).Q
    sigmas = torch.rand(4, 3) + 1
    torch.testing.assert_close(
        official.expend_sigma(sigmas, rotation), rotation @ torch.diag_embed(sigmas) @ rotation.mT
    )
    assert official.expend_sigma(sigmas[:, 0]).shape == (4, 3, 3)
    with pytest.raises(ValueError, match="sigma"):
        official.expend_sigma(torch.rand(4, 2))


def test_rays_of_pixels_are_those_of_the_camera(scene):
    rays = official.get_ray_camera_space(SIZE, CENTER[::-1], torch.tensor(FOCAL))
    cameras = renderer.PerspectiveCameras(
        focal_length=(FOCAL,), principal_point=(CENTER,), image_size=(SIZE,), in_ndc=False
    )
    points = cameras.transform_points_screen(rays.reshape(-1, 3))[:, :2].view(*SIZE, 2)
    assert torch.allclose(points[3, 5], torch.tensor([5.5, 3.5]), atol=1e-4)
    torch.testing.assert_close(rays.norm(dim=-1), torch.ones(SIZE))


# Converters.


def loop_lengths(vertices, faces):
    lengths = np.full(len(vertices), 10 * np.linalg.norm(vertices.max(0) - vertices.min(0)) / len(vertices))
    for i in range(len(vertices)):
        neighbors = {j for face in faces if i in face for j in face} - {i}
        if neighbors:
            lengths[i] = np.mean([np.linalg.norm(vertices[i] - vertices[j]) for j in neighbors])
    return lengths


def test_naive_vertices_converter():
    mesh = trimesh.creation.box((1, 2, 3)).subdivide()
    vertices = np.concatenate([mesh.vertices, [[5, 5, 5]]])  # one that no face uses
    verts, sigmas, radians = official.naive_vertices_converter(vertices, mesh.faces, percentage=0.6)
    assert radians is None and isinstance(verts, np.ndarray)
    expected = 1 / (loop_lengths(vertices, mesh.faces.tolist()) ** 2 / (2 * math.log(1 / 0.6)) + 1e-10)
    np.testing.assert_allclose(sigmas, expected, rtol=1e-5)
    capped = official.naive_vertices_converter(vertices, mesh.faces, 0.6, max_sig_rate=1.2)[1]
    np.testing.assert_allclose(capped, np.minimum(expected, 1.2 * expected.mean()), rtol=1e-5)
    tensors = official.naive_vertices_converter(torch.tensor(vertices).float(), torch.tensor(mesh.faces), 0.6)
    np.testing.assert_allclose(tensors[1], expected, rtol=1e-5)
    assert all(value is None or value.dtype == torch.float32 for value in official.to_torch(verts, sigmas, None))


def test_normal_mesh_converter_flattens():
    mesh = trimesh.creation.icosphere(1)
    normals = torch.tensor(mesh.vertices)
    base = official.naive_vertices_converter(torch.tensor(mesh.vertices), torch.tensor(mesh.faces))[1]
    sigmas = official.normal_mesh_converter(
        torch.tensor(mesh.vertices), torch.tensor(mesh.faces), normals, shape_ratio=0.25
    )[1]
    torch.testing.assert_close((sigmas @ normals[..., None])[..., 0], 4 * base[:, None] * normals)
    torch.testing.assert_close(torch.linalg.eigvalsh(sigmas)[:, :2], base[:, None].expand(-1, 2))
    with pytest.raises(ValueError, match="normals"):
        official.normal_mesh_converter(torch.tensor(mesh.vertices), torch.tensor(mesh.faces), 2 * normals)


def test_point_cloud_converters():
    points = torch.rand(60, 3, dtype=torch.float64)
    nearest = (points[:, None] - points).norm(dim=-1).sort(-1).values[:, 1:4]  # without the point itself
    length = nearest.minimum(1.1 * nearest.mean(-1, keepdim=True)).mean(-1)
    sigmas = official.naive_point_cloud_converter(points, 0.7, n_nearest=3, thr_max=1.1)[1]
    torch.testing.assert_close(sigmas, 4 * math.log(1 / 0.7) / length**2)
    sigmas = official.fixed_pointcloud_converter(points.numpy(), 0.1, 0.75)[1]
    np.testing.assert_allclose(sigmas, np.full(60, 2 * math.log(1 / 0.75) / 0.01), rtol=1e-5)


def test_pytorch3d2gaussian():
    structures = pytest.importorskip("pytorch3d.structures", reason="PyTorch3D is not installed")
    mesh = trimesh.creation.icosahedron()
    vertices, faces = torch.tensor(mesh.vertices).float(), torch.tensor(mesh.faces)
    made = official.pytorch3d2gaussian(official.naive_vertices_converter, percentage=0.6)
    gaussians = made(structures.Meshes([vertices] * 2, [faces] * 2), gradianted_args=[False, True, False])
    torch.testing.assert_close(gaussians.sigmas.detach(), official.naive_vertices_converter(vertices, faces, 0.6)[1])
    assert not gaussians.verts.requires_grad
    clouds = official.pytorch3d2gaussian(official.naive_point_cloud_converter)(structures.Pointclouds([vertices]))
    assert clouds.sigmas.shape == (12,)


def test_cuboids():
    colors = np.arange(18).reshape(6, 3)
    verts, sigmas, found = official.cuboid_gauss((-1, 1), (0, 2), (1, 1.5), 400, percentage=0.7, colors=colors)
    np.testing.assert_allclose([verts.min(0), verts.max(0)], [[-1, 0, 1], [1, 2, 1.5]])
    np.testing.assert_allclose(sigmas, 2 * math.log(1 / 0.7) / (2 * (4 + 1 + 1) / 400), rtol=1e-6)
    assert (verts[(found == colors[5]).all(-1), 0] == 1).all()
    assert isinstance(official.cuboid_gauss((-1, 1), (-1, 1), (-1, 1), 100, as_obj=True), official.GaussianMeshes)
    verts, faces, found = official.cuboid_mesh((-1, 1), (0, 2), (1, 1.5), 400, colors=colors)
    mesh = trimesh.Trimesh(verts, faces, process=True)
    assert mesh.is_watertight and mesh.is_winding_consistent
    np.testing.assert_allclose(mesh.volume, 2)  # positive: it faces outwards
    assert len(found) == len(verts) and (verts[(found == colors[0]).all(-1), 2] == 1).all()
    assert len(official.cuboid_mesh((-1, 1), (0, 2), (1, 1.5), 40, as_obj=True).verts_packed()) > 8


def test_files(tmp_path):
    mesh = trimesh.creation.icosahedron()
    colors = np.random.default_rng(0).random((12, 3))
    official.save_off(tmp_path / "a.off", torch.tensor(mesh.vertices), torch.tensor(mesh.faces), colors)
    vertices, faces, read = official.load_off(tmp_path / "a.off")
    np.testing.assert_allclose(vertices, mesh.vertices, rtol=1e-5)
    np.testing.assert_array_equal(faces, mesh.faces)
    np.testing.assert_allclose(read, colors, rtol=1e-5)
    assert len(official.load_off(tmp_path / "a.off", to_torch=True, ignore_color=True)) == 2
    for sigmas in (torch.rand(5), torch.rand(5, 3), torch.rand(5, 3, 3)):
        points, radians = torch.rand(5, 3), torch.rand(5)
        official.save_goff(tmp_path / "a.goff", points, sigmas, radians)
        for one, other in zip(
            official.load_goff(tmp_path / "a.goff", to_torch=True), (points, sigmas, radians), strict=True
        ):
            torch.testing.assert_close(one, other)
    assert official.load_goff(tmp_path / "a.goff")[0].shape == (5, 3)
    with pytest.raises(ValueError, match=r"b\.goff"):
        official.load_goff(tmp_path / "b.goff")
    with pytest.raises(ValueError, match="face_color"):
        official.save_off(tmp_path / "b.off", vertices, faces, face_color=colors)
    assert official.pre_process_pascal(np.array([[1.0, 2, 3]]), 5)[0].tolist() == [[1, 3, -2]]


# Utilities.


def test_selecting_and_filling():
    target, index = torch.rand(1, 9, 2), torch.randint(9, (4, 3))
    expected = torch.stack([target[0][row] for row in index])
    torch.testing.assert_close(official.ind_sel(target, index), expected)
    filled = official.ind_fill(torch.zeros(4, 9), index, 1.0)
    assert all(
        set(torch.nonzero(row)[:, 0].tolist()) == set(chosen.tolist())
        for row, chosen in zip(filled, index, strict=True)
    )


def test_rotation_theta():
    turn = official.rotation_theta(0.3)
    torch.testing.assert_close(turn[0] @ torch.tensor([1.0, 0, 0]), torch.tensor([math.cos(0.3), math.sin(0.3), 0]))
    assert official.rotation_theta(torch.rand(4)).shape == (4, 3, 3)


@pytest.mark.parametrize("dims", [{"target_dims": (0, 1)}, {"remain_dims": -1}])
@pytest.mark.parametrize("kind", [official.Batchifier, official.DataParallelBatchifier])
def test_batchifier(kind, dims):
    sizes = []

    def func(x, y, scale):
        sizes.append(len(x))
        return scale * x + y, y[:, :1]

    x, y = torch.rand(3, 5, 2), torch.rand(3, 5, 2)
    total, first = kind(4, batch_args=("x", "y"), **dims)(func)(x=x, y=y, scale=2)
    torch.testing.assert_close(total, 2 * x + y)
    torch.testing.assert_close(first, y[..., :1])
    assert sizes == [4, 4, 4, 3]
    with pytest.raises(ValueError, match="rows"):
        kind(4, batch_args=("x", "y"), **dims)(func)(x=x, y=y[:2], scale=2)
