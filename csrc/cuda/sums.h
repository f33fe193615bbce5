// Sums of value(row, column) over a table, shared out over the lanes of a warp: down the columns, or along the rows.
#pragma once
#include "cuda/warp.h"

VOGE_NAMESPACE_BEGIN

// Of every column: one lane calls out(column, sum), for a column always the same one. Narrow tables are read by several
// groups of lanes, each of which takes every so many-th row.
template <class S, class Value, class Out>
__device__ void sum_columns(int64_t rows, int64_t columns, Value value, Out out) {
  if (columns <= 0) return;
  const int width = (int)least<int64_t>(columns, warp_size), group = lane_index() / width;
  int groups = 1;
  while (2 * groups * width <= warp_size) groups *= 2;
  for (int64_t column = lane_index() % width; column - lane_index() % width < columns; column += warp_size) {
    const bool mine = group < groups && column < columns;
    S sum = 0;
    for (int64_t row = group; mine && row < rows; row += groups) sum += value(row, column);
    for (int apart = groups / 2; apart > 0; apart /= 2) sum += __shfl_down_sync(all_lanes, sum, apart * width);
    if (mine && group == 0) out(column, sum);
  }
}

// Of every row: lane row % 32 calls out(row, sum). From 32 columns on the lanes go along the rows, for the sake of
// memory that lies so.
template <class S, class Value, class Out>
__device__ void sum_rows(int64_t rows, int64_t columns, Value value, Out out) {
  if (columns < warp_size) {
    for (int64_t row = lane_index(); row < rows; row += warp_size) {
      S sum = 0;
      for (int64_t column = 0; column < columns; ++column) sum += value(row, column);
      out(row, sum);
    }
    return;
  }
  for (int64_t row = 0; row < rows; ++row) {
    S sum = 0;
    for (int64_t column = lane_index(); column < columns; column += warp_size) sum += value(row, column);
    sum = warp_sum(sum);
    if (row % warp_size == lane_index()) out(row, sum);
  }
}

VOGE_NAMESPACE_END
