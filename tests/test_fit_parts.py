"""The parts of a fit: rotations, losses, light and ground, Levenberg-Marquardt, pyramid, starts."""

import math
from dataclasses import replace

import pytest
import torch

from voge.cameras import Cameras
from voge.fit import Stage, appearance, losses, matching, pyramid, rigid, starts
from voge.fit.levenberg import Terms, central_differences, levenberg_marquardt
from voge.fit.objective import Objective
from voge.gaussians import Gaussians
from voge.render import render

DOUBLE = {"dtype": torch.float64}


def test_exp_so3_is_the_matrix_exponential_and_differentiable_at_zero():
    omega = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    omega[0], omega[1] = 0, 1e-5
    x, y, z = omega.unbind(-1)
    o = torch.zeros_like(x)
    skew = torch.stack([o, -z, y, z, o, -x, -y, x, o], -1).view(-1, 3, 3)
    torch.testing.assert_close(rigid.exp_so3(omega), torch.linalg.matrix_exp(skew), rtol=0, atol=1e-12)
    assert torch.equal(rigid.exp_so3(omega[0]), torch.eye(3, **DOUBLE))
    assert torch.autograd.gradcheck(rigid.exp_so3, omega.requires_grad_())


@pytest.mark.parametrize("angle", [0.0, 1e-7, 0.5, 3.0, math.pi])
def test_rotation_angle(angle):
    axis = torch.tensor([0.6, -0.8, 0.0], **DOUBLE)
    A = rigid.even_rotations(3, seed=1)
    assert torch.allclose(
        rigid.rotation_angle(A @ rigid.exp_so3(angle * axis), A), torch.tensor(angle, **DOUBLE), atol=1e-7
    )


def test_even_rotations_cover_the_group():
    R = rigid.even_rotations(500, seed=3)
    torch.testing.assert_close(R @ R.mT, torch.eye(3, **DOUBLE).expand_as(R))
    assert (torch.linalg.det(R) > 0).all()
    anywhere = rigid.even_rotations(2000, seed=4)
    nearest = rigid.rotation_angle(anywhere[:, None], R).amin(1)
    assert nearest.max() < math.radians(30)  # 500 balls of this radius are 1.5 times the group
    assert not torch.equal(R, rigid.even_rotations(500, seed=5))


def test_rotations_within_stay_within():
    R = rigid.rotations_within(math.radians(40), 50, seed=2)
    assert len(R) == 50 and torch.equal(R[0], torch.eye(3, **DOUBLE))
    angles = rigid.rotation_angle(R, R[0])
    assert angles.max() < math.radians(41) and angles.max() > math.radians(35)
    assert len(rigid.rotations_within(1.0, 1)) == 1


def test_geman_mcclure_curvature_is_the_second_derivative_at_zero_and_the_irls_weight():
    r = torch.linspace(-1, 1, 21, requires_grad=True, **DOUBLE)
    (slope,) = torch.autograd.grad(losses.geman_mcclure(r * r, 0.3).sum(), r)
    torch.testing.assert_close(slope, losses.geman_mcclure_curvature(r * r, 0.3) * r)
    assert losses.geman_mcclure(torch.tensor(0.09), 0.3) == pytest.approx(0.5)


def test_charbonnier_is_the_absolute_value_with_a_smooth_foot():
    r = torch.tensor([-2.0, 0.0, 2.0], requires_grad=True, **DOUBLE)
    value = losses.charbonnier(r, 1e-3)
    torch.testing.assert_close(value, r.abs(), rtol=0, atol=1e-3)
    assert torch.autograd.grad(value.sum(), r)[0][1] == 0


def test_silhouette_losses_on_two_squares():
    a, b = torch.zeros(20, 20), torch.zeros(20, 20)
    a[5:15, 5:15], b[5:15, 10:20] = 1, 1
    assert losses.silhouette_iou(a, b) == pytest.approx(1 - 50 / 150)
    explained = torch.zeros(20, 20)
    assert losses.explained_iou(a, explained, b) == pytest.approx(1 - 50 / 150)
    assert losses.explained_iou(a, explained + 0.2, b) == pytest.approx(1 - 40 / 150)


