"""Large images of many Gaussians: python -m benchmarks.scale [--quick] [--only NAME ...] [--out FOLDER].

Follows scale.yaml and writes results/scale*.json: the cost of a ray, where the time goes, and the memory. Prints the
stages. --quick is a small rehearsal, kept out of the results.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmarks import command, memory, results, scenes
from voge import _cpu

PROTOCOL = "benchmarks/scale.yaml"
FORWARD = {"hits": "hit_cycles", "weights": "weight_cycles", "composite": "composite_cycles"}

Result = dict[str, Any]


def rays(p: dict[str, Any]) -> Iterable[Result]:
    """Nanoseconds of forward + backward a ray, against the number of Gaussians."""
    calls, hits = {}, {}
    for max_hits in p["max_hits"]:
        for num in p["gaussians"]:
            name = arm(max_hits, num)
            calls[name], hits[name], lit = prepared(p, num, max_hits)
            hits[name] |= {"rays": lit}
    runs: dict[str, list[float]] = {name: [] for name in calls}
    torch.set_num_threads(p["threads"])
    for _ in range(p["rounds"]):
        for name, call in calls.items():
            runs[name].append(1e9 * seconds(call) / hits[name]["rays"])
    standard = arm(p["max_hits"][0], p["gaussians"][-1])
    first = {max_hits: arm(max_hits, p["gaussians"][0]) for max_hits in p["max_hits"]}
    growth = {
        str(max_hits): statistics.median(runs[arm(max_hits, p["gaussians"][-1])]) / statistics.median(runs[name])
        for max_hits, name in first.items()
    }
    print(f"    growth of a ray's cost from {p['gaussians'][0]} to {p['gaussians'][-1]} Gaussians: {growth}")
    metric = "forward + backward, ns a ray that meets something"
    yield results.make("scale", metric, {"ours": runs[standard]} | runs, protocol=PROTOCOL, settings=p | {"hits": hits})


def stages(p: dict[str, Any]) -> Iterable[Result]:
    """On one core, at the most Gaussians: milliseconds of every stage of forward + backward."""
    torch.set_num_threads(1)
    call, _, _ = prepared(p, p["gaussians"][-1], p["max_hits"][0])
    runs: dict[str, list[float]] = {}
    for _ in range(p["rounds"]):
        both, cycles = 1e3 * seconds(call), _cpu.counters()
        picture, forward = 1e3 * seconds(lambda: call(backward=False)), _cpu.counters()
        parts = {"project": forward["project_cycles"], "sort": forward["sort_cycles"]}
        parts["bin"] = forward["bin_cycles"] - sum(parts.values())
        parts |= {stage: forward[counter] for stage, counter in FORWARD.items()}
        back = {"bin": cycles["bin_cycles"] - forward["bin_cycles"], "reduce": cycles["reduce_cycles"]}
        back |= {stage: cycles[counter] - forward[counter] for stage, counter in FORWARD.items()}
        row = {"ours": both} | {f"forward-{k}": picture * v / sum(parts.values()) for k, v in parts.items()}
        row |= {f"backward-{k}": (both - picture) * v / sum(back.values()) for k, v in back.items()}
        for name, value in row.items():
            runs.setdefault(name, []).append(value)
    metric = "forward + backward, ms"
    yield results.make("scale-stages", metric, runs, protocol=PROTOCOL, settings=p | {"threads": 1})


def footprint(p: dict[str, Any]) -> Iterable[Result]:
    """Peak memory at the most Gaussians, with renderer.yaml's settings (20 hits)."""
    runs = [memory.megabytes(p["gaussians"][-1], tuple(p["image_size"])) for _ in range(p["rounds"])]
    yield results.make("scale-memory", memory.METRIC, {"ours": runs}, protocol=PROTOCOL, settings=p)


PARTS: dict[str, Callable[[dict[str, Any]], Iterable[Result]]] = {"rays": rays, "stages": stages, "memory": footprint}


def arm(max_hits: int | None, num: int) -> str:
    return f"{'all' if max_hits is None else max_hits}-hits-{num}"


def prepared(p: dict[str, Any], num: int, max_hits: int | None) -> tuple[Callable[..., None], dict[str, float], int]:
    """The call, hits and overlapping pairs of a ray that meets something, and how many rays do."""
    scene = scenes.sphere(command.protocol("benchmarks/renderer.yaml")["scene"], num, tuple(p["image_size"]))
    settings = {"max_hits": max_hits, "quadrature": p["quadrature"], "points": p["points"]}
    render = scenes.ours(scene, settings)
    _cpu.reset_counters(True)
    with torch.no_grad():
        lit = int((render(scene.means, torch.ones(num, 1)) > 0).sum())
    counts = _cpu.counters()
    both, picture = scenes.step(render, scene), scenes.forward(render, scene)
    both()

    def call(backward: bool = True) -> None:
        _cpu.reset_counters()
        both() if backward else picture()

    return call, {"hits": counts["hits"] / lit, "overlapping_pairs": counts["overlapping_pairs"] / lit}, lit


def seconds(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    options = command.parser("scale", __doc__, PARTS).parse_args()
    protocol = command.protocol(PROTOCOL)
    if options.quick:
        protocol |= {"gaussians": [100, 1000], "image_size": [54, 96], "rounds": 1}
    for part in options.only:
        for result in PARTS[part](protocol):
            results.show(result, command.folder(options))


if __name__ == "__main__":
    main()
