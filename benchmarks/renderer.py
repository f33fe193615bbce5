"""The renderer on the CPU beside others: python -m benchmarks.renderer [--quick] [--only NAME ...] [--out FOLDER].

Follows renderer.yaml and writes results/NAME.json and their plots; benchmarks.tables then writes the tables.
Wants a machine that does nothing else, for about nine minutes. --quick is a small rehearsal, kept out of the results.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from benchmarks import command, memory, peers, plots, results, scenes, timing
from voge import _cpu

PROTOCOL = "benchmarks/renderer.yaml"
STAGES = {"binning": "bin_cycles", "hits": "hit_cycles", "weights": "weight_cycles", "compositing": "composite_cycles"}
MILLISECONDS = "forward + backward, ms"

Result = dict[str, Any]


def compare(p: dict[str, Any]) -> Iterable[Result]:
    """Ours against every peer, on the small sphere and on the large one."""
    small = _compare("renderer", p, p["peers"], p["scene"]["channels"])
    yield small
    large, threads = p["large"], small["settings"]["arm_threads"]
    settings = {peer: p["peers"][peer] | changes for peer, changes in large["peers"].items()}
    p = p | {"scene": p["scene"] | large["scene"]}
    yield _compare("renderer-large", p, settings, p["scene"]["channels"], threads)


def features(p: dict[str, Any]) -> Iterable[Result]:
    """Ours against the peers that take any number of channels, with many."""
    any_channels = {name: settings for name, settings in p["peers"].items() if name in peers.ANY_CHANNELS}
    yield _compare("renderer-features", p, any_channels, p["feature_channels"])


def _compare(
    name: str, p: dict[str, Any], settings: dict[str, Any], channels: int, threads: dict[str, int] | None = None
) -> Result:
    """Against the peers of `settings` that are installed; `threads` of each arm, None: what suits it best."""
    scene = scenes.icosphere(p["scene"], channels)
    renderers = {"ours": scenes.ours(scene, p["ours"])}
    for peer in settings:
        try:
            renderers[peer] = peers.PEERS[peer](scene, settings[peer])
        except ImportError as error:
            print(f"{name}: {peer} is left out: {error}")
    settings = {peer: settings[peer] for peer in renderers if peer != "ours"}
    agreements = {}
    for peer in settings:
        silhouette = settings[peer].get("silhouette", 0.01)
        iou, correlation = scenes.agreement(renderers["ours"], renderers[peer], scene, silhouette)
        agreements[peer] = {"iou": iou, "correlation": correlation}
        if iou < p["minimum_iou"] or correlation < p["minimum_correlation"]:
            raise RuntimeError(f"{peer} shows something else than ours: IoU {iou:.3f}, correlation {correlation:.3f}")
    calls = {arm: scenes.step(render, scene) for arm, render in renderers.items()}
    if threads is None:
        threads = {"ours": p["threads"]} | {peer: timing.best_threads(calls[peer], p["threads"]) for peer in settings}
    threads = {arm: threads[arm] for arm in calls}
    runs, seconds = timing.alternate(calls, threads, p["peer_rounds"], p["repeats"], p["budget"], warm=settings)
    extra = {"channels": channels, "peers": settings, "arm_threads": threads, "agreement": agreements}
    return _result(name, p, MILLISECONDS, runs, list(settings), seconds, **extra)


def quadratures(p: dict[str, Any]) -> Iterable[Result]:
    """The rules at several numbers of points, with ours' hits and with all of them."""
    scene = scenes.icosphere(p["scene"])
    calls = {}
    for prefix, hits in (("", p["ours"]["max_hits"]), ("all-", None)):
        for rule, numbers in p["quadratures"].items():
            for points in numbers:
                settings = p["ours"] | {"max_hits": hits, "quadrature": rule, "points": points}
                calls[f"{prefix}{rule}-{points}"] = scenes.step(scenes.ours(scene, settings), scene)
    runs, seconds = _ours(p, calls, f"{p['ours']['quadrature']}-{p['ours']['points']}")
    yield _result("renderer-quadratures", p, MILLISECONDS, runs, [], seconds, quadratures=p["quadratures"])


def frames(p: dict[str, Any]) -> Iterable[Result]:
    """Pictures a second."""
    scene = scenes.sphere(p["scene"], p["frames"]["gaussians"], tuple(p["frames"]["image_size"]))
    call = scenes.forward(scenes.ours(scene, p["ours"]), scene)
    runs, seconds = timing.alternate({"ours": call}, {"ours": p["threads"]}, p["rounds"], p["repeats"], p["budget"])
    runs = {"ours": [1e3 / value for value in runs["ours"]]}
    yield _result("renderer-frames", p, "forward, frames a second", runs, [], seconds, True, frames=p["frames"])


