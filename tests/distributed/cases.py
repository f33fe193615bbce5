"""Scenes that tests/test_distributed.py renders in one process and worker.py on several."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

import voge


class Case(NamedTuple):
    gaussians: dict[str, Tensor]  # means, precisions, features and perhaps density: what the ranks share out
    view: dict[str, Tensor]  # R, t, K or origins, directions; absorptivity, background: what all have
    image_size: tuple[int, int]
    settings: dict[str, Any]
    split: str = "rows"
    valid: Tensor | None = None
    fixed: tuple[str, ...] = ()  # tensors without gradients


def scene(num: int, channels: int, dtype: torch.dtype, density: bool = True, seed: int = 0) -> dict[str, Tensor]:
    """Anisotropic Gaussians around (0, 0, 4); every 17th repeats the one before, so that hits tie."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, dtype=torch.float64, generator=generator)

    means = 3 * (rand(num, 3) - 0.5) + torch.tensor([0.0, 0.0, 4.0], dtype=torch.float64)
    scales, rotations = 0.02 + 0.1 * rand(num, 3) ** 2, rand(num, 4) - 0.5
    precisions = voge.Gaussians.from_scales_rotations(means, scales, rotations).precisions
    tensors = {"means": means, "precisions": (precisions + precisions.mT) / 2, "features": rand(num, channels)}
    if density:
        tensors["density"] = 0.5 + rand(num)
    for x in tensors.values():
        x[16::17] = x[15:-1:17]
    return {name: x.to(dtype) for name, x in tensors.items()}


def cameras(image_size: tuple[int, int], dtype: torch.dtype, batch: tuple[int, ...] = (), eye: float = 0.0) -> Any:
    generator = torch.Generator().manual_seed(1)
    eyes = torch.rand(*batch, 3, generator=generator, dtype=torch.float64) - 0.5
    eyes[..., 2] += eye
    made = voge.Cameras.look_at(eye=eyes, target=(0.1, 0.0, 4.0), focal=45.0, image_size=image_size).to(dtype)
    return {"R": made.R, "t": made.t, "K": made.K}


def cases() -> dict[str, Case]:
    f32, f64 = torch.float32, torch.float64
    size = (43, 52)
    tau = torch.tensor(1.3, dtype=f64)
    backdrop = torch.linspace(0, 1, 43 * 52 * 3, dtype=f64).view(43, 52, 3)
    rays = voge.Cameras(**cameras(size, f64), image_size=size).rays()
    view = cameras(size, f64)
    return {
        "float32": Case(scene(300, 3, f32, density=False), cameras(size, f32), size, {}),
        "float64": Case(
            scene(300, 5, f64), view | {"absorptivity": tau}, size, {"max_hits": 4, "points": 4, "medium": "world"}
        ),
        "ties": Case(scene(300, 2, f64), view, size, {"max_hits": 1}),
        "inside": Case(scene(200, 3, f64), cameras(size, f64, eye=4.0), size, {"threshold": 0.0, "near": 0.1}),
        "batch": Case(
            scene(300, 3, f64), cameras(size, f64, (2, 2)) | {"background": backdrop}, size, {"max_hits": 20}
        ),
        "views": Case(
            scene(300, 3, f32),
            cameras(size, f32, (5,)) | {"background": torch.tensor([0.2, 0.5, 0.9])},
            size,
            {},
            split="views",
        ),
        "rays": Case(
            scene(300, 3, f64),
            {"origins": rays.origins.clone(), "directions": rays.directions.clone()},
            size,
            {"max_hits": 8},
            valid=torch.arange(52) % 5 != 0,
        ),
        "reference": Case(
            scene(60, 3, f64, density=False),
            cameras((16, 12), f64),
            (16, 12),
            {"backend": "reference", "quadrature": "segments", "points": 2},
        ),
        "normals": Case(scene(200, 2, f64), view, size, {"normals": True, "depth": "median", "quadrature": "segments"}),
        "one row of tiles": Case(scene(100, 3, f64), cameras((7, 30), f64), (7, 30), {}),
        "one view": Case(scene(100, 3, f64), cameras((24, 30), f64, (1,)), (24, 30), {}, split="views"),
        "no Gaussians": Case(
            scene(0, 3, f64), view | {"background": torch.ones(3, dtype=f64)}, size, {}, fixed=("R", "t", "K")
        ),
        "fixed": Case(scene(100, 3, f64), view, size, {}, fixed=("means", "precisions", "density", "R", "K")),
    }


def leaves(case: Case, gaussians: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fresh leaves of these Gaussians and of what all ranks have."""
    return {
        name: x.detach().clone().requires_grad_(name not in case.fixed) for name, x in (gaussians | case.view).items()
    }


def arguments(case: Case, x: dict[str, Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Of voge.render."""
    gaussians = voge.Gaussians(x["means"], x["precisions"], x.get("density"))
    if "R" in x:
        seen: Any = voge.Cameras(x["R"], x["t"], x["K"], case.image_size)
    else:
        seen = voge.Rays(x["origins"], x["directions"], case.valid)
    settings = case.settings | {name: x[name] for name in ("absorptivity", "background") if name in x}
    return (gaussians, seen, x["features"]), settings


def weights(picture: Tensor) -> Tensor:
    """Of the pixels in the loss; all different."""
    return torch.linspace(-1, 1.5, picture.numel(), dtype=picture.dtype).sin().view(picture.shape)
