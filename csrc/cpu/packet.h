// The hits of a packet of rays, one ray a SIMD lane: gathered from a block's list, cut to the nearest max_hits, with
// the intervals that let later stages skip pairs of hits.
#pragma once
#include "cpu/bins.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct Packet {
  typedef typename Simd<T>::Vec Vec;
  typedef typename Simd<T>::Mask Mask;
  static constexpr int lanes = Simd<T>::lanes;
  // A packet is a rectangle of pixels, 4x4 (16 lanes), 4x2, 2x2 or 2x1, or as many rays of a list.
  static constexpr int width = lanes >= 8 ? 4 : 2, height = lanes / width;

  // Rays. Lanes that are outside the image or not valid meet nothing.
  int64_t ray[lanes];           // index within the scene
  int place;                    // of the first one in the block
  Vec3<Vec> direction, origin;  // the direction of length 1
  Mask alive;
  bool any;

  // Hits, entry by entry; a lane that misses an entry has peak 0 and some length within `first` .. `last`.
  int n;
  int32_t* entry;                // place in the block's list
  Vec *length, *peak, *rate;     // l, A, 1 / sigma
  T *first, *last, *low, *high;  // least and greatest l of the lanes that hit; widened by the reach
  T *high_before, *low_after;    // greatest `high` of all entries up to here; least `low` of all from here on
  Vec* seen;                     // hits before this entry, lane by lane (n + 1)
  Vec* exponent;                 // of the peak
};

// Scratch memory of one thread, for lists of up to `capacity` Gaussians.
template <class T>
struct PacketMemory {
  typedef typename Simd<T>::Vec Vec;
  Scratch<Vec> vectors;
  Scratch<T> scalars;
  Scratch<int32_t> integers;

  void attach(Packet<T>& p, int64_t capacity) {
    const int64_t c = capacity + 1;
    Vec* v = vectors.ensure(5 * c);
    p.length = v, p.peak = v + c, p.rate = v + 2 * c, p.seen = v + 3 * c, p.exponent = v + 4 * c;
    T* s = scalars.ensure(6 * c);
    p.first = s, p.last = s + c, p.low = s + 2 * c, p.high = s + 3 * c, p.high_before = s + 4 * c,
    p.low_after = s + 5 * c;
    p.entry = integers.ensure(c);
  }
};

template <class T>
VOGE_INLINE typename Simd<T>::Vec missing_length() {
  return broadcast((T)1e30);
}

// Loads rays `ray[..]` of scene b and makes their directions unit; lanes with ray < 0 are dead.
template <class T>
static void load_rays(const Scene<T>& s, int64_t b, Packet<T>& p) {
  const int64_t r = s.ray_batch == 1 ? 0 : b;
  const bool shared = s.origins_per_scene == 1;
  p.any = false;
  for (int i = 0; i < Packet<T>::lanes; ++i) {
    const int64_t ray = p.ray[i], at = r * s.rays + (ray < 0 ? 0 : ray);
    const bool alive = ray >= 0 && (!s.valid || s.valid[at]);
    p.alive[i] = alive ? -1 : 0;
    p.any |= alive;
    const T* o = s.origins + 3 * (shared ? r : at);
    const T* d = s.directions + 3 * at;
    p.origin.x[i] = o[0], p.origin.y[i] = o[1], p.origin.z[i] = o[2];
    p.direction.x[i] = alive ? d[0] : (T)0, p.direction.y[i] = alive ? d[1] : (T)0,
    p.direction.z[i] = alive ? d[2] : (T)1;
  }
  p.direction = ((T)1 / length(p.direction)) * p.direction;
}

// The rays of packet i of a block. Returns false when there are none.
template <class T>
static bool packet_rays(const Scene<T>& s, const Bins<T>& bins, int64_t block, int i, Packet<T>& p, int* corner) {
  typedef Packet<T> P;
  const int64_t in_scene = block % bins.blocks_per_scene;
  bool some = false;
  p.place = i * P::lanes;
  if (s.projection) {
    const int across = tile_side / P::width;
    const int64_t x0 = in_scene % bins.tiles_x * tile_side + i % across * P::width,
                  y0 = in_scene / bins.tiles_x * tile_side + i / across * P::height;
    corner[0] = (int)x0, corner[1] = (int)y0;
    for (int j = 0; j < P::lanes; ++j) {
      const int64_t x = x0 + j % P::width, y = y0 + j / P::width;
      const bool inside = x < s.width && y < s.height;
      p.ray[j] = inside ? y * s.width + x : -1;
      some |= inside;
    }
  } else {
    const int64_t* order = bins.ray_order.data + (s.ray_batch == 1 ? 0 : block / bins.blocks_per_scene) * s.rays;
    for (int j = 0; j < P::lanes; ++j) {
      const int64_t place = in_scene * block_rays + i * P::lanes + j;
      p.ray[j] = place < s.rays ? order[place] : -1;
      some |= place < s.rays;
    }
  }
  return some;
}

