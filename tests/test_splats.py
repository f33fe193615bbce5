"""3DGS scenes: what a file holds is what is rendered, and what is saved is what others read."""

from __future__ import annotations

import math
import struct

import numpy as np
import plyfile
import pytest
import torch

import voge
from voge import cli, harmonics, io, pictures
from voge.gaussians import quaternions_to_matrices

SH_0 = 0.28209479177387814  # as published


def some_scene(num: int, degree: int, seed: int = 0) -> io.Scene:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(num, *shape, generator=random)

    scales = 0.3 * torch.exp(0.5 * normal(3))
    density = -torch.log1p(-torch.rand(num, generator=random).clamp(0.02, 0.98))
    gaussians = voge.Gaussians.from_scales_rotations(normal(3), scales, normal(4), density)
    return io.Scene(gaussians, 0.5 + 0.2 * normal(3), 0.2 * normal((degree + 1) ** 2 - 1, 3))


def write_by_hand(path, rows: dict[str, list[float]]) -> None:
    """A binary PLY, byte by byte."""
    num = len(next(iter(rows.values())))
    head = ["ply", "format binary_little_endian 1.0", f"element vertex {num}"]
    head += [f"property float {name}" for name in rows] + ["end_header", ""]
    body = b"".join(struct.pack("<f", column[i]) for i in range(num) for column in rows.values())
    path.write_bytes("\n".join(head).encode() + body)


def lone(opacity: float, **rest: float) -> dict[str, list[float]]:
    """A Gaussian at (0, 0, 2), five times as long as it is wide."""
    rows = {"x": 0.0, "y": 0.0, "z": 2.0, "nx": 0.0, "ny": 0.0, "nz": 0.0, "f_dc_0": 0.4, "f_dc_1": -0.6, "f_dc_2": 1.0}
    rows |= rest | {"opacity": math.log(opacity / (1 - opacity))}
    rows |= {"scale_0": math.log(0.5), "scale_1": math.log(0.1), "scale_2": math.log(0.1)}
    rows |= {"rot_0": 2.0, "rot_1": 0.0, "rot_2": 0.0, "rot_3": 2.0}  # a quarter turn about z
    return {name: [value] for name, value in rows.items()}


@pytest.mark.parametrize("opacity", [0.02, 0.5, 0.99])
def test_a_lone_gaussian_has_its_opacity_in_the_middle(tmp_path, opacity):
    """And off the middle what a density of that opacity leaves; it is long along y, where the turn put its length."""
    write_by_hand(tmp_path / "a.ply", lone(opacity))
    gaussians = voge.Gaussians.load(tmp_path / "a.ply")
    d = torch.tensor([[0.0, 0.0, 1.0], [0.0, 1.0, 2.0], [0.1, 0.0, 2.0]])
    f = voge.trace(gaussians, voge.Rays(torch.zeros(3), d), max_hits=1, quadrature="segments", points=2)
    assert f.alpha()[0].item() == pytest.approx(opacity, rel=1e-5)
    # The largest density on a ray through (0, y, 2) or (x, 0, 2), found by search.
    t = torch.linspace(0, 2, 20001).double()[:, None, None] * d.double()
    v = t - torch.tensor([0.0, 0.0, 2.0]).double()
    q = -0.5 * ((v / torch.tensor([0.1, 0.5, 0.1]).double()) ** 2).sum(-1)
    share = q.max(0).values.exp()
    torch.testing.assert_close(f.alpha().double(), 1 - (1 - opacity) ** share, rtol=1e-4, atol=1e-6)


def test_harmonics_of_a_file_are_channel_after_channel(tmp_path):
    """f_rest_1 is red's second coefficient above degree 0: z. f_rest_(15 + 1) is green's."""
    rest = {f"f_rest_{i}": 0.0 for i in range(45)} | {"f_rest_1": 0.3, "f_rest_16": -0.2, "f_rest_44": 0.5}
    write_by_hand(tmp_path / "a.ply", lone(0.5, **rest))
    scene = io.load(tmp_path / "a.ply")
    assert scene.sh.shape == (1, 15, 3)
    y_1 = math.sqrt(3 / (4 * math.pi))
    base = torch.tensor([0.5 + 0.4 * SH_0, 0.5 - 0.6 * SH_0, 0.5 + SH_0])
    for center, sign in ((torch.zeros(3), 1), (torch.tensor([0.0, 0.0, 4.0]), -1)):  # seen along +z and -z
        color = base + sign * y_1 * torch.tensor([0.3, -0.2, 0.0])  # f_rest_44 is x (xx - 3 yy): 0 here
        torch.testing.assert_close(scene.colors(center), color[None], rtol=1e-6, atol=1e-6)
    away = scene.colors(torch.tensor([-5.0, 0.0, 2.0]))  # along +x
    assert away[0, 2].item() == pytest.approx(0.5 + SH_0 - 0.5900435899266435 * 0.5, abs=1e-6)


