"""The command `voge`: render, fit-pose, fit-shape, convert, info.

Errors of the user end in one line, `voge: error: ...`, and exit code 2.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import voge
from voge import convert, io, pictures
from voge.cameras import Cameras
from voge.convert.surfaces import GREY

BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "transparent": None}
GAUSSIAN_FILES, MESH_FILES = (".npz", ".safetensors", ".ply"), (".obj", ".off", ".stl", ".glb")
STARTS = 64  # rotations tried around --start
LONGEST = 16384  # side of a picture, in pixels
MOST = 0.98  # of the Gaussians of a 3DGS scene are framed
EXPECTED = (ValueError, TypeError, ImportError, OSError)  # what a user can cause; anything else is a defect of ours


class Malformed(argparse.ArgumentTypeError, ValueError):
    """A word of the command line that cannot be read."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    args = parser().parse_args(_join_negative(sys.argv[1:] if argv is None else argv))
    try:
        args.run(args)
    except EXPECTED as error:
        print(f"voge: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("voge: interrupted", file=sys.stderr)
        return 130
    return 0


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(
        prog="voge", description="Renders 3D Gaussian ellipsoids, and fits them to pictures."
    )
    root.add_argument("--version", action="version", version=f"voge {voge.__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    c = command("render", render, "Draws a mesh, a point cloud or Gaussians as a picture.")
    c.add_argument("file", type=Path, help="anything voge reads: .obj .ply .off .stl .glb .npz .safetensors ...")
    c.add_argument("out", type=Path, help="the picture, such as out.png")
    c.add_argument("--size", type=_size, default=(512, 512), metavar="HxW", help="of the picture (512x512)")
    c.add_argument("--focal", type=_positive, help="focal length in pixels (twice the shorter side)")
    c.add_argument("--eye", type=_numbers(3), metavar="X,Y,Z", help="where the camera is; it looks at the middle")
    c.add_argument("--up", type=_numbers(3), default=(0.0, 1.0, 0.0), metavar="X,Y,Z",
                   help="what points up: 0,-1,0 in most 3DGS captures (0,1,0)")  # fmt: skip
    c.add_argument("--azimuth", type=_finite, default=30.0, help="degrees about the up axis, with y up 0 is on +z (30)")
    c.add_argument("--elevation", type=_finite, default=20.0, help="degrees above the plane across the up axis (20)")
    c.add_argument("--distance", type=_positive,
                   help="of the camera from the middle (so that all, of a 3DGS file 98 %%, is seen)")  # fmt: skip
    c.add_argument("--background", type=_background, default="white", help="white, black, transparent or r,g,b in 0..1")
    _add_num(c)

    c = command("fit-pose", fit_pose, "Finds the pose of an object in a photograph; Ctrl-C keeps the best so far.")
    c.add_argument("mesh", type=Path, help="the object: a mesh with colours, Gaussians or a point cloud")
    c.add_argument("image", type=Path, help="the photograph; its alpha channel, if any, is the mask")
    c.add_argument("--mask", type=Path, help="picture, white where the object is; for an object without colours")
    c.add_argument("--intrinsics", metavar="K.json|fx,fy,cx,cy", help="in pixels (a guess: 1.2 times the longer side)")
    c.add_argument("--out", type=Path, help="folder for pose.json, overlay.png and fit.gif (IMAGE-pose)")
    c.add_argument("--start", metavar="POSE.json|AZIMUTH,ELEVATION,DISTANCE", help="a pose that is about right")
    c.add_argument("--spread", type=_degrees, default=45.0, help="degrees that the rotation of --start may be off (45)")
    c.add_argument(
        "--lighting", choices=("same", "affine", "local"), default="same", help="how light may differ (same)"
    )
    c.add_argument("--seed", type=int, default=0, help="of the starts (0)")
    _add_num(c)

    c = command("fit-shape", fit_shape, "Fits a surface to pictures from known cameras.")
    c.add_argument("folder", type=Path, help="with transforms.json and its images: RGBA, or masks in masks/NAME.png")
    c.add_argument("--out", type=Path, required=True, help=".npz, .safetensors or .ply of Gaussians; .obj or .off")
    c.add_argument("--size", type=int, default=128, help="longest side that pictures are reduced to (128)")
    c.add_argument("--level", type=int, default=3, help="10 * 4^level + 2 Gaussians (3)")
    c.add_argument("--steps", type=int, default=300, help="(300)")

    c = command("convert", convert_file, "Makes Gaussians of a mesh or a point cloud.")
    c.add_argument("file", type=Path)
    c.add_argument("out", type=Path, help=".npz, .safetensors or .ply (3DGS)")
    c.add_argument("--law", choices=("surface", "vertex"), default="surface", help="of meshes (surface)")
    c.add_argument("--percentage", type=float, default=0.5, help="density halfway to a neighbour, law vertex (0.5)")
    _add_num(c)

    c = command("info", info, "Says what is installed, and what a file holds.")
    c.add_argument("file", type=Path, nargs="?")

    c = command("view", view, "Shows a scene in the browser (in a later version).")
    c.add_argument("file", type=Path, nargs="?")
    return root


def render(args: argparse.Namespace) -> None:
    pictures.check_name("out", args.out, 4 if args.background is None else 3)
    scene = io.Scene(*colored(io.load(args.file), args.num))
    camera = framing(scene, args)
    gaussians, features = scene.gaussians, scene.colors(camera.centers())
    with io.atomic_path(args.out) as path:  # first, so that a picture that cannot be written is not rendered
        drawn = voge.render(gaussians, camera, features, quadrature="segments")
        alpha = drawn.alpha.clamp(max=1)[..., None]
        if args.background is None:
            picture = torch.cat([drawn.features / alpha.clamp(min=1e-6), alpha], -1)
        else:
            picture = drawn.features + (1 - alpha) * drawn.features.new_tensor(args.background)
        pictures.write(path, picture)
    print(f"{args.out}: {camera.image_size[1]} x {camera.image_size[0]}, {gaussians.num} Gaussians")


def fit_pose(args: argparse.Namespace) -> None:
    loaded = io.load(args.mesh)
    plain = not has_colors(loaded)
    photo = pictures.read(args.image)
    mask = pictures.read(args.mask)[..., 0] if args.mask else photo[..., 3] if photo.shape[-1] == 4 else None
    if mask is not None and mask.shape != photo.shape[:2]:
        raise ValueError(f"mask: expected the size of the image, {_words(photo)}, got {_words(mask)}")
    if plain and mask is None:
        raise ValueError(f"mask: {args.mesh} has no colours, so its outline is needed: pass --mask")
    camera = intrinsics(args.intrinsics, (photo.shape[0], photo.shape[1]))
    out = _writable(args.out or Path(f"{args.image.stem}-pose"))
    gaussians, features, _ = colored(loaded, args.num)
    start = _start(args.start, camera, gaussians)
    if mask is None and start is None:
        print("no --mask and no --start: the object is sought everywhere and at every distance, which often fails")

    around: dict[str, Any] = {} if start is None else {"starts": STARTS, "spread": math.radians(args.spread)}
    begin = time.perf_counter()
    with _progress() as progress:
        result = voge.fit.pose(
            gaussians,
            None if plain else photo[..., :3],
            camera if start is None else start,
            None if plain else features,
            mask=mask,
            lighting=args.lighting,
            seed=args.seed,
            progress=progress,
            **around,
        )
    seconds = time.perf_counter() - begin

    with io.atomic_path(out / "pose.json") as path:
        path.write_text(json.dumps(_pose_dict(result, seconds), indent=2) + "\n", encoding="utf-8")
    with io.atomic_path(out / "overlay.png") as path:
        pictures.write(path, pictures.overlay(photo[..., :3], gaussians, result.cameras, features))
    with io.atomic_path(out / "fit.gif") as path:
        pictures.write_film(path, pictures.course(photo[..., :3], gaussians, result.path, features))
    turn, shift = result.deviations
    state = "interrupted, the best so far" if result.interrupted else "converged" if result.converged else "not settled"
    print(f"pose ({state}) in {seconds:.1f} s, loss {result.loss:.4f}")
    print(f"  R {[[round(x, 4) for x in row] for row in result.R.tolist()]}")
    print(f"  t {[round(x, 4) for x in result.t.tolist()]}")
    print(f"  one standard deviation: {math.degrees(turn.norm()):.2f} degrees, {float(shift.norm()):.3g} units")
    print(f"{out / 'pose.json'}, {out / 'overlay.png'}, {out / 'fit.gif'}")


def fit_shape(args: argparse.Namespace) -> None:
    if not args.folder.is_dir():
        raise ValueError(f"folder: {args.folder} is not a folder")
    if args.out.suffix.lower() not in GAUSSIAN_FILES + MESH_FILES:
        raise ValueError(f"out: expected a name in {', '.join(GAUSSIAN_FILES + MESH_FILES)}, got {args.out}")
    images, masks, cameras = pictures.read_views(args.folder, args.size)
    with io.atomic_path(args.out) as path:
        with _progress() as progress:
            result = voge.fit.shape(
                masks, cameras, images, level=args.level, steps=args.steps,
                progress=lambda step, steps, loss: progress("shape", step, steps, loss),
            )  # fmt: skip
        if args.out.suffix.lower() in GAUSSIAN_FILES:
            io.save(path, result.gaussians, result.features)
        else:
            io.save(path, io.Mesh(result.vertices, result.faces, result.features.clamp(0, 1)))
    state = f"interrupted after {len(result.curve)} steps" if result.interrupted else f"loss {result.curve[-1]:.5f}"
    print(f"{args.out}: {result.gaussians.num} Gaussians from {len(cameras)} views, {state}")


def convert_file(args: argparse.Namespace) -> None:
    loaded = io.load(args.file)
    if args.law == "vertex" and isinstance(loaded, io.Mesh):
        scene = io.Scene(convert.from_mesh(loaded, percentage=args.percentage), vertex_colors(loaded))
    elif args.law == "vertex":
        raise ValueError(f"law: vertex is for meshes, {args.file} holds a {type(loaded).__name__}")
    else:
        scene = io.Scene(*colored(loaded, args.num))
    io.save(args.out, scene)
    print(f"{args.out}: {scene.gaussians.num} Gaussians")


def info(args: argparse.Namespace) -> None:
    if args.file is None:
        from voge import _cpu

        print(f"voge {voge.__version__}, torch {torch.__version__}, Python {sys.version.split()[0]}")
        print(f"kernels: {_cpu.isa()} of {', '.join(_cpu.isas())}; {torch.get_num_threads()} threads")
        return
    loaded = io.load(args.file)
    if isinstance(loaded, io.Mesh):
        parts = {"texture": loaded.texture, "face colours": loaded.face_colors, "vertex colours": loaded.colors}
        has = [name for name, value in parts.items() if value is not None]
        print(f"{args.file}: mesh, {len(loaded.vertices)} vertices, {len(loaded.faces)} faces, {_listed(has)}")
        points = loaded.vertices
    elif isinstance(loaded, io.PointCloud):
        has = [name for name in ("colors", "normals") if getattr(loaded, name) is not None]
        print(f"{args.file}: point cloud, {len(loaded.points)} points, {_listed(has)}")
        points = loaded.points
    else:
        channels = [] if loaded.features is None else [f"{loaded.features.shape[-1]} features each"]
        print(f"{args.file}: {loaded.gaussians}, {_listed(channels)}")
        points = loaded.gaussians.means.flatten(0, -2)
    if len(points):
        low, high = points.amin(0).tolist(), points.amax(0).tolist()
        print("  " + ", ".join(f"{a} {x:.4g} to {y:.4g}" for a, x, y in zip("xyz", low, high, strict=True)))


def view(args: argparse.Namespace) -> None:
    raise ValueError("view: comes in a later version; `voge render` writes a picture")


def colored(content: Any, num: int) -> tuple[voge.Gaussians, Tensor, Tensor | None]:
    """What makes an io.Scene, with colours (N, 3): one channel repeated, grey where there is none."""
    gaussians, features, sh = convert.scene(content, num)
    if gaussians.batch_shape or not gaussians.num:
        raise ValueError(f"file: expected one set of Gaussians, got {gaussians}")
    if features is None:
        features = torch.full_like(gaussians.means, GREY)
    if features.shape[-1] not in (1, 3):
        raise ValueError(f"file: expected colours (N, 1) or (N, 3), got features {tuple(features.shape)}")
    dtype = torch.get_default_dtype()
    return gaussians.to(dtype), features.to(dtype).expand(-1, 3), None if sh is None else sh.to(dtype)


def has_colors(content: io.Mesh | io.PointCloud | io.Scene) -> bool:
    if isinstance(content, io.Mesh):
        return any(part is not None for part in (content.colors, content.face_colors, content.texture))
    return (content.colors if isinstance(content, io.PointCloud) else content.features) is not None


def vertex_colors(mesh: io.Mesh) -> Tensor:
    """(V, 3): the mean colour of the corners at each vertex."""
    corners = torch.eye(3).to(mesh.vertices).repeat(len(mesh.faces), 1)
    faces = torch.arange(len(mesh.faces)).repeat_interleave(3)
    nothing = mesh.vertices.new_zeros(mesh.vertices.shape)
    where = convert.Surface(
        torch.zeros(len(nothing)).long(), nothing, nothing, faces, corners, mesh.faces.flatten()
    )  # the "patch" of a vertex: its corners
    return convert.surface_colors(mesh, where).nan_to_num(GREY)


def framing(scene: io.Scene, args: argparse.Namespace) -> Cameras:
    """A camera that looks at the object's middle, from so far that all of it is in the picture.

    Captures have a few Gaussians far away, and a few that are huge: of a 3DGS scene a share of MOST counts.
    """
    means, precisions = scene.gaussians.means, scene.gaussians.precisions
    last = round((1.0 if scene.sh is None else MOST) * (len(means) - 1))
    ranked = means.sort(0).values
    middle = (ranked[last] + ranked[len(means) - 1 - last]) / 2
    variances = torch.linalg.inv(precisions).diagonal(dim1=-2, dim2=-1).mean(-1).sort().values
    radius = float((means - middle).norm(dim=-1).sort().values[last] + 2 * variances[last].sqrt())
    shorter = min(args.size)
    focal = 2.0 * shorter if args.focal is None else args.focal
    distance = args.distance or 1.05 * radius / math.sin(math.atan(shorter / 2 / focal))
    if args.eye is not None:
        eye, up = middle.new_tensor(args.eye), middle.new_tensor(args.up)
        return Cameras.look_at(eye=eye, target=middle, up=up, focal=focal, image_size=args.size)
    return orbit(middle, args.azimuth, args.elevation, distance, focal, args.size, args.up)


def orbit(
    middle: Tensor,
    azimuth: float,
    elevation: float,
    distance: float,
    focal: float,
    size: tuple[int, int],
    up: tuple[float, ...] = (0.0, 1.0, 0.0),
) -> Cameras:
    """A camera around `middle`: degrees about the up axis (0 is on +z, with z up on -y), degrees above its plane."""
    axis = torch.nn.functional.normalize(middle.new_tensor(up), dim=0)
    if not axis.norm() > 0.5:
        raise ValueError(f"up: expected a direction of a length above zero, got {up}")
    front = middle.new_tensor([0.0, 0.0, 1.0] if abs(axis[2]) < 0.9 else [0.0, -1.0, 0.0])
    front = torch.nn.functional.normalize(front - (front @ axis) * axis, dim=0)
    turn = torch.stack([torch.linalg.cross(axis, front), axis, front], 1)  # of y up and z front to these
    a, e = math.radians(azimuth), math.radians(elevation)
    eye = middle.new_tensor([math.cos(e) * math.sin(a), math.sin(e), math.cos(e) * math.cos(a)])
    above = middle.new_tensor([-math.sin(e) * math.sin(a), math.cos(e), -math.sin(e) * math.cos(a)])
    eye = middle + distance * (turn @ eye)
    return Cameras.look_at(eye=eye, target=middle, up=turn @ above, focal=focal, image_size=size)


def intrinsics(text: str | None, size: tuple[int, int]) -> Cameras:
    """The camera of an image of `size`, its pose unknown, from fx,fy,cx,cy or a JSON file: K as a matrix, or an object
    with K or fx, fy, cx, cy, and image_size [H, W] if it is to be compared."""
    height, width = size
    if text is None:
        focal = 1.2 * max(size)
        print(f"no --intrinsics: a focal length of {focal:.0f} pixels is a guess, the distance depends on it")
        K = [[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]]
    elif text.lower().endswith(".json"):
        content = _read_json(text)
        content = content if isinstance(content, dict) else {"K": content}
        stated = content.get("image_size")
        if stated is not None and stated != [height, width]:
            raise ValueError(f"intrinsics: {text} is for an image_size [H, W] of {stated}, got {[height, width]}")
        if "K" in content:
            K = content["K"]
        elif all(key in content for key in ("fx", "fy", "cx", "cy")):
            K = [[content["fx"], 0, content["cx"]], [0, content["fy"], content["cy"]], [0, 0, 1]]
        else:
            raise ValueError(f"intrinsics: {text}: expected K, or fx, fy, cx and cy, got {', '.join(content)}")
    else:
        with _about("intrinsics"):
            fx, fy, cx, cy = _numbers(4)(text)
        K = [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]
    try:
        matrix = torch.tensor(K, dtype=torch.get_default_dtype())
    except (TypeError, ValueError):
        raise ValueError(f"intrinsics: expected a matrix of 3 x 3 numbers, got {K!r:.80}") from None
    if matrix.shape != (3, 3):
        raise ValueError(f"intrinsics: expected a matrix of 3 x 3 numbers, got shape {tuple(matrix.shape)}")
    if not (0 <= matrix[0, 2] <= width and 0 <= matrix[1, 2] <= height):
        centre = tuple(matrix[:2, 2].tolist())
        raise ValueError(
            f"intrinsics: principal point {centre} lies outside the {width} x {height} image: another size?"
        )
    with _about("intrinsics"):
        return Cameras(torch.eye(3), torch.zeros(3), matrix, size)


def _start(text: str | None, camera: Cameras, gaussians: voge.Gaussians) -> Cameras | None:
    if text is None:
        return None
    middle = (gaussians.means.amin(0) + gaussians.means.amax(0)) / 2
    if text.lower().endswith(".json"):
        content = _read_json(text)
        if not isinstance(content, dict) or "R" not in content or "t" not in content:
            raise ValueError(f"start: {text}: expected an object with R and t, as in a pose.json")
        with _about(f"start: {text}"):
            R, t = (torch.tensor(content[name], dtype=camera.K.dtype) for name in ("R", "t"))
            start = Cameras(R, t, camera.K, camera.image_size)
    else:
        with _about("start"):
            azimuth, elevation, distance = _numbers(3)(text)
            if distance <= 0:
                raise ValueError(f"expected a distance above 0, got {distance}")
            seen = orbit(middle, azimuth, elevation, distance, 1.0, camera.image_size)
        start = Cameras(seen.R, seen.t, camera.K, camera.image_size)
    depth = float((start.R @ middle + start.t)[..., 2])
    if start.batch_shape or depth <= 0:
        raise ValueError(f"start: expected one pose with the object in front of the camera, got depth {depth:.4g}")
    return start


def _pose_dict(result: Any, seconds: float) -> dict[str, Any]:
    """pose.json: x_camera = R x + t, OpenCV's axes; K in pixels with pixel centres at +0.5."""
    return {
        "R": result.R.tolist(),
        "t": result.t.tolist(),
        "K": result.cameras.K.tolist(),
        "image_size": list(result.cameras.image_size),
        "loss": result.loss,
        "covariance": result.covariance.tolist(),
        "converged": result.converged,
        "interrupted": result.interrupted,
        "seconds": round(seconds, 3),
    }


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int, float], None]]:
    """Shows how far a fit is: a bar where rich is installed and a terminal listens, a line a stage otherwise."""
    try:
        from rich.console import Console
        from rich.progress import Progress, TextColumn
    except ImportError:
        Console = None  # type: ignore[assignment, misc]
    if Console is None or not sys.stderr.isatty():

        def plain(name: str, step: int, steps: int, loss: float) -> None:
            if step >= steps:
                print(f"{name}: {steps} steps, loss {loss:.4f}", file=sys.stderr)

        yield plain
        return
    with Progress(*Progress.get_default_columns(), TextColumn("loss {task.fields[loss]:.4f}"),
                  console=Console(stderr=True)) as bars:  # fmt: skip
        tasks: dict[str, Any] = {}

        def bar(name: str, step: int, steps: int, loss: float) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=steps, loss=loss)
            bars.update(tasks[name], completed=step, loss=loss)

        yield bar


