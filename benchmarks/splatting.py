"""The same scenes integrated, splatted, and composited along rays: python -m benchmarks.splatting [--only PART ...].

Follows splatting.yaml and writes results/splatting.json (a fitted scene against the integral's picture),
results/splatting-truth.json (the same against the truth), results/splatting-capture.json (a real capture, where its
file is there), and the picture docs/img/splats.png. About three minutes.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import voge
from benchmarks import command, plots, results
from voge import harmonics

PROTOCOL = "benchmarks/splatting.yaml"
PARTS = ("scene", "capture", "picture")
ARMS = ("ours", "hermite-1", "compositing", "compositing-volume", "splatting", "splatting-sharp")
# Constants of 3DGS: least depth, pixels squared added to a splat, largest and least alpha, what a full pixel lets pass.
NEAREST, DILATION, MOST, LEAST, OPAQUE = 0.2, 0.3, 0.99, 1 / 255, 1e-4


def splat(gaussians: voge.Gaussians, camera: voge.Cameras, colors: Tensor, dilation: float = DILATION) -> Tensor:
    """The picture (H, W, 3) on white by splatting as 3DGS does it, in NumPy.

    Each Gaussian becomes an ellipse by the projection's derivative at its mean (Zwicker et al. 2001), widened by
    `dilation`; all pixels composite them by the depth of the means, front to back.
    """
    height, width = camera.image_size
    R, t, K = (x.double().numpy() for x in (camera.R, camera.t, camera.K))
    x, y, z = (gaussians.means.double().numpy() @ R.T + t).T
    focal = K[[0, 1], [0, 1]]
    reach = 1.3 * np.array([width, height]) / 2 / focal
    inside = np.maximum(z, NEAREST)
    u, v = (np.clip(a / inside, -limit, limit) for a, limit in ((x, reach[0]), (y, reach[1])))
    J = np.zeros((len(z), 2, 3))
    J[:, 0, 0], J[:, 0, 2] = focal[0] / inside, -focal[0] * u / inside
    J[:, 1, 1], J[:, 1, 2] = focal[1] / inside, -focal[1] * v / inside
    J = J @ R
    covariances = J @ np.linalg.inv(gaussians.precisions.double().numpy()) @ J.swapaxes(1, 2) + dilation * np.eye(2)
    conics, radii = np.linalg.inv(covariances), np.ceil(3 * np.sqrt(np.linalg.eigvalsh(covariances)[:, 1]))
    centers = np.stack([x, y], -1) / inside[:, None] * focal + K[:2, 2]
    opacities, rgb = opacity(gaussians).double().numpy(), colors.double().numpy()

    picture, transmittance = np.zeros((height, width, 3)), np.ones((height, width))
    full = np.zeros((height, width), bool)
    for k in np.argsort(z, kind="stable"):
        low = np.maximum(np.floor(centers[k] - radii[k]), 0).astype(int)
        high = np.minimum(np.ceil(centers[k] + radii[k]) + 1, (width, height)).astype(int)
        if z[k] <= NEAREST or (low >= high).any():
            continue
        box = np.s_[low[1] : high[1], low[0] : high[0]]
        dx, dy = (
            np.arange(low[0], high[0]) + 0.5 - centers[k, 0],
            np.arange(low[1], high[1])[:, None] + 0.5 - centers[k, 1],
        )
        (a, b), (_, c) = conics[k]
        alpha = np.minimum(MOST, opacities[k] * np.exp(-0.5 * (a * dx * dx + c * dy * dy) - b * dx * dy))
        alpha[alpha < LEAST] = 0
        full[box] |= transmittance[box] * (1 - alpha) < OPAQUE
        alpha[full[box]] = 0
        picture[box] += (transmittance[box] * alpha)[..., None] * rgb[k]
        transmittance[box] *= 1 - alpha
    return torch.from_numpy(picture + transmittance[..., None])


def composite(gaussians: voge.Gaussians, camera: voge.Cameras, colors: Tensor, volume: bool = False) -> Tensor:
    """The picture (H, W, 3) on white by alpha compositing along each ray, each Gaussian at its densest point.

    Its alpha there is opacity times exp(q), as 3DGRT has it; with `volume`, what it absorbs as a volume on its own.
    """
    f = voge.trace(gaussians, camera, threshold=LEAST)
    assert f.offsets is not None and gaussians.density is not None
    share = (f.peaks / gaussians.density[f.indices]).double()
    alpha = -torch.expm1(-f.peaks.double()) if volume else opacity(gaussians)[f.indices].double() * share
    alpha = torch.where(alpha < LEAST, 0, alpha.clamp(max=MOST))
    passed = torch.cat([alpha.new_zeros(1), torch.log1p(-alpha).cumsum(0)])  # over all rays, one after the other
    first = f.offsets[:-1].repeat_interleave(f.offsets.diff())
    weights = alpha * torch.exp(passed[:-1] - passed[first])
    pixels = torch.arange(len(f.offsets) - 1).repeat_interleave(f.offsets.diff())
    shape = (len(f.offsets) - 1, 3)
    picture = torch.zeros(shape).double().index_add(0, pixels, weights[:, None] * colors[f.indices].double())
    through = torch.exp(passed[f.offsets[1:]] - passed[f.offsets[:-1]])
    return (picture + through[:, None]).view(*camera.image_size, 3)


def integrate(
    gaussians: voge.Gaussians, camera: voge.Cameras, colors: Tensor, quadrature: str = "segments", points: int = 1
) -> Tensor:
    """The picture (H, W, 3) on white by voge.render."""
    settings: dict[str, Any] = {"threshold": LEAST, "quadrature": quadrature, "points": points}
    return voge.render(gaussians, camera, colors, background=torch.ones(3).to(colors), **settings).features


def opacity(gaussians: voge.Gaussians) -> Tensor:
    """What a ray through the middle of each lone Gaussian loses."""
    assert gaussians.density is not None
    return -torch.expm1(-gaussians.density)


def pictures(scene: voge.io.Scene, camera: voge.Cameras) -> dict[str, Tensor]:
    """The picture by every arm, and by the integral itself ("integral"), cut to [0, 1]."""
    seen = (scene.gaussians, camera, scene.colors(camera.centers()))
    with torch.no_grad():
        drawn = {
            "ours": integrate(*seen),
            "hermite-1": integrate(*seen, quadrature="hermite"),
            "compositing": composite(*seen),
            "compositing-volume": composite(*seen, volume=True),
            "splatting": splat(*seen),
            "splatting-sharp": splat(*seen, dilation=0.0),
            "integral": integrate(*seen, points=5),
        }
    return {arm: picture.double().clamp(0, 1) for arm, picture in drawn.items()}


def psnr(a: Tensor, b: Tensor) -> float:
    return -10 * math.log10((a - b).square().mean().item())


# The scene: ray-traced truth, and Gaussians fitted to it.

BALLS = torch.tensor([[-0.55, 0.42, 0.1, 0.42], [0.45, 0.3, 0.45, 0.3], [0.35, 0.36, -0.5, 0.36]])  # centre, radius
PAINT = torch.tensor([[0.85, 0.25, 0.2], [0.95, 0.75, 0.25], [0.2, 0.45, 0.8]])
LIGHT = torch.nn.functional.normalize(torch.tensor([0.5, 1.0, 0.6]), dim=0)
DISC = 1.3  # radius


def truth(camera: voge.Cameras) -> tuple[Tensor, Tensor]:
    """Three glossy balls on a chequered disc, on white: colours (H, W, 3), and distances (inf: nothing is hit)."""
    origins, d, _ = camera.rays()
    d = torch.nn.functional.normalize(d, dim=-1)
    t, hit = _nearest(origins.expand_as(d), d)
    x = origins + torch.where(t.isfinite(), t, 0)[..., None] * d
    ball = hit.clamp(min=0)
    normal = torch.where((hit >= 0)[..., None], (x - BALLS[ball, :3]) / BALLS[ball, 3:], torch.tensor([0.0, 1.0, 0.0]))
    checks = ((x[..., 0] / 0.3).floor() + (x[..., 2] / 0.3).floor()) % 2
    paint = torch.where((hit >= 0)[..., None], PAINT[ball], (0.35 + 0.5 * checks)[..., None].expand_as(x))
    lit = (_nearest(x + 1e-3 * normal, LIGHT.expand_as(x))[0].isinf()).float() * (normal @ LIGHT).clamp(min=0)
    shine = ((LIGHT - 2 * (normal @ LIGHT)[..., None] * normal) * d).sum(-1).clamp(min=0) ** 12 * (lit > 0) * (hit >= 0)
    color = (paint * (0.35 + 0.65 * lit[..., None]) + 0.5 * shine[..., None]).clamp(max=1)
    return torch.where(t.isfinite()[..., None], color, 1), t


def _nearest(origins: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of the nearest hit (inf: none), and the ball that is hit (-1: the disc)."""
    v = BALLS[:, :3] - origins[..., None, :]
    along = (v * d[..., None, :]).sum(-1)
    half = BALLS[:, 3] ** 2 - v.square().sum(-1) + along**2
    balls = torch.where((half > 0) & (along - half.clamp(min=0).sqrt() > 0), along - half.clamp(min=0).sqrt(), math.inf)
    disc = -origins[..., 1] / d[..., 1]
    x = origins + disc[..., None] * d
    disc = torch.where((disc > 0) & (x[..., 0] ** 2 + x[..., 2] ** 2 < DISC**2), disc, math.inf)
    t, hit = torch.cat([disc[..., None], balls], -1).min(-1)
    return t, hit - 1


