"""Kernels that search the tree of boxes for lists of rays, run by the emulator, against trying every Gaussian."""

import math

import pytest
import torch

from tests.cuda_emulation.launcher import EmulatedLauncher
from tests.cuda_scenes import DTYPES, MODES, THRESHOLD, exponents, launch, make_records, some_gaussians


def order_keys(launcher, points, valid=None):
    low, high = (x.contiguous() for x in bounds(points, valid))
    keys = torch.empty(points.shape[:2], dtype=torch.int64)
    sizes = points.shape[0], points.shape[1], points.shape[2]
    launch(launcher, "order_keys", keys.numel(), 128, points, valid, low, high, *sizes, keys)
    return keys


def bounds(points, valid=None):
    keep = torch.ones_like(points[..., :1], dtype=torch.bool) if valid is None else valid[..., None]
    return torch.where(keep, points, math.inf).amin(1), torch.where(keep, points, -math.inf).amax(1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_follow_a_z_curve(dtype):
    grid = torch.cartesian_prod(*(torch.arange(4),) * 3)
    place = sum(((grid[:, a] >> bit & 1) << (3 * bit + 2 - a)) for bit in range(2) for a in range(3))
    points = torch.stack([grid, grid * 7 - 3]).to(dtype) * 1.01
    valid = torch.ones(2, 64, dtype=torch.bool)
    valid[1, 20:23] = False
    keys = order_keys(EmulatedLauncher(), points, valid)
    assert torch.equal(keys[0].argsort(), place.argsort())
    assert (keys[1, 20:23] == 2**63 - 1).all()
    rest = keys[1][valid[1]]
    assert torch.equal(rest.argsort(), place[valid[1]].argsort()) and (rest < 2**62).all()
    flat = points.clone()
    flat[..., 1] = 5
    keys = order_keys(EmulatedLauncher(), flat)
    same = (grid[:, None, [0, 2]] == grid[None, :, [0, 2]]).all(-1)
    assert torch.equal(keys[0][:, None] == keys[0][None], same)


def search(launcher, means, precisions, density, origins, directions, valid, batch, near=0.0, capacity=None):
    """Lists of every block of 32 rays, with the order of the rays."""
    (geometry, num), (ray_batch, rays) = density.shape, directions.shape[:2]
    records, _ = make_records(launcher, means, precisions, density)
    points = means.new_empty(ray_batch, rays, 5)
    low, high = bounds(means)
    arguments = origins, directions, low, high, geometry, ray_batch, rays, origins.shape[1], points
    launch(launcher, "ray_points", ray_batch * rays, 128, *arguments)
    ray_order = order_keys(launcher, points, valid).sort(dim=1, stable=True).indices
    order = order_keys(launcher, means).sort(dim=1, stable=True).indices
    sizes = [-(-num // 32)]
    while sizes[-1] > 32:
        sizes.append(-(-sizes[-1] // 32))
    nodes = sum(sizes)
    margins, boxes = means.new_empty(geometry, num, 2), means.new_empty(geometry, nodes, 6)
    ends = origins.amin((0, 1)), origins.amax((0, 1))
    arguments = records, order, *ends, geometry, num, nodes, THRESHOLD, margins, boxes
    launch(launcher, "leaf_boxes", 32 * geometry * sizes[0], 128, *arguments)
    for level in range(1, len(sizes)):
        launch(launcher, "node_boxes", 32 * geometry * sizes[level], 128, geometry, num, nodes, level, boxes)
    blocks = batch * -(-rays // 32)
    counts = torch.empty(blocks, dtype=torch.int64)
    common = records, order, margins, boxes, origins, directions, valid, ray_order, batch, num, nodes, rays
    common = (*common, geometry, ray_batch, origins.shape[1], near)
    launch(launcher, "search", 32 * blocks, 32, *common, None, 0, counts, None)
    starts = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    capacity = int(starts[-1]) if capacity is None else capacity
    found = torch.full((capacity + 1,), -1, dtype=torch.int32)
    launch(launcher, "search", 32 * blocks, 32, *common, starts, capacity, None, found)
    assert found[capacity] == -1
    return ray_order, starts, found, boxes


def random_rays(ray_batch, rays, seed, dtype, shared=False):
    g = torch.Generator().manual_seed(seed)
    origins = 2 * torch.randn(ray_batch, 1 if shared else rays, 3, generator=g, dtype=torch.float64)
    directions = torch.randn(ray_batch, rays, 3, generator=g, dtype=torch.float64)
    directions[:, ::7, 1] = 0
    directions[:, ::14, 2] = 0
    return origins.to(dtype), directions.to(dtype)


@pytest.mark.parametrize(("dtype", "mode", "seed"), MODES)
@pytest.mark.parametrize(
    ("num", "geometry", "ray_batch", "shared"), [(5, 1, 1, True), (1100, 1, 2, False), (90, 2, 1, False)]
)
def test_search_finds_every_hit(dtype, mode, seed, num, geometry, ray_batch, shared):
    batch, rays, near = max(geometry, ray_batch), 70, 0.5
    scene = some_gaussians(num, 4, dtype, geometry, sigma=0.05 if num > 100 else 0.3)
    origins, directions = random_rays(ray_batch, rays, 6, dtype, shared)
    valid = torch.rand(ray_batch, rays, generator=torch.Generator().manual_seed(1)) < 0.9
    launcher = EmulatedLauncher(mode, seed)
    ray_order, starts, found, _ = search(launcher, *scene, origins, directions, valid, batch, near)
    blocks, many = -(-rays // 32), 0
    for b in range(batch):
        g, r = min(b, geometry - 1), min(b, ray_batch - 1)
        assert torch.equal(ray_order[r].sort().values, torch.arange(rays))
        q, length = exponents(scene[0][g], scene[1][g], origins[r].expand(rays, 3), directions[r])
        for block in range(blocks):
            mine = ray_order[r, 32 * block : 32 * block + 32]
            mine = mine[valid[r, mine]]
            i = b * blocks + block
            listed = found[starts[i] : starts[i + 1]].long()
            assert len(listed.unique()) == len(listed)
            held = torch.zeros(num, dtype=torch.bool)
            held[listed] = True
            hit = ((q[:, mine] >= math.log(THRESHOLD)) & (length[:, mine] > near)).any(1)
            maybe = ((q[:, mine] >= math.log(THRESHOLD) - 1e-3) & (length[:, mine] > near - 1e-3)).any(1)
            assert held[hit].all() and maybe[held].all()
            many += int(hit.sum())
    assert many >= (3 if num == 5 else 100)


def test_searches_do_not_depend_on_the_schedule_and_stop_at_the_capacity():
    scene = some_gaussians(200, 7, torch.float32)
    rays = random_rays(1, 40, 8, torch.float32)
    ray_order, starts, found, _ = search(EmulatedLauncher(), *scene, *rays, None, 1)
    other = search(EmulatedLauncher("shuffled", 9), *scene, *rays, None, 1)
    assert torch.equal(ray_order, other[0]) and torch.equal(starts, other[1]) and torch.equal(found, other[2])
    assert int(starts[-1]) > 30
    cut = search(EmulatedLauncher(), *scene, *rays, None, 1, capacity=30)
    assert torch.equal(cut[2][:30], found[:30])


def test_boxes_hold_their_children():
    scene = some_gaussians(1030, 9, torch.float32)
    boxes = search(EmulatedLauncher(), *scene, *random_rays(1, 3, 8, torch.float32), None, 1)[3][0]
    leaves = 33
    assert boxes.shape[0] == leaves + 2
    for i, children in ((0, boxes[:32]), (1, boxes[32:33])):
        assert torch.equal(boxes[leaves + i, :3], children[:, :3].amin(0))
        assert torch.equal(boxes[leaves + i, 3:], children[:, 3:].amax(0))


def test_bad_values_do_no_harm():
    """With a capacity hint nobody waits for the flag: no memory is touched."""
    means, precisions, density = some_gaussians(96, 11, torch.float32)
    means[0, 3, 0], precisions[0, 40, 1, 1], density[0, 70] = math.nan, math.inf, -1.0
    origins, directions = random_rays(1, 40, 8, torch.float32)
    origins[0, 1], directions[0, 2], directions[0, 3] = math.nan, math.inf, 0.0
    launcher = EmulatedLauncher("race")
    found = search(launcher, means, precisions, density, origins, directions, None, 1, capacity=10)[2]
    assert (found < 96).all()