def _writable(folder: Path) -> Path:
    """The folder, made if need be; ValueError unless files can be written to it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".voge-probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"out: cannot write to folder {folder} ({error.strerror})") from error
    return folder


@contextmanager
def _about(argument: str) -> Iterator[None]:
    """Errors inside name the argument of the command line that they are about."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"{argument}: {error}") from error


def _read_json(path: str) -> Any:
    with io.reading(path) as file:
        return json.loads(file.read_text(encoding="utf-8"))


def _numbers(count: int) -> Callable[[str], tuple[float, ...]]:
    def numbers(text: str) -> tuple[float, ...]:
        try:
            values = tuple(float(part) for part in text.split(","))
        except ValueError:
            values = ()
        if len(values) != count or not all(map(math.isfinite, values)):
            raise Malformed(f"expected {count} numbers with commas between, got {text!r}")
        return values

    return numbers


def _size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,5})[x×](\d{1,5})", text)
    if not match or not all(0 < int(side) <= LONGEST for side in match.groups()):
        raise Malformed(f"expected HxW such as 480x640, sides of 1 to {LONGEST} pixels, got {text!r}")
    return int(match[1]), int(match[2])


def _within(expected: str, low: float, high: float = math.inf) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and low <= value <= high):
            raise Malformed(f"expected {expected}, got {text!r}")
        return value

    return number