def circle(num: int, elevations: tuple[float, ...], focal: float, size: list[int], shift: float = 0.0) -> voge.Cameras:
    """Cameras around the scene, in turns at these elevations (degrees)."""
    a = 2 * math.pi * (torch.arange(num) + shift) / num
    e = torch.tensor(elevations).repeat(num)[:num].deg2rad()
    eye = 3.6 * torch.stack([e.cos() * a.sin(), e.sin(), e.cos() * a.cos()], -1) + torch.tensor([0.0, 0.2, 0.0])
    return voge.Cameras.look_at(eye=eye, target=(0.0, 0.2, 0.0), focal=focal, image_size=size)


def fit(s: dict[str, Any], seed: int) -> voge.io.Scene:
    """Gaussians with harmonics whose pictures by voge.render equal the truth's, from points on its surfaces."""
    random = torch.Generator().manual_seed(seed)
    cameras = circle(s["views"], (15.0, 45.0), s["focal"], s["image_size"])
    views = [truth(camera) for camera in cameras]
    origins, d, _ = cameras.rays()
    t, color = torch.stack([view[1] for view in views]), torch.stack([view[0] for view in views])
    points = (origins + t[..., None] * torch.nn.functional.normalize(d, dim=-1))[t.isfinite()]
    begin = torch.randperm(len(points), generator=random)[: s["gaussians"]]
    num = len(begin)
    turn = torch.randn(num, 4, generator=random)
    leaves = {
        "means": (points[begin].clone(), 1e-3),
        "scales": (torch.full((num, 3), math.log(0.03)), 1e-2),
        "turn": (turn, 1e-2),
        "logits": (torch.zeros(num), 5e-2),
        "zero": ((color[t.isfinite()][begin] - 0.5) / harmonics.SH_0, 2e-2),
        "rest": (torch.zeros(num, (s["degree"] + 1) ** 2 - 1, 3), 4e-3),
    }
    p = {name: value.requires_grad_() for name, (value, _) in leaves.items()}
    optimizer = torch.optim.Adam([{"params": [p[name]], "lr": rate} for name, (_, rate) in leaves.items()])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, s["steps"], eta_min=0.0)

    def scene() -> voge.io.Scene:
        density = torch.nn.functional.softplus(p["logits"])
        gaussians = voge.Gaussians.from_scales_rotations(p["means"], p["scales"].exp(), p["turn"], density)
        return voge.io.Scene(gaussians, 0.5 + harmonics.SH_0 * p["zero"], p["rest"])

    for _ in range(s["steps"]):
        i = int(torch.randint(len(views), (), generator=random))
        now = scene()
        picture = integrate(now.gaussians, cameras[i], now.colors(cameras[i].centers()))
        loss = (picture - views[i][0]).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        found = scene()
    return voge.io.Scene(found.gaussians, found.features, found.sh)


