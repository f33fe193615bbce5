// Bins of a list of rays: a block is 64 rays that lie side by side (ray_order.h), and its list holds the Gaussians that
// some ray of it meets, found in a tree of boxes.
//
// Cameras never come here: the pixels of a tile share an origin and a cone, and the projected bounds find what they
// meet (bins.h).
//
// The tree may err on one side only. Boxes are widened, and Gaussians taken in, by what rounding can do to find_hit, so
// a list lacks no hit, and `gather` decides with the same numbers whatever the tree. The order of a list depends on its
// block's rays alone: a tree that was built, one that served another call, and any number of threads give the same
// bits.
#pragma once
#include "cpu/bvh.h"
#include "cpu/clock.h"
#include "cpu/ray_order.h"
// after ray_order.h, whose bounds say how far apart rays and Gaussians are
#include "cpu/packet.h"

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

// Plain values that keep their place when they grow in number.
template <class V>
struct Growing {
  Scratch<V> memory;
  int64_t size = 0;

  V* extend(int64_t n) {
    if (size + n > (int64_t)memory.capacity) {
      Scratch<V> larger;
      larger.ensure(2 * (size + n));
      if (size) memcpy((void*)larger.data, memory.data, sizeof(V) * size);
      exchange(larger.data, memory.data), exchange(larger.capacity, memory.capacity);
    }
    size += n;
    return memory.data + size - n;
  }
  V& operator[](int64_t i) { return memory.data[i]; }
};

// A Gaussian of the block: its least length on the rays that may hit it, and which these are.
struct Candidate {
  uint64_t key;  // bits of the length, index
  uint64_t rays;
};

// What the search of one thread needs.
template <class T>
struct RaySearch {
  struct Ray {
    T origin[3], direction[3], inverse[3];
    T limit;          // no box beyond this length matters
    int backward[3];  // the direction's sign
  };
  struct Waiting {
    int32_t child;
    T nearest;  // of its boxes on any of its rays
    uint64_t rays;
  };
  struct Pair {  // a hit that may be among the nearest of its ray
    int32_t candidate, ray;
    T length, surely_after;  // less than this it is not
  };
  Ray rays[block_rays];
  uint64_t alive;
  Scratch<Waiting> stack;
  Growing<Candidate> candidates;
  Growing<Pair> pairs;
  Growing<int32_t> lists;     // of all blocks that this thread has searched
  Growing<uint64_t> rays_of;  // beside them
  Scratch<T> nearest;         // surest max_hits lengths of every ray, ascending
  int known[block_rays];      // how many of them there are
  Scratch<Candidate> sorting;
};

VOGE_INLINE uint64_t candidate_key(float length, int32_t gaussian) {
  length = most(length, 0.f);
  uint32_t b;
  memcpy(&b, &length, 4);
  return (uint64_t)b << 32 | (uint32_t)gaussian;
}

// Ascending; a few by insertion, many by digits of eight bits, of which those that are all the same are skipped.
inline void sort_candidates(Candidate* a, int64_t n, Scratch<Candidate>& memory) {
  if (n <= 32) {
    for (int64_t i = 1; i < n; ++i) {
      const Candidate x = a[i];
      int64_t j = i;
      for (; j > 0 && a[j - 1].key > x.key; --j) a[j] = a[j - 1];
      a[j] = x;
    }
    return;
  }
  Candidate *from = a, *to = memory.ensure(n);
  for (int shift = 0; shift < 64; shift += 8) {
    int32_t start[257] = {0};
    for (int64_t i = 0; i < n; ++i) ++start[(from[i].key >> shift & 255) + 1];
    if (start[(from[0].key >> shift & 255) + 1] == n) continue;
    for (int i = 0; i < 256; ++i) start[i + 1] += start[i];
    for (int64_t i = 0; i < n; ++i) to[start[from[i].key >> shift & 255]++] = from[i];
    exchange(from, to);
  }
  if (from != a) memcpy(a, from, sizeof(Candidate) * n);
}

