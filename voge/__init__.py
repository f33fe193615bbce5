"""voge: a differentiable renderer of 3D Gaussian ellipsoids that traces rays through their volume densities."""

from __future__ import annotations

import importlib
from types import ModuleType

from voge.cameras import Cameras
from voge.fragments import Fragments, trace
from voge.gaussians import Gaussians
from voge.rays import Rays
from voge.render import Rendering, render

__version__ = "0.1.0"
__all__ = ["Cameras", "Fragments", "Gaussians", "Rays", "Rendering", "render", "trace"]

_SUBPACKAGES = ("backends", "compat", "convert", "distributed", "fit", "harmonics", "io", "lenses", "reference")


def __getattr__(name: str) -> ModuleType:
    """Subpackages are imported when they are first used: some need optional libraries."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"voge.{name}")
    raise AttributeError(f"module 'voge' has no attribute {name!r}")