def capture(c: dict[str, Any]) -> voge.io.Scene | None:
    """The real capture, or None where its file is not there."""
    path = Path(os.environ.get("VOGE_DATA", "data")) / f"{c['name']}.npz"
    if not path.is_file():
        return None
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name].astype("f8")) for name in file.files}
    density = -torch.log1p(-(arrays["opacity"] / 255).clamp(1 / 255, 0.999))
    scales = arrays["log_scales"].exp()
    scales = torch.maximum(scales, 1e-3 * scales.amax(-1, keepdim=True))
    gaussians = voge.Gaussians.from_scales_rotations(arrays["means"], scales, arrays["quats_wxyz"], density)
    return voge.io.Scene(gaussians.to(torch.float32), arrays["rgb"].float(), torch.zeros(len(density), 0, 3))


def measure_scene(p: dict[str, Any]) -> list[dict[str, Any]]:
    """A fitted scene, one value a seed: mean PSNR over the test views to the integral's pictures, and to the truth."""
    s = p["scene"]
    test = circle(s["test_views"], (30.0,), s["test_focal"], s["test_size"], shift=0.25)
    integral: dict[str, list[float]] = {arm: [] for arm in ARMS}
    true: dict[str, list[float]] = {arm: [] for arm in ARMS}
    seconds: dict[str, list[float]] = {"ours": []}
    for seed in s["seeds"]:
        start = time.perf_counter()
        scene = fit(s, seed)
        drawn = [pictures(scene, camera) for camera in test]
        real = [truth(camera)[0].double() for camera in test]
        for arm in ARMS:
            integral[arm].append(sum(psnr(view[arm], view["integral"]) for view in drawn) / len(drawn))
            true[arm].append(sum(psnr(view[arm], want) for view, want in zip(drawn, real, strict=True)) / len(drawn))
        seconds["ours"].append(time.perf_counter() - start)
    metric = "PSNR of pictures against {}, dB"
    return [
        _result("splatting", metric.format("the integral's"), integral, seconds, p, "scene", "rendered"),
        _result("splatting-truth", metric.format("the truth"), true, seconds, p, "scene", "rendered"),
    ]


