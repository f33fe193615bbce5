"""Error and time of every quadrature: python -m benchmarks.exactness [--quick] [--only error time plot] [--out FOLDER].

Follows exactness.yaml and writes, for each of its scenes, results/exactness-SCENE.json (error of the weights) and
results/exactness-SCENE-ms.json (time of voge.render), and docs/img/exactness.png from both; benchmarks.tables then
writes the table. The times want a machine that does nothing else, for about five minutes.
"""

from __future__ import annotations

import math
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import LogLocator, NullFormatter
from torch import Tensor

import voge
from benchmarks import command, plots, results, timing
from voge import reference

PROTOCOL = "benchmarks/exactness.yaml"
PARTS = ("error", "time", "plot")
BASELINES = ["hermite-1", "compositing"]  # the paper's rule, and that of splatting

Result = dict[str, Any]


def scene(p: dict[str, Any], name: str, seed: int) -> voge.Gaussians:
    """The scene of the protocol with this name, in float64."""
    random = torch.Generator().manual_seed(seed)
    s = p["scenes"][name]

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=random, dtype=torch.float64)

    def widths(limits: list[float], num: int) -> Tensor:
        return uniform(*map(math.log, limits), num, 3).exp()

    def gaussians(means: Tensor, scales: Tensor, density: Tensor, turned: bool) -> voge.Gaussians:
        upright = torch.tensor([1.0, 0, 0, 0]).double().expand(len(means), 4)
        quaternions = torch.randn(len(means), 4, generator=random).double() if turned else upright
        middle = torch.tensor([0.0, 0.0, 3.0]).double()
        return voge.Gaussians.from_scales_rotations(means + middle, scales, quaternions, density)

    if name == "surface":
        means = voge.Gaussians.sphere(s["gaussians"]).means.double()
        scales = torch.full_like(means, s["width"])
        return gaussians(means, scales, torch.full_like(means[:, 0], s["density"]), turned=False)
    if name == "cloud":
        num = s["gaussians"]
        means = torch.nn.functional.normalize(torch.randn(num, 3, generator=random).double(), dim=-1)
        means = means * uniform(0, 1, num, 1) ** (1 / 3)
        return gaussians(means, widths(s["widths"], num), uniform(*s["density"], num), turned=True)
    side, num, reach = math.isqrt(s["gaussians"]), s["fog_gaussians"], s["fog_extent"]
    step = (torch.arange(side).double() + 0.5) / side - 0.5
    wall = s["extent"] * torch.stack([*torch.meshgrid(step, step, indexing="ij"), torch.zeros(side, side)], -1)
    flat = torch.tensor([s["width"], s["width"], s["thickness"]]).double().expand(side * side, 3)
    thick = torch.full((side * side,), s["density"]).double()
    a = gaussians(wall.reshape(-1, 3), flat, thick, turned=False)
    b = gaussians(uniform(-reach, reach, num, 3), widths(s["fog_widths"], num), uniform(*s["fog_density"], num), True)
    assert a.density is not None and b.density is not None
    parts = ((a.means, b.means), (a.precisions, b.precisions), (a.density, b.density))
    return voge.Gaussians(*map(torch.cat, parts))


def camera(p: dict[str, Any]) -> voge.Cameras:
    height, width = p["image_size"]
    K = torch.tensor([[p["focal"], 0, width / 2], [0, p["focal"], height / 2], [0, 0, 1]], dtype=torch.float64)
    return voge.Cameras(torch.eye(3).double(), torch.zeros(3).double(), K, (height, width))