template <class T>
static void load_block(const Scene<T>& s, const Bins<T>& bins, int64_t block, Packet<T>& p, RaySearch<T>& search) {
  constexpr int lanes = Packet<T>::lanes;
  search.alive = 0;
  int corner[2];
  for (int i = 0; i < block_rays / lanes; ++i) {
    if (!packet_rays(s, bins, block, i, p, corner)) continue;
    load_rays(s, block / bins.blocks_per_scene, p);
    for (int j = 0; j < lanes; ++j) {
      if (!p.alive[j]) continue;
      const int r = i * lanes + j;
      search.alive |= uint64_t{1} << r;
      typename RaySearch<T>::Ray& ray = search.rays[r];
      const T origin[3] = {p.origin.x[j], p.origin.y[j], p.origin.z[j]};
      const T direction[3] = {p.direction.x[j], p.direction.y[j], p.direction.z[j]};
      ray.limit = INFINITY;
      for (int a = 0; a < 3; ++a) {
        ray.origin[a] = origin[a], ray.direction[a] = direction[a];
        ray.backward[a] = direction[a] < 0;
        // Along an axis on which it does not move a ray is inside for ever or never.
        ray.inverse[a] = (T)1 / (fabs((double)direction[a]) < 1e-30 ? (T)1e-30 : direction[a]);
      }
    }
  }
}

// Tests the rays of a leaf against its Gaussians, and takes in those that some ray may hit.
template <bool limited, class T>
static void search_leaf(const BoxLeaf<T>& leaf, uint64_t rays, T near, int64_t max_hits, RaySearch<T>& search) {
  typedef typename Simd<T>::Vec Vec;
  constexpr int lanes = Simd<T>::lanes;
  Vec closest = broadcast((T)INFINITY);
  unsigned found = 0;
  uint64_t rays_of[lanes];
  const int64_t first = search.candidates.size;
  for (; rays; rays &= rays - 1) {
    const int r = __builtin_ctzll(rays);
    typename RaySearch<T>::Ray& ray = search.rays[r];
    const Vec3<Vec> v{leaf.mean[0] - ray.origin[0], leaf.mean[1] - ray.origin[1], leaf.mean[2] - ray.origin[2]};
    const Vec* f = leaf.factor;
    const Vec3<Vec> e{f[0] * ray.direction[0] + f[1] * ray.direction[1] + f[2] * ray.direction[2],
                      f[3] * ray.direction[1] + f[4] * ray.direction[2], f[5] * ray.direction[2]};
    const Vec3<Vec> y{f[0] * v.x + f[1] * v.y + f[2] * v.z, f[3] * v.y + f[4] * v.z, f[5] * v.z};
    const Vec length = dot(y, e) * rcp(vmax(dot(e, e), broadcast((T)1e-37)));
    const Vec3<Vec> u = y - length * e;
    const Vec apart = dot(u, u);
    const auto maybe = (apart <= leaf.outer) & (length + leaf.blur > near);
    unsigned hit = bits(maybe) & leaf.present;
    if constexpr (limited) {
      const Vec soonest = length - leaf.blur;
      hit &= bits(soonest <= ray.limit);
      if (!hit) continue;
      const unsigned sure = bits((apart <= leaf.inner) & (soonest > near));
      if (!found) {  // a place for every Gaussian of the leaf
        Candidate* places = search.candidates.extend(lanes);
        for (int c = 0; c < lanes; ++c) places[c] = {candidate_key(INFINITY, leaf.gaussian[c]), 0};
      }
      found |= hit;
      T* sorted = search.nearest.data + r * max_hits;
      int& n = search.known[r];
      for (; hit; hit &= hit - 1) {
        const int c = __builtin_ctz(hit);
        *search.pairs.extend(1) = {(int32_t)(first + c), r, length[c], soonest[c]};
        if (!(sure >> c & 1)) continue;
        const T latest = length[c] + leaf.blur[c];
        if (n == max_hits && !(latest < sorted[n - 1])) continue;
        int at = n < max_hits ? n++ : n - 1;
        for (; at > 0 && sorted[at - 1] > latest; --at) sorted[at] = sorted[at - 1];
        sorted[at] = latest;
      }
      if (n == max_hits) ray.limit = sorted[n - 1];
    } else {
      if (!hit) continue;
      if (!found) memset(rays_of, 0, sizeof rays_of);
      found |= hit;
      for (; hit; hit &= hit - 1) rays_of[__builtin_ctz(hit)] |= uint64_t{1} << r;
      closest = vmin(closest, select(maybe, length, broadcast((T)INFINITY)));
    }
  }
  if constexpr (!limited) {
    for (; found; found &= found - 1) {
      const int c = __builtin_ctz(found);
      *search.candidates.extend(1) = {candidate_key((float)closest[c], leaf.gaussian[c]), rays_of[c]};
    }
  }
}

