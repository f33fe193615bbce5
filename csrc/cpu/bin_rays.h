// Bins of a list of rays: a block is 64 rays that lie side by side (ray_order.h), and its list holds the Gaussians that
// some ray of it meets, found in a tree of boxes.
//
// Cameras never come here: the pixels of a tile share an origin and a cone, and the projected bounds find what they
// meet (bins.h).
//
// The order of a list depends on its block's rays alone: a tree that was built, one that served another call, and any
// number of threads give the same bits.
#pragma once
#include "cpu/box_tree.h"
#include "cpu/clock.h"
#include "cpu/packet.h"

VOGE_NAMESPACE_BEGIN

// Plain values, one after the other.
template <class V>
struct Growing {
  Scratch<V> memory;
  int64_t size = 0;

  V* extend(int64_t n) {
    V* end = memory.grow(size + n, size) + size;
    size += n;
    return end;
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

// Ascending; a few by insertion.
inline const Candidate* sort_candidates(Candidate* a, int64_t n, Scratch<Candidate>& memory) {
  if (n > 32) return radix_sort<8>(a, memory.ensure(n), n, 0, 64, [](const Candidate& c) { return c.key; });
  for (int64_t i = 1; i < n; ++i) {
    const Candidate x = a[i];
    int64_t j = i;
    for (; j > 0 && a[j - 1].key > x.key; --j) a[j] = a[j - 1];
    a[j] = x;
  }
  return a;
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
  const Candidate* sorted = sort_candidates(search.candidates.memory.data, n, search.sorting);
  int32_t* list = search.lists.extend(n);
  uint64_t* rays_of = search.rays_of.extend(n);
  for (int64_t i = 0; i < n; ++i) list[i] = (int32_t)(uint32_t)sorted[i].key, rays_of[i] = sorted[i].rays;
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