def test_explained_share_charges_what_is_covered_in_vain():
    a, ground, error = torch.zeros(20, 20), torch.full((20, 20), 0.5), torch.full((20, 20), 0.7)
    assert losses.explained_share(a, error, ground) == 1
    a[5:15, 5:15], error[5:15, 5:10] = 1, 0.1
    assert losses.explained_share(a, error, ground) == pytest.approx(1 - (50 * 0.4 - 50 * 0.2) / 200)
    half = a.clone()
    half[:, 10:] = 0
    assert losses.explained_share(half, error, ground) == pytest.approx(1 - 50 * 0.4 / 200)


def soft_disc(size=40, radius=9.0):
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    return torch.sigmoid(radius - ((x - size / 2) ** 2 + (y - size / 2) ** 2).sqrt()).double()


def test_backdrop_finds_the_ground_through_soft_edges():
    alpha, colour, ground = (
        soft_disc(),
        torch.tensor([0.9, 0.2, 0.1], **DOUBLE),
        torch.tensor([0.2, 0.3, 0.6], **DOUBLE),
    )
    image = alpha[..., None] * colour + (1 - alpha[..., None]) * ground
    found = appearance.backdrop(colour.expand_as(image), alpha, image)
    torch.testing.assert_close(found, ground.expand_as(image))


def test_affine_light_is_recovered_despite_an_occluder():
    g = torch.Generator().manual_seed(0)
    colour = torch.rand(40, 40, 3, generator=g, **DOUBLE)
    image = 0.7 * colour + torch.tensor([0.1, 0.0, -0.1], **DOUBLE)
    image[:, 30:] = 3.0
    lit = appearance.lit(colour, soft_disc(radius=30.0), image, "affine", 0.05)
    torch.testing.assert_close(lit[:, :30], image[:, :30], rtol=0, atol=0.02)
    assert appearance.lit(colour, soft_disc(), image, "same", 0.05) is colour


def test_local_light_follows_shading():
    colour = torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(0), **DOUBLE)
    shade = torch.linspace(0.5, 1.5, 64, **DOUBLE)[:, None]
    image = shade * colour
    lit = appearance.lit(colour, torch.ones(64, 64, **DOUBLE), image, "local", 0.1)
    assert (lit - image).abs().mean() < 0.2 * (colour - image).abs().mean()


def test_backdrop_of_a_large_picture_follows_a_slope():
    alpha, colour = soft_disc(200, 30.0), torch.tensor([0.9, 0.2, 0.1], **DOUBLE)
    slope = torch.linspace(0, 1, 200, **DOUBLE)[:, None, None].expand(200, 200, 3)
    found = appearance.backdrop(
        colour.expand_as(slope), alpha, alpha[..., None] * colour + (1 - alpha[..., None]) * slope
    )
    near = alpha[..., None].expand_as(slope) < 0.5
    assert (found - slope)[near].abs().max() < 0.06  # half of the window, 16 pixels, at the borders
    assert (found - slope)[near].abs().mean() < 0.01


def rosenbrock(x):
    residuals = torch.stack([10 * (x[:, 1] - x[:, 0] ** 2), 1 - x[:, 0]], 1)
    return Terms((residuals**2).sum(1) / 2, residuals, torch.ones_like(residuals))


def test_levenberg_marquardt_finds_the_minimum_of_each_row_and_leaves_the_rest():
    x = torch.tensor([[-1.2, 1.0, 7.0], [2.0, 2.0, 8.0]], **DOUBLE)
    seen = []
    found = levenberg_marquardt(
        rosenbrock, x, torch.tensor([0, 1]), iterations=200, step=1e-4, tolerance=1e-8,
        callback=lambda x, loss: seen.append(loss.clone()),
    )  # fmt: skip
    torch.testing.assert_close(found.x[:, :2], torch.ones(2, 2, **DOUBLE), rtol=0, atol=1e-4)
    assert torch.equal(found.x[:, 2], x[:, 2])
    assert found.converged.all()
    curve = torch.stack(seen)
    assert (curve.diff(dim=0) <= 0).all()


