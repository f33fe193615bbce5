"""voge.io: meshes of every format with their colours and textures, and the official package's GOFF."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from voge import io
from voge.convert.surfaces import sample_texture
from voge.io import off


@pytest.mark.parametrize("suffix", ["off", "ply", "obj", "stl", "glb"])
def test_meshes_return(tmp_path, suffix):
    mesh = trimesh.creation.icosphere(1)
    colors = torch.rand(42, 3).mul(255).round() / 255
    io.save(tmp_path / f"a.{suffix}", io.Mesh(torch.tensor(mesh.vertices), torch.tensor(mesh.faces), colors.double()))
    back = io.load(tmp_path / f"a.{suffix}")
    assert back.vertices.dtype == torch.float32
    assert os.listdir(tmp_path) == [f"a.{suffix}"]
    if suffix == "stl":  # no order, no colours
        assert back.vertices.shape == (42, 3) and back.faces.shape == (80, 3)
        return
    torch.testing.assert_close(back.vertices, torch.tensor(mesh.vertices).float())
    assert torch.equal(back.faces, torch.tensor(mesh.faces))
    torch.testing.assert_close(back.colors, colors, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "text",
    [
        "OFF\n4 2 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n3 0 1 2\n3 0 2 3\n",
        "OFF 4 1 0\n# a comment\n\n0 0 0\n1 0 0 # here too\n1 1 0\n0 1 0\n4 0 1 2 3\n",
        "OFF\n4 1\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3 255 0 0\n",
    ],
)
def test_off_as_the_format_says(tmp_path, text):
    (tmp_path / "a.off").write_text(text)
    mesh = io.load(tmp_path / "a.off")
    assert mesh.vertices.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    assert mesh.faces.tolist() == [[0, 1, 2], [0, 2, 3]]
    assert mesh.colors is None


@pytest.mark.parametrize(
    ("first", "expected"), [("255 0 51 255", [1, 0, 0.2]), ("1.0 0.0 0.2 1.0", [1, 0, 0.2]), ("1 0 0", [1 / 255, 0, 0])]
)
def test_coff(tmp_path, first, expected):
    rest = " ".join(["0"] * len(first.split()))
    (tmp_path / "a.off").write_text(f"COFF\n3 1 0\n0 0 0 {first}\n1 0 0 {rest}\n0 1 0 {rest}\n3 0 1 2\n")
    torch.testing.assert_close(io.load(tmp_path / "a.off").colors[0], torch.tensor(expected))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("OFF\n99999999999 1 0\n0 0 0\n", "truncated"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 9\n", r"indices in \[0, 3\)"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 -1\n", "indices"),
        ("OFF\n3 1 0\n0 0 0\n1 0 nan\n0 1 0\n3 0 1 2\n", "finite"),
        ("OFF\n3 1 0\n0 0 0\n1 0\n0 1 0\n3 0 1 2\n", "numbers"),
        ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n5 0 1 2\n", "fewer indices"),
        ("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n", "0 faces"),
        ("OFF\n0 0 0\n", "0 vertices"),
        ("OFF\nx y z\n", "no counts"),
        ("COFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "too few"),
        ("NOFF\n3 1 0\n0 0 0\n", "expected OFF"),
    ],
)
def test_wrong_off(tmp_path, text, message):
    (tmp_path / "a.off").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        io.load(tmp_path / "a.off")
    assert "a.off" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 99\n",
        "v 0 0 0\nv 1 0 0\nf 1 2\n",
        "v a b c\nf 1 2 3\n",
        "v 0 0 inf\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        "v 0 0 0\nv 1 0 0\nv 0 1 0\n",
        "mtllib /etc/passwd\n",
    ],
)
def test_wrong_obj(tmp_path, text):
    (tmp_path / "a.obj").write_text(text)
    try:
        loaded = io.load(tmp_path / "a.obj")
    except ValueError as error:
        assert "a.obj" in str(error)
    else:  # vertices alone are points
        assert isinstance(loaded, io.PointCloud) and loaded.points.isfinite().all()


def test_obj_with_texture_and_material(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8)).save(tmp_path / "t.png")
    (tmp_path / "a.mtl").write_text("newmtl m\nmap_Kd t.png\n")
    vertices = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    (tmp_path / "a.obj").write_text("mtllib a.mtl\n" + vertices + "usemtl m\nf 1/1 2/2 3/3\nf 1/1 3/3 4/4\n")
    mesh = io.load(tmp_path / "a.obj")
    torch.testing.assert_close(mesh.texture, torch.tensor([[[1.0, 0, 0], [0, 1, 0]]]))
    torch.testing.assert_close(mesh.uv, mesh.vertices[:, :2])
    (tmp_path / "a.mtl").write_text("newmtl m\nKd 0.2 0.4 0.6\n")
    torch.testing.assert_close(
        io.load(tmp_path / "a.obj").colors, torch.tensor([[0.2, 0.4, 0.6]]).expand(4, 3), rtol=0, atol=3e-3
    )


def test_glb_with_texture_returns(tmp_path):
    plate = io.Mesh(
        torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]),
        torch.tensor([[0, 1, 2]]),
        uv=torch.tensor([[0.0, 0], [1, 0], [0, 1]]),
        texture=torch.rand(4, 5, 3).mul(255).round() / 255,
    )
    io.save(tmp_path / "a.glb", plate)
    back = io.load(tmp_path / "a.glb")
    torch.testing.assert_close(back.uv, plate.uv)
    torch.testing.assert_close(back.texture, plate.texture)
    with pytest.raises(ValueError, match="glb"):
        io.save(tmp_path / "a.ply", plate)


def test_scenes_of_several_parts_keep_their_places_and_colours(tmp_path):
    """Two textured parts, one of which repeats its image, one with a colour and one without: as trimesh colours each
    alone."""
    generator = np.random.default_rng(0)
    scene, alone = trimesh.Scene(), []
    for i, (height, width) in enumerate([(8, 16), (5, 3), (0, 0)]):
        part = trimesh.creation.box((1, 1, 1))
        uv = generator.random((8, 2)) if i == 0 else generator.random((8, 2)) * 5 - 2
        material = trimesh.visual.material.PBRMaterial(baseColorFactor=[51, 102, 255, 255])
        if height:
            image = Image.fromarray(generator.integers(256, size=(height, width, 3), dtype=np.uint8))
            material = trimesh.visual.material.PBRMaterial(baseColorTexture=image, baseColorFactor=[255] * 4)
        part.visual = trimesh.visual.TextureVisuals(uv, material)
        scene.add_geometry(part, transform=trimesh.transformations.translation_matrix([10 * i, 0, 0]))
        alone.append(
            sample_texture(torch.tensor(np.asarray(image) / 255), torch.tensor(uv))
            if height
            else torch.tensor([[0.2, 0.4, 1]]).expand(8, 3)
        )
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb"))
    mesh = io.load(tmp_path / "a.glb")
    assert mesh.vertices.shape == (24, 3) and mesh.faces.shape == (36, 3)
    found = sample_texture(mesh.texture, mesh.uv) * mesh.colors
    for i, expected in enumerate(alone):
        here = (mesh.vertices[:, 0] - 10 * i).abs() < 1
        assert here.sum() == 8
        torch.testing.assert_close(found[here], expected.float(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "content", [{"asset": {"version": "2.0"}, "scenes": [{"nodes": [0]}], "nodes": [{"children": [0]}]}]
)
def test_gltf_that_contains_itself(tmp_path, content):
    (tmp_path / "a.gltf").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.gltf"):
        io.load(tmp_path / "a.gltf")


def test_as_mesh_takes_what_the_peers_have():
    box = trimesh.creation.box((1, 1, 1))
    box.visual.face_colors = np.tile([255, 0, 0, 255], (12, 1))
    mesh = io.as_mesh(box)
    assert mesh.face_colors.tolist() == [[1, 0, 0]] * 12
    assert io.as_mesh((mesh.vertices, mesh.faces)).vertices is mesh.vertices
    assert io.as_mesh(box.vertices.tolist(), box.faces.tolist()).faces.dtype == torch.int64
    cloud = io.as_points(trimesh.PointCloud(box.vertices, colors=np.tile([0, 255, 0, 255], (8, 1))))
    assert cloud.colors.tolist() == [[0, 1, 0]] * 8


@pytest.mark.parametrize(("width", "radians"), [(1, 0), (3, 1), (9, 0)])
def test_goff_as_the_official_package_has_it(tmp_path, width, radians):
    points, sigmas = np.random.default_rng(0).random((2, 3)), 1 + np.arange(2 * width).reshape(2, width)
    if width == 9:
        sigmas = np.array([np.diag([1, 2, 3]), np.diag([4, 5, 6])]).reshape(2, 9)
    rows = [*points, *sigmas, *([[0.5], [0.25]] if radians else [])]
    text = "\n".join(" ".join(f"{value:.16f}" for value in row) for row in rows)
    (tmp_path / "a.goff").write_text(f"GOFF\n2 {width} {radians}\n{text}\n")
    found = off.read_goff(tmp_path / "a.goff")
    np.testing.assert_allclose(found.points, points, rtol=1e-6)
    np.testing.assert_allclose(found.sigmas.reshape(2, -1), sigmas, rtol=1e-6)
    assert (found.radians is not None) == bool(radians)
    gaussians = io.load(tmp_path / "a.goff").gaussians
    expected = {1: [1, 1, 1], 3: [1, 2, 3], 9: [1, 2, 3]}[width]
    torch.testing.assert_close(gaussians.precisions[0], 4 * torch.diag(torch.tensor(expected).float()))
    io.save(tmp_path / "b.goff", gaussians)
    torch.testing.assert_close(io.load(tmp_path / "b.goff").gaussians.precisions, gaussians.precisions)


@pytest.mark.parametrize("counts", ["2 6 0", "2 1 2", "9999999999 1 0", "-1 1 0", "2 1", "2 3 0", ""])
def test_wrong_goff(tmp_path, counts):
    (tmp_path / "a.goff").write_text(f"GOFF\n{counts}\n0 0 0\n1 1 1\n1\n1\n")
    with pytest.raises(ValueError, match=r"a\.goff"):
        io.load(tmp_path / "a.goff")


def test_pascal3d_axes():
    assert off.swap_pascal3d(torch.tensor([[1.0, 2, 3]])).tolist() == [[1, 3, -2]]