// Fills search.candidates with the Gaussians that the block's rays may hit. With `limited` the nearest boxes come
// first, and a ray is done with where max_hits sure hits are nearer.
template <bool limited, class T>
static void search_block(const BoxTree<T>& tree, T near, int64_t max_hits, RaySearch<T>& search) {
  typedef typename Simd<T>::Vec Vec;
  typedef typename RaySearch<T>::Waiting Waiting;
  constexpr int lanes = Simd<T>::lanes;
  const Topology& t = *tree.topology;
  for (int64_t i = 0; t.nodes == 0 && i < t.leaves; ++i)
    search_leaf<limited>(tree.leaves.data[i], search.alive, near, max_hits, search);
  if (t.nodes == 0) return;
  Waiting* stack = search.stack.ensure((t.depth + 1) * lanes + 1);
  int top = 0;
  stack[top++] = {0, 0, search.alive};
  const T shrink = 1 - Rounding<T>::tree;
  while (top > 0) {
    Waiting w = stack[--top];
    if constexpr (limited) {
      for (uint64_t m = w.rays; m; m &= m - 1) {
        const int r = __builtin_ctzll(m);
        if (w.nearest > search.rays[r].limit) w.rays &= ~(uint64_t{1} << r);
      }
      if (!w.rays) continue;
    }
    if (w.child < 0) {
      search_leaf<limited>(tree.leaves.data[~w.child], w.rays, near, max_hits, search);
      continue;
    }
    const BoxNode<T>& node = tree.nodes.data[w.child];
    uint64_t rays_of[lanes] = {0};
    unsigned met = 0;
    Vec nearest = broadcast((T)INFINITY);
    for (uint64_t m = w.rays; m; m &= m - 1) {
      const int r = __builtin_ctzll(m);
      const typename RaySearch<T>::Ray& ray = search.rays[r];
      Vec enter = broadcast((T)0), leave = broadcast(ray.limit);
      for (int a = 0; a < 3; ++a) {
        const int back = ray.backward[a];
        enter = vmax(enter, (node.planes[back][a] - ray.origin[a]) * ray.inverse[a]);
        leave = vmin(leave, (node.planes[1 - back][a] - ray.origin[a]) * ray.inverse[a]);
      }
      enter *= shrink;
      const auto inside = (enter <= leave) & (leave >= near * shrink);
      unsigned hit = bits(inside);
      if constexpr (limited) nearest = vmin(nearest, select(inside, enter, broadcast((T)INFINITY)));
      met |= hit;
      for (; hit; hit &= hit - 1) rays_of[__builtin_ctz(hit)] |= uint64_t{1} << r;
    }
    const int32_t* children = t.children + (int64_t)w.child * lanes;
    const int bottom = top;
    for (; met; met &= met - 1) {
      const int c = __builtin_ctz(met);
      const Waiting child{children[c], limited ? nearest[c] : (T)0, rays_of[c]};
      int at = top++;
      if constexpr (limited)  // nearest on top
        for (; at > bottom && stack[at - 1].nearest < child.nearest; --at) stack[at] = stack[at - 1];
      stack[at] = child;
    }
  }
}

// Of the pairs, those that may be among the nearest; a Gaussian without any is none of the block's.
template <class T>
static void cut_candidates(RaySearch<T>& search) {
  Growing<Candidate>& candidates = search.candidates;
  for (int64_t i = 0; i < search.pairs.size; ++i) {
    const typename RaySearch<T>::Pair& p = search.pairs[i];
    if (p.surely_after > search.rays[p.ray].limit) continue;
    Candidate& c = candidates[p.candidate];
    c.key = least(c.key, candidate_key((float)p.length, (int32_t)(uint32_t)c.key));
    c.rays |= uint64_t{1} << p.ray;
  }
  int64_t n = 0;
  for (int64_t i = 0; i < candidates.size; ++i)
    if (candidates[i].rays) candidates[n++] = candidates[i];
  candidates.size = n;
}

