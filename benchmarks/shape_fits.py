"""Shapes that voge.fit.shape finds under every quadrature: python -m benchmarks.shape_fits [--quick] [--only PART ...].

Follows shape_fits.yaml and writes results/shape-fits-MODE-METRIC.json. About five minutes of one core.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree
from scipy.stats import ttest_1samp, wilcoxon
from torch import Tensor
from torch.nn.functional import avg_pool2d, normalize

import voge
from benchmarks import command, results
from benchmarks.pose_starts import letter, rasterise, unit
from voge import io
from voge.fit.shape import ShapeResult

PROTOCOL = "benchmarks/shape_fits.yaml"
PARTS = ("silhouettes", "colours")
METRICS = {
    "iou": "IoU of silhouettes (%)",
    "alpha": "error of alpha (%)",
    "chamfer": "chamfer distance (% of the radius)",
    "colour": "error of the colours (%)",
}
WAVES = torch.tensor([[4.0, -2, 3], [1, 4, -3], [-3, 2, 4]])


class Views(NamedTuple):
    """Cameras (V,), silhouettes (V, H, W) and pictures (V, H, W, 3) in front of black."""

    cameras: voge.Cameras
    silhouettes: Tensor
    images: Tensor


class Trial(NamedTuple):
    """An object, what its fit begins with (None: a sphere), and the views that are fitted and that judge."""

    name: str
    seed: int
    mesh: io.Mesh
    start: tuple[Tensor, Tensor] | None
    seen: Views
    judges: Views


Values = dict[str, dict[str, list[float]]]  # arm -> object -> one value a seed


def main() -> None:
    options = command.parser("shape_fits", __doc__, PARTS).parse_args()
    folder, p = command.folder(options), command.protocol(PROTOCOL)
    p = quick(p) if options.quick else p
    torch.set_num_threads(p["threads"])
    for part in options.only:
        for result in measure(p, part):
            results.show(result, folder)


def measure(p: dict[str, Any], part: str) -> Iterator[dict[str, Any]]:
    """The part's results: silhouettes at equal steps and at equal seconds; or colours too, at equal steps."""
    trials = [trial(name, p, seed) for seed in p["seeds"] for name in p["objects"]]
    steps = {arm: dict.fromkeys(p["objects"], p["fit"]["steps"]) for arm in p["arms"]}
    voge.fit.shape(trials[0].seen.silhouettes, trials[0].seen.cameras, level=1, steps=1)  # the first call is slow
    scores, spent = fits(p, trials, steps, part == "colours")
    yield from record("colours" if part == "colours" else "steps", scores, spent, steps, p)
    if part == "silhouettes":
        for arm, rows in steps.items():
            for name, number in rows.items():
                rows[name] = max(1, round(number * min(spent["ours"][name]) / min(spent[arm][name])))
        yield from record("seconds", *fits(p, trials, steps, False), steps, p)


def fits(
    p: dict[str, Any], trials: list[Trial], steps: dict[str, dict[str, int]], colours: bool
) -> tuple[dict[str, Values], Values]:
    """Every metric's values, and the process time of the fits."""
    scores: dict[str, Values] = {}
    spent: Values = {arm: {name: [] for name in p["objects"]} for arm in p["arms"]}
    for name, seed, mesh, start, seen, judges in trials:
        for arm, settings in p["arms"].items():
            arguments = p["fit"] | settings | {"steps": steps[arm][name], "seed": seed, "mesh": start}
            begin = time.process_time()
            fitted = voge.fit.shape(seen.silhouettes, seen.cameras, seen.images if colours else None, **arguments)
            spent[arm][name].append(time.process_time() - begin)
            found = score(fitted, mesh, judges, p, seed, **settings)
            for metric, value in found.items():
                scores.setdefault(metric, {}).setdefault(arm, {}).setdefault(name, []).append(value)
            line = "  ".join(f"{metric} {value:.2f}" for metric, value in found.items())
            print(f"seed {seed}, {name}, {arm}: {line}, {steps[arm][name]} steps", flush=True)
    return scores, spent


