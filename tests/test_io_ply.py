"""voge.io: PLY files, point clouds and 3DGS scenes, as their formats say."""

from __future__ import annotations

import numpy as np
import plyfile
import pytest
import torch

from tests.scenes import some_gaussians
from voge import io
from voge.gaussians import quaternions_to_matrices


def test_splats_as_another_writer_has_them(tmp_path):
    """A file written field by field as the format says, read as the Gaussians it means."""
    _, scales, quaternions = some_gaussians()
    opacities, colors = torch.linspace(0.05, 0.95, 7), torch.rand(7, 3)
    columns = {
        **dict(zip("xyz", torch.randn(3, 7), strict=True)),
        **{f"n{axis}": torch.zeros(7) for axis in "xyz"},
        **{f"f_dc_{i}": (colors[:, i] - 0.5) / 0.28209479177387814 for i in range(3)},
        **{f"f_rest_{i}": torch.full((7,), float(i)) for i in range(9)},
        "opacity": torch.logit(opacities),
        **{f"scale_{i}": scales[:, i].log() for i in range(3)},
        **{f"rot_{i}": 3 * quaternions[:, i] for i in range(4)},  # of any length
    }
    rows = np.rec.fromarrays([value.numpy() for value in columns.values()], names=list(columns))
    plyfile.PlyData([plyfile.PlyElement.describe(np.asarray(rows), "vertex")]).write(tmp_path / "a.ply")
    scene = io.load(tmp_path / "a.ply")
    rotations = quaternions_to_matrices(quaternions.double())
    covariances = rotations @ torch.diag_embed(scales.double() ** 2) @ rotations.mT
    torch.testing.assert_close(
        scene.gaussians.precisions.double() @ covariances, torch.eye(3).double().expand(7, 3, 3), rtol=0, atol=1e-4
    )
    torch.testing.assert_close(scene.gaussians.means, torch.stack([columns[axis] for axis in "xyz"], -1))
    torch.testing.assert_close(1 - torch.exp(-scene.gaussians.density), opacities)  # peak alpha
    torch.testing.assert_close(scene.features, colors)
    assert scene.sh.shape == (7, 3, 3)
    assert scene.sh[0].tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]  # red has 0, 1, 2


def test_splats_return(tmp_path):
    gaussians = some_gaussians(50)[0]
    scene = io.Scene(gaussians, torch.rand(50, 3) * 2 - 0.5, torch.randn(50, 8, 3))
    io.save(tmp_path / "a.ply", scene)
    back = io.load(tmp_path / "a.ply")
    torch.testing.assert_close(
        back.gaussians.precisions, gaussians.precisions, rtol=1e-5, atol=1e-5 * float(gaussians.precisions.max())
    )
    torch.testing.assert_close(back.gaussians.density, gaussians.density)
    torch.testing.assert_close(back.features, scene.features)
    torch.testing.assert_close(back.sh, scene.sh)