// The list of one block; where it begins among the thread's lists, and how long it is.
template <class T>
static int64_t search_list(const Scene<T>& s, const BoxTree<T>& tree, RaySearch<T>& search) {
  search.candidates.size = search.pairs.size = 0;
  if (!search.alive) return 0;
  if (s.max_hits > 0 && s.max_hits < s.num) {
    search.nearest.ensure(block_rays * s.max_hits);
    memset(search.known, 0, sizeof search.known);
    search_block<true>(tree, (T)s.near, s.max_hits, search);
    cut_candidates(search);
  } else {
    search_block<false>(tree, (T)s.near, 0, search);
  }
  const int64_t n = search.candidates.size;
  sort_candidates(search.candidates.memory.data, n, search.sorting);
  int32_t* list = search.lists.extend(n);
  uint64_t* rays_of = search.rays_of.extend(n);
  for (int64_t i = 0; i < n; ++i)
    list[i] = (int32_t)(uint32_t)search.candidates[i].key, rays_of[i] = search.candidates[i].rays;
  return n;
}

template <class T, class Workers>
static void bin_rays(const Scene<T>& s, Bins<T>& bins, Workers& team) {
  const bool shared = s.origins_per_scene == 1;
  int64_t* order = bins.ray_order.ensure(s.ray_batch * s.rays);
  int64_t* offsets = bins.offsets.data;
  Scratch<uint64_t> memory;
  Bounds origins(3);
  for (int64_t r = 0; r < s.ray_batch; ++r) {
    const bool* valid = s.valid ? s.valid + r * s.rays : nullptr;
    const T* starts = s.origins + 3 * r * s.origins_per_scene;
    const Bounds mine = bounds_of_points(starts, shared ? nullptr : valid, s.origins_per_scene, s.threads);
    origins.add(mine.low, mine.high);
    const T* means = s.means + 3 * (s.geometry_batch == 1 ? 0 : r) * s.num;
    const Bounds scene = bounds_of_points(means, nullptr, s.num, s.threads);
    order_rays(starts, shared, s.directions + 3 * r * s.rays, valid, s.rays, scene, s.threads, memory,
               order + r * s.rays);
  }
  if (s.num == 0 || bins.blocks == 0) {
    bins.pairs = 0;
    bins.list.ensure(1);
    return;
  }
  Team<BoxTree<T>> trees((int)s.geometry_batch);
  for (int64_t g = 0; g < s.geometry_batch; ++g) {
    trees[(int)g].reach = sqrt(-2 * log(s.threshold));
    plant(trees[(int)g], bins.records.data + g * s.num, s.num, origins, tree_pays(s.batch * s.rays), s.threads);
  }
  struct Place {
    int worker;
    int64_t begin;
  };
  Scratch<Place> places;
  places.ensure(bins.blocks);
  Team<RaySearch<T>> searches(s.threads);
  auto search = [&](int worker, int64_t block) {
    RaySearch<T>& mine = searches[worker];
    load_block(s, bins, block, team[worker].packet, mine);
    places.data[block] = {worker, mine.lists.size};
    const int64_t b = block / bins.blocks_per_scene;
    offsets[block + 1] = search_list(s, trees[(int)(s.geometry_batch == 1 ? 0 : b)], mine);
  };
  parallel_for(bins.blocks, s.threads, search);
  for (int64_t i = 0; i < bins.blocks; ++i) offsets[i + 1] += offsets[i];
  bins.pairs = offsets[bins.blocks];
  int32_t* list = bins.list.ensure(bins.pairs + 1);
  uint64_t* rays_of = bins.rays_of.ensure(bins.pairs + 1);
  for (int64_t i = 0; i < bins.blocks; ++i) {
    const int64_t n = offsets[i + 1] - offsets[i];
    if (n == 0) continue;
    const RaySearch<T>& mine = searches[places.data[i].worker];
    memcpy(list + offsets[i], mine.lists.memory.data + places.data[i].begin, sizeof(int32_t) * n);
    memcpy(rays_of + offsets[i], mine.rays_of.memory.data + places.data[i].begin, sizeof(uint64_t) * n);
  }
}

VOGE_NAMESPACE_END
