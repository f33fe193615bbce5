"""Lists of rays by the tree of boxes, and without it: python -m benchmarks.rays [--quick] [--out FOLDER].

Follows rays.yaml and writes results/rays-*.json: forward time a ray for each kind of rays, and the time that the tree
takes to build, to fit to moved Gaussians, and to do without. --quick is a small rehearsal, kept out of the results.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import voge
from benchmarks import command, results
from voge import _cpu

PROTOCOL = "benchmarks/rays.yaml"
ALWAYS, NEVER = "1", "0"  # VOGE_TREE

Result = dict[str, Any]


def cloud(p: dict[str, Any], num: int) -> voge.Gaussians:
    """Gaussians at random in the unit cube, turned at random."""
    g = torch.Generator().manual_seed(p["seed"])
    reach2 = -2 * math.log(0.01)  # of the threshold, in standard deviations, squared
    chord = 2 / 3  # mean length of a line through the unit cube
    sigma = math.sqrt(p["hits"] / (num * math.pi * reach2 * chord))
    means = torch.rand(num, 3, generator=g)
    scales = sigma * torch.exp(p["elongation"] * torch.randn(num, 3, generator=g))
    quaternions = torch.nn.functional.normalize(torch.randn(num, 4, generator=g), dim=-1)
    return voge.Gaussians.from_scales_rotations(means, scales, quaternions, torch.full((num,), 0.3))


def rays(p: dict[str, Any], kind: str) -> voge.Rays:
    g = torch.Generator().manual_seed(p["seed"] + 1)
    num = p["rays"]
    if kind == "pinhole":
        side = math.isqrt(num)
        x, y = torch.meshgrid(*2 * [(torch.arange(side) + 0.5) / side - 0.5], indexing="xy")
        directions = torch.stack((x, y, torch.full_like(x, 1.2)), -1).reshape(-1, 3)
        return voge.Rays(torch.tensor([[0.5, 0.5, -1.2]]), directions)
    directions = torch.randn(num, 3, generator=g)
    if kind == "lidar":
        return voge.Rays(torch.full((1, 3), 0.5), directions)
    return voge.Rays(torch.rand(num, 3, generator=g), directions)


@contextmanager
def tree(wanted: str):
    os.environ["VOGE_TREE"] = wanted
    try:
        yield
    finally:
        del os.environ["VOGE_TREE"]


def nanoseconds(gaussians: voge.Gaussians, some: voge.Rays, features: Tensor, max_hits: int | None) -> float:
    """Of a forward pass, a ray."""
    start = time.perf_counter()
    with torch.no_grad():
        voge.render(gaussians, some, features, max_hits=max_hits)
    return 1e9 * (time.perf_counter() - start) / len(some.directions)


def costs(p: dict[str, Any], kind: str, clouds: dict[int, voge.Gaussians]) -> Result:
    """With and without the tree, which serves every call after the first."""
    all_rays = rays(p, kind)
    order = torch.randperm(len(all_rays.directions), generator=torch.Generator().manual_seed(0))[: p["brute_rays"]]
    pinhole = kind == "pinhole"
    few = voge.Rays(
        all_rays.origins if len(all_rays.origins) == 1 else all_rays.origins[order],
        all_rays.directions[: p["brute_rays"]] if pinhole else all_rays.directions[order],
    )
    runs: dict[str, list[float]] = {}
    hits: dict[str, float] = {}
    for _ in range(p["rounds"]):
        for num, gaussians in clouds.items():
            features = torch.ones(num, 3)
            for max_hits in p["max_hits"]:
                name = f"{'all' if max_hits is None else max_hits}-hits-{num}"
                with tree(ALWAYS):
                    if name not in runs:
                        _cpu.reset_counters(True)
                        nanoseconds(gaussians, all_rays, features, max_hits)
                        hits[name] = _cpu.counters()["hits"] / len(all_rays.directions)
                        _cpu.reset_counters()
                    runs.setdefault(name, []).append(nanoseconds(gaussians, all_rays, features, max_hits))
                some = all_rays if num < 100_000 else few
                with tree(NEVER):
                    runs.setdefault(f"brute-{name}", []).append(nanoseconds(gaussians, some, features, max_hits))
    ours = f"{p['max_hits'][1]}-hits-{p['gaussians'][-1]}"
    baselines = [arm for arm in runs if arm.startswith("brute")]
    settings, runs = p | {"hits": hits}, {"ours": runs[ours]} | runs
    return results.make(
        f"rays-{kind}", "forward, ns a ray", runs, protocol=PROTOCOL, settings=settings, baselines=baselines
    )


def trees(p: dict[str, Any], clouds: dict[int, voge.Gaussians]) -> Result:
    """Milliseconds of a call with few rays, by a new tree, by one fitted to moved Gaussians, and by none."""
    some = rays(p | {"rays": 1024}, "random")
    runs: dict[str, list[float]] = {}
    for i in range(p["rounds"]):
        for num in clouds:
            fresh = cloud(p, num - 1 - i)  # of so many there is no tree yet
            features = torch.ones(fresh.num, 3)
            moved = voge.Gaussians(fresh.means + 1e-3, fresh.precisions, fresh.density)
            for what, gaussians, wanted in (
                ("build", fresh, ALWAYS),
                ("fit", moved, ALWAYS),
                ("none", moved, NEVER),
            ):
                with tree(wanted):
                    value = nanoseconds(gaussians, some, features, 1)
                runs.setdefault(f"{what}-{num}", []).append(1e-6 * 1024 * value)
    ours = f"fit-{p['gaussians'][-1]}"
    metric = "forward, 1024 rays, first hit, ms"
    return results.make("rays-trees", metric, {"ours": runs[ours]} | runs, protocol=PROTOCOL, settings=p)


def everything(p: dict[str, Any]) -> Iterable[Result]:
    torch.set_num_threads(p["threads"])
    clouds = {num: cloud(p, num) for num in p["gaussians"]}
    for kind in p["kinds"]:
        yield costs(p, kind, clouds)
    yield trees(p, clouds)


def main() -> None:
    options = command.parser("rays", __doc__).parse_args()
    protocol = command.protocol(PROTOCOL)
    if options.quick:
        protocol |= {"gaussians": [100, 1000], "rays": 1024, "brute_rays": 256, "rounds": 1}
    for result in everything(protocol):
        results.show(result, command.folder(options))


if __name__ == "__main__":
    main()
