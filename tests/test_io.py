"""voge.io: what was written comes back, files of others are read as their formats say, broken and hostile files are
refused."""

import io as bytes_io
import os
import struct
import zipfile

import numpy as np
import plyfile
import pytest
import safetensors.torch
import torch
import trimesh
from PIL import Image

from voge import io
from voge.convert.surfaces import sample_texture
from voge.gaussians import Gaussians, quaternions_to_matrices
from voge.io import off


def some_gaussians(num=7, density=True, dtype=torch.float32, batch=()):
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(*batch, num, 3, generator=generator, dtype=dtype) + 0.1
    quaternions = torch.randn(*batch, num, 4, generator=generator, dtype=dtype)
    means = torch.randn(*batch, num, 3, generator=generator, dtype=dtype)
    a = torch.rand(*batch, num, generator=generator, dtype=dtype) + 0.1 if density else None
    return Gaussians.from_scales_rotations(means, scales, quaternions, a), scales, quaternions


def assert_same(left, right):
    for name in ("means", "precisions", "density"):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=0, atol=0)


# Our own files.


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("density", [True, False])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_own_files_return_every_bit(tmp_path, suffix, dtype, density, batch):
    gaussians = some_gaussians(density=density, dtype=dtype, batch=batch)[0]
    features = torch.rand(*batch, 7, 5)
    io.save(tmp_path / f"a.{suffix}", gaussians, features)
    scene = io.load(tmp_path / f"a.{suffix}")
    assert isinstance(scene, io.Scene)
    assert_same(scene.gaussians, gaussians)
    assert torch.equal(scene.features, features)
    assert os.listdir(tmp_path) == [f"a.{suffix}"]


def test_gaussians_load_and_save(tmp_path):
    gaussians = some_gaussians()[0]
    gaussians.save(tmp_path / "a.npz")
    assert_same(Gaussians.load(tmp_path / "a.npz"), gaussians)
    assert io.load(tmp_path / "a.npz").features is None


def test_arrays_need_no_pickle_to_be_read_elsewhere(tmp_path):
    gaussians = some_gaussians(density=False)[0]
    io.save(tmp_path / "a.npz", gaussians)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["means", "precisions"]
        np.testing.assert_array_equal(arrays["means"], gaussians.means.numpy())


def npz(path, **arrays):
    np.savez(path, **arrays)
    return path


EYES = np.eye(3, dtype="f4")[None].repeat(2, 0)
POINTS = np.zeros((2, 3), "f4")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"means": POINTS}, "lacks precisions"),
        ({"means": POINTS, "precisions": EYES, "code": POINTS}, "'code'"),
        ({"means": POINTS, "precisions": np.eye(3, dtype="f4")[None].repeat(3, 0)}, "precisions of shape"),
        ({"means": POINTS.astype(int), "precisions": EYES}, "means of dtype"),
        ({"means": POINTS, "precisions": EYES.astype("c8")}, "precisions of dtype"),
        ({"means": POINTS, "precisions": -EYES}, "positive definite"),
        ({"means": POINTS + np.nan, "precisions": EYES}, "finite"),
        ({"means": POINTS, "precisions": EYES, "density": np.zeros(2, "f4")}, "density"),
        ({"means": POINTS, "precisions": EYES, "features": np.zeros((3, 3), "f4")}, "features of shape"),
        ({"means": np.float32(1), "precisions": EYES}, "means of shape"),
        ({"means": np.array([{}, {}]), "precisions": EYES}, "pickled"),
    ],
)
def test_wrong_npz(tmp_path, arrays, message):
    path = npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=message) as error:
        io.load(path)
    assert str(path) in str(error.value)


def test_pickles_in_npz_are_never_run(tmp_path):
    class Hostile:
        def __reduce__(self):
            return open, (str(tmp_path / "was_here"), "w")

    path = npz(tmp_path / "a.npz", means=np.array([Hostile()]), precisions=EYES)
    with pytest.raises(ValueError, match="pickled"):
        io.load(path)
    assert not (tmp_path / "was_here").exists()


def npy(shape, dtype="<f4", content=b""):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def test_npz_that_announces_more_than_it_holds(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("means.npy", npy((10**12, 3)))
        archive.writestr("precisions.npy", npy((10**12, 3, 3)))
    with pytest.raises(ValueError, match="announces"):
        io.load(path)


def test_zip_bomb(tmp_path):
    path = tmp_path / "a.npz"
    zeros = bytes(1 << 24)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("means.npy", "w", force_zip64=True) as file,
    ):
        file.write(npy((10**8, 3)))
        for _ in range(20):
            file.write(zeros)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ValueError, match="would expand"):
        io.load(path)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "ply", "glb", "off", "goff", "stl", "obj", "gltf"])
