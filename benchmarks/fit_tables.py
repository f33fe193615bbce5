"""Tables of what fits find: poses, shapes, few Gaussians in place of a mesh (tables.py writes them into the pages)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from benchmarks.results import median, number, table

DEMO = {
    "film": "film of a textured box (real)",
    "boards": "chessboards (real)",
    "occluder": "mesh behind an occluder (rendered)",
}

FIT_MESH_NUMBERS = (16, 64, 256)
FIT_MESH = {"ours": "`fit_mesh`", "surface": "`surface`", "points": "`points`", "vertices": "`from_mesh`"}
FIT_MESH_POSE = {
    "ours": "`fit_mesh`, segments",
    "ours-64": "`fit_mesh`, segments",
    "ours-refined": "the same, then the last stage with `surface`",
    "surface-few": "`surface`, segments",
    "surface": "`surface`, defaults",
    "vertices": "`from_mesh` of all vertices, defaults",
}

SHAPE_FITS = {
    "ours": "hermite, 1 (the paper's)",
    "hermite-4": "hermite, 4",
    "segments-1": "segments, 1",
    "segments-2": "segments, 2",
}
SHAPE_FIT_COLUMNS = {
    "IoU": "steps-iou",
    "IoU, equal time": "seconds-iou",
    "IoU, with colours": "colours-iou",
    "error of alpha": "steps-alpha",
    "chamfer": "steps-chamfer",
}


def demo(read: Callable[[str], dict[str, Any]]) -> str:
    """The demo's poses: how wrong the starts were, how many were found, how wrong they are, how well it is known."""
    rows = []
    for part, label in DEMO.items():
        degrees, percent, found = (read(f"demo-{part}-{metric}") for metric in ("degrees", "percent", "found"))
        count = len(degrees["settings"]["photographs"]) * len(degrees["seeds"])
        row = [label, f"{number(median(degrees, 'start'))}°", f"{sum(found['runs']['ours']):.0f} of {count}"]
        for arm in ("ours", "uncertainty of the truth"):
            row.append(f"{number(median(degrees, arm))}°, {number(median(percent, arm))} %")
        rows.append(row)
    return table(["Pictures", "Start wrong by", "Found", "Result wrong by", "The truth is known to"], rows)


def fit_mesh(read: Callable[[str], dict[str, Any]]) -> str:
    """IoU and depth error of every way to as many Gaussians."""
    rows = []
    for num in FIT_MESH_NUMBERS:
        iou, depth = (read(f"fit-mesh-{metric}-{num}") for metric in ("iou", "depth"))
        cells = [
            f"{statistics.mean(iou['runs'][arm]):.3f}, {statistics.mean(depth['runs'][arm]):.2f} %" for arm in FIT_MESH
        ]
        rows.append([str(num), *cells])
    return table(["Gaussians", *FIT_MESH.values()], rows)


def fit_mesh_pose(read: Callable[[str], dict[str, Any]]) -> str:
    """Poses found with every kind of Gaussians."""
    degrees, success, seconds = (read(f"fit-mesh-pose-{metric}") for metric in ("degrees", "success", "seconds"))
    numbers = degrees["settings"]["gaussians"]
    rows = []
    for arm, label in FIT_MESH_POSE.items():
        counts = sorted({of_mesh[arm] for of_mesh in numbers.values()})
        count = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        means = [statistics.mean(result["runs"][arm]) for result in (degrees, success, seconds)]
        rows.append([label, count, f"{means[2]:.2f} s", f"{means[1]:.0f} %", f"{means[0]:.2f}°"])
    return table(["Gaussians", "Number", "Time of a fit", "Within 5°", "Median error"], rows)


def shape_fits(read: Callable[[str], dict[str, Any]]) -> str:
    """Shapes fitted under every rule: means, and in brackets by how much they differ from the first row's."""
    found = [read(f"shape-fits-{name}") for name in SHAPE_FIT_COLUMNS.values()]
    rows = []
    for arm, label in SHAPE_FITS.items():
        row = [label]
        for result in found:
            row.append(f"{statistics.mean(result['runs'][arm]):.1f} %")
            if difference := result["settings"]["differences"].get(arm):
                half = (difference["high"] - difference["low"]) / 2
                row[-1] += f" ({difference['mean']:+.2f} ± {half:.2f})".replace("-", "−")
        rows.append(row)
    return table(["Rule", *SHAPE_FIT_COLUMNS], rows)
