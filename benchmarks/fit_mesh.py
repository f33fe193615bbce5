"""Meshes as few Gaussians, and poses fitted with them: python -m benchmarks.fit_mesh [--only PART ...].

Follows fit_mesh.yaml and writes results/fit-mesh-{iou,depth}-N.json,
results/fit-mesh-pose-{degrees,success,seconds}.json and the picture docs/img/fit_mesh.png. Needs fast-simplification,
and the files that the protocol names. About ten minutes.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

import voge
from benchmarks import command, plots, results
from voge import convert
from voge.convert.rasters import raster
from voge.convert.surfaces import GREY
from voge.io.objects import Mesh, as_mesh

PROTOCOL = "benchmarks/fit_mesh.yaml"
PARTS = ("shape", "pose", "picture")
REFINED = "ours-refined"
SEGMENTS = {"quadrature": "segments"}
LIBRARIES = ("numpy", "trimesh", "fast-simplification")
BASELINES = ["vertices", "vertices-hermite", "points", "surface"]


def table() -> trimesh.Trimesh:
    """A thin board on four thin legs."""
    place = trimesh.transformations.translation_matrix
    legs = [trimesh.creation.box((0.08, 1.4, 0.08), place((x, 0, z))) for x in (-0.9, 0.9) for z in (-0.5, 0.5)]
    return trimesh.util.concatenate([trimesh.creation.box((2, 0.06, 1.2), place((0, 0.73, 0))), *legs])


def knot(around: int = 160, across: int = 16, width: float = 0.32) -> trimesh.Trimesh:
    """A tube along a trefoil."""
    t = np.linspace(0, 2 * np.pi, around, endpoint=False)
    curve = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], -1)
    tangent = np.roll(curve, -1, 0) - np.roll(curve, 1, 0)
    side = np.cross(tangent, [0, 0, 1])
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    up = np.cross(side, tangent)
    up /= np.linalg.norm(up, axis=-1, keepdims=True)
    angle = np.linspace(0, 2 * np.pi, across, endpoint=False)[:, None]
    rings = curve[:, None] + width * (np.cos(angle) * side[:, None] + np.sin(angle) * up[:, None])
    i, j = np.meshgrid(np.arange(around), np.arange(across), indexing="ij")
    a, b = i * across + j, i * across + (j + 1) % across
    c, d = (a + across) % (around * across), (b + across) % (around * across)
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([b, d, c], -1).reshape(-1, 3)])
    return trimesh.Trimesh(rings.reshape(-1, 3), faces)


def load(name: str, p: dict[str, Any]) -> Mesh:
    """A mesh of the protocol, in a ball of radius 1 around the origin."""
    if name in p["files"]:
        mesh = as_mesh(voge.io.load(Path(os.environ["VOGE_DATA"]) / p["files"][name]))
    else:
        mesh = as_mesh({"table": table, "knot": knot}[name]())
    used = mesh.vertices[mesh.faces.unique()]
    centre = (used.amin(0) + used.amax(0)) / 2
    return mesh._replace(vertices=(mesh.vertices - centre) / (used - centre).norm(dim=-1).amax())


def resampled(mesh: Mesh, num: int) -> Mesh:
    """The surface with about `num` vertices."""
    import fast_simplification

    whole = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy())
    whole.merge_vertices(merge_tex=True, merge_norm=True)
    edge = 1.0
    while len(whole.vertices) < 4 * num:
        edge *= 0.7
        whole = trimesh.Trimesh(*trimesh.remesh.subdivide_to_size(whole.vertices, whole.faces, edge, max_iter=20))
        whole.merge_vertices()
    vertices, faces = whole.vertices, whole.faces
    goal = 2 * num
    for _ in range(10):  # how many faces so many vertices have depends on holes and parts
        vertices, faces = fast_simplification.simplify(
            whole.vertices.astype(np.float32), whole.faces.astype(np.int32), target_count=goal
        )
        vertices, faces = _compact(vertices, faces)
        if abs(len(vertices) - num) <= 0.02 * num:
            break
        goal = max(4, goal + 2 * (num - len(vertices)))
    return as_mesh((torch.tensor(vertices).float(), torch.tensor(faces.astype(np.int64))))


def _compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    used, faces = np.unique(faces, return_inverse=True)
    return vertices[used], faces.reshape(-1, 3)


def judges(p: dict[str, Any], seed: int) -> voge.Cameras:
    """Cameras around the unit ball, at directions that no fit knows."""
    random = torch.Generator().manual_seed(1000 + seed)
    eyes = torch.nn.functional.normalize(torch.randn(p["views"], 3, generator=random), dim=-1)
    focal = 0.95 * p["size"] / 2 * math.sqrt(8)
    size = (p["size"], p["size"])
    return voge.Cameras.look_at(eye=3 * eyes, up=(0.1, 1.0, 0.2), focal=focal, image_size=size)


def score(gaussians: voge.Gaussians, mesh: Mesh, cameras: voge.Cameras, **settings: Any) -> tuple[float, float]:
    """IoU, and mean error of the depth in per cent of the diameter."""
    lengths, owners = raster(mesh.vertices, mesh.faces, cameras)
    with torch.no_grad():
        drawn = voge.render(gaussians, cameras, gaussians.means.new_ones(gaussians.num, 1), **settings)
    found, truth = drawn.alpha > 0.5, owners >= 0
    both = found & truth
    iou = (both.sum((1, 2)) / (found | truth).sum((1, 2))).mean()
    return float(iou), float((drawn.depth - lengths).abs()[both].mean()) / 2 * 100


def measure_shape(p: dict[str, Any], out: Path) -> None:
    s = p["shape"]
    found: dict[tuple[int, str, str], list[tuple[float, float]]] = defaultdict(list)
    seconds: dict[tuple[int, str], list[float]] = defaultdict(list)
    vertices: dict[str, dict[str, int]] = {str(num): {} for num in s["numbers"]}
    for seed in s["seeds"]:
        cameras = judges(s, seed)
        for num in s["numbers"]:
            spent = 0.0
            for name in p["meshes"]:
                mesh = load(name, p)
                before = time.process_time()
                ours = convert.fit_mesh(mesh, num, seed=seed).gaussians
                spent += time.process_time() - before
                coarse = resampled(mesh, num)
                vertices[str(num)][name] = len(coarse.vertices)
                flat, where = convert.surface(mesh, num=num)
                middles = (mesh.vertices[mesh.faces[where.faces]] * where.barycentric[..., None]).sum(1)
                arms = {
                    "ours": (ours, SEGMENTS),
                    "vertices": (convert.from_mesh(coarse), SEGMENTS),
                    "vertices-hermite": (convert.from_mesh(coarse), {}),
                    "points": (convert.points(middles), SEGMENTS),
                    "surface": (flat, SEGMENTS),
                }
                for arm, (gaussians, settings) in arms.items():
                    found[num, arm, name].append(score(gaussians, mesh, cameras, **settings))
                values = "  ".join(
                    f"{arm} {found[num, arm, name][-1][0]:.3f} {found[num, arm, name][-1][1]:.2f}" for arm in arms
                )
                print(f"seed {seed}, {num:3d}, {name:6s} {values}", flush=True)
            seconds[num, "ours"].append(spent / len(p["meshes"]))
    for num in s["numbers"]:
        for which, (metric, unit) in enumerate(
            (("iou", "IoU of silhouettes"), ("depth", "error of the depth, % of the diameter"))
        ):
            each = {
                arm: {name: [x[which] for x in found[num, arm, name]] for name in p["meshes"]}
                for arm in ("ours", *BASELINES)
            }
            runs = {
                arm: [statistics.mean(column) for column in zip(*rows.values(), strict=True)]
                for arm, rows in each.items()
            }
            settings = {"shape": s, "meshes": each, "vertices": vertices[str(num)], "number": num}
            names = f"fit-mesh-{metric}-{num}"
            result = results.make(
                *(names, unit, runs),
                protocol=PROTOCOL,
                settings=settings | {"threads": p["threads"]},
                seeds=s["seeds"],
                baselines=BASELINES,
                seconds={"ours": seconds[num, "ours"]},
                higher_is_better=metric == "iou",
                libraries=LIBRARIES,
            )
            print(results.write(result, out))


def painted(mesh: Mesh, faces: Tensor) -> Tensor:
    """(M, 3): colours of points of a mesh, by the normals of their faces."""
    a, b, c = mesh.vertices[mesh.faces[faces]].unbind(1)
    return 0.5 + 0.5 * torch.nn.functional.normalize(torch.linalg.cross(b - a, c - a), dim=-1)


def vertex_colors(mesh: Mesh) -> Tensor:
    normals = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False).vertex_normals
    return 0.5 + 0.5 * torch.tensor(np.array(normals)).float()


def photograph(mesh: Mesh, camera: voge.Cameras, ground: float = GREY, samples: int = 3) -> Tensor:
    """The picture (H, W, 3) of the triangles themselves."""
    height, width = camera.image_size
    fine = camera.resize((samples * height, samples * width))
    _, owners = raster(mesh.vertices, mesh.faces, fine[None])
    seen = owners[0] >= 0
    picture = torch.full((*seen.shape, 3), ground)
    picture[seen] = painted(mesh, owners[0][seen])
    return picture.view(height, samples, width, samples, 3).mean((1, 3))


def carriers(mesh: Mesh, p: dict[str, Any], seed: int) -> dict[str, tuple[voge.Gaussians, Tensor, dict[str, Any]]]:
    """Gaussians, colours and settings of every arm."""

    def coloured(where: convert.Surface) -> Tensor:
        return where.mean(painted(mesh, where.patch_faces))

    arms = {}
    for num in p["numbers"]:
        fitted = convert.fit_mesh(mesh, num, seed=seed)
        arm = "ours" if num == p["numbers"][-1] else f"ours-{num}"
        arms[arm] = (fitted.gaussians, coloured(fitted.surface), SEGMENTS)
    arms["vertices"] = (convert.from_mesh(mesh), vertex_colors(mesh), {})
    flat, where = convert.surface(mesh)
    arms["surface"] = (flat, coloured(where), {})
    arms[REFINED] = arms["surface"]
    flat, where = convert.surface(mesh, num=p["numbers"][-1])
    arms["surface-few"] = (flat, coloured(where), SEGMENTS)
    return arms


def measure_pose(p: dict[str, Any], out: Path) -> None:
    s = p["pose"]
    errors: dict[str, list[list[float]]] = defaultdict(list)
    seconds: dict[str, list[list[float]]] = defaultdict(list)
    numbers: dict[str, dict[str, int]] = defaultdict(dict)
    for seed in s["seeds"]:
        of_seed: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for name in s["meshes"]:
            mesh = load(name, p)
            arms = carriers(mesh, s, seed)
            first = next(iter(arms))
            random = torch.Generator().manual_seed(seed)
            for picture in range(s["pictures"]):
                eye = torch.nn.functional.normalize(torch.randn(3, generator=random), dim=-1) * s["distance"]
                truth = voge.Cameras.look_at(eye=eye, up=(0.1, 1.0, 0.2), focal=s["focal"], image_size=s["image_size"])
                axis = torch.nn.functional.normalize(torch.randn(3, generator=random), dim=-1) * math.radians(
                    s["start"]
                )
                turn = torch.linalg.matrix_exp(torch.linalg.cross(axis.expand(3, 3), torch.eye(3)).mT)
                start = voge.Cameras(truth.R @ turn, truth.t, truth.K, truth.image_size)
                image = photograph(mesh, truth)
                found: dict[str, voge.Cameras] = {}
                for arm, (gaussians, colors, settings) in arms.items():
                    numbers[name][arm] = gaussians.num
                    before = time.process_time()
                    if arm == REFINED:  # from what the fewest found, the last stage alone
                        before -= of_seed[first][-1][1]
                        settings, given = {"stages": voge.fit.STAGES[-1:]}, found[first]
                    else:
                        given = start
                    result = voge.fit.pose(gaussians, image, given, features=colors, seed=seed, **settings)
                    spent = time.process_time() - before
                    found[arm] = result.cameras
                    cosine = (torch.trace(result.R.double().mT @ truth.R.double()) - 1) / 2
                    of_seed[arm].append((math.degrees(float(cosine.clamp(-1, 1).acos())), spent))
                values = "  ".join(f"{arm} {of_seed[arm][-1][0]:.2f} {of_seed[arm][-1][1]:.1f}s" for arm in arms)
                print(f"seed {seed}, {name}, {picture}: {values}", flush=True)
        for arm, pairs in of_seed.items():
            errors[arm].append([pair[0] for pair in pairs])
            seconds[arm].append([pair[1] for pair in pairs])
    spent_all = {arm: [sum(x) for x in rows] for arm, rows in seconds.items()}
    metrics = {
        "degrees": (
            "median error of the rotation, degrees",
            False,
            {a: [statistics.median(x) for x in r] for a, r in errors.items()},
        ),
        "success": (
            f"rotations within {s['success']:g} degrees, %",
            True,
            {a: [100 * statistics.mean(e < s["success"] for e in x) for x in r] for a, r in errors.items()},
        ),
        "seconds": (
            "processor seconds of a fit",
            False,
            {a: [statistics.mean(x) for x in r] for a, r in seconds.items()},
        ),
    }
    baselines = [arm for arm in errors if not arm.startswith("ours")]
    settings = {"pose": s, "gaussians": dict(numbers), "degrees": dict(errors)}
    for metric, (unit, higher, runs) in metrics.items():
        result = results.make(
            *(f"fit-mesh-pose-{metric}", unit, runs),
            protocol=PROTOCOL,
            settings=settings | {"threads": p["threads"]},
            seeds=s["seeds"],
            baselines=baselines,
            seconds=spent_all,
            higher_is_better=higher,
            libraries=LIBRARIES,
        )
        print(results.write(result, out))


def draw(p: dict[str, Any], path: Path, folder: Path) -> None:
    """Above: generated meshes and their Gaussians. Below: how close they come, against their number."""
    figure = plots.pyplot.figure(figsize=(13, 7.6), layout="constrained")
    grid = figure.add_gridspec(3, 6, height_ratios=(1, 1, 1.15))
    for row, (name, eye) in enumerate((("knot", (1.2, 1.4, 2.7)), ("table", (1.6, 1.5, 2.6)))):
        mesh = load(name, p)
        camera = voge.Cameras.look_at(eye=eye, focal=420.0, image_size=(240, 280))
        pictures = {"mesh": photograph(mesh, camera, 1.0)}
        coarse = resampled(mesh, 64)
        arms = {"from_mesh, 64 vertices": (convert.from_mesh(coarse), vertex_colors(coarse))}
        flat, where = convert.surface(mesh, num=64)
        arms["surface, 64"] = (flat, where.mean(painted(mesh, where.patch_faces)))
        for num in (16, 64, 256):
            fitted = convert.fit_mesh(mesh, num)
            where = fitted.surface
            colors = where.mean(painted(mesh, where.patch_faces))
            arms[f"fit_mesh, {num}"] = (fitted.gaussians, colors)
        for title, (gaussians, colors) in arms.items():
            with torch.no_grad():
                pictures[title] = voge.render(gaussians, camera, colors, background=torch.ones(3), **SEGMENTS).features
        for column, (title, picture) in enumerate(pictures.items()):
            axis = figure.add_subplot(grid[row, column])
            axis.imshow(picture.clamp(0, 1))
            axis.set_title(title, fontsize=10)
            axis.axis("off")
    numbers = p["shape"]["numbers"]
    styles = {
        "ours": ("o-", plots.OURS, "fit_mesh"),
        "surface": ("s--", "#00798c", "surface"),
        "points": ("v:", "#9a6b1f", "points, spread evenly"),
        "vertices": ("^:", "#333333", "from_mesh, as many vertices"),
    }
    for column, (metric, label) in enumerate(
        (("iou", "IoU of silhouettes"), ("depth", "depth error, % of the diameter"))
    ):
        axis = figure.add_subplot(grid[2, 3 * column : 3 * column + 3])
        for arm, (line, color, name) in styles.items():
            values = [statistics.mean(results.read(f"fit-mesh-{metric}-{num}", folder)["runs"][arm]) for num in numbers]
            axis.plot(numbers, values, line, color=color, label=name)
        axis.set(xscale="log", xticks=numbers, xlabel="Gaussians", ylabel=label)
        axis.set_xticks(numbers, [str(num) for num in numbers])
        axis.minorticks_off()
        if metric == "depth":
            axis.set_yscale("log")
            axis.legend(frameon=False)
        axis.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    with voge.io.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, metadata={"Software": None})
    plots.pyplot.close(figure)


def main() -> None:
    options = command.parser("fit_mesh", __doc__, PARTS, quick=False).parse_args()
    folder, p = command.folder(options), command.protocol(PROTOCOL)
    torch.set_num_threads(p["threads"])
    if "shape" in options.only:
        measure_shape(p, folder)
    if "pose" in options.only:
        measure_pose(p, folder)
    if "picture" in options.only:
        draw(p, (plots.IMAGES if folder == results.RESULTS else folder) / "fit_mesh.png", folder)


if __name__ == "__main__":
    main()