def test_central_differences_are_exact_for_quadratics():
    x = torch.tensor([[0.3, -0.2, 5.0]], **DOUBLE)
    terms, gradient, jacobian = central_differences(rosenbrock, x, torch.tensor([0, 1]), 1e-3)
    exact = torch.tensor([[-20 * 0.3, 10.0], [-1.0, 0.0]], **DOUBLE)
    torch.testing.assert_close(jacobian[0], exact)
    torch.testing.assert_close(gradient[0], exact.T @ terms.residuals[0], rtol=1e-4, atol=1e-4)


def scene(num=60, seed=0):
    g = torch.Generator().manual_seed(seed)
    means = torch.randn(num, 3, generator=g) * torch.tensor([0.5, 0.3, 0.2])
    scales = 0.05 + 0.05 * torch.rand(num, 3, generator=g)
    gaussians = Gaussians.from_scales_rotations(means, scales, torch.randn(num, 4, generator=g))
    return gaussians, torch.rand(num, 3, generator=g)


def test_widened_adds_to_the_covariance():
    gaussians, _ = scene()
    wide = pyramid.widened(gaussians, 0.04)
    difference = torch.linalg.inv(wide.precisions.double()) - torch.linalg.inv(gaussians.precisions.double())
    torch.testing.assert_close(difference, 0.04 * torch.eye(3, **DOUBLE).expand_as(difference), rtol=1e-3, atol=1e-5)
    assert pyramid.widened(gaussians, 0.0) is gaussians


