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

from benchmarks import results
from voge.io import atomic_path

MARKED = re.compile(r"<!-- table: (?P<name>\S+) -->\n(?P<body>.*?)<!-- end of table: (?P=name) -->", re.DOTALL)

LABELS = {
    "ours": "voge",
    "mesh": "PyTorch3D, soft mesh rasteriser",
    "mesh-culled": "PyTorch3D, soft mesh rasteriser, back faces left out",
    "points": "PyTorch3D, points rasteriser",
    "pulsar": "Pulsar",
}

DEMO = {
    "film": "film of a textured box (real)",
    "boards": "chessboards (real)",
    "occluder": "mesh behind an occluder (rendered)",
}


def renderer(read: Callable[[str], dict[str, Any]]) -> str:
    """Our time beside every peer's."""
    return _speedups(read("renderer"))


def features(read: Callable[[str], dict[str, Any]]) -> str:
    """The same with many channels."""
    return _speedups(read("renderer-features"))


def channels(read: Callable[[str], dict[str, Any]]) -> str:
    """Time against the number of channels, and the share that compositing takes."""
    times, shares = read("renderer-channels"), read("renderer-compositing")
    rows = []
    for number in times["settings"]["channels"]:
        arm = f"channels-{number}"
        rows.append([str(number), _number(_median(times, arm)), f"{_median(shares, arm):.0f} %"])
    return _table(["Channels", "Forward + backward (ms)", "Share of compositing"], rows)


def threads(read: Callable[[str], dict[str, Any]]) -> str:
    """Forward and backward on one thread and on all."""
    result = read("renderer-threads")
    most = result["settings"]["threads"]
    rows = [
        [name, *(_number(_median(result, arm)) for arm in arms)]
        for name, arms in (("forward", ("forward-1", "forward")), ("forward + backward", ("ours-1", "ours")))
    ]
    return _table(["ms", "1 thread", f"{most} threads"], rows)


def scale(read: Callable[[str], dict[str, Any]]) -> str:
    """Time against the number of Gaussians and of pixels."""
    result = read("renderer-scale")
    settings = result["settings"]
    height, width = settings["scene"]["image_size"]
    rows = [
        [f"{num:,}", f"{height} x {width}", _number(_median(result, f"gaussians-{num}"))]
        for num in settings["scale_gaussians"]
    ]
    vertices = f"{settings['scale_base']:,}"
    rows += [[vertices, f"{s} x {s}", _number(_median(result, f"size-{s}"))] for s in settings["scale_sizes"]]
    return _table(["Gaussians", "Pixels", "Forward + backward (ms)"], rows)


def memory(read: Callable[[str], dict[str, Any]]) -> str:
    """Peak memory of a large picture."""
    result = read("renderer-memory")
    settings = result["settings"]["memory"]
    height, width = settings["image_size"]
    row = [f"{settings['gaussians']:,}", f"{height} x {width}", f"{_median(result, 'ours'):,.0f} MB"]
    return _table(["Gaussians", "Pixels", "Peak memory of forward + backward, above the process before"], [row])


def demo(read: Callable[[str], dict[str, Any]]) -> str:
    """The demo's poses: how wrong the starts were, how wrong the results are, and how well the truth is known."""
    rows = []
    for part, label in DEMO.items():
        degrees, percent = (read(f"demo-{part}-{unit}") for unit in ("degrees", "percent"))
        row = [label, str(len(degrees["settings"]["photographs"])), f"{_number(_median(degrees, 'start'))}°"]
        for arm in ("ours", "uncertainty of the truth"):
            row.append(f"{_number(_median(degrees, arm))}°, {_number(_median(percent, arm))} %")
        rows.append(row)
    return _table(["Pictures", "Number", "Start wrong by", "Result wrong by", "The truth is known to"], rows)


def generic(result: dict[str, Any]) -> str:
    """One row an arm: the median over the seeds, and the range."""
    rows = [
        [LABELS.get(arm, arm), _number(statistics.median(v)), f"{_number(min(v))} to {_number(max(v))}", str(len(v))]
        for arm, v in result["runs"].items()
    ]
    return _table(["", result["metric"], "range", "runs"], rows)


TABLES: dict[str, Callable[[Callable[[str], dict[str, Any]]], str]] = {
    "renderer": renderer,
    "renderer-features": features,
    "renderer-channels": channels,
    "renderer-threads": threads,
    "renderer-scale": scale,
    "renderer-memory": memory,
    "demo": demo,
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


def _speedups(result: dict[str, Any]) -> str:
    peers, used = result["baselines"], result["settings"]["arm_threads"]
    rows = [[LABELS["ours"], f"{_number(_median(result, 'ours'))} ms", str(used["ours"]), ""]]
    for peer in peers:
        ratio = f"{_number(speedup(result, peer))} times"
        rows.append([LABELS[peer], f"{_number(_median(result, peer))} ms", str(used[peer]), ratio])
    return _table(["Renderer", "Forward + backward", "Threads", "voge is faster by"], rows)


def _median(result: dict[str, Any], arm: str) -> float:
    return statistics.median(result["runs"][arm])


def _number(value: float) -> str:
    """Three digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(head: list[str], rows: list[list[str]]) -> str:
    aligned = ["---"] + ["---:"] * (len(head) - 1)
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, aligned, *rows))


if __name__ == "__main__":
    sys.exit(main())
