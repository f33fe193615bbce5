"""Draws the results files' plots into docs/img: python -m benchmarks.plots."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from benchmarks import results
from benchmarks.tables import LABELS, speedup
from voge.io import atomic_path

IMAGES = results.ROOT / "docs" / "img"
OURS, THEIRS = "#d1495b", "#8d99ae"


def speed(result: dict[str, Any], path: Path) -> None:
    """Forward + backward of ours and the peers, one bar each."""
    arms = ["ours", *result["baselines"]]
    values = [statistics.median(result["runs"][arm]) for arm in arms]
    figure, axes = pyplot.subplots(figsize=(8, 0.6 * len(arms) + 1.2), layout="constrained")
    bars = axes.barh([LABELS[arm] for arm in arms], values, color=[OURS] + [THEIRS] * (len(arms) - 1))
    notes = [f" {values[0]:.3g} ms"]
    notes += [
        f" {value:,.0f} ms, x {speedup(result, arm):,.3g}" for arm, value in zip(arms[1:], values[1:], strict=True)
    ]
    axes.bar_label(bars, notes)
    axes.set(xscale="log", xlim=(min(values) / 3, max(values) * 30), xlabel="forward + backward, ms (log scale)")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def scale(result: dict[str, Any], path: Path) -> None:
    """Time against the number of Gaussians and against the number of pixels, in one plot."""
    settings, runs = result["settings"], result["runs"]
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    height, width = settings["scene"]["image_size"]
    counts, sides = settings["scale_gaussians"], settings["scale_sizes"]
    for label, arm, steps, at, colour in (
        (f"Gaussians, in {height} x {width} pixels", "gaussians", counts, counts, OURS),
        (f"pixels, with {settings['scale_base']:,} Gaussians", "size", sides, [side**2 for side in sides], "#00798c"),
    ):
        values = [statistics.median(runs[f"{arm}-{step}"]) for step in steps]
        axes.plot(at, values, "o-", color=colour, label=label)
    axes.set(xscale="log", yscale="log", xlabel="number of Gaussians, or of pixels", ylabel="forward + backward, ms")
    axes.grid(which="both", alpha=0.25)
    axes.legend(frameon=False)
    _save(figure, path)


PLOTS = {"renderer": speed, "renderer-large": speed, "renderer-features": speed, "renderer-scale": scale}


def main() -> None:
    for name, draw in PLOTS.items():
        draw(results.read(name), IMAGES / f"{name}.png")


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
