"""What a camera sees of a mesh, by a z-buffer: the target of `fit_mesh`."""

from __future__ import annotations

import torch
from torch import Tensor

from voge.cameras import Cameras


def raster(vertices: Tensor, faces: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Along the ray of every pixel centre, the length to the nearest face, seen from either side.

    A pixel (x, y) lies in a triangle of projected corners p_k = K (R v_k + t) where no entry of b = [p_1 p_2 p_3]^-1
    (x, y, 1) is negative; the depth there is 1 / sum b.

    Args:
        vertices: (V, 3), all in front of the cameras. faces: (F, 3).
        cameras: a batch (B,).

    Returns:
        lengths (B, H, W) in world units, infinite where there is none, and faces (B, H, W) int64, -1 there.
    """
    height, width = cameras.image_size
    projected = torch.einsum("bij,vj->bvi", cameras.K @ cameras.R, vertices) + (cameras.K @ cameras.t[..., None]).mT
    directions = cameras.rays().directions.flatten(1, 2).norm(dim=-1)  # the length of a unit of depth
    lengths = torch.full((len(projected), height * width), float("inf")).to(vertices)
    owners = torch.full((len(projected), height * width), -1, device=vertices.device)
    for view, points in enumerate(projected):
        corners = points[faces]  # (F, 3, 3): corner, entry
        inverse, singular = torch.linalg.inv_ex(corners.mT.double())
        pixels = corners[..., :2] / corners[..., 2:]
        low = (pixels.amin(1) - 0.5).ceil().clamp(min=0).long()
        high = torch.minimum((pixels.amax(1) - 0.5).floor().long() + 1, low.new_tensor([width, height]))
        extent = (high - low).clamp(min=0) * (singular == 0)[:, None]
        count = extent.prod(-1)
        face = torch.repeat_interleave(count)
        step = torch.arange(len(face), device=face.device) - (count.cumsum(0) - count)[face]
        x, y = low[face, 0] + step % extent[face, 0], low[face, 1] + step // extent[face, 0]
        ones = torch.ones_like(x)
        b = torch.einsum("mij,mj->mi", inverse[face], torch.stack([x + 0.5, y + 0.5, ones], -1).double())
        inside = (b >= 0).all(-1)
        pixel, face, depth = (y * width + x)[inside], face[inside], 1 / b[inside].sum(-1)
        found = depth.to(vertices) * directions[view, pixel]
        lengths[view] = lengths[view].scatter_reduce(0, pixel, found, "amin")
        nearest = found == lengths[view, pixel]
        owners[view, pixel[nearest]] = face[nearest]
    return lengths.view(-1, height, width), owners.view(-1, height, width)
