"""Other packages' objects and files: `official` (the paper's code), `pytorch3d`, `colmap`, `nerf`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from voge.cameras import Cameras

_MODULES = ("colmap", "nerf", "official", "pytorch3d")

__all__ = ["as_cameras", *_MODULES]


def as_cameras(cameras: Any, image_size: Sequence[int] | None = None) -> Cameras:
    """Cameras as they are, or made of PyTorch3D's perspective cameras.

    Args:
        image_size: (H, W), for PyTorch3D cameras that do not hold it.

    Raises:
        TypeError: neither.
        ValueError: PyTorch3D cameras without an image size or of several sizes.
    """
    return cameras if isinstance(cameras, Cameras) else Cameras.from_pytorch3d(cameras, image_size)


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
