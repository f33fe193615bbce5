"""COLMAP models: cameras.txt and images.txt, or cameras.bin and images.bin.

`read` takes pinholes, `read_lens` takes lenses with distortion, too.

COLMAP's axes and pixel coordinates are ours: x right, y down, z forward, pixel centres at +0.5. The format:
https://colmap.github.io/format.html; a camera is (model, width, height, parameters), an image (quaternion wxyz,
translation, camera, name), world to camera.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from voge.cameras import Cameras
from voge.gaussians import quaternions_to_matrices
from voge.lenses import Lens

# The models by their number in binary files, with the number of parameters.
_MODELS = (
    ("SIMPLE_PINHOLE", 3), ("PINHOLE", 4), ("SIMPLE_RADIAL", 4), ("RADIAL", 5), ("OPENCV", 8), ("OPENCV_FISHEYE", 8),
    ("FULL_OPENCV", 12), ("FOV", 5), ("SIMPLE_RADIAL_FISHEYE", 4), ("RADIAL_FISHEYE", 5), ("THIN_PRISM_FISHEYE", 12),
    ("RAD_TAN_THIN_PRISM_FISHEYE", 16), ("SIMPLE_DIVISION", 4), ("DIVISION", 5), ("SIMPLE_FISHEYE", 3),
    ("FISHEYE", 4), ("EUCM", 6), ("EQUIRECTANGULAR", 2),
)  # fmt: skip

# Those that are lenses of ours: its model, and the names of their parameters.
_LENSES = {
    "SIMPLE_PINHOLE": ("opencv", "f cx cy"),
    "PINHOLE": ("opencv", "fx fy cx cy"),
    "SIMPLE_RADIAL": ("opencv", "f cx cy k1"),
    "RADIAL": ("opencv", "f cx cy k1 k2"),
    "OPENCV": ("opencv", "fx fy cx cy k1 k2 p1 p2"),
    "FULL_OPENCV": ("opencv", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
    "SIMPLE_FISHEYE": ("fisheye", "f cx cy"),
    "FISHEYE": ("fisheye", "fx fy cx cy"),
    "SIMPLE_RADIAL_FISHEYE": ("fisheye", "f cx cy k1"),
    "RADIAL_FISHEYE": ("fisheye", "f cx cy k1 k2"),
    "OPENCV_FISHEYE": ("fisheye", "fx fy cx cy k1 k2 k3 k4"),
}
_COEFFICIENTS = {"opencv": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"), "fisheye": ("k1", "k2", "k3", "k4")}


class _Camera(NamedTuple):
    model: str
    width: int
    height: int
    parameters: tuple[float, ...]


class _Image(NamedTuple):
    pose: tuple[float, ...]  # quaternion wxyz, translation
    camera: int


def read(path: str | os.PathLike[str], images: Sequence[str] | None = None) -> tuple[list[str], Cameras]:
    """The names of a model's images and their cameras, in torch's default dtype.

    Args:
        path: the model's folder. Binary files count before text files.
        images: names to pick, in this order; None: all, sorted by name.

    Raises:
        ValueError: files missing, broken or truncated; a camera model with distortion (see `read_lens`); several image
            sizes (pick images of one size); an image that is not in the model.
    """
    names, cameras, _ = _read(path, images, pinholes=True)
    return names, cameras


def read_lens(path: str | os.PathLike[str], images: Sequence[str] | None = None) -> tuple[list[str], Cameras, Lens]:
    """The names of a model's images, their cameras without distortion, and their lenses, in torch's default dtype.

    `lens.rays(cameras)` are the rays of all images. To take some, index both: `cameras[i]`, `lens.coefficients[i]`.

    Args:
        path, images: as `read`.

    Returns:
        names, cameras of batch shape (N,), and a lens with coefficients (N, 8) of model "opencv" (SIMPLE_PINHOLE,
        PINHOLE, SIMPLE_RADIAL, RADIAL, OPENCV, FULL_OPENCV) or (N, 4) of model "fisheye" (OPENCV_FISHEYE,
        SIMPLE_RADIAL_FISHEYE, RADIAL_FISHEYE, SIMPLE_FISHEYE, FISHEYE).

    Raises:
        ValueError: as `read`; another camera model; images of both models.
    """
    return _read(path, images, pinholes=False)


def _read(
    path: str | os.PathLike[str], images: Sequence[str] | None, pinholes: bool
) -> tuple[list[str], Cameras, Lens]:
    folder = Path(path)
    if (folder / "cameras.bin").is_file() and (folder / "images.bin").is_file():
        cameras, poses = _read_cameras_bin(folder / "cameras.bin"), _read_images_bin(folder / "images.bin")
    elif (folder / "cameras.txt").is_file() and (folder / "images.txt").is_file():
        cameras, poses = _read_cameras_txt(folder / "cameras.txt"), _read_images_txt(folder / "images.txt")
    else:
        raise ValueError(f"path: expected cameras.bin and images.bin, or cameras.txt and images.txt, in {folder}")

    names = sorted(poses) if images is None else list(images)
    missing = [name for name in names if name not in poses]
    if missing:
        raise ValueError(f"images: {missing[0]!r} is not among the {len(poses)} images of {folder}")
    if not names:
        raise ValueError(f"images: expected at least one image, the model in {folder} has {len(poses)}")
    calibrations = {}
    for name in names:
        number = poses[name].camera
        if number not in cameras:
            raise ValueError(f"{folder}: image {name!r} has camera {number}, which is not in the file of cameras")
        calibrations[number] = _calibration(cameras[number], number, folder, pinholes)
    sizes = {(cameras[number].height, cameras[number].width) for number in calibrations}
    if len(sizes) > 1:
        raise ValueError(f"images: expected one image size, got (H, W) = {sorted(sizes)}; pick images of one size")
    models = {model for model, _, _ in calibrations.values()}
    if len(models) > 1:
        raise ValueError("images: expected one kind of lens, got fisheyes and others; pick images of one kind")

    pose = torch.tensor([poses[name].pose for name in names], dtype=torch.float64)
    bad = ~(pose[:, :4].norm(dim=-1) > 0)
    if bad.any():
        raise ValueError(f"{folder}: image {names[int(bad.nonzero()[0])]!r} has no rotation, its quaternion is zero")
    dtype = torch.get_default_dtype()
    _, K, coefficients = zip(*(calibrations[poses[name].camera] for name in names), strict=True)
    R, t = quaternions_to_matrices(pose[:, :4]), pose[:, 4:]
    lens = Lens(models.pop(), torch.tensor(coefficients, dtype=dtype))
    return names, Cameras(R.to(dtype), t.to(dtype), torch.tensor(K, dtype=dtype), sizes.pop()), lens


def _calibration(
    camera: _Camera, number: int, folder: Path, pinholes: bool
) -> tuple[str, list[list[float]], list[float]]:
    """The lens's model, K, and the coefficients."""
    if pinholes and camera.model not in ("PINHOLE", "SIMPLE_PINHOLE"):
        raise ValueError(
            f"{folder}: camera {number} is of model {camera.model}, expected PINHOLE or SIMPLE_PINHOLE; undistort the "
            "images first (colmap image_undistorter), or take its lens along (voge.compat.colmap.read_lens)"
        )
    if camera.model not in _LENSES:
        raise ValueError(f"{folder}: camera {number} is of model {camera.model}, expected one of {', '.join(_LENSES)}")
    model, names = _LENSES[camera.model]
    value = dict(zip(names.split(), camera.parameters, strict=True))
    fx, fy = (value.get("f", value.get(name, 0.0)) for name in ("fx", "fy"))
    coefficients = [value.get(name, 0.0) for name in _COEFFICIENTS[model]]
    return model, [[fx, 0.0, value["cx"]], [0.0, fy, value["cy"]], [0.0, 0.0, 1.0]], coefficients


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without comments; blank ones are kept, an image without points has one."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not a text file ({error.reason} at byte {error.start})") from None
    return ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1) if not line.startswith("#"))


