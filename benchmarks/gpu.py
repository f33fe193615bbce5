"""The CUDA kernels on a real card: python -m benchmarks.gpu [--quick] [--only PART ...] [--out FOLDER].

Follows gpu.yaml and writes results/gpu-PART-CARD.json: time of compilation, the tests on the card, compute-sanitizer,
the card's measured ceilings, time of every size by device events, one CUDA graph, and peers. --quick is a small
rehearsal, kept out of the results; on a machine without a GPU it runs the parts that need none on the CPU.
"""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import voge
from benchmarks import command, results
from voge import _cpu
from voge.backends import nvrtc, sources

PROTOCOL = "benchmarks/gpu.yaml"
TESTS = "tests/test_cuda_device.py"

Result = dict[str, Any]


class Scene(NamedTuple):
    means: Tensor  # (N, 3)
    scales: Tensor  # (N, 3)
    quaternions: Tensor  # (N, 4)
    density: Tensor  # (N,)
    features: Tensor  # (N, C)
    K: Tensor  # (3, 3)
    image_size: tuple[int, int]

    def to(self, device: torch.device) -> Scene:
        return Scene(*(x.to(device) if isinstance(x, Tensor) else x for x in self))

    def gaussians(self) -> voge.Gaussians:
        return voge.Gaussians.from_scales_rotations(self.means, self.scales, self.quaternions, self.density)

    def camera(self) -> voge.Cameras:
        place = torch.eye(3).to(self.K), torch.zeros(3).to(self.K)
        return voge.Cameras(*place, self.K, self.image_size)


def slab(p: dict[str, Any], height: int, width: int, num: int) -> Scene:
    """The protocol's scene: a camera at the origin looks along +z, and a ray has about `hits` hits."""
    g = torch.Generator().manual_seed(p["seed"])
    focal = float(width)
    reach = math.sqrt(-2 * math.log(0.01))  # of the threshold, in standard deviations
    sigma = math.sqrt(p["hits"] * height * width / (num * math.pi)) / reach / focal  # at distance 1
    z = p["distance"] * (1 + p["thickness"] * sigma * torch.rand(num, generator=g))
    x, y = ((torch.rand(num, generator=g) - 0.5) * side / focal * z for side in (width, height))
    scales = sigma * z[:, None] * torch.exp(p["elongation"] * torch.randn(num, 3, generator=g))
    quaternions = torch.nn.functional.normalize(torch.randn(num, 4, generator=g), dim=-1)
    density = p["density"] / (math.sqrt(2 * math.pi) * scales.mean(-1))
    features = torch.rand(num, p["channels"], generator=g)
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return Scene(torch.stack((x, y, z), -1), scales, quaternions, density, features, K, (height, width))


def crowding(scene: Scene) -> dict[str, float]:
    """Hits a ray, and overlapping pairs a hit, as the CPU kernels count them."""
    _cpu.reset_counters(True)
    with torch.no_grad():
        voge.render(scene.gaussians(), scene.camera(), scene.features)
    counts = _cpu.counters()
    _cpu.reset_counters()
    return {
        "hits": counts["hits"] / math.prod(scene.image_size),
        "overlaps": counts["overlapping_pairs"] / counts["hits"],
    }


def build(p: dict[str, Any]) -> Iterable[Result]:
    """Seconds that the first call of a new installation waits for the compiler: every unit, one after the other."""
    tools = nvrtc.toolkit()
    version, supported = nvrtc.compiler(tools)
    card = torch.cuda.get_device_capability() if torch.cuda.is_available() else (9, 0)
    target = nvrtc.architecture(card, version, supported)
    runs: dict[str, list[float]] = {"ours": [0.0]}
    for unit in sources.units():
        for dtype in sources.DTYPES:
            start = time.perf_counter()
            nvrtc.compiled(tools, unit, (dtype,), target)
            runs[f"{unit.stem.replace('_', '-')}-{dtype}"] = [time.perf_counter() - start]
    runs["ours"] = [sum(seconds for arm, (seconds,) in runs.items() if arm.endswith("f32"))]
    yield make(p, "build", "compilation of the float32 kernels, s", runs, {"target": target, "nvrtc": version})


def tests(p: dict[str, Any]) -> Iterable[Result]:
    """The tests on the card; their failure ends the benchmark."""
    subprocess.run([sys.executable, "-m", "pytest", "-q", TESTS], cwd=results.ROOT, check=True)
    return ()


def sanitize(p: dict[str, Any]) -> Iterable[Result]:
    """The smallest of them under compute-sanitizer, which a CUDA toolkit brings."""
    if not shutil.which("compute-sanitizer"):
        print("    no compute-sanitizer on this machine: left out")
        return ()
    for tool in ("memcheck", "racecheck", "initcheck", "synccheck"):
        run = [sys.executable, "-m", "pytest", "-q", TESTS, "-k", "small"]
        subprocess.run(
            ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1", *run], cwd=results.ROOT, check=True
        )
        print(f"    compute-sanitizer: {tool} finds nothing")
    return ()


