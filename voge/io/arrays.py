"""Our own files, .npz and .safetensors: the arrays means, precisions, and where there are any density, features, sh."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voge.gaussians import Gaussians
from voge.io.objects import Scene
from voge.io.optional import library

_TRAILING = {"means": (3,), "precisions": (3, 3), "density": (), "features": (None,), "sh": (None, 3)}
_NEEDED = ("means", "precisions")


def load_npz(path: Path) -> Scene:
    """Gaussians and features of an .npz; nothing of it is unpickled, and nothing is allocated before its headers are
    checked.

    Raises:
        ValueError: not an .npz, arrays that do not belong, of other shapes or dtypes, truncated, or compressed so far
            that it can only be meant to fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(info.file_size for info in archive.infolist())
            if size > max(1 << 28, 100 * path.stat().st_size):
                raise ValueError(f"would expand to {size} bytes, {size // path.stat().st_size} times its size")
            shapes = {}
            for info in archive.infolist():
                shapes[info.filename.removesuffix(".npy")] = _read_npy_header(archive, info)
        _check_shapes(shapes)
        with np.load(path, allow_pickle=False) as arrays:
            return _scene({name: torch.from_numpy(arrays[name]) for name in shapes})
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, LookupError) as error:
        raise ValueError(f"not an .npz file that can be read ({error})") from error


def save_npz(path: Path, scene: Scene) -> None:
    """Writes an uncompressed .npz."""
    table: dict[str, Any] = {name: value.numpy() for name, value in _arrays(scene).items()}
    with path.open("wb") as file:
        np.savez(file, **table)


def load_safetensors(path: Path) -> Scene:
    """Gaussians and features of a .safetensors.

    Raises:
        ValueError: not a .safetensors, tensors that do not belong, of other shapes or dtypes, truncated.
    """
    safetensors = library("safetensors")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            shapes = {name: (tuple(part.get_shape()), str(part.get_dtype()).lower()) for name, part in slices.items()}
            _check_shapes(shapes)
            return _scene({name: file.get_tensor(name) for name in shapes})
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"not a .safetensors file that can be read ({error})") from error


def save_safetensors(path: Path, scene: Scene) -> None:
    """Writes a .safetensors."""
    library("safetensors.torch").save_file(_arrays(scene), path)


def _arrays(scene: Scene) -> dict[str, Tensor]:
    gaussians, features, sh = scene
    arrays = {
        "means": gaussians.means,
        "precisions": gaussians.precisions,
        "density": gaussians.density,
        "features": features,
        "sh": sh,
    }
    return {name: value.detach().cpu().contiguous() for name, value in arrays.items() if value is not None}


def _scene(arrays: Mapping[str, Tensor]) -> Scene:
    try:
        gaussians = Gaussians(arrays["means"], arrays["precisions"], arrays.get("density")).check()
    except (TypeError, ValueError) as error:
        raise ValueError(f"holds no valid Gaussians: {error}") from error
    return Scene(gaussians, arrays.get("features"), arrays.get("sh"))


def _check_shapes(shapes: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """ValueError unless the arrays are those of a Scene, (..., N, trailing) each, float32 or float64."""
    if missing := [name for name in _NEEDED if name not in shapes]:
        raise ValueError(f"lacks {' and '.join(missing)}: it holds {', '.join(map(repr, shapes)) or 'nothing'}"[:500])
    for name, (shape, dtype) in shapes.items():
        if name not in _TRAILING:
            raise ValueError(f"holds an array {name[:80]!r}, expected only {', '.join(_TRAILING)}")
        if dtype not in ("<f4", "<f8", "f32", "f64"):
            raise ValueError(f"holds {name} of dtype {dtype}, expected float32 or float64")
        trailing = _TRAILING[name]
        split = len(shape) - len(trailing)
        fits = split >= 1 and all(want in (None, got) for want, got in zip(trailing, shape[split:], strict=True))
        num = shapes["means"][0][-2] if len(shapes["means"][0]) > 1 else None
        if not fits or shape[split - 1] != num:
            want = ", ".join(["...", "N", *(str(size or "any") for size in trailing)])
            raise ValueError(f"holds {name} of shape {shape}, expected ({want}) with N = {num}")


def _read_npy_header(archive: zipfile.ZipFile, info: Any) -> tuple[tuple[int, ...], str]:
    """Shape and dtype of a member, checked against the bytes that the archive holds of it."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"holds {info.filename[:80]!r} of an unknown version of .npy")
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        if dtype.hasobject:
            raise ValueError(f"holds pickled objects in {info.filename[:80]!r}, which are never loaded")
        size = dtype.itemsize * int(np.prod(shape, dtype=object))
        if size != info.file_size - file.tell():
            raise ValueError(
                f"announces {size} bytes in {info.filename[:80]!r}, it holds {info.file_size - file.tell()}"
            )
    return shape, dtype.str
