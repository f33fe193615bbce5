"""voge.fit.shape: silhouettes of known solids, seen from views that were not fitted, too."""

from __future__ import annotations

import math

import pytest
import torch

import voge
from voge.fit import shape
from voge.fit.shape import icosphere, regularity


def ring(count: int, offset: float = 0.0, size: tuple[int, int] = (48, 56)) -> voge.Cameras:
    angle = torch.arange(count) * (2 * math.pi / count) + offset
    height = torch.tensor([1.4, -0.6]).repeat(count // 2)
    eye = torch.stack([3 * angle.cos(), height, 3 * angle.sin()], -1)
    return voge.Cameras.look_at(eye=eye, focal=75.0, image_size=size)


def solids() -> dict[str, voge.Gaussians]:
    balls = voge.Gaussians.sphere(500, 0.4), voge.Gaussians.sphere(500, 0.3)
    means = [balls[0].means + torch.tensor([0.3, 0.0, 0.1]), balls[1].means - torch.tensor([0.3, 0.0, 0.0])]
    peanut = voge.Gaussians(torch.cat(means), torch.cat([b.precisions for b in balls]))
    return {"box": voge.Gaussians.cuboid((1.2, 0.7, 0.9), num=1200), "peanut": peanut}


def silhouettes(solid: voge.Gaussians, cameras: voge.Cameras) -> torch.Tensor:
    return voge.render(solid, cameras, torch.ones(solid.num, 1)).alpha.clamp(max=1)


@pytest.mark.parametrize("name", ["box", "peanut"])
def test_silhouettes_are_matched_from_new_views(name: str) -> None:
    solid, cameras, other = solids()[name], ring(8), ring(4, offset=0.3)
    result = shape(silhouettes(solid, cameras), cameras, level=2, steps=80)
    truth = silhouettes(solid, other) > 0.5
    fitted = silhouettes(result.gaussians, other) > 0.5
    iou = (truth & fitted).sum((-2, -1)) / (truth | fitted).sum((-2, -1))
    assert iou.min() > 0.9
    assert result.features is None and len(result.curve) == 80 and not result.interrupted
    assert result.vertices.shape == (162, 3) and torch.equal(result.vertices, result.gaussians.means)


def test_colours_are_fitted_too() -> None:
    solid, cameras = solids()["box"], ring(4)
    masks = silhouettes(solid, cameras)
    images = torch.tensor([0.9, 0.2, 0.4]).expand(*masks.shape, 3)
    result = shape(masks, cameras, images, level=1, steps=60)
    drawn = voge.render(result.gaussians, cameras, result.features).features
    assert (drawn - images * masks[..., None]).square().mean() < 5e-3


def test_regularisers_act() -> None:
    cameras = ring(4)
    masks = silhouettes(solids()["peanut"], cameras)
    rough, smooth, even = (
        shape(masks, cameras, level=2, steps=40, laplacian=laplacian, edge=edge)
        for laplacian, edge in ((0.0, 0.0), (5.0, 0.0), (0.0, 5.0))
    )
    assert regularity(smooth.vertices, smooth.faces)[0] < 0.7 * regularity(rough.vertices, rough.faces)[0]
    assert regularity(even.vertices, even.faces)[1] < 0.5 * regularity(rough.vertices, rough.faces)[1]


def test_mesh_to_begin_with_and_seed() -> None:
    vertices, faces = icosphere(1)
    cameras = ring(4)
    masks = silhouettes(solids()["box"], cameras)
    runs = [shape(masks, cameras, mesh=(0.4 * vertices.float(), faces), steps=5, views=2, seed=s) for s in (1, 1, 2)]
    assert runs[0].vertices.shape == (42, 3)
    assert torch.equal(runs[0].vertices, runs[1].vertices) and not torch.equal(runs[0].vertices, runs[2].vertices)


def test_icosphere() -> None:
    for level in range(4):
        vertices, faces = icosphere(level)
        assert vertices.shape == (10 * 4**level + 2, 3) and faces.shape == (20 * 4**level, 3)
        torch.testing.assert_close(vertices.norm(dim=-1), torch.ones(len(vertices), dtype=torch.float64))
        assert (torch.linalg.det(vertices[faces]) > 0).all()  # every face points outwards
    assert abs(torch.linalg.det(vertices[faces]).sum() / 6 - 4 / 3 * math.pi) < 0.05


def test_interrupt_keeps_the_shape() -> None:
    def stop(step: int, steps: int, loss: float) -> None:
        if step == 3:
            raise KeyboardInterrupt

    cameras = ring(4)
    result = shape(silhouettes(solids()["box"], cameras), cameras, level=1, steps=50, progress=stop)
    assert result.interrupted and len(result.curve) == 3 and result.vertices.isfinite().all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"silhouettes": torch.zeros(4, 48, 56)}, "silhouettes: expected a pixel above 0.5"),
        ({"silhouettes": torch.full((4, 48, 56), float("nan"))}, "silhouettes: expected finite"),
        ({"silhouettes": torch.full((4, 48, 56), 2.0)}, r"silhouettes: expected values in \[0, 1\]"),
        ({"silhouettes": torch.ones(4, 40, 56)}, r"silhouettes: expected shape \(..., 4, 48, 56\)"),
        ({"cameras": ring(4)[0]}, "cameras: expected a batch"),
        ({"images": torch.ones(3, 48, 56, 3)}, "images: expected shape"),
        ({"mesh": (torch.zeros(3, 3), torch.tensor([[0, 1, 5]]))}, "faces: expected indices"),
        ({"steps": 0}, "steps: expected an int of at least 1"),
        ({"rate": -1.0}, "rate"),
    ],
)
def test_bad_input(change: dict, words: str) -> None:
    arguments = {"silhouettes": torch.ones(4, 48, 56), "cameras": ring(4), **change}
    with pytest.raises(ValueError, match=words):
        shape(**arguments)
