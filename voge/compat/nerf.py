"""transforms.json: the cameras of NeRF, instant-ngp and nerfstudio.

`frames` hold camera-to-world matrices with OpenGL's axes (x right, y up, z backward). Intrinsics (fl_x, fl_y, cx, cy,
w, h in pixels, or camera_angle_x, camera_angle_y in radians) stand at the top or in a frame; the frame's count first.
`read` takes pinholes, `read_lens` takes lenses with distortion and fisheyes, too.
"""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from voge import checks
from voge.cameras import Cameras
from voge.lenses import Lens, distort
from voge.lenses.frames import from_pixels, to_pixels


def read(path: str | os.PathLike[str], image_size: Sequence[int] | None = None) -> tuple[list[str], Cameras]:
    """The image files of a transforms.json, as written there, and their cameras, in torch's default dtype.

    Lens distortion is left out, with a warning that says by how much it moves the corners of the image.

    Args:
        path: the file.
        image_size: (H, W), for files that do not state w and h.

    Raises:
        ValueError: file missing or broken, several image sizes, no image size or another one than `image_size`, a
            fisheye, another camera model.
    """
    names, cameras, lens = read_lens(path, image_size)
    if lens.model == "fisheye":
        raise ValueError(f"{path}: expected pinhole cameras, got fisheyes: voge.compat.nerf.read_lens takes them")
    if lens.coefficients.any():
        height, width = cameras.image_size
        corners = from_pixels(cameras, cameras.K.new_tensor([[0, 0], [width, 0], [0, height], [width, height]]))
        moved = to_pixels(cameras, distort(corners, lens.coefficients)) - to_pixels(cameras, corners)
        most = float(moved.norm(dim=-1).max())
        warnings.warn(
            f"{path}: lens distortion, which moves corners of the image by up to {most:.1f} pixels, is left out; "
            "undistort the images, or take the lens along (voge.compat.nerf.read_lens)",
            stacklevel=3,
        )
    return names, cameras


