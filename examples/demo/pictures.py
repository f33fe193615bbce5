"""Overlays, films and plots, written whole or not at all."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import imageio.v3 as imageio
import numpy as np

import voge
from examples.demo import truth
from voge.io import atomic_path

GREEN, RED, BLUE = (60, 220, 60), (235, 70, 60), (70, 140, 255)


def colour(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 of a grey or coloured picture, uint8 or in [0, 1]."""
    if picture.dtype != np.uint8:
        picture = np.clip(255 * picture, 0, 255).astype(np.uint8)
    return np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture


def drawn(scene: voge.io.Scene, camera: voge.Cameras, picture: np.ndarray) -> np.ndarray:
    """The picture with the Gaussians rendered over it (H, W, 3) uint8; the scene carries grey or colours."""
    result = voge.render(scene.gaussians, camera, scene.features)
    alpha = result.alpha.clamp(max=1)[..., None].numpy()
    over = result.features.numpy() + (1 - alpha) * colour(picture) / 255
    return colour(np.broadcast_to(over, (*over.shape[:2], 3)))


def lines(picture: np.ndarray, points: np.ndarray, edges: list, camera: voge.Cameras, ink: tuple) -> np.ndarray:
    """Edges (pairs of indices into points (N, 3)) drawn by a camera over a picture (H, W, 3)."""
    K = camera.K.numpy() - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    pixels = truth.project(points, camera.R.numpy(), camera.t.numpy(), K)
    picture = picture.copy()
    for a, b in edges:
        ends = [tuple(round(16 * float(v)) for v in pixels[i]) for i in (a, b)]
        cv2.line(picture, *ends, ink, 1, cv2.LINE_AA, 4)
    return picture


def caption(picture: np.ndarray, text: str) -> np.ndarray:
    """With a line of text on a dark strip above."""
    strip = np.full((26, picture.shape[1], 3), 30, np.uint8)
    cv2.putText(strip, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (240, 240, 240), 1, cv2.LINE_AA)
    return np.concatenate([strip, picture])


def beside(pictures: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(pictures, 1)


def save(path: Path, picture: np.ndarray) -> None:
    with atomic_path(path) as temporary:
        imageio.imwrite(temporary, picture)


def save_film(path: Path, frames: list[np.ndarray], milliseconds: int) -> None:
    """A GIF, and an MP4 beside it where imageio-ffmpeg is installed."""
    with atomic_path(path) as temporary:
        imageio.imwrite(temporary, np.stack(frames), duration=milliseconds, loop=0)
    if importlib.util.find_spec("imageio_ffmpeg"):
        even = np.stack(frames)[:, : frames[0].shape[0] // 2 * 2, : frames[0].shape[1] // 2 * 2]
        with atomic_path(path.with_suffix(".mp4")) as temporary:
            imageio.imwrite(temporary, even, plugin="FFMPEG", fps=1000 / milliseconds, macro_block_size=2)


def save_errors(path: Path, rows: list[dict]) -> None:
    """Start and end of every fit, in degrees and in percent of the distance, with what the truth is worth."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 0.24 * len(rows) + 1.6), sharey=True)
    names = [f"{row['case']} #{row['seed']}" for row in rows]
    for axis, unit, label in zip(
        axes, ("degrees", "percent"), ("rotation, degrees", "position, % of distance"), strict=True
    ):
        axis.scatter([row[f"start_{unit}"] for row in rows], names, color="tab:red", label="start", s=14)
        axis.scatter([row[f"error_{unit}"] for row in rows], names, color="tab:green", label="after the fit", s=14)
        worth = [row[f"truth_{unit}"] for row in rows]
        axis.scatter(worth, names, color="black", marker="|", label="uncertainty of the truth (1 sigma)", s=60)
        axis.set_xscale("log")
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].invert_yaxis()
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.3 / figure.get_figheight()))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="upper center", ncols=3, fontsize=8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)


def save_track(
    path: Path, numbers: list[int], rows: dict[str, list[float]], clicked: dict[int, tuple[float, float]]
) -> None:
    """The film: distance and turn since frame 0, and at clicked frames the errors against solvePnP."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(rows) + 1, 1, figsize=(8, 2.2 * (len(rows) + 1)), sharex=True)
    for axis, (label, values) in zip(axes, rows.items(), strict=False):
        axis.plot(numbers, values)
        axis.set_ylabel(label, fontsize=8)
        axis.grid(alpha=0.3)
    frames = list(clicked)
    axes[-1].plot(frames, [clicked[f][0] for f in frames], "o-", label="degrees")
    axes[-1].plot(frames, [clicked[f][1] for f in frames], "s-", label="% of distance")
    axes[-1].set_ylabel("error at clicked frames", fontsize=8)
    axes[-1].set_xlabel("frame")
    axes[-1].legend(fontsize=8)
    axes[-1].grid(alpha=0.3)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    pyplot.close(figure)
