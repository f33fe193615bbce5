// The tree of the ellipsoids' boxes: a topology (bvh.h), with the boxes of this call's Gaussians.
//
// It may err on one side only. Boxes are widened, and Gaussians taken in, by what rounding can do to find_hit, so that
// no hit is lacking; `gather` decides with the same numbers whatever the tree.
#pragma once
#include "cpu/bvh.h"
#include "cpu/ray_order.h"

VOGE_NAMESPACE_BEGIN

// A node: the boxes of its children. Numbers of all children lie side by side, and a ray is tested against all at once.
template <class T>
struct BoxNode {
  typedef typename Simd<T>::Vec Vec;
  Vec planes[2][3];  // lower and upper; an absent child has them the wrong way round
};

// A leaf: its Gaussians, in the same way.
template <class T>
struct BoxLeaf {
  typedef typename Simd<T>::Vec Vec;
  Vec factor[6], mean[3];
  Vec outer, inner;  // squares of |L'(M - o) - l L'd|: more is no hit, less is one, whatever rounding did
  Vec blur;          // how wrong a length may be
  int32_t gaussian[Simd<T>::lanes];
  unsigned present;
};

template <class T>
struct Rounding;
template <>
struct Rounding<float> {
  static constexpr float unit = 6e-8f, tree = 2e-6f;
};
template <>
struct Rounding<double> {
  static constexpr double unit = 1.2e-16, tree = 4e-15;
};

// The tree of one scene's Gaussians, with the boxes of this call.
template <class T>
struct BoxTree {
  static constexpr int wide = Simd<T>::lanes;
  Topology* topology = nullptr;
  Scratch<BoxNode<T>> nodes;
  Scratch<BoxLeaf<T>> leaves;
  Scratch<Vec3<T>> corners;  // low and high of every leaf, then of every node
  double reach = 0;          // standard deviations at the threshold

  BoxTree() = default;
  BoxTree(const BoxTree&) = delete;
  BoxTree& operator=(const BoxTree&) = delete;
  ~BoxTree() { release_topology(topology); }
};

struct Extent {
  Vec3<double> half;    // of the box that holds the ellipsoid of the threshold
  double outer, inner;  // its standard deviations, with room for what rounding does over this distance
  double blur;
};

template <class T>
static Extent extent(const Record<T>& g, double reach, double distance) {
  const Lower3<T>& f = g.factor;
  const double x = 1 / (double)f.xx, y = 1 / (double)f.yy, z = 1 / (double)f.zz;  // inverse of L
  const double yx = -f.yx * x * y, zy = -f.zy * y * z, zx = -(f.zx * x + f.zy * yx) * z;
  const Vec3<double> variance{x * x + yx * yx + zx * zx, y * y + zy * zy, z * z};
  Extent e;
  const double stiffest = sqrt((double)f.xx * f.xx + (double)f.yx * f.yx + (double)f.yy * f.yy + (double)f.zx * f.zx +
                               (double)f.zy * f.zy + (double)f.zz * f.zz);
  const double widest = sqrt(variance.x + variance.y + variance.z);
  const double error = reach * Rounding<T>::tree + 16 * Rounding<T>::unit * stiffest * (distance + reach * widest);
  e.outer = reach + error, e.inner = most(reach - error, 0.0), e.blur = error * widest;
  e.half = {e.outer * sqrt(variance.x), e.outer * sqrt(variance.y), e.outer * sqrt(variance.z)};
  return e;
}

template <class T>
VOGE_INLINE double half_area(const Vec3<T>& low, const Vec3<T>& high) {
  const double x = (double)high.x - low.x, y = (double)high.y - low.y, z = (double)high.z - low.z;
  return x * y + y * z + z * x;
}

template <class T>
VOGE_INLINE double distance_to(const Record<T>& g, const Bounds& origins) {
  const double x = g.mean.x - origins.middle(0), y = g.mean.y - origins.middle(1), z = g.mean.z - origins.middle(2);
  return sqrt(x * x + y * y + z * z) + origins.radius();
}

