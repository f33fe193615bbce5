"""Draws docs/img/pose.png, the README's picture: python tools/readme_picture.py (a minute; needs voge[io,fit])."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as imageio
import torch

import voge

SIZE = (192, 256)
STEPS = 6

gaussians = voge.Gaussians.cuboid((1.0, 0.7, 0.5), num=2000)
stripes = (torch.sin(14 * gaussians.means).prod(-1, keepdim=True) > 0).float()
colors = (gaussians.means + 0.55) * (0.55 + 0.45 * stripes)


def looking_from(*eye: float) -> voge.Cameras:
    return voge.Cameras.look_at(eye=eye, focal=320.0, image_size=SIZE)


def picture(cameras: voge.Cameras) -> torch.Tensor:
    rendered = voge.render(gaussians, cameras, colors, background=torch.ones(3))
    return rendered.features.clamp(0, 1)


truth, start = looking_from(1.2, 0.9, -2.0), looking_from(2.2, -0.4, -1.2)
target = picture(truth)
found = voge.fit.pose(gaussians, voge.render(gaussians, truth, colors).features, start, features=colors)

# Poses whose pictures come nearer to the target by equal shares, from the start to the last.
path = found.path
errors = torch.stack([(picture(camera) - target).square().mean().sqrt() for camera in path])
levels = torch.linspace(float(errors[0]), float(errors[-1]), STEPS)
shown = [picture(start)] + [picture(path[int((errors - level).abs().argmin())]) for level in levels[1:]]

# Upper row: the rendered pose. Lower row: how far its pixels are from the picture's.
lower = [1 - (image - target).abs() for image in shown]
rows = [torch.cat([*row, last], 1) for row, last in ((shown, target), (lower, torch.ones_like(target)))]
sheet = (torch.cat(rows, 0) * 255).round().to(torch.uint8)
output = Path(__file__).parents[1] / "docs" / "img" / "pose.png"
output.parent.mkdir(parents=True, exist_ok=True)
with voge.io.atomic_path(output) as temporary:
    imageio.imwrite(temporary, sheet.numpy(), extension=".png")
