"""How often voge.fit.pose finds a pose, by how much of it is known: python -m benchmarks.pose_starts [--quick].

Textured meshes, rasterised over photographs, in another light and with noise. The protocol is
pose_starts.yaml. Another quadrature than the default becomes an arm of the same results files.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from torch import Tensor
from torch.nn.functional import avg_pool2d

import voge
from benchmarks import command, results
from examples.demo.fetch import Package, fetch
from voge import convert, io, pictures
from voge.convert.rasters import raster
from voge.fit import PoseResult, pose
from voge.fit.pyramid import resize
from voge.fit.rigid import exp_so3, rotation_angle
from voge.gaussians import quaternions_to_matrices

PROTOCOL = "benchmarks/pose_starts.yaml"
MESHES = Package(
    "gradio==6.31.0", "PyPI", 31, "Apache-2.0", "textured and coloured meshes", "gradio/media_assets/models3d/Fox.gltf"
)
PHOTOGRAPHS = Package(
    "mvtb-data==1.6.1", "PyPI", 130, "MIT", "colour photographs", "mvtbdata/images/street.png"
)  # fmt: skip
METRICS = {"found": "pictures found (%)", "degrees": "rotation error (degrees)", "percent": "distance error (%)"}


class Case(NamedTuple):
    """A picture (H, W, 3) of an object, and the camera that it was taken with."""

    image: Tensor
    truth: voge.Cameras


def main() -> None:
    parser = command.parser("pose_starts", __doc__)
    parser.add_argument("--quadrature", choices=("hermite", "segments"), default="hermite")
    parser.add_argument("--points", type=int, default=1, help="of the quadrature (1)")
    parser.add_argument("--starts", nargs="+", help="some of the protocol's starts only")
    args = parser.parse_args()
    folder, protocol = command.folder(args), command.protocol(PROTOCOL)
    seeds = protocol["seeds"][:1] if args.quick else protocol["seeds"]
    torch.set_num_threads(protocol["threads"])
    arm = "ours" if (args.quadrature, args.points) == ("hermite", 1) else f"{args.quadrature}-{args.points}"
    meshes, grounds = objects(protocol), photographs(protocol)
    models = {name: convert.scene(mesh, num=protocol["fit"]["gaussians"]) for name, mesh in meshes.items()}
    for start in protocol["starts"]:
        if args.starts and str(start) not in args.starts:
            continue
        rows: list[list[tuple[float, float, float]]] = []  # (seeds, objects, 3): degrees, percent, seconds
        for seed in seeds:
            rows.append([])
            for number, name in enumerate(meshes):
                rng = np.random.default_rng((seed, number))
                case = picture(meshes[name], grounds, protocol["picture"], rng)
                begin = time.perf_counter()
                found = fit(models[name], case, start, protocol, rng, quadrature=args.quadrature, points=args.points)
                rows[-1].append((*errors(found.cameras, case.truth), time.perf_counter() - begin))
                degrees, percent, seconds = rows[-1][-1]
                print(
                    f"{start}, seed {seed}, {name}: {degrees:.2f} degrees, {percent:.2f} %, {seconds:.1f} s", flush=True
                )
        record(start, arm, np.array(rows), protocol, seeds, folder)


def record(
    start: float | str, arm: str, rows: np.ndarray, protocol: dict[str, Any], seeds: list[int], folder: Path
) -> None:
    """Writes pose-starts-START-WHAT.json, one value a seed: how many objects were found, and the median errors.

    An arm beside "ours" joins the file that is there.
    """
    values = {
        "found": 100 * (rows[..., :2] < protocol["success"]).all(-1).mean(1),
        "degrees": np.median(rows[..., 0], 1),
        "percent": np.median(rows[..., 1], 1),
    }
    for what, value in values.items():
        name = f"pose-starts-{start}-{what}"
        other = results.read(name, folder) if arm != "ours" else {"runs": {}, "seconds": {}}
        result = results.make(
            *(name, METRICS[what], other["runs"] | {arm: value.tolist()}),
            protocol=PROTOCOL,
            settings=protocol,
            seeds=seeds,
            seconds=other["seconds"] | {arm: rows[..., 2].sum(1).tolist()},
            higher_is_better=what == "found",
            data=f"real: photographs of {PHOTOGRAPHS.name}, meshes of {MESHES.name} rasterised over them",
        )
        print(f"{results.write(result, folder).name}: {arm} {np.mean(value):.3g}", flush=True)


def objects(protocol: dict[str, Any]) -> dict[str, io.Mesh]:
    """The meshes by name, each with its middle in the origin and its ball of radius 1."""
    folder = fetch(MESHES)[0] / Path(MESHES.probe).parent
    made = {"box": lambda: photo_box(photographs(protocol)[:6]), "letter": letter}
    files = {"duck": "Duck.glb", "fox": "Fox.gltf", "face": "face.obj"}
    return {
        name: unit(io.as_mesh(io.load(folder / files[name])) if name in files else made[name]())
        for name in protocol["objects"]
    }


def photographs(protocol: dict[str, Any]) -> list[Tensor]:
    """(H, W, 3) in [0, 1]."""
    folder = fetch(PHOTOGRAPHS)[0] / Path(PHOTOGRAPHS.probe).parent
    return [pictures.read(folder / f"{name}.png")[..., :3] for name in protocol["photographs"]]


def photo_box(sides: list[Tensor], extents: tuple[float, float, float] = (1.0, 0.8, 0.6), size: int = 128) -> io.Mesh:
    """A box, one photograph a side, side by side in its texture."""
    vertices, uv = [], []
    for i in range(6):
        axis, sign = i // 2, 2 * (i % 2) - 1
        for u, v in ((0, 0), (1, 0), (1, 1), (0, 1)):
            corner = torch.zeros(3)
            corner[axis], corner[(axis + 1) % 3], corner[(axis + 2) % 3] = sign, 2 * u - 1, 2 * v - 1
            vertices.append(corner * torch.tensor(extents) / 2)
            uv.append(torch.tensor([(i + 0.01 + 0.98 * u) / 6, v]))
    faces = torch.tensor([[4 * i + k for k in corners] for i in range(6) for corners in ((0, 1, 2), (0, 2, 3))])
    texture = torch.cat([resize(side, (size, size)) for side in sides], 1)
    return io.Mesh(torch.stack(vertices), faces, uv=torch.stack(uv), texture=texture)


def letter() -> io.Mesh:
    """A thick F with a pattern of waves."""
    bars = [((0.3, 1.6, 0.3), (0.0, 0.0)), ((0.8, 0.3, 0.3), (0.5, 0.65)), ((0.5, 0.3, 0.3), (0.35, 0.0))]
    parts = []
    for extents, (x, y) in bars:
        part = trimesh.creation.box(extents).subdivide_to_size(0.06)
        part.apply_translation((x, y, 0.0))
        parts.append(part)
    mesh = io.as_mesh(trimesh.util.concatenate(parts))
    waves = mesh.vertices @ torch.tensor([[7.0, -2, 4], [2, 6, -3], [-3, 5, 8]]) + torch.arange(3.0)
    return mesh._replace(colors=0.5 + 0.4 * waves.sin())


def unit(mesh: io.Mesh) -> io.Mesh:
    """Moved and scaled: the middle of its box in the origin, the vertex furthest from it at distance 1."""
    vertices = mesh.vertices - (mesh.vertices.amin(0) + mesh.vertices.amax(0)) / 2
    vertices = vertices / vertices.norm(dim=-1).max()
    return mesh._replace(vertices=vertices)


def picture(mesh: io.Mesh, grounds: list[Tensor], settings: dict[str, Any], rng: np.random.Generator) -> Case:
    """One picture by the protocol's `picture`."""
    (height, width), focal, fine = settings["image_size"], settings["focal"], settings["supersampling"]
    fill = rng.uniform(*settings["fill"]) * height  # pixels across
    distance = math.hypot(1.0, 2 * focal / fill)
    pixel = [rng.uniform(fill / 2, side - fill / 2) for side in (width, height)]
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    R = quaternions_to_matrices(torch.tensor(rng.normal(size=4), dtype=torch.float32))
    t = distance * torch.linalg.solve(K, torch.tensor([*pixel, 1.0]))
    truth = voge.Cameras(R, t, K, (height, width))

    colour, alpha = rasterise(mesh, truth.resize((fine * height, fine * width)))
    gain, bias = rng.uniform(-1, 1) * settings["gain"], torch.tensor(rng.uniform(-1, 1, 3)) * settings["bias"]
    ground = resize(grounds[rng.integers(len(grounds))], (fine * height, fine * width))
    image = torch.where(alpha[..., None], (1 + gain) * colour + bias, ground).float()
    image = avg_pool2d(image.movedim(-1, 0)[None], fine)[0].movedim(0, -1)
    image = image + settings["noise"] * torch.tensor(rng.normal(size=image.shape), dtype=torch.float32)
    return Case(image.clamp(0, 1), truth)