def small(p: dict[str, Any]) -> Iterable[Result]:
    """On one thread: a small picture, one pixel of it, and one Gaussian in that: what a call costs at least."""
    settings = p["small"]
    calls = {}
    for arm, num, size in (
        ("ours", settings["gaussians"], tuple(settings["image_size"])),
        ("pixel", settings["gaussians"], (1, 1)),
        ("fixed", 1, (1, 1)),
    ):
        scene = scenes.sphere(p["scene"], num, size)
        calls[arm] = scenes.forward(scenes.ours(scene, p["ours"]), scene)
    threads = dict.fromkeys(calls, 1)
    runs, seconds = timing.alternate(calls, threads, p["rounds"], settings["repeats"], settings["budget"])
    microseconds = {arm: [1e3 * value for value in values] for arm, values in runs.items()}
    yield _result("renderer-small", p, "forward, us", microseconds, [], seconds, small=settings)


def channels(p: dict[str, Any]) -> Iterable[Result]:
    """Time against the number of channels, and compositing's share of the kernels' cycles."""
    calls = {}
    for number in p["channels"]:
        scene = scenes.icosphere(p["scene"], number)
        calls[f"channels-{number}"] = scenes.step(scenes.ours(scene, p["ours"]), scene)
    runs, seconds = _ours(p, calls, f"channels-{p['scene']['channels']}")
    yield _result("renderer-channels", p, MILLISECONDS, runs, [], seconds, channels=p["channels"])
    shares: dict[str, list[float]] = {arm: [] for arm in calls}
    for _ in range(p["rounds"]):
        for arm, call in calls.items():
            cycles = _cycles(call)
            shares[arm].append(100 * cycles["compositing"] / sum(cycles.values()))
    shares["ours"] = shares[f"channels-{p['scene']['channels']}"]
    metric = "compositing's share of forward + backward, %"
    yield _result("renderer-compositing", p, metric, shares, [], {}, channels=p["channels"])


def stages(p: dict[str, Any]) -> Iterable[Result]:
    """On one core: where the time of a call goes, and what the weights cost for a pair of hits that overlap."""
    torch.set_num_threads(1)
    scene = scenes.icosphere(p["scene"])
    render = scenes.ours(scene, p["ours"])
    both, picture = scenes.step(render, scene), scenes.forward(render, scene)
    both()
    _cpu.reset_counters(True)
    picture()
    counts = _cpu.counters()
    parts: dict[str, list[float]] = {arm: [] for arm in ("ours", *STAGES)}
    nanoseconds: dict[str, list[float]] = {"ours": []}
    for _ in range(p["rounds"]):
        total, cycles = timing.milliseconds(both, p["repeats"], p["budget"]), _cycles(both)
        parts["ours"].append(total)
        for stage in STAGES:
            parts[stage].append(total * cycles[stage] / sum(cycles.values()))
        total, cycles = timing.milliseconds(picture, p["repeats"], p["budget"]), _cycles(picture)
        share = cycles["weights"] / sum(cycles.values())
        nanoseconds["ours"].append(1e6 * total * share / counts["overlapping_pairs"])
    counts = {"hits": counts["hits"], "overlapping_pairs": counts["overlapping_pairs"], "threads": 1}
    yield _result("renderer-stages", p, MILLISECONDS, parts, [], {}, **counts)
    yield _result("renderer-weights", p, "weight stage of the forward pass, ns a pair", nanoseconds, [], {}, **counts)


def threads(p: dict[str, Any]) -> Iterable[Result]:
    """One thread against all, forward and forward + backward."""
    scene = scenes.icosphere(p["scene"])
    render = scenes.ours(scene, p["ours"])
    calls = {"ours": scenes.step(render, scene), "forward": scenes.forward(render, scene)}
    calls |= {f"{arm}-1": call for arm, call in calls.items()}
    number = {arm: 1 if arm.endswith("-1") else p["threads"] for arm in calls}
    runs, seconds = timing.alternate(calls, number, p["rounds"], p["repeats"], p["budget"])
    yield _result("renderer-threads", p, "ms", runs, [], seconds)