def record(
    mode: str, scores: dict[str, Values], spent: Values, steps: dict[str, dict[str, int]], p: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """A result a metric, one value a seed: the mean over the objects. The settings have every object's."""
    for metric, values in scores.items():
        yield results.make(
            *(f"shape-fits-{mode}-{metric}", METRICS[metric]),
            {arm: np.mean(list(rows.values()), 0).tolist() for arm, rows in values.items()},
            protocol=PROTOCOL,
            settings=p | {"steps": steps, "values": values, "differences": differences(values)},
            seeds=p["seeds"],
            seconds={arm: np.sum(list(rows.values()), 0).tolist() for arm, rows in spent.items()},
            higher_is_better=metric == "iou",
            libraries=("numpy", "scipy", "trimesh"),
        )


def differences(values: Values) -> dict[str, dict[str, float]]:
    """Of every other arm to ours, over pairs of the same object and seed: mean, 95 % interval, p."""
    columns = {arm: np.concatenate(list(rows.values())) for arm, rows in values.items()}
    found = {}
    for arm, column in columns.items():
        pairs = column - columns["ours"]
        if arm != "ours" and len(pairs) > 1:
            low, high = ttest_1samp(pairs, 0).confidence_interval()
            row = {"mean": pairs.mean(), "low": low, "high": high, "p": wilcoxon(pairs).pvalue}
            found[arm] = {key: float(value) for key, value in row.items()}
    return found


def trial(name: str, p: dict[str, Any], seed: int) -> Trial:
    """The object, with colours, in the unit ball."""
    made = {
        "letter": letter,
        "capsule": lambda: io.as_mesh(trimesh.creation.capsule(height=1.2, radius=0.5)),
        "ring": lambda: io.as_mesh(trimesh.creation.torus(0.7, 0.3)),
    }
    mesh = unit(made[name]())
    mesh = mesh._replace(colors=0.5 + 0.4 * (mesh.vertices @ WAVES + torch.arange(3.0)).sin())
    start = io.as_mesh(trimesh.creation.torus(0.7, 0.15, 20, 8))[:2] if name == "ring" else None
    return Trial(name, seed, mesh, start, views(mesh, p, seed), views(mesh, p, seed, judges=True))


def views(mesh: io.Mesh, p: dict[str, Any], seed: int, judges: bool = False) -> Views:
    """The mesh from random directions."""
    random = torch.Generator().manual_seed(2 * seed + judges)
    eyes = p["distance"] * normalize(torch.randn(p["judges" if judges else "views"], 3, generator=random), dim=-1)
    cameras = voge.Cameras.look_at(eye=eyes, up=(0.1, 1.0, 0.2), focal=p["focal"], image_size=p["image_size"])
    if judges:
        cameras = cameras.resize([p["judge_scale"] * side for side in p["image_size"]])
    fine = p["supersampling"]
    drawn = [rasterise(mesh, camera) for camera in cameras.resize([fine * side for side in cameras.image_size])]
    silhouettes = avg_pool2d(torch.stack([alpha for _, alpha in drawn]).float(), fine)
    images = avg_pool2d(torch.stack([colour for colour, _ in drawn]).movedim(-1, 1), fine).movedim(1, -1)
    return Views(cameras, silhouettes, images)


def score(
    fitted: ShapeResult, mesh: io.Mesh, judges: Views, p: dict[str, Any], seed: int, **settings: Any
) -> dict[str, float]:
    """The metrics of the protocol, in per cent."""
    white = torch.ones_like(fitted.vertices[:, :1])
    colours = white if fitted.features is None else fitted.features
    with torch.no_grad():
        drawn = voge.render(fitted.gaussians, judges.cameras, colours, **settings)
    mine, truth = drawn.alpha > 0.5, judges.silhouettes > 0.5
    values = {
        "iou": ((mine & truth).sum((1, 2)) / (mine | truth).sum((1, 2))).mean(),
        "alpha": (drawn.alpha - judges.silhouettes).abs().sum() / judges.silhouettes.sum(),
        "chamfer": torch.tensor(chamfer(fitted, mesh, p["points"], seed)),
    }
    if fitted.features is not None:
        values["colour"] = (drawn.features - judges.images)[judges.silhouettes == 1].abs().mean()
    return {metric: 100 * value.item() for metric, value in values.items()}


def chamfer(a: ShapeResult | io.Mesh, b: ShapeResult | io.Mesh, number: int, seed: int) -> float:
    """Mean distance of points of either surface to the nearest of the other, the mean of both ways."""
    clouds = []
    for one in (a, b):
        surface = trimesh.Trimesh(one.vertices.numpy(), one.faces.numpy(), process=False)
        clouds.append(trimesh.sample.sample_surface(surface, number, seed=seed)[0])
    ways = (clouds, clouds[::-1])
    return sum(cKDTree(to).query(points)[0].mean() for points, to in ways) / 2


def quick(p: dict[str, Any]) -> dict[str, Any]:
    """The protocol made small, with seeds that it leaves for trials."""
    small = {"seeds": [100, 101], "objects": ["capsule"], "views": 4, "judges": 2, "image_size": [24, 24]}
    return p | small | {"focal": p["focal"] / 2, "fit": {"level": 1, "steps": 4}, "points": 500}


if __name__ == "__main__":
    main()