_finite = _within("a finite number", -math.inf)
_positive = _within("a finite number above 0", sys.float_info.min)
_degrees = _within("degrees from 0 to 180", 0.0, 180.0)


def _background(text: str) -> tuple[float, ...] | None:
    if text in BACKGROUNDS:
        return BACKGROUNDS[text]
    try:
        color = _numbers(3)(text)
    except Malformed:
        color = (math.nan,)
    if not all(0 <= value <= 1 for value in color):
        raise Malformed(f"expected {', '.join(BACKGROUNDS)} or three numbers r,g,b in 0..1, got {text!r}")
    return color


def _add_num(command: argparse.ArgumentParser) -> None:
    command.add_argument("--num", type=int, default=5000, help="Gaussians on a mesh (5000)")


def _join_negative(argv: Sequence[str]) -> list[str]:
    """`--eye -1,2,3` as `--eye=-1,2,3`: argparse takes the former for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and re.match(r"-[\d.]", word) and joined[-1].startswith("--") and "=" not in joined[-1]:
            joined[-1] += f"={word}"
        else:
            joined.append(word)
    return joined


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts) or "no colours"


def _words(picture: Tensor) -> str:
    return f"{picture.shape[1]} x {picture.shape[0]} pixels"


if __name__ == "__main__":
    sys.exit(main())
