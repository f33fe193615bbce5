"""Sizes that no test can hold in memory: offsets past 2^31 pairs, by arithmetic on the kernels' own functions."""

import shutil
import subprocess

import pytest

from benchmarks.results import ROOT

PROGRAM = r"""
#define VOGE_ISA scale
#include <cstdio>
#include "cpu/render.h"
using namespace voge;
using namespace voge::scale;

int main() {
  // The third of three Gaussians begins at slot 5e9 and covers 3 x 2 tiles from (70000, 40000) on, in the second scene.
  const int64_t first = 5000000000, pair = 7000000000;
  Scene<float> s{};
  const double projection[12] = {};
  s.num = 3, s.projection = projection;
  Bins<float> bins;
  bins.tiles_x = 100000, bins.blocks_per_scene = bins.tiles_x * 50000;
  Projected<float> gaussians[6] = {};
  Projected<float>& g = gaussians[5];
  g.tx0 = 70000, g.tx1 = 70003, g.ty0 = 40000, g.ty1 = 40002;
  int64_t starts[7] = {0, 1, 2, 3, 4, first, first + 6};
  int32_t third = 2;
  bins.projected.data = gaussians;
  bins.list.data = &third - pair;  // the pair's place in all lists
  Slots<float> slots;
  slots.starts.data = starts;
  const int64_t block = bins.blocks_per_scene + 40001 * bins.tiles_x + 70002;
  std::printf("%lld %lld %lld %d %d\n", (long long)g.tiles(), (long long)slots.of(s, bins, block, pair),
              (long long)block, (int)sizeof(bins.offsets.data[0]), (int)sizeof(bins.pairs));
  Projected<float> whole{};
  whole.tx1 = 100000, whole.ty1 = 50000;  // a Gaussian on every tile
  std::printf("%lld %lld\n", (long long)whole.tiles(), (long long)whole.place(99999, 49999));
  bins.projected.data = nullptr, bins.list.data = nullptr, slots.starts.data = nullptr;
}
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="no g++")
def test_offsets_pass_two_to_the_31(tmp_path):
    source, program = tmp_path / "offsets.cpp", tmp_path / "offsets"
    source.write_text(PROGRAM, encoding="utf-8")
    command = ["g++", "-std=c++17", "-O0", f"-I{ROOT / 'csrc'}", "-w", "-o", str(program), str(source)]
    subprocess.run([*command, str(ROOT / "csrc/cpu/pool.cpp"), "-ldl", "-pthread"], check=True, timeout=120)
    out = subprocess.run([str(program)], capture_output=True, text=True, check=True).stdout.split()
    block = 100000 * 50000 + 40001 * 100000 + 70002
    assert out == ["6", str(5_000_000_000 + 5), str(block), "8", "8", "5000000000", "4999999999"]
