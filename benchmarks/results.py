"""The results files: one schema for every experiment, checked whenever a file is written or read."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import statistics
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from voge import _cpu
from voge.io import atomic_path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

FIELDS = {
    "name": str,  # the file is NAME.json
    "metric": str,  # one a file, with its unit
    "higher_is_better": bool,
    "seeds": list,  # distinct integers; in a measurement of time a seed is a round
    "runs": dict,  # arm -> one value a seed; the arm "ours" is always there
    "baselines": list,  # the arms that ours is compared with; ablations, controls and oracles are not among them
    "protocol": str,  # the file, relative to the checkout, that fixed the experiment before it ran
    "seconds": dict,  # arm -> wall-clock seconds a seed took
    "settings": dict,
    "versions": dict,  # library -> version
    "machine": str,
    "data": str,  # "rendered", or "real: NAME"
}


def check(result: dict[str, Any]) -> None:
    """Raises ValueError, naming the field, where `result` is not what FIELDS says."""

    def expect(holds: bool, field: str, expected: str) -> None:
        if not holds:
            raise ValueError(f"{result.get('name', 'result')}: {field} must be {expected}, got {result.get(field)!r}")

    if set(result) != set(FIELDS):
        missing, unknown = sorted(set(FIELDS) - set(result)), sorted(set(result) - set(FIELDS))
        raise ValueError(f"{result.get('name', 'result')}: missing fields {missing}, unknown fields {unknown}")
    for field, kind in FIELDS.items():
        expect(isinstance(result[field], kind), field, f"a {kind.__name__}")
    seeds, runs = result["seeds"], result["runs"]

    def column(values: object) -> bool:
        return isinstance(values, list) and len(values) == len(seeds) and all(map(_finite, values))

    expect(re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", result["name"]) is not None, "name", "lower case words and hyphens")
    expect(bool(seeds) and all(type(s) is int for s in seeds), "seeds", "a list of integers, at least one")
    expect(len(set(seeds)) == len(seeds), "seeds", "distinct")
    expect(
        "ours" in runs and all(map(column, runs.values())), "runs", 'one finite number a seed for each arm and "ours"'
    )
    expect(all(map(column, result["seconds"].values())), "seconds", "one finite number a seed for each arm")
    expect(set(result["seconds"]) <= set(runs), "seconds", f"of the arms {sorted(runs)}")
    expect(
        set(result["baselines"]) <= set(runs) - {"ours"}, "baselines", f'among the arms {sorted(runs)} without "ours"'
    )
    expect((ROOT / result["protocol"]).is_file(), "protocol", "the path of a file in the checkout")
    expect(re.fullmatch(r"rendered|real: \S.*", result["data"]) is not None, "data", '"rendered" or "real: NAME"')


def make(
    name: str,
    metric: str,
    runs: dict[str, list[float]],
    *,
    protocol: str,
    settings: dict[str, Any],
    seeds: list[int] | None = None,  # None: rounds, counted
    baselines: Collection[str] = (),
    seconds: dict[str, list[float]] | None = None,
    higher_is_better: bool = False,
    libraries: Collection[str] = ("numpy",),  # beside voge and torch
    data: str = "rendered",
) -> dict[str, Any]:
    """A result by FIELDS, with the machine, its load and instruction set, and the versions as they are now."""
    return {
        "name": name,
        "metric": metric,
        "higher_is_better": higher_is_better,
        "seeds": list(range(len(runs["ours"]))) if seeds is None else seeds,
        "runs": runs,
        "baselines": [arm for arm in baselines if arm in runs],
        "protocol": protocol,
        "seconds": seconds or {},
        "settings": settings | {"isa": _cpu.isa(), "load": round(os.getloadavg()[0], 2)},
        "versions": versions("voge", "torch", *libraries),
        "machine": machine(),
        "data": data,
    }


def show(result: dict[str, Any], folder: str | os.PathLike) -> None:
    """Writes `result`, and prints it: a line an arm."""
    print(f"{write(result, folder)}  {result['metric']}")
    width = max(map(len, result["runs"]))
    for arm, values in result["runs"].items():
        print(f"    {arm:{width}s}" + " ".join(f"{value:10.4g}" for value in values), flush=True)


def write(result: dict[str, Any], folder: str | os.PathLike = RESULTS) -> Path:
    """Checks `result` and writes folder/NAME.json, whole or not at all."""
    check(result)
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / f"{result['name']}.json"
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return path


def read(name: str, folder: str | os.PathLike = RESULTS) -> dict[str, Any]:
    """The checked contents of folder/NAME.json."""
    result = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))
    check(result)
    if result["name"] != name:
        raise ValueError(f"{name}.json: name must be the file's own, got {result['name']!r}")
    return result


def versions(*libraries: str) -> dict[str, str]:
    """The versions of Python and of the named distributions, "source" for those that run from the checkout."""
    found = {"python": platform.python_version()}
    for library in libraries:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "source"
    return found


def machine() -> str:
    """Processor, cores and the widest vector instructions, in words."""
    model, flags = platform.processor() or platform.machine(), ""
    if (cpuinfo := Path("/proc/cpuinfo")).is_file():
        text = cpuinfo.read_text(encoding="utf-8")
        if found := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
            model = found[1].strip()
        flags = text
    vectors = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}  # widest first
    widest = next((name for flag, name in vectors.items() if flag in flags), "")
    return ", ".join(filter(None, (model, f"{os.cpu_count()} cores", widest)))


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def median(result: dict[str, Any], arm: str) -> float:
    return statistics.median(result["runs"][arm])


def number(value: float) -> str:
    """Three digits."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(head: list[str], rows: list[list[str]]) -> str:
    aligned = ["---"] + ["---:"] * (len(head) - 1)
    return "".join("| " + " | ".join(row) + " |\n" for row in (head, aligned, *rows))