def test_truncated_at_any_place(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix in ("npz", "safetensors", "ply", "goff"):
        io.save(path, some_gaussians(density=suffix != "goff")[0])
    elif suffix == "gltf":
        path.write_text(
            '{"asset": {"version": "2.0"}, "buffers": [{"byteLength": 1000000000000}], "meshes": [{"primitives": []}]}'
        )
    else:
        io.save(path, trimesh.creation.icosphere(1))
    content = path.read_bytes()
    whole = io.load(path) if suffix != "gltf" else None
    for end in [*range(0, len(content) - 1, max(1, len(content) // 60)), len(content) - 3]:
        path.write_bytes(content[:end])
        try:
            loaded = io.load(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:  # the last digits of a text may be missing
            if suffix != "obj":  # which announces nothing: any length is a whole file
                assert end >= len(content) - 20 and suffix in ("off", "goff", "stl")
                assert type(loaded) is type(whole)


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "ply", "off", "goff", "obj", "stl", "glb", "gltf", "xyz"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 100, b"ply\n", b"OFF\n", b"GOFF 1 1 1", b"{}", os.urandom(400), b"PK\x03\x04" + bytes(60)],
)
def test_rubbish(tmp_path, suffix, content):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"a.{suffix}"):
        io.load(path)


def test_bits_flipped(tmp_path):
    """Whatever one changed byte does to a file, it loads or a ValueError names it."""
    generator = np.random.default_rng(0)
    for suffix in ("npz", "ply", "glb", "off", "safetensors", "obj", "stl"):
        path = tmp_path / f"a.{suffix}"
        io.save(path, some_gaussians()[0] if suffix in ("npz", "ply", "safetensors") else trimesh.creation.icosphere(0))
        content = path.read_bytes()
        for _ in range(40):
            changed = bytearray(content)
            for place in generator.integers(len(content), size=3):
                changed[place] = generator.integers(256)
            path.write_bytes(changed)
            try:
                io.load(path)
            except ValueError as error:
                assert str(path) in str(error)


@pytest.mark.parametrize("path", ["missing.npz", "", "folder.npz"])
def test_missing(tmp_path, path):
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(ValueError, match="is not a file"):
        io.load(tmp_path / path)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "txt", "pt", "pkl", ""])
def test_unknown_suffixes_and_archives(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match="suffix"):
        io.load(path)


# 3DGS.


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


# PLY.


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


# Meshes.


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
    import json

    (tmp_path / "a.gltf").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"a\.gltf"):
        io.load(tmp_path / "a.gltf")


# GOFF.


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


# Writing.


def test_atomic_path_keeps_the_old_file_on_errors(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), io.atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".txt" and temporary != path
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    with io.atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and os.listdir(tmp_path) == ["a.txt"]


def test_atomic_path_gives_the_usual_rights(tmp_path):
    (tmp_path / "usual").touch()
    with io.atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("folder", ["missing", "file"])
def test_folders_that_cannot_be_written_to(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="cannot write to folder"), io.atomic_path(tmp_path / folder / "a"):
        raise RuntimeError("never gets here")


def test_a_folder_is_no_file_to_write(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        io.save(tmp_path, some_gaussians()[0])


@pytest.mark.parametrize(
    ("content", "features", "suffix", "error", "message"),
    [
        ("gaussians", None, "txt", ValueError, "written as"),
        ("gaussians", torch.zeros(7, 4), "ply", ValueError, "colours"),
        ("batch", None, "ply", ValueError, "batch"),
        ("gaussians", None, "goff", ValueError, "density"),
        ("not finite", None, "npz", ValueError, "finite"),
        ("points", None, "off", ValueError, "written as .ply"),
        ("mesh", torch.zeros(42, 3), "off", TypeError, "go with Gaussians"),
        ("mesh", None, "dae", ValueError, "written as"),
        ("number", None, "npz", TypeError, "expected vertices and faces"),
    ],
)
def test_what_cannot_be_saved(tmp_path, content, features, suffix, error, message):
    gaussians = some_gaussians()[0]
    content = {
        "gaussians": gaussians,
        "batch": some_gaussians(batch=(2,))[0],
        "points": io.PointCloud(torch.rand(4, 3)),
        "not finite": Gaussians(gaussians.means / 0, gaussians.precisions),
        "mesh": trimesh.creation.icosphere(1),
        "number": 3,
    }[content]
    with pytest.raises(error, match=message):
        io.save(tmp_path / f"a.{suffix}", content, features)
    assert os.listdir(tmp_path) == []


def test_safetensors_of_others(tmp_path):
    safetensors.torch.save_file(
        {"means": torch.zeros(2, 3), "precisions": torch.eye(3).repeat(2, 1, 1), "w": torch.zeros(1)},
        tmp_path / "a.safetensors",
    )
    with pytest.raises(ValueError, match="'w'"):
        io.load(tmp_path / "a.safetensors")
    safetensors.torch.save_file(
        {"means": torch.zeros(2, 3).half(), "precisions": torch.eye(3).repeat(2, 1, 1)}, tmp_path / "b.safetensors"
    )
    with pytest.raises(ValueError, match="dtype"):
        io.load(tmp_path / "b.safetensors")
    (tmp_path / "c.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(ValueError, match=r"c\.safetensors"):
        io.load(tmp_path / "c.safetensors")


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    import sys

    io.save(tmp_path / "a.ply", some_gaussians()[0])
    monkeypatch.setitem(sys.modules, "plyfile", None)
    with pytest.raises(ImportError, match=r"voge\[io\]"):
        io.load(tmp_path / "a.ply")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    (tmp_path / "a.obj").write_text("v 0 0 0")
    with pytest.raises(ImportError, match=r"voge\[io\]"):
        io.load(tmp_path / "a.obj")


def test_as_mesh_takes_what_the_peers_have():
    box = trimesh.creation.box((1, 1, 1))
    box.visual.face_colors = np.tile([255, 0, 0, 255], (12, 1))
    mesh = io.as_mesh(box)
    assert mesh.face_colors.tolist() == [[1, 0, 0]] * 12
    assert io.as_mesh((mesh.vertices, mesh.faces)).vertices is mesh.vertices
    assert io.as_mesh(box.vertices.tolist(), box.faces.tolist()).faces.dtype == torch.int64
    cloud = io.as_points(trimesh.PointCloud(box.vertices, colors=np.tile([0, 255, 0, 255], (8, 1))))
    assert cloud.colors.tolist() == [[0, 1, 0]] * 8


def test_bytes_io_is_not_a_path():
    with pytest.raises(TypeError):
        io.load(bytes_io.BytesIO())