def test_merged_keeps_mean_covariance_features_and_total():
    gaussians, features = scene()
    one, mean = pyramid.merged(Gaussians(gaussians.means + 50, gaussians.precisions), features, 100.0)
    assert one.num == 1
    covariances = torch.linalg.inv(gaussians.precisions.double())
    area = torch.linalg.det(covariances) ** (1 / 3)
    share = area / area.sum()
    centre = (share[:, None] * (gaussians.means + 50)).sum(0)
    offset = gaussians.means + 50 - centre
    covariance = (share[:, None, None] * (covariances + offset[:, :, None] * offset[:, None])).sum(0)
    torch.testing.assert_close(one.means[0].double(), centre.double(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.linalg.inv(one.precisions[0].double()), covariance.double(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mean[0].double(), (share[:, None] * features).sum(0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        one.density[0].double() * torch.linalg.det(covariance).double() ** (1 / 3), area.sum(), rtol=1e-3, atol=0
    )
    same, _ = pyramid.merged(gaussians, features, 1e-6)
    assert same is gaussians


def test_a_level_resized_shows_what_its_camera_sees():
    gaussians, colors = scene()
    camera = Cameras.look_at(eye=(0.0, 0.5, -3.0), focal=90.0, image_size=(60, 80))
    image = render(gaussians, camera, colors).features
    level = pyramid.Level(camera, image, torch.ones(60, 80))
    for small in (level.resized(40), level.cropped((10, 4, 70, 56)).resized(30)):
        K = small.camera.K + torch.tensor([[0, 0, 0.5], [0, 0, 0], [0, 0, 0]])
        shifted = Cameras(small.camera.R, small.camera.t, K, small.camera.image_size)
        errors = []
        for camera in (small.camera, shifted):
            seen = render(gaussians, camera, colors).features
            assert seen.shape == small.image.shape
            errors.append((seen - small.image).abs().mean())
        assert errors[0] < 0.6 * errors[1]  # what the low-pass filter leaves, against half a pixel


def test_window_surrounds_the_mask_or_the_ball():
    camera = Cameras(torch.eye(3), torch.zeros(3), torch.tensor([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]), (80, 100))
    mask = torch.zeros(80, 100)
    mask[30:50, 40:80] = 1
    solid = starts.Solid(torch.zeros(3), 0.5)
    assert pyramid.window(camera, mask, None, solid) == (30, 20, 90, 60)
    poses = starts.Poses(torch.eye(3)[None], torch.tensor([[0.0, 0.0, 5.0]]), torch.ones(1))
    assert pyramid.window(camera, None, poses, solid) == (35, 25, 65, 55)
    assert pyramid.window(camera, None, None, solid) == (0, 0, 100, 80)


def test_moved_by_zero_changes_no_bit_and_units_are_as_said():
    solid = starts.Solid(torch.tensor([0.1, 0.2, 0.3]), 2.0)
    poses = starts.Poses(rigid.even_rotations(4).float(), torch.randn(4, 3) + 5, torch.ones(4))
    same = poses.moved(torch.zeros(4, 7), solid)
    assert all(torch.equal(a, b) for a, b in zip(same, poses, strict=True))
    x = torch.zeros(4, 7)
    x[:, 0], x[:, 3], x[:, 5], x[:, 6] = 0.3, 0.5, 0.2, 0.1
    moved = poses.moved(x, solid)
    torch.testing.assert_close(rigid.rotation_angle(moved.R, poses.R), torch.full((4,), 0.3))
    torch.testing.assert_close(moved.centre[:, 0] - poses.centre[:, 0], torch.full((4,), 1.0))
    torch.testing.assert_close(moved.centre[:, 2] / poses.centre[:, 2], torch.full((4,), math.exp(0.2)))
    camera = Cameras(torch.eye(3), torch.zeros(3), torch.tensor([[100.0, 5, 50], [0, 90, 40], [0, 0, 1]]), (80, 100))
    cameras = moved.cameras(camera, solid)
    torch.testing.assert_close(cameras.K[0, 0, :2], camera.K[0, :2] * math.exp(0.1))
    torch.testing.assert_close(cameras.K[0, :, 2], camera.K[:, 2])
    torch.testing.assert_close((cameras.R @ solid.centre) + cameras.t, moved.centre)


def test_onto_mask_finds_the_translation():
    gaussians, _ = scene()
    solid = starts.Solid.around(gaussians)
    camera = Cameras(torch.eye(3), torch.zeros(3), torch.tensor([[90.0, 0, 40], [0, 90, 30], [0, 0, 1]]), (60, 80))
    truth = starts.Poses(rigid.even_rotations(1).float(), torch.tensor([[0.6, -0.3, 6.0]]), torch.ones(1))
    white = torch.ones(gaussians.num, 1)
    mask = render(gaussians, truth.cameras(camera, solid), white).alpha[0].clamp(max=1)
    poses = starts.ahead(truth.R, camera, solid)
    pixels, _ = poses.cameras(camera, solid).project(solid.centre[None])
    torch.testing.assert_close(pixels[0, 0], torch.tensor([40.0, 30.0]))
    for _ in range(3):
        alpha = render(gaussians, poses.cameras(camera, solid), white).alpha.clamp(max=1)
        poses = starts.onto_mask(poses, alpha, mask, camera)
    torch.testing.assert_close(poses.centre, truth.centre, rtol=0.02, atol=0.02)


def view_over_noise(size=(36, 48), lighting="affine"):
    gaussians, colors = scene()
    solid = starts.Solid.around(gaussians)
    camera = Cameras(torch.eye(3), torch.zeros(3), torch.tensor([[60.0, 0, 24.0], [0, 60, 18], [0, 0, 1]]), size)
    truth = starts.Poses(rigid.even_rotations(1).float(), torch.tensor([[0.9, -0.45, 5.0]]), torch.ones(1))
    drawn = render(gaussians, truth.cameras(camera, solid), colors)
    alpha = drawn.alpha[0].clamp(max=1)[..., None]
    noise = torch.rand(*size, 3, generator=torch.Generator().manual_seed(3))
    image = 0.7 * drawn.features[0] + 0.1 * alpha + (1 - alpha) * noise
    level = pyramid.Level(camera, image, torch.ones(size))
    objective = Objective(
        gaussians, colors, level, solid, False, opacity=1.0, grain=9, tolerance=0.2, clutter=0.7, lighting=lighting
    )
    return objective, truth


def test_matching_is_least_squares_at_every_place():
    objective, truth = view_over_noise()
    image, ground = objective.level.image.double(), objective.ground_squares.double()
    colour, alpha = (x.double() for x in objective.draw(truth._replace(centre=torch.tensor([[0.0, 0.0, 5.0]]))))
    found = matching._explained(objective, colour.float(), alpha.float())[0]
    for down, right in ((0, 0), (-3, 5), (4, -6)):
        a, c = alpha[0].roll((down, right), (0, 1)), colour[0].roll((down, right), (0, 1))
        weight = (a / (ground + objective.tolerance**2))[..., None].expand_as(c).flatten()
        columns = torch.cat([c[..., None], torch.eye(3, **DOUBLE).expand(*c.shape, 3)], -1).flatten(0, 2)
        root = weight.sqrt()[:, None]
        light = torch.linalg.lstsq(root * columns, root * image.reshape(-1, 1)).solution[:, 0]
        light[0] = light[0].clamp(*appearance.GAINS)
        middle = (weight[:, None] * (image.reshape(-1, 1) - light[:1] * columns[:, :1]) * columns[:, 1:]).sum(0)
        light[1:] = middle / (weight[:, None] * columns[:, 1:]).sum(0)
        left = (weight * (image.flatten() - columns @ light).square()).sum()
        expected = (weight * ground[..., None].expand_as(c).flatten()).sum() - left
        assert found[18 + down, 24 + right] == pytest.approx(float(expected), rel=1e-3, abs=0.02)


@pytest.mark.parametrize("lighting", ["same", "affine"])
def test_matching_finds_the_place(lighting):
    objective, truth = view_over_noise(lighting=lighting)
    image = objective.level.image
    if lighting == "same":
        objective = replace(objective, level=objective.level._replace(image=(image - 0.1) / 0.7))
    moved = truth._replace(centre=truth.centre + torch.tensor([[0.15, -0.1, 0.0]]))
    poses = matching.nearby(objective, moved)
    best = int(objective.losses(poses).argmin())
    assert len(poses.zoom) == 3 and best == 1
    assert (poses.centre[best] - truth.centre[0]).abs().max() < 0.06  # a pixel is 0.083
    assert rigid.rotation_angle(poses.R[best], truth.R[0]) < math.radians(3)

    turns = torch.cat([rigid.even_rotations(8, seed=2).float(), truth.R])
    seen = matching._facing(truth.centre).mT @ truth.R  # as it is seen, and the others
    poses = matching.anywhere(objective, torch.cat([turns[:8], seen]), Stage(40, 1, 1))
    found = poses.take(objective.losses(poses).argmin()[None])
    assert rigid.rotation_angle(found.R, truth.R)[0] < math.radians(3)
    pixels = (truth.centre / truth.centre[:, 2:] - found.centre / found.centre[:, 2:]) * 60
    assert pixels.abs().max() < 1.5
    assert abs(math.log(float(found.centre[0, 2] / truth.centre[0, 2]))) < 0.3


@pytest.mark.parametrize("free, expected", [("all", range(6)), ("rotation", range(3)), (("tz", "focal"), [5, 6])])
def test_free_numbers(free, expected):
    assert starts.free_numbers(free).tolist() == list(expected)


@pytest.mark.parametrize("free", ["rotations", (), ("rx", "roll")])
def test_free_numbers_rejects(free):
    with pytest.raises(ValueError, match="free"):
        starts.free_numbers(free)
