// The tree behind lists of rays: which boxes lie in which. Where the boxes are is filled in by every call (bin_rays.h),
// so a tree of the last call serves the next one too, however its Gaussians moved, until it has grown too costly.
#pragma once
#include <cstdint>

namespace voge {

// Nodes of up to `wide` children, parents first. A child is a node's number, ~ a leaf's number, or `no_child`. Without
// nodes every leaf is to be tried.
struct Topology {
  static constexpr int32_t no_child = INT32_MAX;
  int64_t num;
  int wide, depth;
  int64_t nodes, leaves;
  const int32_t* children;    // (nodes, wide)
  const int32_t* order;       // (num): Gaussians, leaf by leaf
  const int32_t* leaf_begin;  // (leaves + 1): places in `order`; at most `wide` a leaf
  double cost;                // of its boxes when it was new: their surfaces over that of the whole
};

struct BuildBox {
  float low[4], high[4];  // the fourth is not used
};

// Splits boxes by the surface area heuristic over 16 bins an axis. `boxes` is used up; num > 0.
Topology* build_topology(BuildBox* boxes, int64_t num, int wide, int threads);

// Leaves alone: for so few rays that a tree would cost more than it saves. VOGE_TREE=0 and 1 in the environment mean
// never and always a tree, for tests and benchmarks.
bool tree_pays(int64_t rays);
Topology* flat_topology(int64_t num, int wide);

// A few trees live on between calls, for the whole process. `tries` 0, 1, ..: the most recently used tree for so many
// Gaussians, the one before, ..; null: no more. What build and find return is to be released.
Topology* find_topology(int64_t num, int wide, int tries);
void keep_topology(Topology* t);
void release_topology(Topology* t);

}  // namespace voge