def rays(p: dict[str, Any], name: str, seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Peaks, lengths and widths (hits,) of each random ray that meets two Gaussians or more, by ascending length."""
    fragments = voge.trace(scene(p, name, seed), camera(p), threshold=p["threshold"], max_hits=p["max_hits"])
    assert fragments.offsets is not None
    crowded = torch.nonzero(fragments.offsets.diff() >= 2)[:, 0]
    order = torch.randperm(len(crowded), generator=torch.Generator().manual_seed(seed))[: p["rays"]]
    if len(order) < p["rays"]:
        raise ValueError(f"{name}: expected {p['rays']} rays with two hits or more, got {len(order)}")
    slices = [slice(*fragments.offsets[i : i + 2].tolist()) for i in crowded[order].tolist()]
    return [(fragments.peaks[one], fragments.lengths[one], fragments.widths[one]) for one in slices]


def compositing(peaks: Tensor, lengths: Tensor, widths: Tensor) -> Tensor:
    """Weights (..., K) of alpha compositing, front to back by length: each Gaussian absorbs at a single point."""
    order = lengths.argsort(-1)
    depth = peaks.gather(-1, order)
    weights = torch.exp(depth - depth.cumsum(-1)) * -torch.expm1(-depth)
    return weights.gather(-1, order.argsort(-1))


def weigh(arm: str, hits: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """The weights by a rule of the protocol, such as segments-1."""
    rule, _, points = arm.partition("-")
    return compositing(*hits) if rule == "compositing" else getattr(reference, rule)(*hits, points=int(points))


def arms(p: dict[str, Any]) -> list[str]:
    """Every rule at its numbers of points: hermite-1 ... compositing."""
    rules = p["rules"].items()
    return [arm for rule, points in rules for arm in ([f"{rule}-{n}" for n in points] if points else [rule])]


def errors(p: dict[str, Any], name: str) -> Result:
    """Of every rule, one value a seed: the mean over the rays of sum |W - exact| / sum exact."""
    runs: dict[str, list[float]] = {"ours": [], **{arm: [] for arm in arms(p)}}
    seconds: dict[str, list[float]] = {"ours": []}
    hits = []
    for seed in p["seeds"]:
        start = time.perf_counter()
        lines = rays(p, name, seed)
        hits.append(statistics.mean(len(line[0]) for line in lines))
        exact = [reference.exact(*line) for line in lines]
        for arm in arms(p):
            found = [
                (weigh(arm, line) - truth).abs().sum() / truth.sum() for line, truth in zip(lines, exact, strict=True)
            ]
            runs[arm].append(torch.stack(found).mean().item())
        runs["ours"].append(runs[p["ours"]][-1])
        seconds["ours"].append(time.perf_counter() - start)
    return _result(f"exactness-{name}", "relative error of the weights", p["seeds"], runs, seconds, p, name, hits=hits)


def times(p: dict[str, Any], name: str) -> Result:
    """Of every rule that voge.render has, one value a round: milliseconds of forward + backward."""
    gaussians, view = scene(p, name, p["seeds"][0]).to(torch.float32), camera(p).to(torch.float32)
    colors = torch.rand(gaussians.num, 3, generator=torch.Generator().manual_seed(0))
    upstream = torch.ones(*view.image_size, 3)

    def call(arm: str) -> timing.Call:
        rule, points = arm.split("-")

        def step() -> None:
            means, features = gaussians.means.clone().requires_grad_(), colors.clone().requires_grad_()
            moved = voge.Gaussians(means, gaussians.precisions, gaussians.density)
            settings = {key: p[key] for key in ("threshold", "max_hits")}
            voge.render(moved, view, features, quadrature=rule, points=int(points), **settings).features.backward(
                upstream
            )

        return step

    native = [arm for arm in arms(p) if arm != "compositing"]
    calls = {"ours": call(p["ours"])} | {arm: call(arm) for arm in native if arm != p["ours"]}
    runs, seconds = timing.alternate(calls, dict.fromkeys(calls, p["threads"]), p["rounds"], p["repeats"], p["budget"])
    runs = {"ours": runs["ours"], **{arm: runs["ours" if arm == p["ours"] else arm] for arm in native}}
    rounds = list(range(p["rounds"]))
    return _result(
        f"exactness-{name}-ms", "forward + backward, ms", rounds, runs, seconds, p, name, threads=p["threads"]
    )


def plot(p: dict[str, Any], folder: Path, path: Path) -> None:
    """Error against time, a panel a scene; compositing, which voge.render does not have, as a line across."""
    names = list(p["scenes"])
    figure, axes = plots.pyplot.subplots(1, len(names), figsize=(11, 3.8), layout="constrained", sharey=True)
    for axis, name in zip(axes, names, strict=True):
        error, ms = results.read(f"exactness-{name}", folder), results.read(f"exactness-{name}-ms", folder)
        line = median(error, "compositing")
        axis.axhline(line, color=plots.THEIRS, ls="--", lw=1)
        axis.annotate("alpha compositing", (0.98, line), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                      color=plots.THEIRS, fontsize=8)  # fmt: skip
        for rule, colour in (("hermite", "#00798c"), ("segments", plots.OURS)):
            points = [n for n in p["rules"][rule] if f"{rule}-{n}" in ms["runs"]]
            at = [(median(ms, f"{rule}-{n}"), median(error, f"{rule}-{n}")) for n in points]
            axis.plot(*zip(*at, strict=True), "o-", color=colour, ms=4, label=rule)
            for n, where in zip(points, at, strict=True):
                axis.annotate(str(n), where, xytext=(4, 3), textcoords="offset points", fontsize=8, color=colour)
        hits = statistics.mean(error["settings"]["hits"])
        axis.set(xscale="log", yscale="log", xlabel="forward + backward, ms", title=f"{name}: {hits:.0f} hits a ray")
        axis.grid(which="major", alpha=0.25)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter(NullFormatter())
    axes[0].set_ylabel("relative error of the weights")
    axes[-1].legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with voge.io.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130, metadata={"Software": None})
    plots.pyplot.close(figure)


def median(result: Result, arm: str) -> float:
    return statistics.median(result["runs"][arm])


def quick(p: dict[str, Any]) -> dict[str, Any]:
    """The protocol made small."""
    small = {"seeds": [0], "rays": 4, "image_size": [32, 32], "focal": 32.0, "rounds": 1, "repeats": 1, "budget": 0.0}
    return p | small | {"rules": {"hermite": [1, 2], "segments": [1, 2], "compositing": None}}


def main() -> None:
    options = command.parser("exactness", __doc__, PARTS).parse_args()
    folder, p = command.folder(options), command.protocol(PROTOCOL)
    p = quick(p) if options.quick else p
    for part, measure in (("error", errors), ("time", times)):
        for name in p["scenes"] if part in options.only else ():
            results.show(measure(p, name), folder)
    if "plot" in options.only:
        images = plots.IMAGES if folder == results.RESULTS else folder
        plot(p, folder, images / "exactness.png")


def _result(
    name: str,
    metric: str,
    seeds: list[int],
    runs: dict[str, list[float]],
    seconds: dict[str, list[float]],
    p: dict[str, Any],
    scene: str,
    **settings: Any,
) -> Result:
    common = {
        key: p[key] for key in ("rays", "image_size", "focal", "threshold", "max_hits", "repeats", "budget", "ours")
    }
    return results.make(
        *(name, metric, runs),
        protocol=PROTOCOL,
        settings=common | {"scene": p["scenes"][scene]} | settings,
        seeds=seeds,
        baselines=BASELINES,
        seconds=seconds,
    )


if __name__ == "__main__":
    main()
