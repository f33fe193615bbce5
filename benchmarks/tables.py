"""Writes the results files' tables into the documentation: python -m benchmarks.tables [--check].

A table stands in README.md or docs/ between `<!-- table: NAME -->` and `<!-- end of table: NAME -->`. NAME is one of
TABLES, or a results file, which then shows as one row an arm. --check changes nothing and fails where
something would change.
"""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from benchmarks import fit_tables, results
from benchmarks.results import median, number, table
from voge.io import atomic_path

MARKED = re.compile(r"<!-- table: (?P<name>\S+) -->\n(?P<body>.*?)<!-- end of table: (?P=name) -->", re.DOTALL)

LABELS = {
    "ours": "voge",
    "mesh": "PyTorch3D, soft mesh rasteriser",
    "mesh-culled": "PyTorch3D, soft mesh rasteriser, back faces left out",
    "points": "PyTorch3D, points rasteriser",
    "pulsar": "Pulsar",
    "mitsuba": "Mitsuba 3, ellipsoids composited along rays",
}
PROTOCOL = results.ROOT / "benchmarks" / "renderer.yaml"

EXACTNESS = ("surface", "cloud", "fog")  # scenes
RAYS = ("pinhole", "lidar", "random")
RULES = {"hermite-1": "hermite, 1 (the paper's)", "compositing": "alpha compositing"}

SPLATTING = {
    "ours": "segments, 1 point",
    "hermite-1": "hermite, 1 point",
    "compositing": "compositing along rays (3DGRT)",
    "compositing-volume": "the same with alpha = 1 − exp(−A)",
    "splatting": "splatting (3DGS)",
    "splatting-sharp": "the same without widening",
}


def renderer(read: Callable[[str], dict[str, Any]]) -> str:
    """Our time beside every peer's."""
    return _speedups(read("renderer"))


def large(read: Callable[[str], dict[str, Any]]) -> str:
    """The same on the larger sphere."""
    return _speedups(read("renderer-large"))


def features(read: Callable[[str], dict[str, Any]]) -> str:
    """The same with many channels."""
    return _speedups(read("renderer-features"))


def channels(read: Callable[[str], dict[str, Any]]) -> str:
    """Time against the number of channels, and the share that compositing takes."""
    times, shares = read("renderer-channels"), read("renderer-compositing")
    rows = []
    for many in times["settings"]["channels"]:
        arm = f"channels-{many}"
        rows.append([str(many), number(median(times, arm)), f"{median(shares, arm):.0f} %"])
    return table(["Channels", "Forward + backward (ms)", "Share of compositing"], rows)


def quadratures(read: Callable[[str], dict[str, Any]]) -> str:
    """Every rule at every number of points, with the nearest hits and with all."""
    result = read("renderer-quadratures")
    base, hits = result["settings"]["ours"], result["settings"]["ours"]["max_hits"]
    standard = f"{base['quadrature']}-{base['points']}"
    rows = []
    for rule, numbers in result["settings"]["quadratures"].items():
        for points in numbers:
            row = [f"{rule}, {points} point{'s' * (points > 1)}"]
            for prefix in ("", "all-"):
                row.append(number(median(result, f"{prefix}{rule}-{points}")))
                row.append(f"{_ratio(result, f'{prefix}{rule}-{points}', f'{prefix}{standard}'):.2f}")
            rows.append(row)
    return table(["Rule", f"{hits} hits (ms)", "ratio", "all hits (ms)", "ratio"], rows)


def small(read: Callable[[str], dict[str, Any]]) -> str:
    """A small forward call and what is fixed about it, in microseconds."""
    result = read("renderer-small")
    num, (height, width) = (result["settings"]["small"][key] for key in ("gaussians", "image_size"))
    rows = [
        [f"{num:,}", f"{height} x {width}", number(median(result, "ours"))],
        [f"{num:,}", "1", number(median(result, "pixel"))],
        ["1", "1", number(median(result, "fixed"))],
    ]
    return table(["Gaussians", "Pixels", "Forward (μs)"], rows)


def frames(read: Callable[[str], dict[str, Any]]) -> str:
    """Pictures a second."""
    result = read("renderer-frames")
    num, (height, width) = (result["settings"]["frames"][key] for key in ("gaussians", "image_size"))
    row = [f"{num:,}", f"{height} x {width}", str(result["settings"]["threads"]), number(median(result, "ours"))]
    return table(["Gaussians", "Pixels", "Threads", "Forward, frames a second"], [row])


