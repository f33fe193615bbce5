"""voge.fit.occlusion: an object finds its way in front of another, or behind it, and the matrix says which."""

from __future__ import annotations

import pytest
import torch

import voge
from voge.fit import occlusion
from voge.fit.occlusion import front_to_back

RED, BLUE = voge.Gaussians.cuboid((1.6, 0.8, 1.2), num=500), voge.Gaussians.cuboid((2.0, 2.0, 0.6), num=400)
COLORS = [
    (0.6 + 0.4 * (box.means / box.means.amax(0)).abs()) * torch.tensor(color)
    for box, color in ((RED, [1.0, 0.2, 0.1]), (BLUE, [0.1, 0.3, 1.0]))
]
CAMERA = voge.Cameras.look_at(eye=(1.7, 0.9, 4.6), focal=48.0, image_size=(60, 64))


def moved(box: voge.Gaussians, shift: list[float]) -> voge.Gaussians:
    return voge.Gaussians(box.means + torch.tensor(shift), box.precisions)


def picture(red: voge.Gaussians) -> torch.Tensor:
    both = voge.Gaussians(torch.cat([red.means, BLUE.means]), torch.cat([red.precisions, BLUE.precisions]))
    return voge.render(both, CAMERA, torch.cat(COLORS)).features


def pair(red: voge.Gaussians) -> list[tuple[voge.Gaussians, torch.Tensor]]:
    return [(red, COLORS[0]), (BLUE, COLORS[1])]


def test_passes_from_behind_to_the_front() -> None:
    start, truth = torch.tensor([-0.5, 0.0, -2.0]), torch.tensor([0.5, 0.0, 1.0])
    image = picture(moved(RED, truth.tolist()))
    result = occlusion(pair(moved(RED, start.tolist())), image, CAMERA, steps=150)
    assert (start + result.translations[0] - truth).abs().max() < 0.1
    assert result.translations[1].abs().max() < 0.1
    assert result.occludes[0, 1] > 0.3 and result.occludes[1, 0] < 0.05 and not result.occludes.diagonal().any()
    assert result.order.tolist() == [0, 1]
    assert result.visible[0] > 0.95 and result.visible[1] < 0.7
    assert result.curve[-1] < 0.02 * result.curve[0] and len(result.curve) == 150


@pytest.mark.parametrize(("depth", "order"), [(1.2, [0, 1]), (-1.5, [1, 0])])
def test_order_of_objects_in_their_places(depth: float, order: list[int]) -> None:
    red = moved(RED, [0.0, 0.0, depth])
    result = occlusion(pair(red), picture(red), CAMERA, steps=0)
    assert not result.translations.any()
    assert result.order.tolist() == order
    front, back = order
    assert result.occludes[front, back] > 0.2 > 0.05 > result.occludes[back, front]


def test_depth_alone_moves_along_the_axis() -> None:
    red = moved(RED, [0.0, 0.0, 1.2])
    result = occlusion(pair(moved(RED, [0.0, 0.0, 0.8])), picture(red), CAMERA, free="depth", steps=5)
    across = torch.linalg.cross(result.translations, CAMERA.R[2].expand(2, 3)).norm(dim=-1)
    assert result.translations[0].norm() > 0.01 and across.max() < 1e-5


def test_front_to_back_of_a_chain() -> None:
    hides = torch.zeros(3, 3)
    hides[2, 0], hides[0, 1] = 0.5, 0.3
    assert front_to_back(hides).tolist() == [2, 0, 1]


def test_interrupt_keeps_the_best() -> None:
    def stop(step: int, steps: int, loss: float) -> None:
        if step == 4:
            raise KeyboardInterrupt

    result = occlusion(pair(RED), picture(moved(RED, [0.0, 0.0, 1.2])), CAMERA, progress=stop)
    assert result.interrupted and len(result.curve) == 4 and result.translations.isfinite().all()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"objects": []}, ValueError, "objects: expected a list"),
        ({"objects": [RED]}, TypeError, r"objects\[0\]: expected \(Gaussians, features\)"),
        ({"objects": [(RED, COLORS[1])]}, ValueError, r"objects\[0\] features: expected shape"),
        ({"objects": [(RED, COLORS[0] * float("nan"))]}, ValueError, r"objects\[0\] features: expected finite"),
        ({"objects": [(voge.Gaussians(RED.means, -RED.precisions), COLORS[0])]}, ValueError, "positive definite"),
        ({"image": torch.ones(60, 60, 3)}, ValueError, "image: expected shape"),
        ({"image": torch.ones(60, 64, 3).double()}, TypeError, "image: expected torch.float32"),
        ({"camera": CAMERA[None]}, ValueError, "camera: expected one camera"),
        ({"free": "rotation"}, ValueError, "free: expected one of"),
        ({"rate": 0.0}, ValueError, "rate: expected"),
    ],
)
def test_bad_input(change: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        occlusion(**{"objects": pair(RED), "image": torch.ones(60, 64, 3), "camera": CAMERA, **change})