def scale(p: dict[str, Any]) -> Iterable[Result]:
    """Time against the number of Gaussians and of pixels."""
    base = len(scenes.icosphere(p["scene"]).means)
    size = tuple(p["scene"]["image_size"])
    calls = {}
    for num in p["scale_gaussians"]:
        calls[f"gaussians-{num}"] = _sphere(p, num, size)
    for side in p["scale_sizes"]:
        calls[f"size-{side}"] = _sphere(p, base, (side, side))
    runs, seconds = _ours(p, calls, f"size-{size[0]}")
    settings = {"scale_gaussians": p["scale_gaussians"], "scale_sizes": p["scale_sizes"], "scale_base": base}
    yield _result("renderer-scale", p, MILLISECONDS, runs, [], seconds, **settings)


def footprint(p: dict[str, Any]) -> Iterable[Result]:
    """Peak memory of a large picture."""
    runs, seconds = [], []
    for _ in range(p["rounds"]):
        start = time.perf_counter()
        runs.append(memory.megabytes(p["memory"]["gaussians"], tuple(p["memory"]["image_size"])))
        seconds.append(time.perf_counter() - start)
    yield _result("renderer-memory", p, memory.METRIC, {"ours": runs}, [], {"ours": seconds}, memory=p["memory"])


PARTS: dict[str, Callable[[dict[str, Any]], Iterable[Result]]] = {
    "compare": compare,
    "features": features,
    "quadratures": quadratures,
    "frames": frames,
    "small": small,
    "channels": channels,
    "stages": stages,
    "threads": threads,
    "scale": scale,
    "memory": footprint,
}


def quick(p: dict[str, Any]) -> dict[str, Any]:
    """The protocol made small."""
    small = {"rounds": 1, "peer_rounds": 1, "repeats": 2, "budget": 0.1, "channels": [1, 3, 8], "feature_channels": 8}
    small |= {"scale_gaussians": [100, 1000], "scale_sizes": [16, 64]}
    small["scene"] = p["scene"] | {"image_size": [64, 64], "focal": 64.0}
    small["quadratures"] = {"hermite": [1], "segments": [1, 2]}
    small["small"] = p["small"] | {"repeats": 10}
    small["frames"] = {"gaussians": 1000, "image_size": [128, 128]}
    small["memory"] = {"gaussians": 1000, "image_size": [64, 64]}
    return p | small | {"minimum_iou": 0.9}


def main() -> None:
    options = command.parser("renderer", __doc__, PARTS).parse_args()
    folder, protocol = command.folder(options), command.protocol(PROTOCOL)
    if options.quick:
        protocol = quick(protocol)
    if (load := os.getloadavg()[0]) > 0.5:
        print(f"The machine is busy (load {load:.1f}): times will be too long.")
    for part in options.only:
        for result in PARTS[part](protocol):
            results.show(result, folder)
            if draw := plots.PLOTS.get(result["name"]):
                draw(result, (plots.IMAGES if folder == results.RESULTS else folder) / f"{result['name']}.png")


def _sphere(p: dict[str, Any], num: int, size: tuple[int, int]) -> timing.Call:
    scene = scenes.sphere(p["scene"], num, size)
    return scenes.step(scenes.ours(scene, p["ours"]), scene)


def _ours(p: dict[str, Any], calls: dict[str, timing.Call], standard: str) -> tuple[dict, dict]:
    """Times arms that are all ours, in turns; "ours" is the one called `standard`."""
    order = {"ours": calls[standard]} | {arm: call for arm, call in calls.items() if arm != standard}
    number = dict.fromkeys(order, p["threads"])
    runs, seconds = timing.alternate(order, number, p["rounds"], p["repeats"], p["budget"])
    return runs | {standard: runs["ours"]}, seconds


def _cycles(call: timing.Call) -> dict[str, int]:
    """The kernels' cycles by stage in ten calls, over all threads."""
    _cpu.reset_counters()
    for _ in range(10):
        call()
    counts = _cpu.counters()
    return {stage: counts[counter] for stage, counter in STAGES.items()}


def _result(
    name: str,
    p: dict[str, Any],
    metric: str,
    runs: dict[str, list[float]],
    baselines: list[str],
    seconds: dict[str, list[float]],
    higher_is_better: bool = False,
    **settings: Any,
) -> Result:
    common = {key: p[key] for key in ("scene", "ours", "threads", "repeats", "budget")}
    return results.make(
        *(name, metric, runs),
        protocol=PROTOCOL,
        settings=common | settings,
        baselines=baselines,
        seconds=seconds,
        higher_is_better=higher_is_better,
        libraries=("easypytorch3d", "numpy", *(("mitsuba", "drjit") if "mitsuba" in baselines else ())),
    )


if __name__ == "__main__":
    main()
