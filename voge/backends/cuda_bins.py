"""Which Gaussians each block of 32 rays may meet, on the GPU: tiles of a camera's pixels, or neighbours of a list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from voge.backends.cuda_launch import SORT, Launch, Memory, stable_order, starts_of

TILE_WIDTH, TILE_HEIGHT = 8, 4
BLOCK_RAYS = TILE_WIDTH * TILE_HEIGHT
FANOUT = 32  # Gaussians of a leaf, children of a node
NO_BLOCK = 2**31 - 1
# With a hint no list is longer than the greater of these: so many Gaussians, or so many times a list of mean length.
LIST, UNEVEN = 1024, 32

# Bits of the flag that kernels raise where values are bad.
BAD_VALUES = {
    1: "means: a value is NaN or infinite",
    2: "precisions: a matrix is not finite, symmetric and positive definite",
    4: "density: a value is not finite and above zero",
    8: "rays.origins: a value is NaN or infinite",
    16: "rays.directions: a value is NaN or infinite, or a length is zero",
    32: "features: a value is NaN or infinite",
}


class Scene(NamedTuple):
    """Gaussians, rays and what makes a hit; every batch size is 1 or `batch`."""

    means: Tensor  # (G, N, 3)
    precisions: Tensor  # (G, N, 3, 3)
    density: Tensor  # (G, N)
    origins: Tensor  # (R, 1 or rays, 3)
    directions: Tensor  # (R, rays, 3)
    valid: Tensor | None  # (R, rays)
    projection: Tensor | None  # (R, 3, 4)
    height: int
    width: int
    max_hits: int
    threshold: float
    near: float
    world: bool
    batch: int

    @property
    def num(self) -> int:
        return self.means.shape[1]

    @property
    def rays(self) -> int:
        return self.directions.shape[1]

    @property
    def tiles(self) -> tuple[int, int]:
        return -(-self.width // TILE_WIDTH), -(-self.height // TILE_HEIGHT)

    @property
    def blocks_per_scene(self) -> int:
        across, down = self.tiles
        return -(-self.rays // BLOCK_RAYS) if self.projection is None else across * down

    @property
    def blocks(self) -> int:
        return self.batch * self.blocks_per_scene

    @property
    def sizes(self) -> tuple[int, ...]:
        """As the kernels that follow rays take them."""
        across, width = (1, 1) if self.projection is None else (self.tiles[0], self.width)
        batches = self.means.shape[0], self.directions.shape[0], self.origins.shape[1]
        return self.blocks, self.blocks_per_scene, across, width, self.rays, self.num, *batches


class Bins(NamedTuple):
    """The lists of Gaussians, block by block."""

    records: Tensor  # (G, N, 12): what a Gaussian is to any ray
    ray_order: Tensor | None  # (R, rays) of a list of rays
    starts: Tensor  # (blocks + 1)
    list: Tensor  # (pairs) int32
    capacity: int  # Gaussians of the longest list
    overflow: Tensor | None  # with a hint: 0, or the hint that is needed
    slot: Tensor  # (pairs): row of a pair where those of a Gaussian lie side by side
    slot_starts: Tensor  # (batch * N + 1)

    def rays(self, scene: Scene) -> tuple[Tensor | None, ...]:
        """What the kernels that follow rays read of rays and lists."""
        return scene.origins, scene.directions, scene.valid, self.ray_order, self.list, self.starts

    def numbers(self, scene: Scene, memory: Memory, *features: int) -> tuple[int | float, ...]:
        """And the numbers that they take."""
        room = self.list.numel(), self.capacity, memory.shared_capacity
        return *scene.sizes, *features, *room, scene.max_hits, scene.threshold, scene.near


def make_scene(inputs: Sequence[Any], settings: Sequence[Any], batch: int = 0) -> Scene:
    """Of the seven tensors and the other fields; `batch`: at least so many scenes."""
    tensors = (None if x is None else x.detach().contiguous() for x in inputs)
    scene = Scene._make((*tensors, *settings, max(batch, inputs[0].shape[0], inputs[4].shape[0])))
    if scene.blocks > NO_BLOCK:
        raise ValueError(f"{scene.blocks} tiles of pixels are more than 2^31: lower the batch")
    return scene


def on_gpu(x: Tensor) -> bool:
    return x.is_cuda


def bin_gaussians(
    launch: Launch, scene: Scene, features: Tensor | None, hint: int = 0, check: bool = True, slots: bool = False
) -> Bins:
    """The lists, with one wait for the GPU for their sizes, and none with a `hint` of how many pairs to make room for.

    `check`: ValueError for bad values, unless there is a hint. `slots`: also fills in `slot` and `slot_starts`.
    """
    if not hint and on_gpu(scene.means) and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("capacity: a CUDA graph cannot wait for the number of pairs, pass how many to expect")
    flag = scene.means.new_zeros(1, dtype=torch.int32)
    records = scene.means.new_empty(*scene.means.shape[:2], 12)
    total = records.shape[0] * scene.num
    launch.threads("records", total, scene.means, scene.precisions, scene.density, total, records, flag)
    if check and not hint:
        _check(launch, scene, features, flag)
    search = _search_tiles if scene.projection is not None else _search_tree
    return search(launch, scene, records, flag if check else None, hint, slots)


def _check(launch: Launch, scene: Scene, features: Tensor | None, flag: Tensor) -> None:
    origins, directions, rays = scene.origins, scene.directions, scene.directions[..., 0].numel()
    launch.threads(
        "check_rays", max(rays, origins.numel()), origins, origins.numel(), directions, scene.valid, rays, flag
    )
    if features is not None:
        launch.threads("check_finite", features.numel(), features, features.numel(), 32, flag)


def _sizes(starts: Tensor, counts: Tensor, flag: Tensor | None) -> tuple[int, int]:
    """Waits for the GPU: pairs, and the longest list; ValueError where a flag was raised."""
    longest = counts.max() if counts.numel() else starts[0]
    raised = starts[0] if flag is None else flag[0]
    bits, pairs, longest = torch.stack([raised.long(), starts[-1], longest.long()]).tolist()
    for bit, message in BAD_VALUES.items():
        if bits & bit:
            raise ValueError(message)
    return pairs, longest


def _room(scene: Scene, hint: int) -> int:
    """Gaussians of a list that a hint makes room for: the memory of the warps depends on it."""
    return min(hint, scene.num, max(LIST, UNEVEN * hint // max(1, scene.blocks)))


def _overflow(scene: Scene, starts: Tensor, counts: Tensor, hint: int) -> Tensor | None:
    """0, or the hint that makes room for all pairs and for the longest list."""
    if not hint:
        return None
    pairs, longest = starts[-1], counts.max() if counts.numel() else starts[-1]
    spread = (longest * scene.blocks + UNEVEN - 1).div(UNEVEN, rounding_mode="floor")
    wanted = torch.maximum(pairs, torch.where(longest > _room(scene, hint), spread, 0))
    return torch.where(wanted > hint, wanted, 0)


def _search_tiles(launch: Launch, scene: Scene, records: Tensor, flag: Tensor | None, hint: int, slots: bool) -> Bins:
    batch, num, (across, down), means = scene.batch, scene.num, scene.tiles, scene.means
    rectangles = means.new_empty(batch, num, 4, dtype=torch.int32)
    ellipses = means.new_empty(batch, num, 5, dtype=torch.float64)
    counts = means.new_empty(batch * num, dtype=torch.int64)
    tile_counts = means.new_zeros(scene.blocks, dtype=torch.int32)
    launch.threads(
        *("project", batch * num, means, scene.precisions, scene.projection, batch, num, means.shape[0]),
        *(scene.directions.shape[0], across, down, scene.threshold, rectangles, ellipses, counts, tile_counts),
    )
    slot_starts, starts = starts_of(counts), starts_of(tile_counts)
    pairs, capacity = (hint, _room(scene, hint)) if hint else _sizes(starts, tile_counts, flag)
    keys = means.new_full((pairs,), NO_BLOCK, dtype=torch.int32)  # what a hint has made room for in vain comes last
    gaussians = means.new_zeros(pairs, dtype=torch.int32)
    sizes = batch, num, across, down, pairs
    launch.threads("fill_tiles", batch * num, rectangles, ellipses, slot_starts, *sizes, keys, gaussians)
    slot, overflow = stable_order(keys, NO_BLOCK), _overflow(scene, starts, tile_counts, hint)
    if hint:
        slot_starts = slot_starts.clamp(max=hint)
    return Bins(records, None, starts, gaussians[slot], capacity, overflow, slot, slot_starts)


def _search_tree(launch: Launch, scene: Scene, records: Tensor, flag: Tensor | None, hint: int, slots: bool) -> Bins:
    batch, num, rays, means, blocks = scene.batch, scene.num, scene.rays, scene.means, scene.blocks
    batches = means.shape[0], scene.directions.shape[0], scene.origins.shape[1]
    counts = means.new_zeros(blocks, dtype=torch.int64)
    ray_order = torch.arange(rays, device=means.device).repeat(batches[1], 1)
    search = None
    if num and blocks:
        ray_order = _order_rays(launch, scene)
        order = _order(launch, means, None, means.amin(1), means.amax(1))
        margins, boxes = _boxes(launch, scene, records, order)
        tree = records, order, margins, boxes, scene.origins, scene.directions, scene.valid, ray_order
        search = "search", Memory(blocks), *tree, batch, num, boxes.shape[1], rays, *batches, scene.near
        launch.with_memory(*search, None, 0, counts, None)
    starts = starts_of(counts)
    pairs, capacity = (hint, _room(scene, hint)) if hint else _sizes(starts, counts, flag)
    gaussians = means.new_zeros(pairs, dtype=torch.int32)
    if search:
        launch.with_memory(*search, starts, pairs, None, gaussians)
    slot, slot_starts, overflow = starts[:0], starts[:0], _overflow(scene, starts, counts, hint)
    if slots:
        slot, slot_starts = _slots(scene, starts, gaussians)
    return Bins(records, ray_order, starts, gaussians, capacity, overflow, slot, slot_starts)


def _order_rays(launch: Launch, scene: Scene) -> Tensor:
    """(R, rays): rays that start and end near each other side by side."""
    means, directions, valid = scene.means, scene.directions, scene.valid
    points = means.new_empty(*directions.shape[:2], 5)
    launch.threads(
        *("ray_points", points[..., 0].numel(), scene.origins, directions, means.amin(1), means.amax(1)),
        *(means.shape[0], *directions.shape[:2], scene.origins.shape[1], points),
    )
    low, high = _bounds(points, valid, (1,))
    return _order(launch, points, valid, low, high)


def _bounds(points: Tensor, valid: Tensor | None, dims: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    if valid is None:
        return points.amin(dims), points.amax(dims)
    inside = valid[..., None]
    return torch.where(inside, points, torch.inf).amin(dims), torch.where(inside, points, -torch.inf).amax(dims)


def _order(launch: Launch, points: Tensor, valid: Tensor | None, low: Tensor, high: Tensor) -> Tensor:
    """(S, n): of points (S, n, d), along a curve that fills space."""
    scenes, n, d = points.shape
    keys = points.new_empty(scenes, n, dtype=torch.int64)
    launch.threads("order_keys", scenes * n, points, valid, low, high, scenes, n, d, keys)
    if keys.numel() <= SORT:
        return keys.sort(dim=1, stable=True).indices
    return torch.stack([scene.sort(stable=True).indices for scene in keys])


def _boxes(launch: Launch, scene: Scene, records: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Margins of the Gaussians, and boxes of all levels of the tree: leaves first."""
    levels = [-(-scene.num // FANOUT)]
    while levels[-1] > FANOUT:
        levels.append(-(-levels[-1] // FANOUT))
    geometry_batch, nodes = records.shape[0], sum(levels)
    margins, boxes = records.new_empty(geometry_batch, scene.num, 2), records.new_empty(geometry_batch, nodes, 6)
    bounds = _bounds(scene.origins, scene.valid if scene.origins.shape[1] > 1 else None, (0, 1))
    sizes = geometry_batch, scene.num, nodes
    launch.threads(
        *("leaf_boxes", geometry_batch * levels[0] * FANOUT, records, order, *bounds, *sizes),
        *(scene.threshold, margins, boxes),
    )
    for level, count in enumerate(levels[1:], 1):
        launch.threads("node_boxes", geometry_batch * count * FANOUT, *sizes, level, boxes)
    return margins, boxes


def _slots(scene: Scene, starts: Tensor, gaussians: Tensor) -> tuple[Tensor, Tensor]:
    pairs, rows = gaussians.numel(), scene.batch * scene.num
    place = torch.arange(pairs, device=starts.device)
    block = torch.searchsorted(starts[1:], place, right=True)
    keys = block.div_(max(1, scene.blocks_per_scene), rounding_mode="floor").mul_(scene.num).add_(gaussians)
    keys = torch.where(place < starts[-1], keys, rows)  # as of tiles
    order = stable_order(keys, rows)
    slot = torch.empty_like(order)
    slot[order] = place
    return slot, torch.searchsorted(keys[order], torch.arange(rows + 1, device=starts.device))
