"""Peak memory of one forward + backward pass above that of the process before it, in MB.

python -m benchmarks.memory N H W: runs in a process of its own, without a warm-up, so that threads and buffers
that the first call makes are counted.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
import yaml

from benchmarks import results, scenes

METRIC = "peak memory of forward + backward above the process before it, MB"
CLEAR_REFS = Path("/proc/self/clear_refs")


def megabytes(num: int, size: tuple[int, int]) -> float:
    """Of a sphere of `num` Gaussians in an image of `size`, measured in a fresh process."""
    line = [sys.executable, "-m", "benchmarks.memory", str(num), *map(str, size)]
    done = subprocess.run(line, cwd=results.ROOT, check=True, capture_output=True, text=True)
    return float(done.stdout)


def status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no field {field}: memory is measured on Linux only")


def main(num: int, height: int, width: int) -> None:
    protocol = yaml.safe_load((results.ROOT / "benchmarks" / "renderer.yaml").read_text(encoding="utf-8"))
    torch.set_num_threads(protocol["threads"])
    scene = scenes.sphere(protocol["scene"], num, (height, width))
    call = scenes.step(scenes.ours(scene, protocol["ours"]), scene)
    CLEAR_REFS.write_text("5")  # VmHWM starts again from the memory in use
    before = status("VmRSS")
    call()
    print((status("VmHWM") - before) / 1e6)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