def goals(read: Callable[[str], dict[str, Any]]) -> str:
    """The protocol's targets beside what was measured."""
    rows = []
    for target in yaml.safe_load(PROTOCOL.read_text(encoding="utf-8"))["targets"]:
        result = read(target["result"])
        unit = target.get("unit", "times").replace("us", "μs")
        if "times" in target:
            gaussians = 10 * 4 ** result["settings"]["scene"]["subdivisions"] + 2
            goal = f"faster than {LABELS[target['times']]}: {gaussians:,} Gaussians"
            measured = speedup(result, target["times"])
        else:
            goal, over = target["goal"], target.get("over")
            measured = _ratio(result, target["arm"], over) if over else median(result, target["arm"])
        most = target.get("at_most")
        wanted = most if most is not None else target["at_least"]
        if "avx512" in target and result["settings"]["isa"] == "avx512":
            wanted = target["avx512"]
        reached = measured <= wanted if most is not None else measured >= wanted
        sign = "≤" if most is not None else "≥"
        rows.append([goal, f"{sign} {wanted:,} {unit}".strip(), f"{number(measured)} {unit}".strip()])
        rows[-1].append("yes" if reached else "**no**")
    return table(["Goal", "Wanted", "Measured", "Reached"], rows)


def growth(read: Callable[[str], dict[str, Any]]) -> str:
    """Time of a ray against the number of Gaussians at equal hits, and how it grows."""
    result = read("scale")
    numbers = result["settings"]["gaussians"]
    rows = []
    for hits in ("20", "all"):
        arms = [f"{hits}-hits-{num}" for num in numbers]
        ratio = _ratio(result, arms[-1], arms[0])
        rows.append([hits, *(number(median(result, arm)) for arm in arms), f"{number(ratio)} times"])
    return table(["Hits kept", *(f"{num:,} Gaussians" for num in numbers), "growth"], rows)


def stages(read: Callable[[str], dict[str, Any]]) -> str:
    """Where the time of a large call goes."""
    result = read("scale-stages")
    names = list(dict.fromkeys(arm.split("-")[1] for arm in result["runs"] if "-" in arm))

    def cell(direction: str, name: str) -> str:
        arm = f"{direction}-{name}"
        return number(median(result, arm)) if arm in result["runs"] else ""

    rows = [[name, cell("forward", name), cell("backward", name)] for name in names]
    rows.append(["forward + backward", "", number(median(result, "ours"))])
    return table(["Stage", "forward (ms)", "backward (ms)"], rows)


def rays(read: Callable[[str], dict[str, Any]]) -> str:
    """Time of a ray of every kind by the tree and without it."""
    rows = []
    for kind in RAYS:
        result = read(f"rays-{kind}")
        for num in result["settings"]["gaussians"]:
            arms = [f"{hits}-hits-{num}" for hits in ("1", "20", "all")]
            faster = number(_ratio(result, f"brute-{arms[1]}", arms[1]))
            rows.append([kind, f"{num:,}", *(number(median(result, arm)) for arm in arms), f"{faster} times"])
    head = ["Rays", "Gaussians", "first hit", "20 hits", "all hits", "20 hits: the tree is faster by"]
    return table(head, rows)


def trees(read: Callable[[str], dict[str, Any]]) -> str:
    """What a call with few rays costs that builds the tree, fits the last call's to moved Gaussians, or has none."""
    result = read("rays-trees")
    rows = [
        [f"{num:,}", *(number(median(result, f"{tree}-{num}")) for tree in ("build", "fit", "none"))]
        for num in result["settings"]["gaussians"]
    ]
    return table(["Gaussians", "tree built (ms)", "tree fitted (ms)", "no tree (ms)"], rows)


def threads(read: Callable[[str], dict[str, Any]]) -> str:
    """Forward and backward on one thread and on all."""
    result = read("renderer-threads")
    most = result["settings"]["threads"]
    rows = [
        [name, *(number(median(result, arm)) for arm in arms)]
        for name, arms in (("forward", ("forward-1", "forward")), ("forward + backward", ("ours-1", "ours")))
    ]
    return table(["ms", "1 thread", f"{most} threads"], rows)


def scale(read: Callable[[str], dict[str, Any]]) -> str:
    """Time against the number of Gaussians and of pixels."""
    result = read("renderer-scale")
    settings = result["settings"]
    height, width = settings["scene"]["image_size"]
    rows = [
        [f"{num:,}", f"{height} x {width}", number(median(result, f"gaussians-{num}"))]
        for num in settings["scale_gaussians"]
    ]
    vertices = f"{settings['scale_base']:,}"
    rows += [[vertices, f"{s} x {s}", number(median(result, f"size-{s}"))] for s in settings["scale_sizes"]]
    return table(["Gaussians", "Pixels", "Forward + backward (ms)"], rows)


