"""How much of csrc/cuda the emulated tests run, by gcov, which of its functions they never instantiate, and how much of
the Python around it they run, by coverage.py.

`python -m tests.cuda_emulation.coverage [LEAST] [pytest arguments]` runs the tests and fails below LEAST per cent."""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from tests.cuda_emulation import build

TESTS = ("bins", "tree", "weights", "render", "fragments", "launcher")
FUNCTION = re.compile(r"^(?:VOGE_CALLED|__device__)(?: inline)? [\w:<>*& ]*?(\w+)\(", re.MULTILINE)


def counted() -> tuple[dict[str, dict[int, int]], set[str]]:
    """Of every file of csrc/cuda how often each line ran, and the names of all functions that were compiled."""
    lines: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    functions = set()
    for data in build.BUILD.glob("*-coverage-*/*.gcda"):
        report = build.run(["gcov", "--json-format", "--stdout", "--demangled-names", str(data)])
        for file in json.loads(report)["files"]:
            path = Path(file["file"])
            if path.parent != build.CSRC / "cuda":
                continue
            functions |= {plain_name(function["demangled_name"]) for function in file["functions"]}
            for line in file["lines"]:
                lines[path.name][line["line_number"]] += line["count"]
    return lines, functions


def plain_name(demangled: str) -> str:
    """Without result, parameters, template arguments and namespaces."""
    shorter = re.sub(r"<[^<>]*>", "", demangled)
    return plain_name(shorter) if shorter != demangled else demangled.split("(")[0].split("::")[-1]


def main(least: float, arguments: list[str]) -> int:
    for data in build.BUILD.glob("*-coverage-*/*.gcda"):
        data.unlink()
    tests = arguments or [f"tests/test_cuda_{name}.py" for name in TESTS]

    def coverage(*command: str, check: bool = True) -> int:  # settings stand in pyproject.toml
        environment = {**os.environ, "VOGE_EMULATION_COVERAGE": "1"}
        run = [sys.executable, "-m", "coverage", *command]
        return subprocess.run(run, env=environment, cwd=build.ROOT, check=check).returncode

    coverage("erase")
    coverage("run", "-m", "pytest", "-q", *tests)
    coverage("combine", "-q")
    lines, functions = counted()
    ran, every = 0, 0
    for name, counts in sorted(lines.items()):
        missing = sorted(number for number, count in counts.items() if not count)
        ran, every = ran + len(counts) - len(missing), every + len(counts)
        print(f"{name:22} {100 - 100 * len(missing) / len(counts):6.1f} %  not run: {missing}")
    written = {name for path in (build.CSRC / "cuda").iterdir() for name in FUNCTION.findall(path.read_text())}
    print(f"never compiled: {sorted(written - functions)}")
    print(f"{'all':22} {100 * ran / every:6.1f} % of {every} lines")
    python = coverage("report", "--show-missing", f"--fail-under={least}", check=False)
    return int(100 * ran < least * every or bool(written - functions) or python != 0)


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 0, sys.argv[2:]))