def rasterise(mesh: io.Mesh, camera: voge.Cameras) -> tuple[Tensor, Tensor]:
    """The mesh's colour (H, W, 3) and where it is seen (H, W): no Gaussians."""
    vertices = mesh.vertices.double() @ camera.R.double().mT + camera.t.double()
    eye = torch.eye(3, dtype=torch.float64)[None]
    view = voge.Cameras(eye, torch.zeros(1, 3, dtype=torch.float64), camera.K.double()[None], camera.image_size)
    faces = raster(vertices, mesh.faces, view)[1][0]
    alpha = faces >= 0
    faces, directions = faces[alpha], view.rays().directions[0][alpha]
    shares = torch.linalg.solve(vertices[mesh.faces[faces]].mT, directions)  # of the corners, times 1 / depth
    places = (shares / shares.sum(-1, keepdim=True)).to(mesh.vertices)
    colour = torch.zeros(*alpha.shape, 3).to(mesh.vertices)
    points = convert.Surface(faces, places, torch.zeros_like(places), faces, places, torch.arange(len(faces)))
    colour[alpha] = convert.surface_colors(mesh, points)
    return colour, alpha


def wrong(truth: voge.Cameras, angle: float, protocol: dict[str, Any], rng: np.random.Generator) -> voge.Cameras:
    """The start: the pose turned by `angle` degrees about the object's middle and moved, by the protocol."""
    axis = rng.normal(size=3)
    turn = exp_so3(torch.tensor(axis / np.linalg.norm(axis) * math.radians(angle), dtype=torch.float32))
    x, y = rng.uniform(-1, 1, 2) * protocol["lateral"]
    t = truth.t * (1 + rng.uniform(-1, 1) * protocol["depth"]) + truth.t.new_tensor([x, y, 0.0])
    return voge.Cameras(turn @ truth.R, t, truth.K, truth.image_size)


def fit(
    model: io.Scene,
    case: Case,
    start: float | str,
    protocol: dict[str, Any],
    rng: np.random.Generator,
    **rendering: Any,
) -> PoseResult:
    """voge.fit.pose of the picture from the start: an angle in degrees, or "nothing"."""
    around: dict[str, Any] = {}
    if isinstance(start, str):
        camera = voge.Cameras(torch.eye(3), torch.zeros(3), case.truth.K, case.truth.image_size)
    else:
        camera = wrong(case.truth, start, protocol, rng)
        around = {"starts": protocol["fit"]["starts"], "spread": math.radians(1.1 * start)}
    lighting = protocol["fit"]["lighting"]
    return pose(
        model.gaussians, case.image, camera, model.features, lighting=lighting, **around, **rendering
    )  # fmt: skip


def errors(found: voge.Cameras, truth: voge.Cameras) -> tuple[float, float]:
    """Degrees of the rotation; percent of the distance of the object's middle, which is the origin."""
    turn, shift = rotation_angle(found.R, truth.R), (found.t - truth.t).norm() / truth.t.norm()
    return math.degrees(turn), 100 * float(shift)


if __name__ == "__main__":
    main()