@pytest.mark.parametrize("degree", range(4))
def test_scenes_return(tmp_path, degree):
    scene = some_scene(40, degree)
    io.save(tmp_path / "a.ply", scene)
    back = io.load(tmp_path / "a.ply")
    torch.testing.assert_close(back.gaussians.means, scene.gaussians.means, rtol=0, atol=0)
    largest = scene.gaussians.precisions.abs().amax((-2, -1), keepdim=True)
    error = (back.gaussians.precisions - scene.gaussians.precisions) / largest
    assert error.abs().max() < 1e-5
    torch.testing.assert_close(back.gaussians.density, scene.gaussians.density, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(back.features, scene.features, rtol=0, atol=1e-6)
    torch.testing.assert_close(back.sh, scene.sh, rtol=0, atol=0)
    center = torch.tensor([0.0, 3.0, -8.0])
    torch.testing.assert_close(back.colors(center), scene.colors(center), rtol=0, atol=1e-5)
    io.save(tmp_path / "b.ply", back)
    again = io.load(tmp_path / "b.ply")
    torch.testing.assert_close(again.gaussians.precisions, back.gaussians.precisions, rtol=1e-4, atol=1e-4)


def test_what_is_saved_is_what_the_format_says(tmp_path):
    """Names, their order, and values: logits, logarithms, unit quaternions w first, red before green before blue."""
    scene = some_scene(30, 2, seed=1)
    io.save(tmp_path / "a.ply", scene)
    rows = plyfile.PlyData.read(tmp_path / "a.ply")["vertex"].data
    names = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *(f"f_rest_{i}" for i in range(24))]
    names += ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert list(rows.dtype.names) == names
    assert all(rows.dtype[name] == np.dtype("<f4") for name in names)

    def table(*columns: str) -> torch.Tensor:
        return torch.stack([torch.from_numpy(rows[name].astype("f8")) for name in columns], -1)

    opacity = torch.sigmoid(table("opacity")[:, 0])
    torch.testing.assert_close(opacity, 1 - torch.exp(-scene.gaussians.density.double()), rtol=1e-5, atol=1e-6)
    quaternions = table(*(f"rot_{i}" for i in range(4)))
    torch.testing.assert_close(quaternions.norm(dim=-1), torch.ones(30).double(), rtol=0, atol=1e-6)
    turn = quaternions_to_matrices(quaternions)
    variances = torch.exp(2 * table(*(f"scale_{i}" for i in range(3))))
    covariances = turn @ torch.diag_embed(variances) @ turn.mT
    identity = torch.eye(3).double().expand(30, 3, 3)
    torch.testing.assert_close(scene.gaussians.precisions.double() @ covariances, identity, rtol=0, atol=1e-3)
    colors = table("f_dc_0", "f_dc_1", "f_dc_2")
    torch.testing.assert_close(0.5 + SH_0 * colors, scene.features.double(), rtol=0, atol=1e-6)
    for channel in range(3):
        rest = table(*(f"f_rest_{8 * channel + i}" for i in range(8)))
        torch.testing.assert_close(rest, scene.sh[..., channel].double(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ({f"f_rest_{i}": 0.0 for i in range(10)}, "10 properties f_rest_"),
        ({f"f_rest_{i}": 0.0 for i in range(12)}, "f_rest_: expected"),
        ({f"f_rest_{i}": 0.0 for i in (*range(8), 9)}, "expected f_rest_0 to f_rest_8"),
        ({f"f_rest_{i}": math.nan for i in range(9)}, "spherical harmonics that are not finite"),
    ],
)
def test_broken_harmonics(tmp_path, rest, message):
    write_by_hand(tmp_path / "a.ply", lone(0.5, **rest))
    with pytest.raises(ValueError, match=message):
        io.load(tmp_path / "a.ply")


