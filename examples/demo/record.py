"""The demo's numbers as results files: benchmarks/results/demo-PART-METRIC.json."""

from __future__ import annotations

from pathlib import Path

from benchmarks import results
from examples.demo import fitting

DATA = {
    "film": "real: visp-images-data 3.5.0, mbt/cube (GPL-2)",
    "boards": "real: OpenCV's left*.jpg (opencv-doc 4.6.0 or mvtb-data 1.6.1)",
    "occluder": "rendered",
}
METRICS = {"degrees": "rotation error, degrees", "percent": "position error, percent of the distance"}


def write(cases: list[fitting.Case], seeds: int, folder: Path = results.RESULTS) -> list[Path]:
    """One file a part and metric; a seed's value is the mean over the part's photographs. Parts left out have none."""
    paths = []
    for part in sorted({case.part for case in cases}):
        chosen = [[case for case in cases if case.part == part and case.seed == seed] for seed in range(seeds)]
        for column, (short, metric) in enumerate(METRICS.items()):

            def mean(attribute: str, column: int = column, chosen: list[list[fitting.Case]] = chosen) -> list[float]:
                return [sum(getattr(case, attribute)[column] for case in row) / len(row) for row in chosen]

            uncertainty = [
                sum((case.reference.degrees, case.reference.percent)[column] for case in row) / len(row)
                for row in chosen
            ]
            paths.append(results.write({
                "name": f"demo-{part}-{short}", "metric": metric, "higher_is_better": False,
                "seeds": list(range(seeds)),
                "runs": {"ours": mean("final"), "start": mean("start"), "uncertainty of the truth": uncertainty},
                "baselines": [], "protocol": "examples/demo/protocol.yaml",
                "seconds": {"ours": [sum(case.seconds for case in row) / len(row) for row in chosen]},
                "settings": {"photographs": [case.name for case in chosen[0]]},
                "versions": results.versions("voge", "torch", "numpy", "opencv-python-headless"),
                "machine": results.machine(), "data": DATA[part],
            }, folder))  # fmt: skip
    return paths