// Calls done(j, rank) for every row j of n: how many rows are in front of it, lane by lane. Those that surely are
// follow from running counts, `seen`; those whose intervals [first(i), last(i)] overlap its own are compared: value(i)
// is a row's place, and of equal ones row i comes first where earlier(i, j). last_before and first_after are memory of
// n.
template <class T, class First, class Last, class Value, class Earlier, class Done>
VOGE_INLINE void rank_rows(int n, First&& first, Last&& last, const typename Simd<T>::Vec* seen, T* last_before,
                           T* first_after, Value&& value, Earlier&& earlier, Done&& done) {
  typedef typename Simd<T>::Vec Vec;
  typedef typename Simd<T>::Mask Mask;
  T run = -INFINITY;
  for (int j = 0; j < n; ++j) last_before[j] = run = most(run, last(j));
  run = INFINITY;
  for (int j = n - 1; j >= 0; --j) first_after[j] = run = least(run, first(j));
  int begin = 0;
  for (int j = 0; j < n; ++j) {
    const T mine_first = first(j), mine_last = last(j);
    while (begin > 0 && last_before[begin - 1] >= mine_first) --begin;
    while (begin < n && last_before[begin] < mine_first) ++begin;
    Vec rank = seen[begin];
    const Vec mine = value(j);
    for (int i = begin; i < n && first_after[i] <= mine_last; ++i) {
      const Mask nearer = earlier(i, j) ? value(i) <= mine : value(i) < mine;
      rank += (Vec)((Mask)broadcast((T)1) & nearer);
    }
    done(j, rank);
  }
}

// Keeps the nearest `max_hits` of every lane (equal lengths: the lower index).
template <class T>
static void keep_nearest(Packet<T>& p, const int32_t* list, int64_t max_hits) {
  typedef typename Simd<T>::Vec Vec;
  typedef typename Simd<T>::Mask Mask;
  const int n = p.n;
  const Vec k = broadcast((T)max_hits);
  if (!bits(p.seen[n] > k)) return;
  Vec* keep = p.peak;  // not yet in use
  rank_rows<T>(
      n, [&](int i) { return p.first[i]; }, [&](int i) { return p.last[i]; }, p.seen, p.high_before, p.low_after,
      [&](int i) { return p.length[i]; }, [&](int i, int j) { return list[p.entry[i]] < list[p.entry[j]]; },
      [&](int j, Vec rank) { keep[j] = (Vec)((rank < k) & (p.length[j] < (T)1e29)); });
  int w = 0;
  for (int j = 0; j < n; ++j) {
    const Mask m = (Mask)keep[j];
    if (!bits(m)) continue;
    p.entry[w] = p.entry[j];
    p.rate[w] = p.rate[j];
    p.exponent[w] = p.exponent[j];
    const Vec l = p.length[j];
    p.length[w] = select(m, l, missing_length<T>());
    p.first[w] = lane_min(p.length[w]);
    p.last[w] = lane_max(select(m, l, -missing_length<T>()));
    ++w;
  }
  p.n = w;
}

// What find_hit needs of a Gaussian of the block.
template <class T>
struct BlockGaussian {
  Record<T> record;
  Vec3<T> y;  // where the rays share an origin
};

// The Gaussians of a block's list side by side: where they come from they are strewn over memory, and every packet of
// the block needs them. With their bounds in pixels (x0 | x1 | y0 | y1, each padded to `stride`), except for a list of
// rays.
template <class T>
struct BlockGaussians {
  Scratch<BlockGaussian<T>> memory;
  Scratch<float> bounds_memory;
  const float* bounds = nullptr;
  int64_t stride = 0;
  int corner[2] = {0, 0};  // pixel at the top left of the packet

  void load(const Scene<T>& s, const Bins<T>& bins, int64_t b, const int32_t* list, int64_t m) {
    const Record<T>* records = bins.records.data + (s.geometry_batch == 1 ? 0 : b) * s.num;
    const Projected<T>* projected = bins.projected.data + b * s.num;
    BlockGaussian<T>* out = memory.ensure(m + 1);
    bounds = nullptr;
    if (!s.projection) {
      for (int64_t i = 0; i < m; ++i) out[i] = {records[list[i]], projected[list[i]].y};
      return;
    }
    constexpr int lanes = Simd<float>::lanes;
    stride = (m + lanes) / lanes * lanes;
    float* f = bounds_memory.ensure(4 * stride);
    for (int64_t i = 0; i < m; ++i) {
      const Projected<T>& p = projected[list[i]];
      out[i] = {records[list[i]], p.y};
      f[i] = p.x0, f[stride + i] = p.x1, f[2 * stride + i] = p.y0, f[3 * stride + i] = p.y1;
    }
    for (int64_t i = m; i < stride; ++i) f[i] = f[2 * stride + i] = INFINITY, f[stride + i] = f[3 * stride + i] = 0;
    bounds = f;
  }
  const BlockGaussian<T>& operator[](int64_t i) const { return memory.data[i]; }
};