def test_harmonics_that_no_file_holds(tmp_path):
    scene = some_scene(4, 1)
    for sh, message in ((torch.zeros(4, 4, 3), "sh"), (torch.zeros(3, 3, 3), "sh"), (torch.zeros(4, 3, 2), "sh")):
        with pytest.raises(ValueError, match=message):
            io.save(tmp_path / "a.ply", scene._replace(sh=sh))
    assert not list(tmp_path.iterdir())


def test_colors_of_a_scene():
    scene = some_scene(6, 1)
    centers = torch.tensor([[0.0, 0.0, 5.0], [4.0, 0.0, 0.0]])
    zero = (scene.features - 0.5) / SH_0
    expected = harmonics.colors(torch.cat([zero[:, None], scene.sh], 1), scene.gaussians.means, centers)
    torch.testing.assert_close(scene.colors(centers), expected, rtol=0, atol=1e-6)
    assert not torch.equal(expected[0], expected[1])
    plain = scene._replace(sh=None)
    assert plain.colors(centers) is plain.features
    with pytest.raises(ValueError, match="features"):
        io.Scene(scene.gaussians).colors(centers)
    with pytest.raises(ValueError, match="sh"):
        scene._replace(sh=scene.sh[:3]).colors(centers)


def test_a_scene_can_be_fitted():
    """Gradients reach means, shapes, densities and all the harmonics through a picture."""
    scene = some_scene(20, 3)
    g, features, sh = scene
    leaves = [x.clone().requires_grad_() for x in (g.means, g.precisions, g.density, features, sh)]
    camera = voge.Cameras.look_at(eye=(0.0, 1.0, 6.0), focal=30.0, image_size=(16, 16))
    moved = io.Scene(voge.Gaussians(*leaves[:3]), *leaves[3:])
    voge.render(moved.gaussians, camera, moved.colors(camera.centers())).features.square().sum().backward()
    assert all(x.grad.isfinite().all() and x.grad.abs().max() > 0 for x in leaves)


def test_the_command_draws_what_a_camera_sees(tmp_path, capsys):
    """Colours by the view; y down with --up; a few Gaussians far away don't shrink the picture."""
    scene = some_scene(200, 1)
    far = scene.gaussians.means.clone()
    far[:2] = 1e4
    scene = scene._replace(gaussians=voge.Gaussians(far, 4 * scene.gaussians.precisions, scene.gaussians.density))
    io.save(tmp_path / "a.ply", scene)
    size = ["--size", "40x40", "--background", "black"]
    assert cli.main(["render", str(tmp_path / "a.ply"), str(tmp_path / "a.png"), *size, "--up", "0,-1,0"]) == 0
    drawn = pictures.read(tmp_path / "a.png")
    assert (drawn.amax(-1) > 0.2).float().mean() > 0.1
    args = cli.parser().parse_args(["render", "a.ply", "a.png", "--size", "40x40", "--up", "0,-1,0"])
    camera = cli.framing(scene, args)
    assert camera.R[1, 1] > 0  # the picture's y points down, so does the world's
    loaded = io.load(tmp_path / "a.ply")
    colors = loaded.colors(camera.centers())
    expected = voge.render(loaded.gaussians, camera, colors, quadrature="segments").features
    assert (drawn - expected.clamp(0, 1)).abs().max() < 0.02
    assert (colors - loaded.features).abs().max() > 0.1

    for out in ("b.npz", "c.ply"):  # converting keeps the harmonics
        assert cli.main(["convert", str(tmp_path / "a.ply"), str(tmp_path / out)]) == 0
        torch.testing.assert_close(io.load(tmp_path / out).sh, scene.sh, rtol=0, atol=1e-6)
    capsys.readouterr()


@pytest.mark.parametrize("up", [(0.0, 1.0, 0.0), (0.0, -1.0, 0.0), (0.0, 0.0, 2.0), (1.0, 0.3, 0.0)])
def test_orbits_about_any_axis(up):
    axis = torch.tensor(up) / torch.tensor(up).norm()
    centers = [cli.orbit(torch.zeros(3), a, 30.0, 2.0, 50.0, (8, 8), up).centers() for a in (0.0, 90.0, 180.0)]
    for center in centers:
        assert (center @ axis).item() == pytest.approx(2 * math.sin(math.radians(30)), abs=1e-5)
    across = [center - (center @ axis) * axis for center in centers]
    torch.testing.assert_close(across[0], -across[2], rtol=0, atol=1e-5)
    turned = torch.linalg.cross(across[0], across[1]) @ axis  # counter-clockwise about the axis
    assert turned.item() == pytest.approx(3.0, abs=1e-4)
