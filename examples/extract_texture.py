"""The colours of a ball from four pictures, seen from a fifth side: extract_texture.png."""

import torch

import voge
from voge import pictures

ball = voge.Gaussians.sphere(2000)
colors = 0.5 + 0.5 * torch.sin(5 * ball.means)
eyes = torch.tensor([[3.0, 1.0, 0.0], [-3.0, 1.0, 0.0], [0.0, -1.0, 3.0], [0.0, 1.0, -3.0]])
cameras = voge.Cameras.look_at(eye=eyes, focal=200.0, image_size=(192, 192))
drawn = voge.render(ball, cameras, colors)
images = drawn.features / drawn.alpha.clamp(min=1e-6)[..., None]

result = voge.fit.texture(ball, images, cameras, refine=30)

side = voge.Cameras.look_at(eye=(2.0, 1.5, 2.0), focal=200.0, image_size=(192, 192))
views = [voge.render(ball, side, c).features for c in (colors, result.features)]
pictures.write("extract_texture.png", torch.cat(views, 1))
error = (views[0] - views[1]).abs().mean()
print(f"{result.visible.float().mean():.0%} of the Gaussians seen, mean error from a new side {error:.4f}")
