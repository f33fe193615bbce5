"""The shape of a box from its silhouettes in eight views, beginning with a sphere: fit_shape.png."""

import math

import torch

import voge
from voge import pictures

angles = torch.arange(8) * math.pi / 4
heights = torch.tensor([1.5, -0.5]).repeat(4)
eyes = torch.stack([3 * angles.cos(), heights, 3 * angles.sin()], -1)
cameras = voge.Cameras.look_at(eye=eyes, focal=110.0, image_size=(64, 64))
box = voge.Gaussians.cuboid((1.2, 0.8, 0.6), num=1500)
silhouettes = voge.render(box, cameras, torch.ones(box.num, 1)).alpha.clamp(max=1)

result = voge.fit.shape(silhouettes, cameras, level=2, steps=100)

fitted = voge.render(result.gaussians, cameras, torch.ones(len(result.vertices), 1)).alpha
pictures.write("fit_shape.png", torch.stack([silhouettes, fitted, fitted], -1).movedim(0, 1).flatten(1, 2))
a, b = silhouettes > 0.5, fitted > 0.5
print(f"intersection over union of the silhouettes: {(a & b).sum() / (a | b).sum():.3f}")
