"""Text files of the OFF family: OFF, COFF (colours), and GOFF, the Gaussians of the official package."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from voge.gaussians import Gaussians
from voge.io.objects import Mesh, Scene, as_mesh


class Goff(NamedTuple):
    """The content of a GOFF file: centres (N, 3), the official package's sigmas (N,), (N, 3) or (N, 3, 3), radians
    (N,) or None."""

    points: Tensor
    sigmas: Tensor
    radians: Tensor | None


def load_off(path: Path) -> Mesh | Scene:
    """A mesh (polygons as fans of triangles) of an OFF or COFF file, or the Gaussians of a GOFF file.

    Colours of COFF are integers in [0, 255] or, when one is written with a point, in [0, 1]; alpha is left out.

    Raises:
        ValueError: another header, counts that the file does not hold, numbers that cannot be read, an empty mesh.
    """
    kind, counts, lines = _read(path)
    if kind == "GOFF":
        _, sigmas, _ = goff = read_goff(path)
        precisions = 4 * (sigmas if sigmas.dim() == 3 else torch.diag_embed(sigmas.view(len(sigmas), -1).expand(-1, 3)))
        try:
            return Scene(Gaussians(goff.points, precisions).check())
        except ValueError as error:
            raise ValueError(f"holds no valid Gaussians: {error}") from error
    if kind not in ("OFF", "COFF") or len(counts) < 2:
        raise ValueError(f"begins with {kind[:20]!r}, expected OFF, COFF or GOFF and the counts")
    num_vertices, num_faces = counts[:2]
    _check_counts({"vertices": num_vertices, "faces": num_faces}, lines)
    table = _numbers(lines[:num_vertices], num_vertices)
    polygons = [line.split() for line in lines[num_vertices : num_vertices + num_faces]]
    if table.shape[1] < (6 if kind == "COFF" else 3):
        raise ValueError(f"has {table.shape[1]} numbers a vertex, too few for {kind}")
    colors = torch.from_numpy(table[:, 3:6]).float() if kind == "COFF" else None
    if colors is not None and not any("." in line.split(None, 3)[3] for line in lines[:num_vertices]):
        colors = colors / 255
    try:
        corners = [[int(word) for word in words[1 : int(words[0]) + 1]] for words in polygons]
        if any(len(face) != int(words[0]) for face, words in zip(corners, polygons, strict=True)):
            raise ValueError("a face with fewer indices than announced")
        faces = [(face[0], face[i], face[i + 1]) for face in corners for i in range(1, len(face) - 1)]
        triangles = torch.tensor(faces, dtype=torch.int64).view(-1, 3)
        return as_mesh(Mesh(torch.from_numpy(table[:, :3]).float(), triangles, colors))
    except (ValueError, OverflowError) as error:
        raise ValueError(f"cannot be read as {kind} ({error})") from error


def save_off(path: Path, mesh: Mesh) -> None:
    """Writes OFF, or COFF where the mesh has vertex colours."""
    vertices = mesh.vertices.detach().cpu().numpy()
    faces = np.insert(mesh.faces.cpu().numpy(), 0, 3, axis=1)
    if mesh.colors is not None:
        vertices = np.concatenate([vertices, mesh.colors.detach().cpu().numpy(), np.ones((len(vertices), 1))], 1)
    kind = "OFF" if mesh.colors is None else "COFF"
    with path.open("w") as file:
        file.write(f"{kind}\n{len(vertices)} {len(faces)} 0\n")
        np.savetxt(file, vertices, "%#.9g")
        np.savetxt(file, faces, "%d")


def read_goff(path: Path) -> Goff:
    """The content of a GOFF file: 'GOFF', then N, numbers a sigma (1, 3 or 9), 0 or 1 for radians; then a row a
    Gaussian of each.

    Rows of 6 numbers are refused: the official package writes two triples there without saying what they are.

    Raises:
        ValueError: another header, counts that the file does not hold, numbers that cannot be read.
    """
    kind, counts, lines = _read(path)
    if kind != "GOFF" or len(counts) != 3 or counts[1] not in (1, 3, 9) or counts[2] not in (0, 1):
        raise ValueError(f"begins with {kind[:20]!r} {counts}, expected GOFF, N, 1, 3 or 9, 0 or 1")
    num, width, with_radians = counts
    _check_counts({"centres": num, "sigmas": num, "radians": num * with_radians}, lines)
    rows = [lines[:num], lines[num : 2 * num], lines[2 * num : 3 * num]]
    points, sigmas = (torch.from_numpy(_numbers(part, num)).float() for part in rows[:2])
    if num and (points.shape[1], sigmas.shape[1]) != (3, width):
        raise ValueError(f"has rows of {points.shape[1]} and {sigmas.shape[1]} numbers, expected 3 and {width}")
    shape = {1: (num,), 3: (num, 3), 9: (num, 3, 3)}[width]
    radians = torch.from_numpy(_numbers(rows[2], num)).float()[:, 0] if with_radians else None
    return Goff(points.reshape(num, 3), sigmas.reshape(shape), radians)


def write_goff(path: Path, points: Tensor, sigmas: Tensor, radians: Tensor | None = None) -> None:
    """Writes a GOFF file: points (N, 3), the official package's sigmas (N,), (N, 3) or (N, 3, 3), radians (N,) or
    None."""
    sigmas = sigmas.reshape(len(points), -1)
    with path.open("w") as file:
        file.write(f"GOFF\n{len(points)} {sigmas.shape[1]} {int(radians is not None)}\n")
        for rows in (points, sigmas, radians):
            if rows is not None:
                np.savetxt(file, rows.detach().cpu().numpy(), "%.9g")


def swap_pascal3d(points: Tensor) -> Tensor:
    """(..., 3) in the axes of PASCAL3D+'s CAD models (z up) as (x, z, -y), y up, as the official package has it."""
    x, y, z = points.unbind(-1)
    return torch.stack([x, z, -y], -1)


def _read(path: Path) -> tuple[str, list[int], list[str]]:
    """The kind, the counts, and the lines that follow, without comments and empty lines."""
    text = path.read_text("utf-8", "replace")
    lines = [line for line in (line.split("#", 1)[0].strip() for line in text.splitlines()) if line]
    kind, *rest = (lines[0] if lines else "").split() or [""]
    if not rest and len(lines) > 1:
        rest, lines = lines[1].split(), lines[1:]
    try:
        return kind, [int(word) for word in rest], lines[1:]
    except ValueError:
        raise ValueError(f"not a file of the OFF family, no counts after {kind[:20]!r}") from None


def _check_counts(counts: dict[str, int], lines: list[str]) -> None:
    if min(counts.values()) < 0 or sum(counts.values()) > len(lines):
        announced = ", ".join(f"{count} {name}" for name, count in counts.items())
        raise ValueError(f"truncated: its header announces {announced}, {len(lines)} lines follow")


def _numbers(lines: list[str], num: int) -> np.ndarray:
    """(num, columns) float64; ValueError where rows differ in length or a word is no number."""
    try:
        return np.array([line.split() for line in lines], np.float64).reshape(num, -1 if num else 3)
    except ValueError as error:
        raise ValueError(f"has rows that cannot be read as numbers ({error})") from error
