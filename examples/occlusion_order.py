"""Which of two boxes is in front, from one picture; one of them begins on the wrong side: occlusion_order.png."""

import torch

import voge
from voge import pictures

red, blue = voge.Gaussians.cuboid((1.6, 0.8, 1.2), num=1000), voge.Gaussians.cuboid((2.0, 2.0, 0.6), num=800)
shade = [0.6 + 0.4 * (g.means / g.means.amax(0)).abs() for g in (red, blue)]
colors = [shade[0] * torch.tensor([1.0, 0.2, 0.1]), shade[1] * torch.tensor([0.1, 0.3, 1.0])]
camera = voge.Cameras.look_at(eye=(1.7, 0.9, 4.6), focal=90.0, image_size=(120, 120))


def move(box, x, y, z):
    return voge.Gaussians(box.means + torch.tensor([x, y, z]), box.precisions)


def draw(first):
    both = torch.cat([first.means, blue.means]), torch.cat([first.precisions, blue.precisions])
    return voge.render(voge.Gaussians(*both), camera, torch.cat(colors)).features


picture = draw(move(red, 0.5, 0.0, 1.0))
behind = move(red, -0.5, 0.0, -2.0)
result = voge.fit.occlusion([(behind, colors[0]), (blue, colors[1])], picture, camera, steps=120)

found = move(behind, *result.translations[0].tolist())
pictures.write("occlusion_order.png", torch.cat([picture, draw(behind), draw(found)], 1))
names = [("red", "blue")[i] for i in result.order]
print(f"{names[0]} is in front of {names[1]} and hides {result.occludes.max():.0%} of it")
