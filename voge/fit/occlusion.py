"""Which object hides which: their places are moved until the rendering shows the picture, then visibility tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from voge import checks
from voge.cameras import Cameras
from voge.fragments import trace
from voge.gaussians import Gaussians
from voge.render import render

FREE = {"translation": (1.0, 1.0, 1.0), "depth": (0.0, 0.0, 1.0)}  # which of the camera's axes an object moves along


@dataclass(frozen=True)
class OcclusionResult:
    """Objects in their places.

    Attributes:
        translations: (O, 3), what each object moved by, in the world.
        occludes: (O, O), in row i and column j the share of what is seen of object j without object i that i hides.
        order: (O,) int64, front to back: each object is hidden by those before it rather than by those after it.
        visible: (O,), the share of each object that is seen, of what is seen of it alone.
        curve: (S,), the loss after every step. interrupted: stopped by Ctrl-C; the places are the last ones.
    """

    translations: Tensor
    occludes: Tensor
    order: Tensor
    visible: Tensor
    curve: Tensor
    interrupted: bool


def occlusion(
    objects: Sequence[tuple[Gaussians, Tensor]],
    image: Tensor,
    camera: Cameras,
    *,
    free: str = "translation",
    steps: int = 200,
    rate: float = 0.05,
    background: Tensor | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    **settings: Any,
) -> OcclusionResult:
    """Moves objects until they explain the picture; since depths are differentiable, one may pass behind another.

    The mean squared error of the picture is lowered by Adam with betas (0.6, 0.4) (the occlusion experiment of VoGE:
    Wang, Wang, Sun, Kortylewski, Yuille, ICLR 2023).

    Args:
        objects: O pairs of N_i Gaussians (no batch), where they are believed to be, and their features (N_i, C).
        image: (H, W, C).
        camera: one camera.
        free: "translation", or "depth": along the camera's axis only.
        steps: 0 leaves the objects where they are. rate: Adam's, in world units.
        background: as in voge.render. settings: of voge.render.
        progress: called with step, number of steps and loss.

    Raises:
        TypeError, ValueError: types, shapes, values. Ctrl-C raises nothing: `interrupted`.
    """
    if free not in FREE:
        raise ValueError(f"free: expected one of {', '.join(FREE)}, got {free!r}")
    if not isinstance(camera, Cameras):
        raise TypeError(f"camera: expected voge.Cameras, got {type(camera).__name__}")
    if camera.batch_shape:
        raise ValueError(f"camera: expected one camera, got {camera}")
    checks.integer("steps", steps, 0, None)
    if not rate > 0:
        raise ValueError(f"rate: expected a number above 0, got {rate}")
    checks.tensor("image", image, (*camera.image_size, "C"), dtype=camera.dtype, device=camera.device, finite=True)
    if image.dim() != 3:
        raise ValueError(f"image: expected shape {(*camera.image_size, 'C')}, got {tuple(image.shape)}")
    scene, features, owner = _joined(objects, image)

    axes = torch.tensor(FREE[free]).to(image)
    shifts = torch.zeros(len(objects), 3).to(image).requires_grad_()  # in the camera's axes
    optimizer = torch.optim.Adam([shifts], lr=rate, betas=(0.6, 0.4))
    curve: list[float] = []
    best, lowest, interrupted = shifts.detach().clone(), float("inf"), False
    try:
        for step in range(steps):
            drawn = render(
                _moved(scene, owner, shifts * axes @ camera.R), camera, features, background=background, **settings
            )
            loss = (drawn.features - image).square().mean()
            curve.append(loss.item())
            if curve[-1] < lowest:
                best, lowest = shifts.detach().clone(), curve[-1]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if progress is not None:
                progress(step + 1, steps, curve[-1])
    except KeyboardInterrupt:
        interrupted = True
    translations = best * axes @ camera.R
    occludes, visible = occluders(_moved(scene, owner, translations), owner, camera, **settings)
    return OcclusionResult(translations, occludes, front_to_back(occludes), visible, torch.tensor(curve), interrupted)


@torch.no_grad()
def occluders(scene: Gaussians, owner: Tensor, camera: Cameras, **settings: Any) -> tuple[Tensor, Tensor]:
    """(O, O) and (O,): `occludes` and `visible` of OcclusionResult, of Gaussians that belong to the objects `owner`."""
    num = int(owner.max()) + 1

    def seen(kept: Tensor) -> Tensor:
        """(O,): the sum of each object's weights over the picture, where only the Gaussians in `kept` are there."""
        density = None if scene.density is None else scene.density[kept]
        part = trace(Gaussians(scene.means[kept], scene.precisions[kept], density), camera, **settings).visibility()
        return part.new_zeros(num).index_add(0, owner[kept], part)

    together = seen(owner >= 0)
    without = torch.stack([seen(owner != i) for i in range(num)])
    alone = torch.stack([seen(owner == i)[i] for i in range(num)])
    hidden = (1 - together / without.clamp(min=1e-9)).clamp(0, 1).fill_diagonal_(0)
    return hidden * (without > 1e-6), (together / alone.clamp(min=1e-9)).clamp(max=1)


def front_to_back(occludes: Tensor) -> Tensor:
    """(O,) int64: again and again the object that those left hide least."""
    left = list(range(len(occludes)))
    order = []
    while left:
        order.append(min(left, key=lambda j: float(occludes[left, j].sum())))
        left.remove(order[-1])
    return torch.tensor(order)


def _joined(objects: Sequence[tuple[Gaussians, Tensor]], image: Tensor) -> tuple[Gaussians, Tensor, Tensor]:
    """All objects as one set of Gaussians, their features, and the object (N,) int64 of each."""
    if not isinstance(objects, (list, tuple)) or not objects:
        raise ValueError("objects: expected a list of (Gaussians, features), got none")
    for i, item in enumerate(objects):
        if not isinstance(item, (list, tuple)) or len(item) != 2 or not isinstance(item[0], Gaussians):
            raise TypeError(f"objects[{i}]: expected (Gaussians, features), got {type(item).__name__}")
        gaussians, features = item
        if gaussians.batch_shape or not gaussians.num:
            raise ValueError(f"objects[{i}]: expected at least one Gaussian and no batch, got {gaussians}")
        like: dict[str, Any] = {"dtype": image.dtype, "device": image.device}
        checks.tensor(f"objects[{i}] means", gaussians.means, ("N", 3), **like)
        checks.tensor(f"objects[{i}] features", features, (gaussians.num, image.shape[-1]), **like, finite=True)
        gaussians.check()
    sets = [item[0] for item in objects]
    density = torch.cat([torch.ones_like(g.means[:, 0]) if g.density is None else g.density for g in sets])
    owner = torch.repeat_interleave(torch.tensor([g.num for g in sets])).to(image.device)
    scene = Gaussians(torch.cat([g.means for g in sets]), torch.cat([g.precisions for g in sets]), density)
    return scene, torch.cat([item[1] for item in objects]), owner


def _moved(scene: Gaussians, owner: Tensor, translations: Tensor) -> Gaussians:
    return Gaussians(scene.means + translations[owner], scene.precisions, scene.density)