// Puts the boxes of these Gaussians into the tree; returns what its surfaces cost.
template <class T>
static double fit_boxes(BoxTree<T>& tree, const Record<T>* records, const Bounds& origins, int threads) {
  const Topology& t = *tree.topology;
  BoxLeaf<T>* leaves = tree.leaves.ensure(t.leaves);
  BoxNode<T>* nodes = tree.nodes.ensure(t.nodes);
  Vec3<T>* corners = tree.corners.ensure(2 * (t.leaves + t.nodes));
  constexpr int64_t chunk = 64;
  auto fit = [&](int, int64_t c) {
    for (int64_t i = c * chunk; i < least(t.leaves, (c + 1) * chunk); ++i) {
      BoxLeaf<T>& leaf = leaves[i];
      memset(&leaf, 0, sizeof leaf);
      T low[3] = {INFINITY, INFINITY, INFINITY}, high[3] = {-INFINITY, -INFINITY, -INFINITY};
      const int n = t.leaf_begin[i + 1] - t.leaf_begin[i];
      for (int j = 0; j < n; ++j) {
        const int32_t k = leaf.gaussian[j] = t.order[t.leaf_begin[i] + j];
        const Record<T>& g = records[k];
        const Extent e = extent(g, tree.reach, distance_to(g, origins));
        const Lower3<T>& f = g.factor;
        const T factor[6] = {f.xx, f.yx, f.zx, f.yy, f.zy, f.zz}, mean[3] = {g.mean.x, g.mean.y, g.mean.z};
        const double half[3] = {e.half.x, e.half.y, e.half.z};
        for (int a = 0; a < 6; ++a) leaf.factor[a][j] = factor[a];
        for (int a = 0; a < 3; ++a) {
          leaf.mean[a][j] = mean[a];
          const double pad = half[a] + 4 * Rounding<T>::unit * (half[a] + fabs((double)mean[a]));
          low[a] = least(low[a], (T)(mean[a] - pad)), high[a] = most(high[a], (T)(mean[a] + pad));
        }
        leaf.outer[j] = (T)(e.outer * e.outer), leaf.inner[j] = (T)(e.inner * e.inner), leaf.blur[j] = (T)e.blur;
      }
      leaf.present = (1u << n) - 1;
      corners[2 * i] = {low[0], low[1], low[2]}, corners[2 * i + 1] = {high[0], high[1], high[2]};
    }
  };
  parallel_for((t.leaves + chunk - 1) / chunk, threads, fit);
  double cost = 0;
  for (int64_t i = t.nodes; i-- > 0;) {
    Vec3<T> low{INFINITY, INFINITY, INFINITY}, high{-INFINITY, -INFINITY, -INFINITY};
    for (int j = 0; j < t.wide; ++j) {
      const int32_t child = t.children[i * t.wide + j];
      Vec3<T> l{INFINITY, INFINITY, INFINITY}, h{-INFINITY, -INFINITY, -INFINITY};
      if (child != Topology::no_child) {
        const int64_t at = child < 0 ? ~child : t.leaves + child;
        l = corners[2 * at], h = corners[2 * at + 1];
        cost += half_area(l, h);
      }
      low = {least(low.x, l.x), least(low.y, l.y), least(low.z, l.z)};
      high = {most(high.x, h.x), most(high.y, h.y), most(high.z, h.z)};
      auto& p = nodes[i].planes;
      p[0][0][j] = l.x, p[0][1][j] = l.y, p[0][2][j] = l.z, p[1][0][j] = h.x, p[1][1][j] = h.y, p[1][2][j] = h.z;
    }
    corners[2 * (t.leaves + i)] = low, corners[2 * (t.leaves + i) + 1] = high;
  }
  if (t.nodes == 0) return 0;
  const double whole = half_area(corners[2 * t.leaves], corners[2 * t.leaves + 1]);
  return whole > 0 ? cost / whole : cost;
}

constexpr double worn_out = 1.5;  // growth of a tree's cost at which it is built anew

// A tree of an earlier call whose boxes are fitted to these Gaussians, or a new one.
template <class T>
static void plant(BoxTree<T>& tree, const Record<T>* records, int64_t num, const Bounds& origins, bool worthwhile,
                  int threads) {
  if (!worthwhile) {
    tree.topology = flat_topology(num, BoxTree<T>::wide);
    fit_boxes(tree, records, origins, threads);
    return;
  }
  for (int tries = 0; tries < 4; ++tries) {
    release_topology(tree.topology);
    tree.topology = find_topology(num, BoxTree<T>::wide, tries);
    if (!tree.topology) break;
    if (fit_boxes(tree, records, origins, threads) > worn_out * tree.topology->cost) continue;
    keep_topology(tree.topology);
    return;
  }
  release_topology(tree.topology);
  tree.topology = nullptr;
  Scratch<BuildBox> boxes;
  boxes.ensure(num);
  const Vec3<T> centre = records[0].mean;  // single precision need not tell far from near
  constexpr int64_t chunk = 4096;
  auto fill = [&](int, int64_t c) {
    for (int64_t k = c * chunk; k < least(num, (c + 1) * chunk); ++k) {
      const Record<T>& g = records[k];
      const Extent e = extent(g, tree.reach, distance_to(g, origins));
      const double mean[3] = {(double)g.mean.x - centre.x, (double)g.mean.y - centre.y, (double)g.mean.z - centre.z};
      const double half[3] = {e.half.x, e.half.y, e.half.z};
      for (int a = 0; a < 3; ++a)
        boxes.data[k].low[a] = (float)(mean[a] - half[a]), boxes.data[k].high[a] = (float)(mean[a] + half[a]);
    }
  };
  parallel_for((num + chunk - 1) / chunk, threads, fill);
  tree.topology = build_topology(boxes.data, num, BoxTree<T>::wide, threads);
  tree.topology->cost = fit_boxes(tree, records, origins, threads);
  keep_topology(tree.topology);
}

VOGE_NAMESPACE_END
