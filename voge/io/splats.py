"""3DGS .ply files (Kerbl et al. 2023): log scales, logit opacities, quaternions (w, x, y, z), spherical harmonics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from voge.gaussians import Gaussians
from voge.harmonics import SH_0, degree_of
from voge.io.objects import Scene
from voge.io.optional import library
from voge.io.ply import columns, read_vertices, write_vertices

FLATTEST = 1e-3  # least ratio of a Gaussian's axes: float32 precision matrices stay positive definite down to here
PROPERTIES = (
    "opacity",
    *(f"scale_{i}" for i in range(3)),
    *(f"rot_{i}" for i in range(4)),
    *(f"f_dc_{i}" for i in range(3)),
)


def load_splats(path: Path) -> Scene:
    """Gaussians, colours of degree 0 (0.5 + SH_0 f_dc), and the coefficients of the higher harmonics, of a 3DGS .ply.

    An opacity o is the peak alpha of a splat; a ray through the centre of a Gaussian of density a absorbs 1 - exp(-a)
    (medium "ray", absorptivity 1). So a = -ln(1 - o), which is softplus of the logit in the file. Axes shorter than
    FLATTEST times the longest are raised to that.

    Raises:
        ValueError: a broken file, values that are not finite, a zero quaternion, harmonics of no whole degree.
    """
    rows = read_vertices(path)
    groups = (("x", "y", "z"), PROPERTIES[1:4], PROPERTIES[4:8], PROPERTIES[8:], PROPERTIES[:1])
    means, scales, quaternions, f_dc, logits = (columns(rows, *names) for names in groups)
    if means is None or scales is None or quaternions is None or f_dc is None or logits is None:
        raise ValueError(f"lacks properties of a 3DGS file: x, y, z, {', '.join(PROPERTIES)}")
    rest = _load_rest(rows)
    for name, value in {
        "positions": means,
        "scales": scales,
        "rotations": quaternions,
        "opacities": logits,
        "colours": f_dc,
        "spherical harmonics": rest,
    }.items():
        if not np.isfinite(value).all():
            raise ValueError(f"has {name} that are not finite")
    if not (quaternions != 0).any(-1).all():
        raise ValueError("has a quaternion of length zero")
    scales = np.exp(np.clip(scales, -80, 80))
    scales = np.maximum(scales, FLATTEST * scales.max(-1, keepdims=True))
    density = np.maximum(np.logaddexp(0, logits[:, 0]), np.finfo(np.float32).tiny)
    quaternions = quaternions / np.abs(quaternions).max(-1, keepdims=True)
    # In float64, then rounded once.
    gaussians = Gaussians.from_scales_rotations(*map(torch.from_numpy, (means, scales, quaternions, density)))
    colors, sh = torch.from_numpy(0.5 + SH_0 * f_dc).float(), torch.from_numpy(rest).float().contiguous()
    return Scene(gaussians.to(torch.float32), colors, sh)


def save_splats(path: Path, scene: Scene) -> None:
    """Writes a 3DGS .ply; the inverse of load_splats.

    Raises:
        ValueError: batched Gaussians, features that are not colours (N, 3), harmonics of no whole degree.
    """
    rotation = library("scipy.spatial.transform").Rotation
    gaussians, features, sh = scene
    precisions = gaussians.precisions.detach().double().cpu()
    eigenvalues, axes = torch.linalg.eigh((precisions + precisions.mT) / 2)
    if not (eigenvalues > 0).all():
        raise ValueError("precisions: expected positive definite matrices")
    axes = axes * torch.linalg.det(axes)[:, None, None]  # proper rotations
    quaternions = rotation.from_matrix(axes.numpy()).as_quat()[:, [3, 0, 1, 2]]  # w first
    density = torch.ones(gaussians.num) if gaussians.density is None else gaussians.density.detach().cpu()
    density = density.double()
    colors = torch.full((gaussians.num, 3), 0.5) if features is None else features.detach().cpu()
    if colors.shape != (gaussians.num, 3):
        raise ValueError(f"features: a 3DGS file holds colours ({gaussians.num}, 3), got {tuple(colors.shape)}")
    sh = torch.zeros(gaussians.num, 0, 3) if sh is None else sh.detach().cpu()
    if sh.dim() != 3 or sh.shape[0] != gaussians.num or sh.shape[2] != 3:
        raise ValueError(f"sh: expected shape ({gaussians.num}, K, 3), got {tuple(sh.shape)}")
    degree_of("sh: with the one of degree 0", sh.shape[1] + 1)
    rest = sh.mT.flatten(1)  # channel after channel
    table = {
        **dict(zip("xyz", gaussians.means.T, strict=True)),
        **{f"n{axis}": torch.zeros(gaussians.num) for axis in "xyz"},  # not used, but expected by some readers
        **{f"f_dc_{i}": (colors[:, i].double() - 0.5) / SH_0 for i in range(3)},
        **{f"f_rest_{i}": rest[:, i] for i in range(rest.shape[1])},
        "opacity": density + torch.log(-torch.expm1(-density)),
        **{f"scale_{i}": -0.5 * eigenvalues[:, i].log() for i in range(3)},
        **{f"rot_{i}": torch.from_numpy(quaternions[:, i]) for i in range(4)},
    }  # fmt: skip
    write_vertices(path, {name: value.detach().cpu().numpy().astype("f4") for name, value in table.items()})


def _load_rest(rows: np.ndarray) -> np.ndarray:
    """f_rest_0, 1, ... (all of red, then all of green, then of blue) as (N, K, 3); K = 0 where there are none."""
    num = sum(name.startswith("f_rest_") for name in rows.dtype.names or ())
    if num % 3:
        raise ValueError(f"has {num} properties f_rest_, expected a multiple of 3: 0, 9, 24, 45")
    degree_of("f_rest_", num // 3 + 1)
    if not num:
        return np.zeros((len(rows), 0, 3))
    rest = columns(rows, *(f"f_rest_{i}" for i in range(num)))
    if rest is None:
        raise ValueError(f"has {num} properties f_rest_, expected f_rest_0 to f_rest_{num - 1}")
    return rest.reshape(len(rest), 3, -1).swapaxes(1, 2)