// Peaks and rates of the hits that stay, and the intervals.
template <class T>
VOGE_INLINE void finish(const Scene<T>& s, const BlockGaussian<T>* gaussians, Packet<T>& p) {
  typedef typename Simd<T>::Vec Vec;
  const Vec zero = broadcast((T)0);
  T run = -INFINITY;
  for (int j = 0; j < p.n; ++j) {
    const Record<T>& g = gaussians[p.entry[j]].record;
    const auto hit = p.length[j] < (T)1e29;
    p.peak[j] = select(hit, peak(g.density, Hit<Vec>{p.length[j], p.rate[j], p.exponent[j]}, s.world), zero);
    p.length[j] = select(hit, p.length[j], broadcast(p.first[j]));
    p.low[j] = p.first[j] - g.reach;
    p.high[j] = p.last[j] + g.reach;
    p.high_before[j] = run = most(run, p.high[j]);
  }
  run = INFINITY;
  for (int j = p.n - 1; j >= 0; --j) p.low_after[j] = run = least(run, p.low[j]);
}

// All hits of the packet's rays, in the order of the block's list.
template <class T>
static void gather(const Scene<T>& s, const Bins<T>& bins, const int32_t* list, int64_t m,
                   const BlockGaussians<T>& gaussians, Packet<T>& p) {
  typedef typename Simd<T>::Vec Vec;
  typedef typename Simd<T>::Mask Mask;
  const Vec lowest = broadcast((T)log(s.threshold)), near = broadcast((T)s.near);
  const bool shared = s.origins_per_scene == 1;
  Vec count = broadcast((T)0), one = broadcast((T)1);
  int n = 0;
  auto visit = [&](int64_t j, Mask alive) {
    const Record<T>& g = gaussians[j].record;
    const Hit<Vec> h = shared ? find_hit(g.factor, gaussians[j].y, p.direction)
                              : find_hit(g.factor, transpose_times(g.factor, g.mean - p.origin), p.direction);
    const Mask hit = (h.exponent >= lowest) & (h.length > near) & alive;
    if (!bits(hit)) return;
    p.entry[n] = (int32_t)j;
    p.length[n] = select(hit, h.length, missing_length<T>());
    p.rate[n] = h.inverse_width;
    p.exponent[n] = h.exponent;
    p.first[n] = lane_min(p.length[n]);
    p.last[n] = lane_max(select(hit, h.length, -missing_length<T>()));
    p.seen[n++] = count;
    count += (Vec)((Mask)one & hit);
  };
  if (gaussians.bounds) {
    const float* bounds = gaussians.bounds;
    const int64_t stride = gaussians.stride;
    const int* corner = gaussians.corner;
    constexpr int F = Simd<float>::lanes;
    const VecF left = broadcast(corner[0] + .5f), right = left + (float)(Packet<T>::width - 1),
               top = broadcast(corner[1] + .5f), bottom = top + (float)(Packet<T>::height - 1);
    for (int64_t j = 0; j < m; j += F) {
      VecF x0, x1, y0, y1;
      memcpy(&x0, bounds + j, sizeof x0), memcpy(&x1, bounds + stride + j, sizeof x0);
      memcpy(&y0, bounds + 2 * stride + j, sizeof x0), memcpy(&y1, bounds + 3 * stride + j, sizeof x0);
      unsigned near_by = bits((x0 <= right) & (x1 >= left) & (y0 <= bottom) & (y1 >= top));
      for (; near_by; near_by &= near_by - 1) visit(j + __builtin_ctz(near_by), p.alive);
    }
  } else {
    const uint64_t* rays_of = bins.rays_of.data + (list - bins.list.data);
    Mask lane_bit;
    for (int i = 0; i < Packet<T>::lanes; ++i) lane_bit[i] = 1 << i;
    for (int64_t j = 0; j < m; ++j) {
      const typename Simd<T>::Int mine = rays_of[j] >> p.place & ((1u << Packet<T>::lanes) - 1);
      if (mine) visit(j, (mine & lane_bit) != 0);
    }
  }
  p.n = n;
  p.seen[n] = count;
  if (s.max_hits > 0 && n > 0) keep_nearest(p, list, s.max_hits);
  finish(s, gaussians.memory.data, p);
}

VOGE_NAMESPACE_END
