"""voge.io: files of any kind that are broken, hostile or missing, and writing that never leaves half a file."""

from __future__ import annotations

import io as bytes_io
import os
import sys

import numpy as np
import pytest
import torch
import trimesh

from tests.scenes import some_gaussians
from voge import io
from voge.gaussians import Gaussians


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
    [b"", b"\x00" * 100, b"ply\n", b"OFF\n", b"GOFF 1 1 1", b"{}", bytes(range(256)), b"PK\x03\x04" + bytes(60)],
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


def test_missing_libraries_are_named(tmp_path, monkeypatch):
    io.save(tmp_path / "a.ply", some_gaussians()[0])
    monkeypatch.setitem(sys.modules, "plyfile", None)
    with pytest.raises(ImportError, match=r"voge\[io\]"):
        io.load(tmp_path / "a.ply")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    (tmp_path / "a.obj").write_text("v 0 0 0")
    with pytest.raises(ImportError, match=r"voge\[io\]"):
        io.load(tmp_path / "a.obj")


def test_bytes_io_is_not_a_path():
    with pytest.raises(TypeError):
        io.load(bytes_io.BytesIO())