def test_extreme_splats_stay_positive_definite(tmp_path):
    """Real captures have axes of exp(-19) beside exp(-1), and opacities of 0 and 1 to rounding."""
    names = [
        "x",
        "y",
        "z",
        "f_dc_0",
        "f_dc_1",
        "f_dc_2",
        "opacity",
        "scale_0",
        "scale_1",
        "scale_2",
        "rot_0",
        "rot_1",
        "rot_2",
        "rot_3",
    ]
    table = np.zeros(3, [(name, "f4") for name in names])
    table["scale_0"], table["scale_1"], table["scale_2"] = -19.4, [-1, -19, -5], -0.9
    table["opacity"] = [-120, 0, 120]
    table["rot_0"], table["rot_1"], table["rot_2"] = 0.3, 0.8, [1e-20, 0.1, -4]
    plyfile.PlyData([plyfile.PlyElement.describe(table, "vertex")]).write(tmp_path / "a.ply")
    gaussians = io.load(tmp_path / "a.ply").gaussians.check()
    torch.linalg.cholesky(gaussians.precisions)  # in float32
    assert gaussians.density[2] == 120
    io.save(tmp_path / "b.ply", gaussians)
    torch.testing.assert_close(io.load(tmp_path / "b.ply").gaussians.density, gaussians.density)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("rot_0", 0, "quaternion"), ("scale_1", np.inf, "scales"), ("x", np.nan, "positions")],
)
def test_wrong_splats(tmp_path, name, value, message):
    io.save(tmp_path / "a.ply", some_gaussians()[0])
    data = plyfile.PlyData.read(tmp_path / "a.ply", mmap=False)
    if name == "rot_0":
        for i in range(4):
            data["vertex"].data[f"rot_{i}"][2] = value
    data["vertex"].data[name][2] = value
    data.write(tmp_path / "b.ply")
    with pytest.raises(ValueError, match=message):
        io.load(tmp_path / "b.ply")


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_coloured_points(tmp_path, form):
    table = np.zeros(
        4,
        [
            ("x", "f4"),
            ("y", "f8"),
            ("z", "f4"),
            ("red", "u1"),
            ("green", "u1"),
            ("blue", "u1"),
            ("nx", "f4"),
            ("ny", "f4"),
            ("nz", "f4"),
        ],
    )
    table["x"], table["y"], table["z"], table["red"], table["nz"] = [1, 2, 3, 4], 5, [6, 7, 8, 9], [0, 51, 255, 102], 1
    element = plyfile.PlyElement.describe(table, "vertex")
    plyfile.PlyData([element], text=form == "ascii", byte_order=">" if "big" in form else "<").write(tmp_path / "a.ply")
    cloud = io.load(tmp_path / "a.ply")
    assert isinstance(cloud, io.PointCloud)
    assert cloud.points.tolist() == [[1, 5, 6], [2, 5, 7], [3, 5, 8], [4, 5, 9]]
    torch.testing.assert_close(cloud.colors[:, 0], torch.tensor([0, 0.2, 1, 0.4]))
    assert cloud.normals.tolist() == [[0, 0, 1]] * 4
    io.save(tmp_path / "b.ply", cloud)
    for one, other in zip(io.load(tmp_path / "b.ply"), cloud, strict=True):
        torch.testing.assert_close(one, other)


HEADER = """ply
format {form} 1.0
element vertex {count}
property float x
property float y
property float z
{more}end_header
"""


@pytest.mark.parametrize("form", ["ascii", "binary_little_endian", "binary_big_endian"])
@pytest.mark.parametrize("count", [10**15, 2**31, -5, "1e9", "many"])
def test_header_that_announces_too_much(tmp_path, form, count):
    path = tmp_path / "a.ply"
    path.write_bytes(HEADER.format(form=form, count=count, more="").encode() + bytes(120))
    with pytest.raises(ValueError, match=r"a\.ply"):
        io.load(path)


@pytest.mark.parametrize(
    ("form", "more", "message"),
    [
        ("binary_middle_endian", "", "format"),
        ("ascii", "property list uchar int names\n", "truncated"),
        ("ascii", "property quaternion q\n", "line in its PLY header"),
        ("ascii", "element face 99999999999\nproperty list uchar int vertex_indices\n", "truncated"),
        ("binary_little_endian", "element face 3\nproperty list uint int vertex_indices\n", "a.ply"),
    ],
)
def test_wrong_headers(tmp_path, form, more, message):
    path = tmp_path / "a.ply"
    path.write_bytes(
        HEADER.format(form=form, count=1, more=more).encode() + (b"0 0 0\n" if form == "ascii" else b"\xff" * 60)
    )
    with pytest.raises(ValueError, match=message):
        io.load(path)


def test_ply_without_vertices(tmp_path):
    (tmp_path / "a.ply").write_bytes(b"ply\nformat ascii 1.0\nelement edge 0\nend_header\n")
    with pytest.raises(ValueError, match="no element 'vertex'"):
        io.load(tmp_path / "a.ply")
