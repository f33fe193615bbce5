"""Mistakes to plant in csrc/cuda, one at a time, and the test that has to find each.

`python -m tests.cuda_emulation.mutations` writes docs/cuda_mutations.md."""

import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cuda_emulation import build

TABLE = build.ROOT / "docs" / "cuda_mutations.md"


class Mutation(NamedTuple):
    name: str
    file: str
    old: str  # stands in the file once
    new: str
    catcher: str  # tests/test_cuda_FILE.py::FUNCTION, run in the mode
    mode: str = "in_order"


class Outcome(NamedTuple):
    caught: bool
    output: str


RECTANGLES = "bins::test_rectangles_bound_the_ellipsoids"
TILES = "bins::test_tiles_hold_every_hit"
SCENES = "bins::test_tiles_of_each_scene_s_own_gaussians"
CAPACITY = "bins::test_pairs_beyond_the_capacity_are_left_out"
SEARCH = "tree::test_search_finds_every_hit"
SCHEDULES = "tree::test_searches_do_not_depend_on_the_schedule_and_stop_at_the_capacity"
RENDER = "render::test_equals_the_cpu"
BATCHES = "render::test_batches_of_everything"
FRAGMENTS = "fragments::test_equals_the_cpu"
WEIGHTS = "fragments::test_weights_of_every_number_of_points"
SLOTS = "weights::test_slots_in_any_order_with_empty_ones_between"
PRODUCTS = "fragments::test_products_equal_the_cpu"