def memory(read: Callable[[str], dict[str, Any]]) -> str:
    """Peak memory of a large picture."""
    result = read("renderer-memory")
    settings = result["settings"]["memory"]
    height, width = settings["image_size"]
    row = [f"{settings['gaussians']:,}", f"{height} x {width}", f"{median(result, 'ours'):,.0f} MB"]
    return table(["Gaussians", "Pixels", "Peak memory of forward + backward, above the process before"], [row])


def exactness(read: Callable[[str], dict[str, Any]]) -> str:
    """Error and time of every rule on every scene."""
    found = [(scene, read(f"exactness-{scene}"), read(f"exactness-{scene}-ms")) for scene in EXACTNESS]
    rows = []
    for arm in [arm for arm in found[0][1]["runs"] if arm != "ours"]:
        row = [RULES.get(arm, arm.replace("-", ", "))]
        for _, error, ms in found:
            row.append(f"{median(error, arm):.1e}".replace("e-0", "e-"))
            row.append(number(median(ms, arm)) if arm in ms["runs"] else "")
        rows.append(row)
    return table(["Rule", *(head for scene in EXACTNESS for head in (f"{scene}: error", "ms"))], rows)


def splatting(read: Callable[[str], dict[str, Any]]) -> str:
    """How near the pictures of other renderers are to the integral's, and all of them to the truth."""
    found = [read(name) for name in ("splatting", "splatting-truth", "splatting-capture")]
    rows = [[label, *(f"{median(one, arm):.1f} dB" for one in found)] for arm, label in SPLATTING.items()]
    return table(["", "fitted scene, to the integral", "fitted scene, to the truth", "capture, to the integral"], rows)


def generic(result: dict[str, Any]) -> str:
    """One row an arm: the median over the seeds, and the range."""
    rows = [
        [LABELS.get(arm, arm), number(statistics.median(v)), f"{number(min(v))} to {number(max(v))}", str(len(v))]
        for arm, v in result["runs"].items()
    ]
    return table(["", result["metric"], "range", "runs"], rows)


TABLES: dict[str, Callable[[Callable[[str], dict[str, Any]]], str]] = {
    "renderer": renderer,
    "renderer-large": large,
    "renderer-features": features,
    "renderer-quadratures": quadratures,
    "renderer-small": small,
    "renderer-frames": frames,
    "goals": goals,
    "renderer-channels": channels,
    "renderer-threads": threads,
    "renderer-scale": scale,
    "renderer-memory": memory,
    "scale": growth,
    "scale-stages": stages,
    "rays": rays,
    "rays-trees": trees,
    "demo": fit_tables.demo,
    "exactness": exactness,
    "splatting": splatting,
    "shape-fits": fit_tables.shape_fits,
    "fit-mesh": fit_tables.fit_mesh,
    "fit-mesh-pose": fit_tables.fit_mesh_pose,
}


def fill(text: str, read: Callable[[str], dict[str, Any]] = results.read) -> str:
    """`text` with every marked table made anew; `read` gives a results file by its name."""

    def table(match: re.Match[str]) -> str:
        name = match["name"]
        body = TABLES[name](read) if name in TABLES else generic(read(name))
        return f"<!-- table: {name} -->\n{body}<!-- end of table: {name} -->"

    return MARKED.sub(table, text)


def pages(root: Path = results.ROOT) -> list[Path]:
    """The documents that may hold tables."""
    return [path for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))) if path.is_file()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail where something would change")
    check = parser.parse_args().check
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            stale.append(str(page.relative_to(results.ROOT)))
            if not check:
                with atomic_path(page) as temporary:
                    temporary.write_text(filled, encoding="utf-8")
    print(("out of date: " if check else "written: ") + ", ".join(stale) if stale else "every table is up to date")
    return 1 if check and stale else 0


def speedup(result: dict[str, Any], peer: str) -> float:
    """How many times less ours takes than `peer`: the median of the rounds' ratios."""
    return statistics.median(b / a for a, b in zip(result["runs"]["ours"], result["runs"][peer], strict=True))


def _ratio(result: dict[str, Any], arm: str, over: str) -> float:
    """The time of `arm` over that of another: the median of the rounds' ratios."""
    return statistics.median(a / b for a, b in zip(result["runs"][arm], result["runs"][over], strict=True))


def _speedups(result: dict[str, Any]) -> str:
    peers, used = result["baselines"], result["settings"]["arm_threads"]
    rows = [[LABELS["ours"], f"{number(median(result, 'ours'))} ms", str(used["ours"]), ""]]
    for peer in peers:
        ratio = f"{number(speedup(result, peer))} times"
        rows.append([LABELS[peer], f"{number(median(result, peer))} ms", str(used[peer]), ratio])
    return table(["Renderer", "Forward + backward", "Threads", "voge is faster by"], rows)


if __name__ == "__main__":
    sys.exit(main())