def measure_capture(p: dict[str, Any]) -> list[dict[str, Any]]:
    """A real capture, one value a view: PSNR to the integral's picture."""
    c = p["capture"]
    scene = capture(c)
    if scene is None:
        print(f"no {c['name']}.npz in $VOGE_DATA: the capture is left out")
        return []
    runs: dict[str, list[float]] = {arm: [] for arm in ARMS}
    seconds: dict[str, list[float]] = {"ours": []}
    middle = (scene.gaussians.means.amin(0) + scene.gaussians.means.amax(0)) / 2
    for seed in c["seeds"]:
        start = time.perf_counter()
        a = 2 * math.pi * (seed + 0.2) / len(c["seeds"])
        eye = middle + 5 * torch.tensor([math.sin(a), -0.2, math.cos(a)])  # y points down in it
        camera = voge.Cameras.look_at(
            eye=eye, target=middle, up=(0.0, -1.0, 0.0), focal=c["focal"], image_size=c["image_size"]
        )
        drawn = pictures(scene, camera)
        for arm in ARMS:
            runs[arm].append(psnr(drawn[arm], drawn["integral"]))
        seconds["ours"].append(time.perf_counter() - start)
    metric = "PSNR of pictures against the integral's, dB"
    return [_result("splatting-capture", metric, runs, seconds, p, "capture", f"real: {c['name']}")]


# The picture of docs/splats.md.


def crossing(angles: Tensor, size: int = 1) -> tuple[voge.io.Scene, list[voge.Cameras]]:
    """Two Gaussians that overlap, and cameras on an arc over which the one that is nearer changes."""
    means, scales = (
        torch.tensor([[-0.05, 0.0, 0.0], [0.05, 0.0, 0.0]]),
        torch.tensor([[0.25, 0.5, 0.25], [0.4, 0.25, 0.4]]),
    )
    density = torch.full((2,), -math.log(1 - 0.9))
    gaussians = voge.Gaussians.from_scales_rotations(
        means, scales, torch.tensor([[1.0, 0, 0, 0]]).expand(2, 4), density
    )
    colors = torch.tensor([[0.85, 0.25, 0.2], [0.2, 0.45, 0.8]])
    cameras = [
        voge.Cameras.look_at(eye=(4 * math.sin(a), 0.0, 4 * math.cos(a)), focal=2.0 * size, image_size=(size, size))
        for a in angles.tolist()
    ]
    return voge.io.Scene(gaussians, colors), cameras