MUTATIONS = [
    # bins.cu
    Mutation(
        "a tile too few at the end of a range",
        "bins.cu",
        "floor(floor(centre + half + slack - .5) / side) + 1,",
        "floor(floor(centre + half + slack - .5) / side),",
        TILES,
    ),
    Mutation(
        "an atomic replaced by a plain add",
        "bins.cu",
        "atomicAdd(tile_counts + (first + owner) / num * tiles_x * tiles_y + tile, 1)",
        "tile_counts[(first + owner) / num * tiles_x * tiles_y + tile] += 1",
        SCENES,
        "race",
    ),
    Mutation(
        "no barrier between the lanes' rectangles and those who read them",
        "bins.cu",
        "sum_so_far(mine.tiles.tiles());\n  __syncwarp();",
        "sum_so_far(mine.tiles.tiles());",
        SCENES,
        "race",
    ),
    Mutation(
        "a pair too many at the capacity",
        "bins.cu",
        "slot >= capacity",
        "slot > capacity",
        CAPACITY,
        "race",
    ),
    Mutation(
        "no barrier between the counts of a warp's Gaussians and those who store them",
        "bins.cu",
        "    __syncwarp();\n    if (i < total) counts[i]",
        "    if (i < total) counts[i]",
        SCENES,
        "race",
    ),
    Mutation(
        "the scene is left out of a tile's number",
        "bins.cu",
        "(int32_t)((first + owner) / num * tiles_x * tiles_y + tile)",
        "(int32_t)(tiles_y * 0 + tile)",
        BATCHES,
    ),
    Mutation(
        "Gaussians that the camera's plane cuts are left out",
        "bins.cu",
        "if (zz <= 1e-9 * square) return all;",
        "if (zz <= 1e-9 * square) return none;",
        RENDER,
    ),
    Mutation(
        "a density of NaN passes the check",
        "bins.cu",
        "if (!(density[i] > 0) || !is_finite(density[i]))",
        "if (density[i] <= 0)",
        "bins::test_bad_gaussians_raise_the_flag",
    ),
    # tree.cu
    Mutation("keys of 32 bits", "tree.cu", "int64_t key = 0;", "int32_t key = 0;", "tree::test_keys_follow_a_z_curve"),
    Mutation(
        "the first ray of a block is not asked",
        "tree.cu",
        "open(top, 0, ballot(ray.alive));",
        "open(top, 0, ballot(ray.alive) & ~1u);",
        SEARCH,
    ),
    Mutation(
        "no barrier between the lanes' children and the lane that goes on",
        "tree.cu",
        "parent = node, waiting = children;\n      __syncwarp();",
        "parent = node, waiting = children;",
        SEARCH,
        "race",
    ),
    Mutation(
        "boxes too small on one side",
        "tree.cu",
        "box[3 + a] = (T)(centre[a] + pad);",
        "box[3 + a] = (T)centre[a];",
        SEARCH,
    ),
    Mutation(
        "hits of a leaf overwrite each other",
        "tree.cu",
        "end += __popc(hits);",
        "end += hits != 0;",
        SEARCH,
    ),
    Mutation("a hit too many at the capacity", "tree.cu", "to < capacity)", "to <= capacity)", SCHEDULES, "race"),
    # warp.h
    Mutation("a mask that lacks a lane", "warp.h", "0xffffffffu", "0x7fffffffu", SCENES),
    Mutation(
        "a lane counts itself among those before it",
        "warp.h",
        "((1u << lane_index()) - 1)",
        "((2u << lane_index()) - 1)",
        SEARCH,
    ),
    Mutation(
        "a scan that stops a step early",
        "warp.h",
        "for (int apart = 1; apart < warp_size; apart *= 2) {\n    const T other = __shfl_up_sync",
        "for (int apart = 1; apart < warp_size / 2; apart *= 2) {\n    const T other = __shfl_up_sync",
        TILES,
    ),
    Mutation(
        "a sum over half of the warp",
        "warp.h",
        "apart = warp_size / 2; apart > 0; apart /= 2) x += ",
        "apart = warp_size / 4; apart > 0; apart /= 2) x += ",
        WEIGHTS,
    ),
    # hits.h
    Mutation(
        "a row of pixels too many",
        "hits.h",
        "y < s.rays / s.width",
        "y <= s.rays / s.width",
        RENDER,
        "race",
    ),
    Mutation(
        "no barrier between two steps of the sort",
        "hits.h",
        "exchange(integer[i], integer[j]);\n      }\n      __syncwarp();",
        "exchange(integer[i], integer[j]);\n      }",
        WEIGHTS,
        "race",
    ),
    Mutation(
        "a sort without its mirrored step",
        "hits.h",
        "mirrored ? i ^ (size - 1)",
        "mirrored ? i ^ apart",
        WEIGHTS,
    ),
    Mutation("a hit more than max_hits", "hits.h", "? (int)max_hits : n", "? (int)max_hits + 1 : n", RENDER),
    Mutation("hits in front of the near plane", "hits.h", "hit.length > near", "hit.length > -near", RENDER),
    # scene.h
    Mutation(
        "hits beyond the shared memory",
        "scene.h",
        "memory == own || of_list + hits * of_hit <= room",
        "memory == own || of_list <= room",
        "render::test_many_gaussians_in_long_lists",
        "race",
    ),
    # hermite.h
    Mutation(
        "hits in front of a node are left out of the optical depth",
        "hermite.h",
        "Passed<T> p{h.sums[begin], 0, 0};",
        "Passed<T> p{0, 0, 0};",
        WEIGHTS,
    ),
    Mutation("a cut-off that is too near", "hermite.h", "+ sigmas / h.rate[k]", "+ 1 / h.rate[k]", WEIGHTS),
    Mutation(
        "a dropped adjoint term: the place of a node",
        "hermite.h",
        "      grad_t += grad_depth * p.density;\n",
        "",
        WEIGHTS,
    ),
    Mutation(
        "a dropped adjoint term: the slope of a hit's bell, for normals",
        "hermite.h",
        "          slope_bell -= stop_bell * z * rate;\n",
        "",
        RENDER,
    ),
    # segments.h
    Mutation(
        "transmittance of one slab instead of all in front",
        "segments.h",
        "transmittance = vexp(-before);",
        "transmittance = vexp(-depth);",
        WEIGHTS,
    ),
    Mutation(
        "a dropped factor: a cut moves with its hit's width",
        "segments.h",
        "grad_place * at * sigma;",
        "grad_place * at;",
        WEIGHTS,
    ),
    Mutation(
        "a dropped adjoint term: slabs behind",
        "segments.h",
        "- grad_e * s.at.e - behind -",
        "- grad_e * s.at.e -",
        WEIGHTS,
    ),
    # median.h
    Mutation(
        "a dropped adjoint term: half of the light changes with the density",
        "median.h",
        "(m.share - normal_cdf(z))",
        "(-normal_cdf(z))",
        RENDER,
    ),
    # render_forward.cu
    Mutation("a mean depth that is no mean", "render_forward.cu", "warp_sum(depth) / alpha", "warp_sum(depth)", RENDER),
    Mutation(
        "a dropped factor: the width's square in a normal",
        "render_forward.cu",
        "sigma * sigma * h.stop[k]",
        "sigma * h.stop[k]",
        RENDER,
    ),
    # render_backward.cu
    Mutation(
        "a wrong sign: the mean depth's denominator",
        "render_backward.cu",
        "grad_depth * (h.length[k] - depth)",
        "grad_depth * (h.length[k] + depth)",
        RENDER,
    ),
    Mutation(
        "a dropped adjoint: directions are made unit vectors",
        "render_backward.cu",
        "normalise_adjoint(ray.norm * ray.direction, warp_sum(grad_direction))",
        "warp_sum(grad_direction)",
        RENDER,
    ),
    Mutation(
        "no barrier between the sums and the lanes that store them",
        "render_backward.cu",
        "  __syncwarp();\n  store_rows(p.geometry",
        "  store_rows(p.geometry",
        RENDER,
        "race",
    ),
    # reduce.cu
    Mutation("a matrix filled in wrongly", "reduce.cu", "4, 6, 7, 5, 7, 8}", "4, 6, 7, 5, 8, 7}", RENDER),
    Mutation(
        "scenes that share a Gaussian are left out",
        "reduce.cu",
        "items == 1 ? batch * num",
        "items == batch ? batch * num",
        BATCHES,
    ),
    # sums.h
    Mutation("groups of lanes added up wrongly", "sums.h", "sum, apart * width)", "sum, apart)", PRODUCTS),
    # trace.cu
    Mutation("an empty slot takes a hit", "trace.cu", "i - first < h.n ?", "i - first <= h.n ?", FRAGMENTS),
    # fragments.cu
    Mutation(
        "an index just beyond the Gaussians passes",
        "fragments.cu",
        "k >= 0 && k < num",
        "k >= 0 && k <= num",
        "fragments::test_indices_of_no_gaussian_count_as_empty",
        "race",
    ),
    Mutation(
        "the scene is left out of a slot's row",
        "fragments.cu",
        "k < 0 ? items * num : ray / (rays / items) * num + k",
        "k < 0 ? items * num : k",
        PRODUCTS,
    ),
    Mutation(
        "a wrong derivative of the width",
        "fragments.cu",
        "-grad.widths[slot] * width * width",
        "-grad.widths[slot] * width",
        FRAGMENTS,
    ),
    # weigh.cu
    Mutation("empty slots keep what was there", "weigh.cu", "weights[begin + i] = 0;", "continue;", SLOTS),
]


