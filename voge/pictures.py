"""Pictures in files, and pictures that show a fit: overlays, films."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from voge.cameras import Cameras
from voge.compat import nerf
from voge.fit.pyramid import resize
from voge.gaussians import Gaussians
from voge.io import reading
from voge.io.optional import library
from voge.render import render

POINTS = 3  # of the quadrature: surfaces become nearly opaque, as they are
OUTLINE = (0.1, 1.0, 0.3)  # colour of outlines
FILM_SIZE, FILM_FRAMES, FILM_MILLISECONDS = 360, 40, 80
SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".webp")  # tried where transforms.json names images without one


def read(path: str | Path) -> Tensor:
    """(H, W, 3), or (H, W, 4) where there is an alpha channel, in [0, 1]; turned upright by its EXIF orientation.

    Raises:
        ValueError: missing or broken. ImportError: Pillow is missing.
    """
    image, ops = library("PIL.Image"), library("PIL.ImageOps")
    with reading(path) as file, image.open(file) as opened:
        upright = ops.exif_transpose(opened)
        if upright.mode.startswith(("I", "F")):
            raise ValueError(f"expected 8 bits a channel, got mode {upright.mode}")
        mode = "RGBA" if "A" in upright.getbands() or "transparency" in upright.info else "RGB"
        pixels = np.array(upright.convert(mode))
    return torch.from_numpy(pixels).to(torch.get_default_dtype()) / 255


def check_name(name: str, path: str | Path, channels: int = 3) -> None:
    """ValueError naming the argument `name` unless its suffix is that of a picture with 3 or 4 channels."""
    image, suffix = library("PIL.Image"), Path(path).suffix.lower()
    form = image.registered_extensions().get(suffix)
    if form not in image.SAVE:
        raise ValueError(f"{name}: expected the suffix of a picture, such as .png, got {suffix!r} in {path}")
    if channels == 4 and form == "JPEG":
        raise ValueError(f"{name}: expected a picture that can be transparent, such as .png, got {suffix!r} in {path}")


def write(path: str | Path, picture: Tensor) -> None:
    """Writes (H, W, 3) or (H, W, 4), clipped to [0, 1], in the format of the suffix.

    Raises:
        ValueError: a suffix that names no format, or none with transparency. ImportError: Pillow is missing.
    """
    check_name("path", path, picture.shape[-1])
    _image(picture).save(path)


def write_film(path: str | Path, frames: list[Tensor]) -> None:
    """Writes pictures (H, W, 3) as an animated GIF; the last one stays longer."""
    first, *rest = (_image(frame) for frame in frames)
    times = [FILM_MILLISECONDS] * len(rest) + [15 * FILM_MILLISECONDS]
    first.save(path, save_all=True, append_images=rest, duration=times, loop=0)


@torch.no_grad()
def overlay(photo: Tensor, gaussians: Gaussians, camera: Cameras, features: Tensor) -> Tensor:
    """The rendering (colours (N, 3)) blended over the photo (H, W, 3), with its outline."""
    drawn = render(gaussians, camera, features, points=POINTS)
    share = 0.6 * drawn.alpha.clamp(max=1)[..., None]
    colour = drawn.features / drawn.alpha.clamp(min=1e-6)[..., None]
    width = 2 * round(max(photo.shape[:2]) / 600) + 3
    inside = (drawn.alpha > 0.5).to(photo)[None, None]
    edge = (max_pool2d(inside, width, 1, width // 2) - inside)[0, 0, ..., None]
    return ((1 - share) * photo + share * colour) * (1 - edge) + edge * photo.new_tensor(OUTLINE)


def course(photo: Tensor, gaussians: Gaussians, path: Cameras, features: Tensor) -> list[Tensor]:
    """Overlays on a small photo, along the poses (S,) of a fit."""
    scale = min(1.0, FILM_SIZE / max(photo.shape[:2]))
    size = max(1, round(photo.shape[0] * scale)), max(1, round(photo.shape[1] * scale))
    small, cameras = resize(photo, size), path.resize(size)
    steps = torch.linspace(0, len(cameras) - 1, min(FILM_FRAMES, len(cameras))).round().long()
    return [overlay(small, gaussians, camera, features) for camera in cameras[steps]]


def read_views(folder: Path, longest: int) -> tuple[Tensor, Tensor, Cameras]:
    """Images (V, H, W, 3), masks (V, H, W) and cameras (V,) of a folder with transforms.json, reduced in size.

    Masks are the images' alpha channels, or the pictures masks/NAME.png.

    Raises:
        ValueError: a file missing or broken, an image of another size than its camera's, no mask.
    """
    file = folder / "transforms.json"
    with reading(file):
        names, cameras = nerf.read(file, _unstated_size(folder, json.loads(file.read_text(encoding="utf-8"))))
    height, width = cameras.image_size
    scale = min(1.0, longest / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    images, masks = [], []
    for name in names:
        path = _find(folder, name)
        picture = read(path)
        if picture.shape[-1] == 3:
            mask = folder / "masks" / f"{path.stem}.png"
            if not mask.is_file():
                raise ValueError(f"folder: expected an alpha channel in {path}, or a mask {mask}, got neither")
            picture = torch.cat([picture, _sized(mask, read(mask)[..., :1], (height, width))], -1)
        picture = _sized(path, picture, (height, width))
        small = resize(torch.cat([picture[..., :3] * picture[..., 3:], picture[..., 3:]], -1), size).clamp(0, 1)
        images.append((small[..., :3] / small[..., 3:].clamp(min=1e-6)).clamp(max=1))
        masks.append(small[..., 3])
    return torch.stack(images), torch.stack(masks), cameras.resize(size)


def _unstated_size(folder: Path, content: Any) -> tuple[int, int] | None:
    """The size of the first image where transforms.json states none; its errors are nerf.read's."""
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not frames or not isinstance(frames[0], dict):
        return None
    if "w" in {**content, **frames[0]}:
        return None
    height, width = read(_find(folder, str(frames[0].get("file_path", "")))).shape[:2]
    return height, width


def _find(folder: Path, name: str) -> Path:
    for suffix in SUFFIXES:
        path = folder / f"{name}{suffix}"
        if path.is_file():
            return path
    raise ValueError(f"folder: {folder / name}, named in transforms.json, is not a file")


def _sized(path: Path, picture: Tensor, size: tuple[int, int]) -> Tensor:
    if picture.shape[:2] != size:
        expected = f"{size[1]} x {size[0]} pixels as its camera"
        raise ValueError(f"folder: {path}: expected {expected}, got {picture.shape[1]} x {picture.shape[0]}")
    return picture


def _image(picture: Tensor) -> Any:
    pixels = (picture.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return library("PIL.Image").fromarray(pixels)
