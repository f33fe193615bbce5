"""Kernels that check values and find the tiles that Gaussians touch, run by the emulator, against trying every one."""

import math

import pytest
import torch

from tests.cuda_emulation.launcher import EmulatedLauncher
from tests.cuda_scenes import DTYPES, MODES, THRESHOLD, exponents, launch, make_records, some_gaussians, suffix


@pytest.mark.parametrize("dtype", DTYPES)
def test_records(dtype):
    launcher = EmulatedLauncher()
    means, precisions, density = some_gaussians(70, 0, dtype, batch=2)
    records, flag = make_records(launcher, means, precisions, density)
    factor = torch.linalg.cholesky(precisions.double())
    rows, columns = [0, 1, 2, 1, 2, 2], [0, 0, 0, 1, 1, 2]
    assert flag == 0
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    torch.testing.assert_close(records[..., :6].double(), factor[..., rows, columns], rtol=tolerance, atol=tolerance)
    assert torch.equal(records[..., 6:9], means) and torch.equal(records[..., 9], density)
    widest = torch.linalg.eigvalsh(precisions.double())[..., 0] ** -0.5
    reach = records[..., 10].double() / (5.3 if dtype == torch.float32 else 8.3)
    assert (reach >= widest).all() and (reach <= 1.8 * widest).all()


@pytest.mark.parametrize(
    ("name", "index", "value", "bit"),
    [
        ("means", (0, 5, 1), math.nan, 1),
        ("means", (0, 5, 2), math.inf, 1),
        ("precisions", (0, 5, 0, 1), math.nan, 2),
        ("precisions", (0, 5), torch.tensor([[1, 0.01, 0], [0, 1, 0], [0, 0, 1]]), 2),
        ("precisions", (0, 5, 2, 2), -1.0, 2),
        ("density", (0, 5), 0.0, 4),
        ("density", (0, 5), math.inf, 4),
        ("density", (0, 5), math.nan, 4),
    ],
)
def test_bad_gaussians_raise_the_flag(name, index, value, bit):
    scene = dict(zip(("means", "precisions", "density"), some_gaussians(40, 0, torch.float32), strict=True))
    scene[name][index] = value
    records, flag = make_records(EmulatedLauncher(), **scene)
    assert flag == bit
    assert not records[0, 5, :6].any() and records[0, 4, :6].any()


def test_checks_of_rays_and_features():
    launcher = EmulatedLauncher()
    origins, directions = torch.zeros(1, 40, 3), torch.ones(1, 40, 3)
    valid = torch.ones(1, 40, dtype=torch.bool)

    def flag(origins, directions, valid):
        out = torch.zeros(1, dtype=torch.int32)
        launch(launcher, "check_rays", 40, 32, origins, origins.numel(), directions, valid, 40, out)
        return int(out)

    assert flag(origins, directions, None) == 0
    for bad, bit in ((math.nan, 8), (-math.inf, 8)):
        changed = origins.clone()
        changed[0, 39, 2] = bad
        assert flag(changed, directions, valid) == bit
    for bad in (0.0, math.nan, math.inf, 1e30):
        changed = directions.clone()
        changed[0, 39] = bad
        assert flag(origins, changed, None) == flag(origins, changed, valid) == 16
        assert flag(origins, changed, valid & (torch.arange(40) < 39)) == 0
    x, out = torch.zeros(100), torch.zeros(1, dtype=torch.int32)
    launch(launcher, "check_finite", 100, 32, x, 100, 32, out)
    assert int(out) == 0
    x[99] = math.nan
    launch(launcher, "check_finite", 100, 32, x, 100, 32, out)
    assert int(out) == 32


def some_cameras(batch, width, height):
    """K [R | t] of cameras around and within the scene, (B, 3, 4)."""
    g = torch.Generator().manual_seed(5)
    turns, _ = torch.linalg.qr(torch.randn(batch, 3, 3, generator=g, dtype=torch.float64))
    t = torch.tensor([[0.1, -0.2, 4.0], [0.0, 0.1, 1.0]], dtype=torch.float64)[torch.arange(batch) % 2]
    k = torch.tensor([[1.2 * width, 0.5, width / 2], [0, 1.1 * width, height / 2], [0, 0, 1]], dtype=torch.float64)
    return k @ torch.cat([turns, t[..., None]], -1)


def pixel_rays(projection, width, height):
    inverse = torch.linalg.inv(projection[:, :3])
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    pixels = torch.stack([x, y, torch.ones_like(x)], -1).reshape(-1, 3).double()
    return -inverse @ projection[:, 3], pixels @ inverse.mT