def mutate(mutation: Mutation, csrc: Path) -> None:
    """A copy of the sources with the mistake."""
    for part in ("core", "cuda"):
        shutil.copytree(build.CSRC / part, csrc / part)
    path = csrc / "cuda" / mutation.file
    text = path.read_text()
    assert text.count(mutation.old) == 1, f"{text.count(mutation.old)} places in {mutation.file}: {mutation.old}"
    path.write_text(text.replace(mutation.old, mutation.new))


def run_catcher(mutation: Mutation, csrc: Path) -> Outcome:
    """In a process of its own, which may crash; it is forked from one that has the imports behind it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scipy.stats", "torch._dynamo", "voge"])
    log = csrc.parent / "log"
    process = context.Process(target=run_test, args=(mutation, csrc, log))
    process.start()
    process.join(600)
    process.kill()
    output = log.read_text()
    # A mutant that does not compile, or whose test is not there, is not caught.
    failed = process.exitcode == 1 and " failed" in output and "BuildError" not in output
    return Outcome(failed or process.exitcode in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGFPE), output)


def run_test(mutation: Mutation, csrc: Path, log: Path) -> None:
    with log.open("w") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.environ.update(VOGE_EMULATION_CSRC=str(csrc), VOGE_EMULATION_MODE=mutation.mode)
    sys.exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", test(mutation)]))


def test(mutation: Mutation) -> str:
    return f"tests/test_cuda_{mutation.catcher.replace('::', '.py::')}"


def table() -> str:
    modes = {"in_order": "values", "race": "race detector"}
    rows = [f"| {m.name} | {m.file} | `{test(m)}` | {modes[m.mode]} |" for m in MUTATIONS]
    return "\n".join(
        [
            "# Mistakes that the tests of the CUDA kernels find",
            "",
            "Each of these mistakes is planted alone in a copy of csrc/cuda; the test beside it has to fail then. The",
            "kernels run on the CPU, in the emulator of tests/cuda_emulation. This page is written by",
            "`python -m tests.cuda_emulation.mutations`.",
            "",
            "| mistake | file | found by | seen in |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    TABLE.write_text(table())
