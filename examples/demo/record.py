"""The demo's numbers as results files: benchmarks/results/demo-PART-METRIC.json."""

from __future__ import annotations

import statistics
from pathlib import Path

from benchmarks import results
from examples.demo import fitting

DATA = {
    "film": "real: visp-images-data 3.5.0, mbt/cube (GPL-2)",
    "boards": "real: OpenCV's left*.jpg (opencv-doc 4.6.0 or mvtb-data 1.6.1)",
    "occluder": "rendered",
}
METRICS = {
    "degrees": "rotation error, degrees, median of the photographs",
    "percent": "position error, percent of the distance, median of the photographs",
    "found": f"photographs whose pose is right within {fitting.GOOD:g} degrees and {fitting.GOOD:g} %",
}


def write(cases: list[fitting.Case], seeds: int, folder: Path = results.RESULTS) -> list[Path]:
    """One file a part and metric, with a value a seed. Parts left out have none."""
    paths = []
    for part in sorted({case.part for case in cases}):
        chosen = [[case for case in cases if case.part == part and case.seed == seed] for seed in range(seeds)]
        runs: dict[str, dict[str, list[float]]] = {
            unit: {
                "ours": [statistics.median(case.final[i] for case in row) for row in chosen],
                "start": [statistics.median(case.start[i] for case in row) for row in chosen],
                "uncertainty of the truth": [
                    statistics.median((case.reference.degrees, case.reference.percent)[i] for case in row)
                    for row in chosen
                ],
            }
            for i, unit in enumerate(("degrees", "percent"))
        }
        runs["found"] = {"ours": [float(sum(map(fitting.found, row))) for row in chosen]}
        for short, metric in METRICS.items():
            result = results.make(
                *(f"demo-{part}-{short}", metric, runs[short]),
                protocol="examples/demo/protocol.yaml",
                settings={"photographs": [case.name for case in chosen[0]]},
                seconds={"ours": [sum(case.seconds for case in row) / len(row) for row in chosen]},
                higher_is_better=short == "found",
                libraries=("numpy", "opencv-python-headless"),
                data=DATA[part],
            )
            paths.append(results.write(result, folder))
    return paths
