"""What an installation promises: few dependencies, one module for every machine, no torch in the native code."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

import voge
from voge import _cpu

MODULE = Path(_cpu.__file__)
OPTIONAL = ("scipy", "trimesh", "plyfile", "safetensors", "imageio", "PIL", "cv2", "timm", "rich", "matplotlib")
OPTIONAL += ("pytorch3d", "torchvision", "viser", "cuda")  # cuda: cuda-core and cuda-bindings
PICTURE = """
import torch, voge
gaussians = voge.Gaussians.from_scales_rotations(torch.zeros(1, 3), torch.full((1, 3), 0.3), torch.eye(3)[None])
camera = voge.Cameras.look_at(eye=(0.0, 0.0, -3.0), focal=20.0, image_size=(8, 8))
picture = voge.render(gaussians, camera, torch.ones(1, 3))
"""


def run(script: str, **env: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **env}, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_renders_with_every_optional_library_blocked():
    script = f"import sys\nsys.modules.update(dict.fromkeys({OPTIONAL}))\n{PICTURE}print(picture.alpha.max() > 0.5)"
    assert run(script).strip() == "tensor(True)"


def test_import_is_lean():
    """Libraries that are installed stay unloaded, and so do the subpackages that need them."""
    loaded = run(
        "import sys, torch; before = set(sys.modules); import voge; print(*(set(sys.modules) - before))"
    ).split()
    assert "voge.render" in loaded
    assert not {name.split(".")[0] for name in loaded} & set(OPTIONAL)
    assert not {"voge.fit", "voge.convert", "voge.io"} & set(loaded)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the AVX2 and AVX-512 kernels exist on x86-64 only")
def test_module_holds_every_instruction_set():
    symbols = MODULE.read_bytes()
    for name in (b"baseline", b"avx2", b"avx512"):
        assert re.search(rb"_ZN\w*\d" + name, symbols) or b"voge::" + name in symbols, f"no kernels named {name!r}"
    assert "baseline" in _cpu.isas()


def test_instruction_set_can_be_chosen():
    for isa in _cpu.isas():
        printed = run(f"from voge import _cpu\n{PICTURE}print(_cpu.isa(), picture.alpha.max() > 0.5)", VOGE_ISA=isa)
        assert printed.strip() == f"{isa} tensor(True)"
    refused = subprocess.run(
        [sys.executable, "-c", f"{PICTURE}"], capture_output=True, text=True, env={**os.environ, "VOGE_ISA": "mmx"}
    )
    assert refused.returncode != 0 and "VOGE_ISA is mmx" in refused.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="reads the dependencies of an ELF file with ldd")
def test_module_links_no_torch_and_no_python():
    libraries = subprocess.run(["ldd", MODULE], capture_output=True, text=True, check=True).stdout
    assert "libc.so" in libraries
    assert not re.search("torch|c10|libpython|cuda", libraries), libraries


def test_versions_agree():
    try:
        assert importlib.metadata.version("voge") == voge.__version__
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("voge is imported from the checkout, not installed")
