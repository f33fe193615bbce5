"""A mesh as Gaussians, rendered: render_mesh.png."""

import torch

import voge
from voge import pictures
from voge.fit.shape import icosphere

vertices, faces = icosphere(level=3)
vertices = vertices.float() * torch.tensor([1.0, 0.7, 0.5])
gaussians = voge.Gaussians.from_mesh(vertices, faces, percentage=0.6)
camera = voge.Cameras.look_at(eye=(1.5, 1.0, 3.0), focal=300.0, image_size=(256, 320))

rendering = voge.render(gaussians, camera, 0.5 + 0.5 * vertices, background=torch.ones(3))
pictures.write("render_mesh.png", rendering.features)
print(f"{gaussians.num} Gaussians cover {rendering.alpha.mean():.1%} of render_mesh.png")
