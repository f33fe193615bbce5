"""The CUDA kernels' parameters, and the check of what is handed to them: one table for every launcher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Signature = tuple[tuple[str, str], ...]  # name and kind of every parameter

DTYPES = {"i32*": torch.int32, "i64*": torch.int64, "u8*": torch.bool, "f64*": torch.float64}
FLOATS = {"f32": torch.float32, "f64": torch.float64}
LIMITS = {"i32": 1 << 31, "i64": 1 << 63}

# T is float in voge_NAME_f32 and double in voge_NAME_f64. Kernels side by side take the same parameters.
PARAMETERS = {
    "records": "const T* means, const T* precisions, const T* density, i64 total, T* records, i32* flag",
    "check_finite": "const T* x, i64 total, i32 bit, i32* flag",
    "check_rays": "const T* origins, i64 origin_values, const T* directions, const u8* valid, i64 rays, i32* flag",
    "project": "const T* means, const T* precisions, const f64* projection, i64 batch, i64 num, i64 geometry_batch, "
    "i64 ray_batch, i64 tiles_x, i64 tiles_y, f64 threshold, i32* rectangles, f64* ellipses, i64* counts, "
    "i32* tile_counts",
    "fill_tiles": "const i32* rectangles, const f64* ellipses, const i64* slot_starts, i64 batch, i64 num, "
    "i64 tiles_x, i64 tiles_y, i64 capacity, i32* keys, i32* gaussians",
    "ray_points": "const T* origins, const T* directions, const T* low, const T* high, i64 geometry_batch, "
    "i64 ray_batch, i64 rays, i64 origins_per_scene, T* points",
    "order_keys": "const T* points, const u8* valid, const T* low, const T* high, i64 scenes, i64 num, i32 axes, "
    "i64* keys",
    "leaf_boxes": "const T* records, const i64* order, const T* origin_low, const T* origin_high, i64 geometry_batch, "
    "i64 num, i64 nodes, f64 threshold, T* margins, T* boxes",
    "node_boxes": "i64 geometry_batch, i64 num, i64 nodes, i32 level, T* boxes",
    "search": "const T* records, const i64* order, const T* margins, const T* boxes, const T* origins, "
    "const T* directions, const u8* valid, const i64* ray_order, i64 batch, i64 num, i64 nodes, i64 rays, "
    "i64 geometry_batch, i64 ray_batch, i64 origins_per_scene, f64 near, const i64* starts, i64 capacity, "
    "i64* counts, i32* list",
    "render_forward_hermite render_forward_segments": "const T* records, const T* precisions, const T* features, "
    "const T* origins, const T* directions, const u8* valid, const i64* ray_order, const i32* list, "
    "const i64* starts, T* scratch, T* image, T* alpha, T* depth, T* normals, i64 blocks, i64 blocks_per_scene, "
    "i64 tiles_x, i64 width, i64 rays, i64 num, i64 geometry_batch, i64 ray_batch, i64 origins_per_scene, "
    "i64 feature_batch, i64 channels, i64 pairs, i64 capacity, i32 shared_capacity, i64 max_hits, f64 threshold, "
    "f64 near, i32 world, i32 points, i32 median",
    "render_backward_hermite render_backward_segments": "const T* records, const T* precisions, const T* features, "
    "const T* origins, const T* directions, const u8* valid, const i64* ray_order, const i32* list, "
    "const i64* starts, const i64* slot, const T* grad_image, const T* grad_alpha, const T* grad_depth, "
    "const T* grad_normals, T* scratch, T* slot_geometry, T* slot_features, T* grad_origins, T* grad_directions, "
    "f64* block_origins, i64 blocks, i64 blocks_per_scene, i64 tiles_x, i64 width, i64 rays, i64 num, "
    "i64 geometry_batch, i64 ray_batch, i64 origins_per_scene, i64 feature_batch, i64 channels, i64 pairs, "
    "i64 capacity, i32 shared_capacity, i64 max_hits, f64 threshold, f64 near, i32 world, i32 points, i32 median",
    "reduce_gaussians": "const T* slot_geometry, const i64* slot_starts, const T* precisions, T* grad_means, "
    "T* grad_precisions, T* grad_density, i64 batch, i64 geometry_batch, i64 num",
    "reduce_features": "const T* slot_features, const i64* slot_starts, T* grad_features, i64 batch, "
    "i64 feature_batch, i64 num, i64 channels",
    "trace": "const T* records, const T* origins, const T* directions, const u8* valid, const i64* ray_order, "
    "const i32* list, const i64* starts, T* scratch, const i64* offsets, i64* counts, i64* indices, i64 blocks, "
    "i64 blocks_per_scene, i64 tiles_x, i64 width, i64 rays, i64 num, i64 geometry_batch, i64 ray_batch, "
    "i64 origins_per_scene, i64 pairs, i64 capacity, i32 shared_capacity, i64 max_hits, f64 threshold, f64 near",
    "slot_keys": "const i64* indices, const i64* offsets, i64* keys, i64* ray_of, i64 rays, i64 most, i64 items, "
    "i64 num",
    "fragment_hits": "const i64* indices, const i64* offsets, const T* records, const T* origins, "
    "const T* directions, T* lengths, T* peaks, T* widths, i64 rays, i64 most, i64 rays_per_scene, i64 num, "
    "i64 geometry_batch, i64 ray_batch, i64 origins_per_scene, i32 world",
    "fragment_hits_gaussians": "const i64* slots, const i64* starts, const i64* ray_of, const T* records, "
    "const T* precisions, const T* origins, const T* directions, const T* grad_lengths, const T* grad_peaks, "
    "const T* grad_widths, T* grad_means, T* grad_precisions, T* grad_density, i64 rays_per_scene, i64 num, "
    "i64 geometry_batch, i64 ray_batch, i64 origins_per_scene, i32 world",
    "fragment_hits_rays": "const i64* indices, const i64* offsets, const T* records, const T* precisions, "
    "const T* origins, const T* directions, const T* grad_lengths, const T* grad_peaks, const T* grad_widths, "
    "T* grad_origins, T* grad_directions, i64 rays, i64 most, i64 rays_per_scene, i64 num, i64 geometry_batch, "
    "i64 ray_batch, i64 origins_per_scene, i32 world",
    "gather_slots": "const i64* indices, const i64* offsets, const T* weights, const T* x, T* y, i64 rays, i64 most, "
    "i64 items, i64 num, i64 channels",
    "scatter_slots": "const i64* slots, const i64* starts, const i64* ray_of, const T* weights, const T* y, T* x, "
    "i64 rows, i64 channels",
    "pair_slots": "const i64* indices, const i64* offsets, const T* x, const T* y, T* weights, i64 rays, i64 most, "
    "i64 items, i64 num, i64 channels",
    "weigh_slots": "const T* lengths, const T* peaks, const T* widths, const i64* offsets, i64 most, i64 rays, "
    "i32 segments, i32 points, i32 shared_capacity, i32 capacity, T* scratch, T* weights",
    "weigh_slots_backward": "const T* lengths, const T* peaks, const T* widths, const i64* offsets, i64 most, "
    "i64 rays, i32 segments, i32 points, i32 shared_capacity, i32 capacity, T* scratch, const T* grad_weights, "
    "T* grad_lengths, T* grad_peaks, T* grad_widths",
}


def _signature(text: str) -> Signature:
    pairs = (parameter.strip().rsplit(" ", 1) for parameter in text.split(","))
    return tuple((name, kind) for kind, name in pairs)


SIGNATURES = {name: _signature(text) for names, text in PARAMETERS.items() for name in names.split()}


def plain(kernel: str, arguments: Sequence[Tensor | int | float | None], device: torch.device) -> list[tuple[str, Any]]:
    """(kind, value) of every argument of `kernel`, NAME_f32 or NAME_f64; tensors become addresses, None a null pointer.

    Raises:
        TypeError, ValueError: another number of arguments, another type, dtype or device; tensors that are not
            contiguous; integers out of range.
    """
    name, _, suffix = kernel.rpartition("_")
    if name not in SIGNATURES or suffix not in FLOATS:
        raise ValueError(f"no CUDA kernel is called {kernel}")
    signature = SIGNATURES[name]
    if len(arguments) != len(signature):
        raise TypeError(f"{kernel}: expected {len(signature)} arguments, got {len(arguments)}")
    return [
        (kind, _value(f"{kernel}: {parameter}", kind.removeprefix("const "), argument, FLOATS[suffix], device))
        for (parameter, kind), argument in zip(signature, arguments, strict=True)
    ]


def _value(what: str, kind: str, argument: Any, real: torch.dtype, device: torch.device) -> int | float:
    if not kind.endswith("*"):
        if kind == "f64":
            return float(argument)
        if isinstance(argument, float) or not -LIMITS[kind] <= int(argument) < LIMITS[kind]:
            raise ValueError(f"{what}: expected an integer that fits {kind}, got {argument}")
        return int(argument)
    if argument is None:
        return 0
    dtype = real if kind == "T*" else DTYPES[kind]
    if not isinstance(argument, Tensor) or argument.dtype != dtype:
        got = argument.dtype if isinstance(argument, Tensor) else type(argument).__name__
        raise TypeError(f"{what}: expected a {dtype} tensor, got {got}")
    if argument.device != device:
        raise ValueError(f"{what}: expected a tensor on {device}, got one on {argument.device}")
    if not argument.is_contiguous():
        raise ValueError(f"{what}: the tensor is not contiguous")
    return argument.data_ptr()