def _read_cameras_txt(file: Path) -> dict[int, _Camera]:
    cameras = {}
    for i, line in _lines(file):
        if not line:
            continue
        try:
            number, model, width, height, *parameters = line.split()
            camera = _Camera(model, int(width), int(height), tuple(map(float, parameters)))
            cameras[int(number)] = camera
        except ValueError as error:
            expected = "CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS"
            raise ValueError(f"{file}, line {i}: expected {expected}, got {line[:80]!r}") from error
        if model not in dict(_MODELS):
            raise ValueError(f"{file}, line {i}: unknown camera model {model!r}")
        if len(parameters) != dict(_MODELS)[model]:
            wanted = dict(_MODELS)[model]
            raise ValueError(f"{file}, line {i}: {model} has {wanted} parameters, got {len(parameters)}")
    return cameras


def _read_images_txt(file: Path) -> dict[str, _Image]:
    images = {}
    lines = _lines(file)
    for i, line in lines:
        if not line:
            continue
        try:
            _, *pose, camera, name = line.split(maxsplit=9)
            if len(pose) != 7:
                raise ValueError("too few values")
            images[name] = _Image(tuple(map(float, pose)), int(camera))
        except ValueError as error:
            expected = "IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME"
            raise ValueError(f"{file}, line {i}: expected {expected}, got {line[:80]!r}") from error
        next(lines, None)  # the image's points, perhaps none
    return images


class _Binary:
    """A little-endian binary file; reading past its end is a ValueError that names it."""

    def __init__(self, file: Path) -> None:
        self.file, self.data, self.position = file, file.read_bytes(), 0

    def skip(self, size: int) -> int:
        """Steps over `size` bytes and returns where they begin."""
        start = self.position
        if size > len(self.data) - start:
            raise ValueError(
                f"{self.file}: truncated, expected {size} more bytes after byte {start} of {len(self.data)}"
            )
        self.position += size
        return start

    def take(self, layout: str) -> tuple:
        return struct.unpack_from("<" + layout, self.data, self.skip(struct.calcsize("<" + layout)))

    def name(self) -> str:
        end = self.data.find(b"\0", self.position)
        if end < 0:
            raise ValueError(f"{self.file}: truncated, a name that begins at byte {self.position} does not end")
        start = self.skip(end + 1 - self.position)
        try:
            return self.data[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"{self.file}: the name at byte {start} is not UTF-8") from error

    def end(self) -> None:
        if self.position != len(self.data):
            raise ValueError(f"{self.file}: expected to end at byte {self.position}, it has {len(self.data)}")


def _read_cameras_bin(file: Path) -> dict[int, _Camera]:
    binary, cameras = _Binary(file), {}
    for _ in range(binary.take("Q")[0]):
        number, model, width, height = binary.take("IiQQ")
        if not 0 <= model < len(_MODELS):
            raise ValueError(f"{file}: camera {number} is of unknown model {model}")
        name, count = _MODELS[model]
        cameras[number] = _Camera(name, width, height, binary.take(f"{count}d"))
    binary.end()
    return cameras


def _read_images_bin(file: Path) -> dict[str, _Image]:
    binary, images = _Binary(file), {}
    for _ in range(binary.take("Q")[0]):
        _, *pose, camera = binary.take("I7dI")
        images[binary.name()] = _Image(tuple(pose), camera)
        binary.skip(24 * binary.take("Q")[0])  # points: x, y, number of the 3D point
    binary.end()
    return images