def read_lens(path: str | os.PathLike[str], image_size: Sequence[int] | None = None) -> tuple[list[str], Cameras, Lens]:
    """The image files of a transforms.json, their cameras without distortion, and their lenses.

    `lens.rays(cameras)` are the rays of all images. To take some, index both: `cameras[i]`, `lens.coefficients[i]`.

    Args:
        path, image_size: as `read`.

    Returns:
        names, cameras of batch shape (N,), and a lens with coefficients (N, 5) of model "opencv" (camera_model OPENCV,
        RADIAL, SIMPLE_RADIAL, PINHOLE, SIMPLE_PINHOLE, or none) or (N, 4) of model "fisheye" (camera_model
        OPENCV_FISHEYE, or is_fisheye).

    Raises:
        ValueError: as `read`; frames of both models.
    """
    file = Path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"path: cannot read {file} ({error.strerror})") from error
    except ValueError as error:  # JSON and UTF-8 errors
        raise ValueError(f"{file}: not JSON, or truncated ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("frames"), list) or not content["frames"]:
        raise ValueError(f"{file}: expected an object with a list of frames")
    if image_size is not None:
        image_size = checks.image_size("image_size", image_size)

    names, poses, intrinsics, coefficients = [], [], [], []
    sizes, models = set(), set()
    for i, frame in enumerate(content["frames"]):
        where = f"{file}: frames[{i}]"
        if not isinstance(frame, dict):
            raise ValueError(f"{where}: expected an object, got {frame!r:.80}")
        names.append(str(frame.get("file_path", "")))
        poses.append(_pose(where, frame.get("transform_matrix")))
        merged = {**content, **frame}
        size = _size(where, merged, image_size)
        sizes.add(size)
        intrinsics.append(_intrinsics(where, merged, size))
        model, values = _lens(where, merged)
        models.add(model)
        coefficients.append(values)
    if len(sizes) > 1:
        raise ValueError(f"{file}: expected one image size, got (H, W) = {sorted(sizes)}")
    if len(models) > 1:
        raise ValueError(f"{file}: expected one kind of lens, got fisheyes and others")

    to_world = torch.tensor(poses, dtype=torch.float64)
    R = (to_world[:, :3, :3] * to_world.new_tensor([1, -1, -1])).mT
    t = -(R @ to_world[:, :3, 3:])[..., 0]
    dtype = torch.get_default_dtype()
    cameras = Cameras(R.to(dtype), t.to(dtype), torch.tensor(intrinsics, dtype=dtype), sizes.pop())
    return names, cameras, Lens(models.pop(), torch.tensor(coefficients, dtype=dtype))


def _number(where: str, values: Mapping[str, Any], key: str, default: float | None = None) -> float:
    value = values.get(key, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{where}: expected a number {key}, got {value!r:.80}")
    return float(value)


def _pose(where: str, matrix: Any) -> list[list[float]]:
    rows = matrix if isinstance(matrix, list) else []
    good = len(rows) in (3, 4) and all(isinstance(row, list) and len(row) == 4 for row in rows)
    if not good or not all(isinstance(x, (int, float)) and math.isfinite(x) for row in rows for x in row):
        raise ValueError(f"{where}: expected a transform_matrix of 4 x 4 finite numbers, got {matrix!r:.80}")
    return [[float(x) for x in row] for row in rows[:3]]


def _size(where: str, values: Mapping[str, Any], given: tuple[int, int] | None) -> tuple[int, int]:
    if "w" not in values and "h" not in values:
        if given is None:
            raise ValueError(f"{where}: no w and h in the file, pass image_size=(H, W)")
        return given
    size = tuple(_number(where, values, key) for key in ("h", "w"))
    if not all(side >= 1 and side == int(side) for side in size):
        raise ValueError(f"{where}: expected whole numbers h and w of at least 1, got {size}")
    height, width = map(int, size)
    if given not in (None, (height, width)):
        raise ValueError(f"image_size: {where} has (H, W) = {(height, width)}, got {given}; use .resize afterwards")
    return height, width


def _intrinsics(where: str, values: Mapping[str, Any], size: tuple[int, int]) -> list[list[float]]:
    height, width = size
    if "fl_x" in values:
        fx = _number(where, values, "fl_x")
    elif "camera_angle_x" in values:
        fx = width / 2 / math.tan(_number(where, values, "camera_angle_x") / 2)
    else:
        raise ValueError(f"{where}: expected fl_x or camera_angle_x")
    if "fl_y" in values:
        fy = _number(where, values, "fl_y")
    elif "camera_angle_y" in values and "fl_x" not in values:
        fy = height / 2 / math.tan(_number(where, values, "camera_angle_y") / 2)
    else:
        fy = fx
    cx, cy = _number(where, values, "cx", width / 2), _number(where, values, "cy", height / 2)
    if fx <= 0 or fy <= 0:
        raise ValueError(f"{where}: expected focal lengths above zero, got {fx} and {fy}")
    return [[fx, 0.0, cx], [0.0, fy, cy], [0.0, 0.0, 1.0]]


def _lens(where: str, values: Mapping[str, Any]) -> tuple[str, list[float]]:
    """The lens's model, and its coefficients in OpenCV's order."""
    model = values.get("camera_model", "OPENCV")
    if model == "OPENCV_FISHEYE" or values.get("is_fisheye"):
        return "fisheye", [_number(where, values, key, 0.0) for key in ("k1", "k2", "k3", "k4")]
    if model not in ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL"):
        raise ValueError(f"{where}: expected a pinhole or fisheye camera, got camera_model {model!r}")
    if _number(where, values, "k4", 0.0):
        raise ValueError(f"{where}: expected k1, k2, p1, p2, k3 of OpenCV's distortion, got a k4 as well")
    return "opencv", [_number(where, values, key, 0.0) for key in ("k1", "k2", "p1", "p2", "k3")]
