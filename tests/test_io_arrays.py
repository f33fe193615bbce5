"""voge.io: our own .npz and .safetensors return every bit; wrong and hostile ones are refused, nothing is unpickled."""

from __future__ import annotations

import os
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.scenes import assert_same, some_gaussians
from voge import io
from voge.gaussians import Gaussians


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