def ceilings(p: dict[str, Any]) -> Iterable[Result]:
    """What the card reaches: bytes read and written by a copy, and multiply-adds by a matrix product."""
    c, device = p["ceilings"], torch.device("cuda")
    source = torch.empty(c["copy_bytes"], dtype=torch.uint8, device=device)
    copy = torch.empty_like(source)
    matrix = torch.rand(c["matrix"], c["matrix"], device=device)
    torch.backends.cuda.matmul.allow_tf32 = False
    milliseconds = {
        "copy": durations(p, device, lambda: copy.copy_(source)),
        "multiply-add": durations(p, device, lambda: matrix @ matrix),
    }
    amounts = {"copy": 2e-9 * c["copy_bytes"], "multiply-add": 2e-12 * c["matrix"] ** 3}
    units = {"copy": "copy, GB/s", "multiply-add": "float32 multiply-add, TFLOP/s"}
    for name, values in milliseconds.items():
        rates = [amounts[name] / (1e-3 * value) for value in values]
        yield make(p, f"ceiling-{name}", units[name], {"ours": rates}, {}, higher_is_better=True)


def times(p: dict[str, Any]) -> Iterable[Result]:
    """Forward and backward of every size with every rule."""
    runs: dict[str, list[float]] = {}
    counts, memory = {}, {}
    device = where()
    for size in p["sizes"]:
        scene = slab(p["scene"], *size)
        counts[label(size)] = crowding(scene)
        there = scene.to(device)
        for rule, points in p["rules"]:
            arm = f"{rule}-{points}-{label(size)}"
            forward, backward, peak = passes(p, device, *ours(there, quadrature=rule, points=points))
            runs[f"forward-{arm}"], runs[f"backward-{arm}"], memory[arm] = forward, backward, peak
    standard = f"{p['rules'][0][0]}-{p['rules'][0][1]}-{label(p['sizes'][-1])}"
    both = [a + b for a, b in zip(runs[f"forward-{standard}"], runs[f"backward-{standard}"], strict=True)]
    yield make(p, "times", "ms", {"ours": both} | runs, {"crowding": counts, "peak_megabytes": memory})


