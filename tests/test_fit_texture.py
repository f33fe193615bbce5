"""voge.fit.texture: known colours come back, and what no view sees is said to be unseen."""

from __future__ import annotations

import pytest
import torch

import voge
from voge.fit import texture

EYES = torch.tensor([[3.0, 1.0, 0.5], [-3.0, 1.0, 0.5], [0.5, -1.0, 3.0], [0.0, 1.0, -3.0]])


def scene() -> tuple[voge.Gaussians, torch.Tensor, voge.Cameras]:
    ball = voge.Gaussians.sphere(400)
    return ball, 0.5 + 0.4 * ball.means, voge.Cameras.look_at(eye=EYES, focal=60.0, image_size=(48, 64))


def test_equals_the_weighted_mean_of_pixels() -> None:
    ball, cameras = (x.to(torch.float64) for x in scene()[::2])
    images = torch.rand(4, 48, 64, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = (images[..., 0] > 0.3).double()
    result = texture(ball, images, cameras, masks, least=0.0)
    # the weights of each Gaussian in each pixel, by rendering one-hot features
    weights = voge.render(ball, cameras, torch.eye(400, dtype=torch.float64)).features * masks[..., None]
    total = weights.sum((0, 1, 2))
    seen = total > 0
    assert torch.equal(seen, result.visible) and seen.sum() > 300
    mean = torch.einsum("vhwn,vhwc->nc", weights, images)[seen] / total[seen, None]
    torch.testing.assert_close(result.features[seen], mean)
    torch.testing.assert_close(result.weight_sum, total)


def test_one_colour_comes_back_exactly() -> None:
    ball, _, cameras = scene()
    color = torch.tensor([0.2, 0.7, 0.4])
    result = texture(ball, color.expand(4, 48, 64, 3), cameras)
    torch.testing.assert_close(result.features, color.expand(400, 3))


def test_refinement_sharpens() -> None:
    ball, colors, cameras = scene()
    drawn = voge.render(ball, cameras, colors)
    images = drawn.features / drawn.alpha.clamp(min=1e-6)[..., None]
    plain, refined = (texture(ball, images, cameras, refine=n).features for n in (0, 40))
    error = [(voge.render(ball, cameras, f).features - drawn.features).square().mean() for f in (plain, refined)]
    assert error[1] < 0.1 * error[0]


def test_the_back_is_unseen() -> None:
    ball, colors, cameras = scene()
    front = cameras[2]
    result = texture(ball, voge.render(ball, front, colors).features, front, max_hits=20)
    facing = (ball.means * front.centers()).sum(-1)
    assert result.visible[facing > 1.5].all() and not result.visible[facing < -1].any()
    assert not result.weight_sum[~result.visible].any()
    assert result.features.isfinite().all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": torch.ones(4, 48, 60, 3)}, ValueError, "images: expected shape"),
        ({"images": torch.ones(3, 48, 64, 3)}, ValueError, "images: expected shape"),
        ({"images": torch.full((4, 48, 64, 3), float("nan"))}, ValueError, "images: expected finite"),
        ({"images": torch.ones(4, 48, 64, 3).byte()}, TypeError, "images: expected a floating"),
        ({"masks": -torch.ones(4, 48, 64)}, ValueError, "masks: expected values of at least 0"),
        ({"cameras": "front"}, TypeError, "cameras: expected voge.Cameras"),
        ({"gaussians": torch.ones(5, 3)}, TypeError, "gaussians: expected voge.Gaussians"),
        ({"refine": -1}, ValueError, "refine: expected an int"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], words: str) -> None:
    ball, _, cameras = scene()
    with pytest.raises(error, match=words):
        texture(**{"gaussians": ball, "images": torch.ones(4, 48, 64, 3), "cameras": cameras, **change})


def test_object_out_of_sight() -> None:
    ball, _, cameras = scene()
    away = voge.Gaussians(ball.means + 100, ball.precisions)
    with pytest.raises(ValueError, match="no pixel meets a Gaussian"):
        texture(away, torch.ones(4, 48, 64, 3), cameras)