def bin_tiles(launcher, means, precisions, projection, batch, width, height, capacity=None):
    num, tiles_x, tiles_y = means.shape[1], -(-width // 8), -(-height // 4)
    rectangles = torch.empty(batch, num, 4, dtype=torch.int32)
    ellipses = torch.empty(batch, num, 5, dtype=torch.float64)
    counts = torch.empty(batch * num, dtype=torch.int64)
    tile_counts = torch.zeros(batch * tiles_x * tiles_y, dtype=torch.int32)
    sizes = batch, num, means.shape[0], projection.shape[0], tiles_x, tiles_y
    arguments = means, precisions, projection, *sizes, THRESHOLD, rectangles, ellipses, counts, tile_counts
    launch(launcher, "project", batch * num, 128, *arguments)
    slot_starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    capacity = int(slot_starts[-1]) if capacity is None else capacity
    keys = torch.full((capacity + 1,), 2**31 - 1, dtype=torch.int32)
    gaussians = torch.full((capacity + 1,), -1, dtype=torch.int32)
    name = f"fill_tiles_{suffix(means.dtype)}"
    sizes = batch, num, tiles_x, tiles_y, capacity
    launcher.launch(name, 2, 64, (rectangles, ellipses, slot_starts, *sizes, keys, gaussians))
    return rectangles, slot_starts, tile_counts, keys, gaussians


@pytest.mark.parametrize(("dtype", "mode", "seed"), MODES)
def test_tiles_hold_every_hit(dtype, mode, seed):
    width, height, batch, num = 43, 21, 2, 75
    means, precisions, _ = some_gaussians(num, 1, dtype)
    projection = some_cameras(batch, width, height)
    launcher = EmulatedLauncher(mode, seed)
    out = bin_tiles(launcher, means, precisions, projection, batch, width, height)
    _, slot_starts, tile_counts, keys, gaussians = out
    pairs = int(slot_starts[-1])
    assert keys[pairs] == 2**31 - 1 and gaussians[pairs] == -1
    tiles_x, tiles_y = 6, 6
    held = torch.zeros(batch * tiles_x * tiles_y, num, dtype=torch.bool)
    held[keys[:pairs].long(), gaussians[:pairs].long()] = True
    assert held.sum() == pairs
    assert torch.equal(torch.bincount(keys[:pairs], minlength=len(tile_counts)), tile_counts.long())
    owners = torch.repeat_interleave(torch.arange(batch * num), slot_starts.diff())
    assert torch.equal(owners % num, gaussians[:pairs].long())
    assert torch.equal(owners // num, keys[:pairs].long() // (tiles_x * tiles_y))
    for b in range(batch):
        origin, directions = pixel_rays(projection[b], width, height)
        q, length = exponents(means[0], precisions[0], origin.expand_as(directions), directions)
        k, ray = torch.nonzero((q >= math.log(THRESHOLD)) & (length > 0), as_tuple=True)
        tile = ray // width // 4 * tiles_x + ray % width // 8
        assert len(k) > 500 and held[b * tiles_x * tiles_y + tile, k].all()


def tile_range(low, high, side, tiles):
    """First and end of the tiles with a pixel centre from low to high."""
    first, last = math.ceil(low - 0.5) // side, math.floor(high - 0.5) // side
    return min(max(first, 0), tiles), min(max(last + 1, 0), tiles)


def test_rectangles_bound_the_ellipsoids():
    """Against points on the ellipsoids of the threshold, by the camera's projection."""
    width, height, num = 43, 21, 200
    means, precisions, _ = some_gaussians(num, 1, torch.float64, sigma=0.1)
    projection = some_cameras(2, width, height)
    rectangles = bin_tiles(EmulatedLauncher(), means, precisions, projection, 2, width, height)[0]
    g = torch.Generator().manual_seed(0)
    sphere = torch.nn.functional.normalize(torch.randn(4000, 3, generator=g, dtype=torch.float64), dim=-1)
    root = torch.linalg.inv(torch.linalg.cholesky(precisions[0])).mT * math.sqrt(-2 * math.log(THRESHOLD))
    surface = means[0, :, None] + sphere @ root.mT
    seen = {"in front": 0, "cut": 0, "behind": 0}
    for b in range(2):
        image = surface @ projection[b, :, :3].mT + projection[b, :, 3]
        for k in range(num):
            x0, y0, x1, y1 = rectangles[b, k].tolist()
            nearest, farthest = image[k, :, 2].min(), image[k, :, 2].max()
            if farthest < -0.01:
                seen["behind"] += 1
                assert (x0, y0, x1, y1) == (0, 0, 0, 0)
            elif nearest < -0.01:
                seen["cut"] += 1
                assert (x0, y0, x1, y1) == (0, 0, 6, 6)
            elif nearest > 0.3:
                seen["in front"] += 1
                pixels = image[k, :, :2] / image[k, :, 2:]
                for (first, end), side, a in (((x0, x1), 8, 0), ((y0, y1), 4, 1)):
                    low, high = float(pixels[:, a].min()), float(pixels[:, a].max())
                    slack = 0.1 + 0.05 * (high - low)
                    inner, outer = (tile_range(low - s, high + s, side, 6) for s in (0, slack))
                    assert outer[0] <= first <= inner[0] or inner[0] >= inner[1]
                    assert inner[1] <= end <= outer[1] or outer[0] >= outer[1]
    assert min(seen.values()) > 10, seen


def test_pairs_are_few_more_than_the_tiles_that_are_touched():
    """Against the exponents on a grid four times as fine as the pixels, within the pixel centres of each tile."""
    width, height, num = 48, 24, 150
    means, precisions, _ = some_gaussians(num, 12, torch.float64, sigma=0.05)
    projection = some_cameras(1, width, height)
    rectangles, slot_starts, _, keys, gaussians = bin_tiles(
        EmulatedLauncher(), means, precisions, projection, 1, width, height
    )
    fine = projection.clone()
    fine[:, :2] = 4 * fine[:, :2] - 1.5 * fine[:, 2:]  # pixel 4 i of the fine grid is pixel i
    origin, directions = pixel_rays(fine[0], 4 * width, 4 * height)
    q, length = exponents(means[0], precisions[0], origin.expand_as(directions), directions)
    x, y = torch.arange(4 * width), torch.arange(4 * height)
    within = ((y % 16 <= 12)[:, None] & (x % 32 <= 28)).flatten()
    k, ray = torch.nonzero((q >= math.log(THRESHOLD)) & (length > 0) & within, as_tuple=True)
    touched = torch.zeros(36, num, dtype=torch.bool)
    touched[ray // (4 * width) // 16 * 6 + ray % (4 * width) // 32, k] = True
    held = torch.zeros_like(touched)
    held[keys[:-1].long(), gaussians[:-1].long()] = True
    assert held[touched].all()
    tiles = (rectangles[..., 2] - rectangles[..., 0]) * (rectangles[..., 3] - rectangles[..., 1])
    pairs = int(slot_starts[-1])
    assert pairs < 1.1 * touched.sum() and pairs < 0.85 * tiles.sum()


def test_pairs_beyond_the_capacity_are_left_out():
    means, precisions, _ = some_gaussians(40, 2, torch.float32)
    projection = some_cameras(1, 30, 20)
    whole = bin_tiles(EmulatedLauncher(), means, precisions, projection, 1, 30, 20)
    cut = bin_tiles(EmulatedLauncher(), means, precisions, projection, 1, 30, 20, capacity=50)
    assert len(whole[3]) > 60
    assert torch.equal(cut[3][:50], whole[3][:50]) and torch.equal(cut[4][:50], whole[4][:50])
    assert cut[3][50] == 2**31 - 1 and cut[4][50] == -1


def test_tiles_of_each_scene_s_own_gaussians():
    means, precisions, _ = some_gaussians(33, 3, torch.float64, batch=2)
    projection = some_cameras(2, 20, 12)
    both = bin_tiles(EmulatedLauncher(), means, precisions, projection, 2, 20, 12)
    for b in range(2):
        one = bin_tiles(EmulatedLauncher(), means[b : b + 1], precisions[b : b + 1], projection[b : b + 1], 1, 20, 12)
        assert torch.equal(both[0][b], one[0][0])
        assert torch.equal(both[2].view(2, -1)[b], one[2])


def test_bad_values_do_no_harm():
    """With a capacity hint nobody waits for the flag: the others' pairs are found, and no memory is touched."""
    means, precisions, _ = some_gaussians(96, 11, torch.float32)
    means[0, 3, 0], precisions[0, 40, 1, 1] = math.nan, math.inf
    slot_starts = bin_tiles(EmulatedLauncher("race"), means, precisions, some_cameras(1, 30, 20), 1, 30, 20)[1]
    counts = slot_starts.diff()
    assert counts[3] == counts[40] == 0 and (counts > 0).sum() > 50
