"""The command line that the benchmarks share."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from benchmarks import results


def parser(name: str, doc: str | None, parts: Collection[str] = (), quick: bool = True) -> argparse.ArgumentParser:
    """--only PART ..., where there are parts; --quick; --out FOLDER."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=(doc or "").splitlines()[0])
    if parts:
        made.add_argument(
            "--only", nargs="+", choices=parts, default=list(parts), metavar="PART", help=", ".join(parts)
        )
    if quick:
        made.add_argument("--quick", action="store_true", help="a small rehearsal, written to build/benchmarks")
    made.add_argument("--out", type=Path, help="folder of the results files")
    return made


def folder(options: argparse.Namespace) -> Path:
    """Where the results files go."""
    quick = getattr(options, "quick", False)
    return options.out or (results.ROOT / "build" / "benchmarks" if quick else results.RESULTS)


def protocol(path: str) -> dict[str, Any]:
    """The experiment's protocol, a path relative to the checkout."""
    return yaml.safe_load((results.ROOT / path).read_text(encoding="utf-8"))