def graphed(p: dict[str, Any]) -> Iterable[Result]:
    """Forward + backward of a small picture as one CUDA graph, with a capacity from a call before."""
    device = torch.device("cuda")
    scene = slab(p["scene"], *p["graphed"]).to(device)
    needed = int(rendering(scene, scene.means, scene.features, capacity=1).overflow)
    render, leaves, upstream = ours(scene, capacity=needed + needed // 8)

    def step() -> None:
        torch.autograd.grad(render(), leaves, upstream)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(p["warm_up"]):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    runs = {"ours": durations(p, device, graph.replay), "eager": durations(p, device, step)}
    yield make(p, "graphed", "forward + backward, ms", runs, {"pairs": needed})


def peers(p: dict[str, Any]) -> Iterable[Result]:
    """Forward and backward of the largest size beside those of other renderers that are installed here."""
    device = torch.device("cuda")
    scene = slab(p["scene"], *p["sizes"][-1]).to(device)
    runs: dict[str, list[float]] = {}
    for name, make_call in {"ours": ours, "gsplat": gsplat, "points": points}.items():
        try:
            call = make_call(scene, **p["peers"].get(name, {}))
            forward, backward, _ = passes(p, device, *call)
        except (ImportError, RuntimeError) as error:
            print(f"    {name} is left out: {error}")
            continue
        runs |= {f"forward-{name}": forward, f"backward-{name}": backward}
        runs[name] = [a + b for a, b in zip(forward, backward, strict=True)]
    baselines = [arm for arm in ("gsplat", "points") if arm in runs]
    yield make(
        p, "peers", "ms", runs, {"size": p["sizes"][-1]}, baselines=baselines, libraries=("gsplat", "easypytorch3d")
    )


PARTS: dict[str, Callable[[dict[str, Any]], Iterable[Result]]] = {
    "build": build,
    "tests": tests,
    "sanitize": sanitize,
    "ceilings": ceilings,
    "times": times,
    "graphed": graphed,
    "peers": peers,
}
WITHOUT_A_GPU = ("build", "times")  # in a rehearsal

Call = tuple[Callable[[], Tensor], list[Tensor], Tensor]  # makes the image; the leaves; the image's gradient


def rendering(scene: Scene, means: Tensor, features: Tensor, **settings: Any) -> voge.Rendering:
    gaussians = scene.gaussians()
    return voge.render(
        voge.Gaussians(means, gaussians.precisions, gaussians.density), scene.camera(), features, **settings
    )


def ours(scene: Scene, **settings: Any) -> Call:
    gaussians, camera = scene.gaussians(), scene.camera()
    means, precisions, density, features = leaves = [
        x.clone().requires_grad_() for x in (scene.means, gaussians.precisions, gaussians.density, scene.features)
    ]

    def render() -> Tensor:
        return voge.render(voge.Gaussians(means, precisions, density), camera, features, **settings).features

    return render, leaves, torch.ones(*scene.image_size, features.shape[-1], device=features.device)


def gsplat(scene: Scene, **settings: Any) -> Call:
    from gsplat import rasterization

    height, width = scene.image_size
    opacities = torch.full_like(scene.density, 0.05)
    leaves = [
        x.clone().requires_grad_() for x in (scene.means, scene.quaternions, scene.scales, opacities, scene.features)
    ]
    view = torch.eye(4, device=scene.means.device)[None]

    def render() -> Tensor:
        return rasterization(*leaves, view, scene.K[None], width, height, **settings)[0][0]

    return render, leaves, torch.ones(height, width, scene.features.shape[-1], device=view.device)


def points(scene: Scene, **settings: Any) -> Call:
    from pytorch3d.renderer import PerspectiveCameras, PointsRasterizationSettings, PointsRasterizer, PointsRenderer
    from pytorch3d.renderer.compositing import AlphaCompositor
    from pytorch3d.structures import Pointclouds

    height, width = scene.image_size
    camera = PerspectiveCameras(
        scene.K[:1, 0], scene.K[None, :2, 2], in_ndc=False, image_size=[scene.image_size], device=scene.K.device
    )
    pixels = (scene.K[0, 0] * scene.scales.mean() / scene.means[:, 2].mean()).item()
    radius = 2 * pixels / min(height, width)
    raster = PointsRasterizationSettings(image_size=scene.image_size, radius=radius, **settings)
    renderer = PointsRenderer(PointsRasterizer(camera, raster), AlphaCompositor())
    leaves = [x.clone().requires_grad_() for x in (scene.means, scene.features)]

    def render() -> Tensor:
        return renderer(Pointclouds([leaves[0]], features=[leaves[1]]))[0]

    return render, leaves, torch.ones(height, width, scene.features.shape[-1], device=scene.means.device)


def passes(
    p: dict[str, Any], device: torch.device, render: Callable[[], Tensor], leaves: list[Tensor], upstream: Tensor
) -> tuple[list[float], list[float], float]:
    """Milliseconds of every forward and backward pass, and the peak of the device's memory in MB."""
    forward, backward = [], []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for i in range(p["warm_up"] + p["rounds"]):
        begin = mark(device)
        image = render()
        middle = mark(device)
        torch.autograd.grad(image, leaves, upstream)
        end = mark(device)
        if i >= p["warm_up"]:
            forward.append(between(begin, middle))
            backward.append(between(middle, end))
    peak = torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else 0.0
    return forward, backward, peak


def durations(p: dict[str, Any], device: torch.device, call: Callable[[], Any]) -> list[float]:
    """Milliseconds of every call."""
    found = []
    for i in range(p["warm_up"] + p["rounds"]):
        begin = mark(device)
        call()
        end = mark(device)
        if i >= p["warm_up"]:
            found.append(between(begin, end))
    return found


def mark(device: torch.device) -> torch.cuda.Event | float:
    """The device's time, or the CPU's in a rehearsal."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(begin: Any, end: Any) -> float:
    """Milliseconds."""
    if isinstance(begin, float):
        return 1e3 * (end - begin)
    end.synchronize()
    return begin.elapsed_time(end)


def where() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def label(size: list[int]) -> str:
    return "-".join(map(str, size))


def make(p: dict[str, Any], part: str, metric: str, runs: dict[str, list[float]], found: dict[str, Any], **more: Any):
    """The result, with the card in its name and settings."""
    there = torch.cuda.is_available()
    card = torch.cuda.get_device_name() if there else "none"
    name = f"gpu-{part}-" + re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    settings = p | found | {"card": card, "cuda": torch.version.cuda}
    return results.make(name, metric, runs, protocol=PROTOCOL, settings=settings, **more)


def main() -> None:
    options = command.parser("gpu", __doc__, PARTS).parse_args()
    protocol = command.protocol(PROTOCOL)
    if options.quick:
        protocol |= {"sizes": [[32, 32, 100]], "graphed": [32, 32, 100], "rounds": 2, "warm_up": 1}
    if not torch.cuda.is_available() and not (options.quick and set(options.only) <= set(WITHOUT_A_GPU)):
        raise SystemExit(f"no GPU here: only --quick --only {' '.join(WITHOUT_A_GPU)}")
    for part in options.only:
        for result in PARTS[part](protocol):
            results.show(result, command.folder(options))


if __name__ == "__main__":
    main()
