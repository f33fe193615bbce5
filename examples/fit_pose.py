"""The pose of a box with coloured faces, from one picture and a start that is 40 degrees wrong: fit_pose.png."""

import math

import torch

import voge
from voge import pictures
from voge.fit.rigid import exp_so3, rotation_angle

gaussians, faces = voge.convert.cuboid((1.2, 0.8, 0.6), num=600)
colors = torch.tensor([[1, 0.2, 0.1], [0.1, 0.8, 0.2], [0.1, 0.3, 1], [1, 0.9, 0.1], [0.8, 0.2, 0.9], [0.1, 0.9, 0.9]])[
    faces
]
truth = voge.Cameras.look_at(eye=(2.0, 1.5, 3.5), focal=220.0, image_size=(120, 160))
picture = voge.render(gaussians, truth, colors, background=torch.full((3,), 0.5)).features

wrong = exp_so3(torch.tensor([0.4, -0.5, 0.3])) @ truth.R
start = voge.Cameras(wrong, truth.t * 1.1, truth.K, truth.image_size)
result = voge.fit.pose(gaussians, picture, start, colors, starts=8, spread=math.radians(60))

pictures.write("fit_pose.png", pictures.overlay(picture, gaussians, result.cameras, colors))
degrees = (math.degrees(rotation_angle(R, truth.R)) for R in (wrong, result.R))
print("rotation wrong by {:.1f} degrees at the start, {:.2f} after the fit".format(*degrees))
