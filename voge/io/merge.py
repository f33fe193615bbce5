"""Several meshes as one, their textures in one image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from voge.io.objects import Mesh

_MOST_TEXELS = 1 << 26
_PAD = 1  # texels around every image, so that reading between texels never leaves it


def merge(meshes: list[Mesh]) -> Mesh:
    """One mesh with the vertices and faces of all, in their order; (V, 3) each, of one dtype and device.

    Textures lie above each other in one image, each as often side by side as it repeats. Where only some have
    texture or colours, the others have white there.
    """
    if len(meshes) == 1:
        return meshes[0]
    first = [0]
    for mesh in meshes:
        first.append(first[-1] + len(mesh.vertices))
    faces = torch.cat([mesh.faces + start for mesh, start in zip(meshes, first, strict=False)])
    colors = face_colors = uv = texture = None
    if any(mesh.colors is not None for mesh in meshes):
        colors = torch.cat([_or_white(mesh.colors, mesh.vertices) for mesh in meshes])
    if any(mesh.face_colors is not None for mesh in meshes):
        face_colors = torch.cat([_or_white(mesh.face_colors, mesh.vertices[mesh.faces[:, 0]]) for mesh in meshes])
    if any(mesh.texture is not None for mesh in meshes):
        uv, texture = _atlas(meshes)
    return type(meshes[0])(torch.cat([mesh.vertices for mesh in meshes]), faces, colors, face_colors, uv, texture)


def texture_repeats(uv: Tensor) -> bool:
    """Whether texture coordinates leave [0, 1]."""
    return bool(((uv < 0) | (uv > 1)).any())


def _or_white(colors: Tensor | None, like: Tensor) -> Tensor:
    return torch.ones_like(like) if colors is None else colors


def _atlas(meshes: list[Mesh]) -> tuple[Tensor, Tensor]:
    """Texture coordinates (V, 2) and an image (H, W, 3)."""
    images: list[Tensor] = []  # padded
    places: list[tuple[int, Tensor]] = []  # of each mesh: its image, and its coordinates in it
    for mesh in meshes:
        uv, image = _padded(mesh)
        same = next((i for i, other in enumerate(images) if torch.equal(other, image)), len(images))
        if same == len(images):
            images.append(image)
        places.append((same, uv))
    height, width = sum(len(image) for image in images), max(image.shape[1] for image in images)
    texture = images[0].new_ones(height, width, 3)
    top = 0
    tops = []
    for image in images:
        texture[top : top + len(image), : image.shape[1]] = image
        tops.append(top)
        top += len(image)
    parts = []
    for index, uv in places:
        size = uv.new_tensor([images[index].shape[1] - 2 * _PAD, len(images[index]) - 2 * _PAD])
        x, y = (_PAD + uv * size).unbind(-1)  # y from the bottom of the image up
        parts.append(torch.stack([x / width, (height - tops[index] - len(images[index]) + y) / height], -1))
    return torch.cat(parts), texture


def _padded(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Coordinates in [0, 1] of an image with as many copies as they go across (one where that is too many), and the
    image padded by what lies around it."""
    if mesh.texture is None or mesh.uv is None:
        return mesh.vertices.new_full((len(mesh.vertices), 2), 0.5), mesh.vertices.new_ones(
            1 + 2 * _PAD, 1 + 2 * _PAD, 3
        )
    uv, image = mesh.uv, mesh.texture
    repeats = texture_repeats(uv)
    if repeats:
        low = uv.amin(0).floor()
        tiles = [max(math.ceil(size), 1) for size in (uv.amax(0) - low).tolist()]
        if tiles[0] * tiles[1] * image.numel() > _MOST_TEXELS:
            uv = uv % 1
        else:
            uv, image = (uv - low) / uv.new_tensor(tiles), image.tile(tiles[1], tiles[0], 1)
    mode = "circular" if repeats else "replicate"
    return uv, torch.nn.functional.pad(image.movedim(-1, 0)[None], [_PAD] * 4, mode=mode)[0].movedim(0, -1)