def weight_of_the_first(angles: Tensor) -> dict[str, Tensor]:
    """The share of the middle pixel that the first of the crossing Gaussians has, by each renderer."""
    scene, cameras = crossing(angles)
    marks = torch.tensor([[1.0, 0, 0], [0, 0, 0]])
    white = torch.zeros(2, 3)
    found: dict[str, list[float]] = {"integral": [], "compositing": [], "splatting": []}
    for camera in cameras:
        for arm, draw in (("integral", integrate), ("compositing", composite), ("splatting", splat)):
            with_it, without = (draw(scene.gaussians, camera, features)[0, 0, 0].item() for features in (marks, white))
            found[arm].append(with_it - without)
    return {arm: torch.tensor(values) for arm, values in found.items()}


def draw(p: dict[str, Any], path: Path) -> None:
    """Above: a fitted scene by each renderer, and the differences. Below: two Gaussians while the camera passes."""
    s = p["scene"]
    camera = circle(s["test_views"], (30.0,), 1.45 * s["test_focal"], [208, 304], shift=0.25)[0]
    scene = fit(s, s["seeds"][0])
    drawn = pictures(scene, camera)
    figure = plots.pyplot.figure(figsize=(13, 6.2), layout="constrained")
    grid = figure.add_gridspec(2, 8)

    def show(where: Any, image: Tensor, title: str) -> None:
        axis = figure.add_subplot(where)
        axis.imshow(image.clamp(0, 1))
        axis.set_title(title, fontsize=10)
        axis.axis("off")

    apart = (drawn["splatting"] - drawn["ours"]).abs()
    show(grid[0, 0:2], drawn["ours"], "volume (voge.render)")
    show(grid[0, 2:4], drawn["splatting"], "splatting")
    show(grid[0, 4:6], 1 - 4 * apart, f"difference × 4 ({psnr(drawn['splatting'], drawn['ours']):.1f} dB)")
    apart = (drawn["compositing"] - drawn["ours"]).abs()
    title = f"compositing: difference × 4 ({psnr(drawn['compositing'], drawn['ours']):.1f} dB)"
    show(grid[0, 6:8], 1 - 4 * apart, title)

    degrees = torch.linspace(-40, 40, 201)
    axis = figure.add_subplot(grid[1, 0:4])
    styles = {"integral": ("-", plots.OURS, "volume"), "compositing": ("--", "#333333", "compositing along rays")}
    styles["splatting"] = (":", "#00798c", "splatting")
    for arm, values in weight_of_the_first(degrees.deg2rad()).items():
        line, color, label = styles[arm]
        axis.plot(degrees, values, line, color=color, label=label)
    axis.set(xlabel="camera's angle, degrees", ylabel="share of the red Gaussian in the middle pixel")
    axis.legend(frameon=False)
    axis.grid(alpha=0.25)
    pair, cameras = crossing(torch.tensor([-1.0, 1.0]).deg2rad(), size=160)
    for i, (draw_one, name) in enumerate(((splat, "splatting"), (integrate, "volume"))):
        for j, one in enumerate(cameras):
            show(grid[1, 4 + 2 * i + j], draw_one(pair.gaussians, one, pair.features), f"{name}, {2 * j - 1:+d}°")
    path.parent.mkdir(parents=True, exist_ok=True)
    with voge.io.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110, metadata={"Software": None})
    plots.pyplot.close(figure)


def main() -> None:
    options = command.parser("splatting", __doc__, PARTS, quick=False).parse_args()
    folder, p = command.folder(options), command.protocol(PROTOCOL)
    torch.set_num_threads(p["threads"])
    for part, measure in (("scene", measure_scene), ("capture", measure_capture)):
        for result in measure(p) if part in options.only else ():
            results.show(result, folder)
    if "picture" in options.only:
        draw(p, (plots.IMAGES if folder == results.RESULTS else folder) / "splats.png")


def _result(
    name: str,
    metric: str,
    runs: dict[str, list[float]],
    seconds: dict[str, list[float]],
    p: dict[str, Any],
    part: str,
    data: str,
) -> dict[str, Any]:
    return results.make(
        *(name, metric, runs),
        protocol=PROTOCOL,
        settings={key: p[key] for key in (part, "threshold", "threads")},
        seeds=p[part]["seeds"],
        baselines=("compositing", "splatting"),
        seconds=seconds,
        higher_is_better=True,
        data=data,
    )


if __name__ == "__main__":
    main()
