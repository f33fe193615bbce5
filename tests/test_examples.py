"""The examples run as printed, elsewhere than in their own folder, and their numbers show that they work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
GOOD = {  # the last number printed, and what it must reach
    "render_mesh": lambda covered: 10 < covered < 40,
    "fit_pose": lambda degrees: degrees < 0.5,
    "fit_shape": lambda iou: iou > 0.9,
    "extract_texture": lambda error: error < 0.03,
    "occlusion_order": lambda hidden: 40 < hidden < 80,
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__"} == set(GOOD)


@pytest.mark.parametrize("name", GOOD)
def test_example(name: str, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="examples write pictures: pip install 'voge[io]'")
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    script = [sys.executable, str(ROOT / "examples" / f"{name}.py")]
    done = subprocess.run(
        script, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    numbers = re.findall(r"\d+(?:\.\d+)?", done.stdout.replace(f"{name}.png", ""))
    assert GOOD[name](float(numbers[-1])), done.stdout
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]
    assert np.asarray(image.open(tmp_path / f"{name}.png")).std() > 5
