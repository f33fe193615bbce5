// The fused route: features, alpha, depth and normal of every ray, and the gradients, with nothing kept of size rays x
// hits.
#pragma once
#include "cpu/bin_rays.h"
#include "cpu/clock.h"
#include "cpu/median.h"
#include "cpu/weights.h"

VOGE_NAMESPACE_BEGIN

// Memory of one thread.
template <class T>
struct Worker {
  typedef typename Simd<T>::Vec Vec;
  Packet<T> packet;
  PacketMemory<T> packet_memory;
  Weigher<T> weigher;
  BlockGaussians<T> gaussians;
  Scratch<Vec> by_ray;    // channels of a packet, one ray a lane
  Scratch<T> by_channel;  // the same, one channel a lane, rows padded to whole vectors
  Scratch<Vec> geometry;  // gradient sums of the block's list, 10 each
  Scratch<T> features;    // gradient sums of the block's list, padded rows
  Counters counters{};
  double padding[16];  // keeps the counters of two threads apart

  explicit Worker(const Scene<T>& s, bool normals = false) : weigher(s.segments, normals, s.points) {}
  void attach(int64_t list_length) {
    packet_memory.attach(packet, list_length);
    weigher.memory.attach(list_length);
  }
};

// Hits, and pairs of hits closer than the cut-off: work that no rule can avoid. Costs as much as the weights, so only
// on request.
template <class T>
static void count_pairs(const Packet<T>& p, Counters& c) {
  if (!counting_pairs) return;
  for (int i = 0; i < p.n; ++i) {
    const auto mine = p.peak[i] > (T)0;
    c.hits += __builtin_popcount(bits(mine));
    for (int k = 0; k < p.n; ++k)
      c.overlapping_pairs += __builtin_popcount(
          bits(mine & (p.peak[k] > (T)0) & (vabs((p.length[i] - p.length[k]) * p.rate[k]) < Cutoff<T>::sigmas)));
  }
}

// Sum over the hits of weight x feature for `N` channels from `features` on, one ray a lane.
template <int N, class T>
VOGE_INLINE void composite(const Packet<T>& p, const typename Simd<T>::Vec* weight, const T* features, int64_t channels,
                           const int32_t* list, typename Simd<T>::Vec* out) {
  typename Simd<T>::Vec sum[N];
  for (int c = 0; c < N; ++c) sum[c] = broadcast((T)0);
  for (int i = 0; i < p.n; ++i) {
    const T* f = features + list[p.entry[i]] * channels;
    const auto w = weight[i];
    for (int c = 0; c < N; ++c) sum[c] += w * f[c];
  }
  for (int c = 0; c < N; ++c) out[c] = sum[c];
}

// The same for `N` whole vectors of channels of the ray in lane j, one channel a lane: wide features go straight to
// their place.
template <int N, class T>
VOGE_INLINE void composite_wide(const Packet<T>& p, const typename Simd<T>::Vec* weight, int j, const T* features,
                                int64_t channels, const int32_t* list, T* out) {
  typedef typename Simd<T>::Vec Vec;
  Vec sum[N];
  for (int c = 0; c < N; ++c) sum[c] = broadcast((T)0);
  for (int i = 0; i < p.n; ++i) {
    const T* f = features + list[p.entry[i]] * channels;
    const T w = reinterpret_cast<const T*>(weight + i)[j];
    if (w == (T)0) continue;
    for (int c = 0; c < N; ++c) {
      Vec x;
      memcpy(&x, f + c * Packet<T>::lanes, sizeof x);
      sum[c] += w * x;
    }
  }
  memcpy(out, sum, sizeof sum);
}

// dL/dW of every hit from the rays' gradients of N channels, one ray a lane: adds sum_c grad_c feature_c.
template <int N, class T>
VOGE_INLINE void composite_adjoint(const Packet<T>& p, typename Simd<T>::Vec* grad_weight, const T* features,
                                   int64_t channels, const int32_t* list, const typename Simd<T>::Vec* grad) {
  typename Simd<T>::Vec g[N];
  for (int c = 0; c < N; ++c) g[c] = grad[c];
  for (int i = 0; i < p.n; ++i) {
    const T* f = features + list[p.entry[i]] * channels;
    auto sum = grad_weight[i];
    for (int c = 0; c < N; ++c) sum += g[c] * f[c];
    grad_weight[i] = sum;
  }
}

// Calls body(c, width) over all channels in steps of 8, 4, 2 and 1; width is a compile-time number.
template <int N>
struct Width {
  static constexpr int value = N;
};
template <class F>
VOGE_INLINE void for_channels(int64_t channels, F&& body) {
  int64_t c = 0;
  for (; c + 8 <= channels; c += 8) body(c, Width<8>());
  if (c + 4 <= channels) body(c, Width<4>()), c += 4;
  if (c + 2 <= channels) body(c, Width<2>()), c += 2;
  if (c < channels) body(c, Width<1>());
}

// The precisions as the kernels use them, (P + P') / 2.
template <class T>
static void load_precisions(const Scene<T>& s, Scratch<Sym3<T>>& out) {
  const int64_t total = s.geometry_batch * s.num;
  out.ensure(total + 1);
  for (int64_t i = 0; i < total; ++i) {
    const T* p = s.precisions + 9 * i;
    out.data[i] = {p[0], (T).5 * (p[1] + p[3]), (T).5 * (p[2] + p[6]), p[4], (T).5 * (p[5] + p[7]), p[8]};
  }
}

// Minus the integral of T grad rho: rho_k has the gradient -P (x - M) rho_k, and the integral of T (t - l_k) rho_k is
// -sigma_k^2 S_k by parts, S_k the density of k where the ray is stopped. So every hit adds
// P (W (l d - V) - sigma^2 S d), V = M - o.
template <class T>
static Vec3<typename Simd<T>::Vec> sum_normals(const Packet<T>& p, const WeightMemory<T>& w, const Record<T>* records,
                                               const Sym3<T>* symmetric, const int32_t* list) {
  typedef typename Simd<T>::Vec Vec;
  const Vec zero = broadcast((T)0);
  Vec3<Vec> sum{zero, zero, zero};
  for (int i = 0; i < p.n; ++i) {
    const int32_t k = list[p.entry[i]];
    const Vec sigma = rcp(p.rate[i]);
    const Vec3<Vec> from_mean = p.length[i] * p.direction - (records[k].mean - p.origin);
    sum = sum + symmetric[k] * (w.weight[i] * from_mean - (sigma * sigma * w.stop[i]) * p.direction);
  }
  return sum;
}

template <class T>
static void render_forward_block(const Scene<T>& s, const RenderForward<T>& r, const Bins<T>& bins,
                                 const Sym3<T>* precisions, int64_t block, Worker<T>& w) {
  typedef typename Simd<T>::Vec Vec;
  constexpr int lanes = Packet<T>::lanes;
  const int64_t b = block / bins.blocks_per_scene, begin = bins.offsets.data[block],
                m = bins.offsets.data[block + 1] - begin;
  const int32_t* list = bins.list.data + begin;
  const T* features = r.features + (r.feature_batch == 1 ? 0 : b) * s.num * r.channels;
  Packet<T>& p = w.packet;
  w.attach(m);
  Stopwatch loading;
  w.gaussians.load(s, bins, b, list, m);
  loading.lap(w.counters.hit_cycles);
  Vec* image = w.by_ray.ensure(r.channels + 1);
  for (int i = 0; i < block_rays / lanes; ++i) {
    if (!packet_rays(s, bins, block, i, p, w.gaussians.corner)) continue;
    load_rays(s, b, p);
    Stopwatch watch;
    p.n = 0;
    if (p.any && m > 0) gather(s, bins, list, m, w.gaussians, p);
    watch.lap(w.counters.hit_cycles);
    Vec alpha = broadcast((T)0), depth = alpha;
    Vec3<Vec> normal{alpha, alpha, alpha};
    if (p.n > 0) {
      count_pairs(p, w.counters);
      w.weigher.forward(p);
      watch.lap(w.counters.weight_cycles);
      const Vec* weight = w.weigher.memory.weight;
      for (int k = 0; k < p.n; ++k) alpha += weight[k], depth += weight[k] * p.length[k];
      depth = select(alpha > (T)0, depth / alpha, broadcast((T)0));
      if (s.median) {
        const Median<T> median = Median<T>::find(p);
        depth = select(alpha > (T)0, median.base + median.t, broadcast((T)0));
      }
      if (r.normals) {
        const int64_t first = (s.geometry_batch == 1 ? 0 : b) * s.num;
        normal = sum_normals(p, w.weigher.memory, bins.records.data + first, precisions + first, list);
      }
    }
    const int64_t wide = r.channels / lanes * lanes;
    for_channels(r.channels - wide, [&](int64_t c, auto width) {
      composite<decltype(width)::value>(p, w.weigher.memory.weight, features + wide + c, r.channels, list, image + c);
    });
    for (int j = 0; j < lanes; ++j) {
      if (p.ray[j] < 0) continue;
      const int64_t at = b * s.rays + p.ray[j];
      r.alpha[at] = alpha[j], r.depth[at] = depth[j];
      if (r.normals) {
        T* n = r.normals + 3 * at;
        n[0] = normal.x[j], n[1] = normal.y[j], n[2] = normal.z[j];
      }
      T* out = r.image + at * r.channels;
      int64_t c = 0;
      for (; c + 8 * lanes <= wide; c += 8 * lanes)
        composite_wide<8>(p, w.weigher.memory.weight, j, features + c, r.channels, list, out + c);
      for (; c < wide; c += lanes)
        composite_wide<1>(p, w.weigher.memory.weight, j, features + c, r.channels, list, out + c);
      const T* lane = reinterpret_cast<const T*>(image) + j;
      for (; c < r.channels; ++c) out[c] = lane[(c - wide) * lanes];
    }
    watch.lap(w.counters.composite_cycles);
  }
}

// Where the gradient sums of each (block, Gaussian) pair go: pairs of one Gaussian lie side by side, in the order of
// the blocks, so that the reduction has a fixed order whatever thread made them.
template <class T>
struct Slots {
  Scratch<int64_t> starts;   // (batch * num + 1)
  Scratch<int64_t> of_pair;  // (pairs), of lists of rays
  Scratch<T> geometry;       // (pairs, 10): P^-1 times the mean's gradient (3), the precision's (6), the density's
  Scratch<T> features;       // (pairs, channels)
  Scratch<double> origins;   // (blocks, 3)

  void assign(const Scene<T>& s, const Bins<T>& bins, int64_t channels, bool with_origins) {
    const int64_t total = s.batch * s.num;
    int64_t* start = starts.ensure(total + 2);
    memset(start, 0, sizeof(int64_t) * (total + 2));
    if (s.projection) {
      for (int64_t i = 0; i < total; ++i) start[i + 1] = start[i] + bins.projected.data[i].tiles();
    } else {  // each part of the Gaussians looks through all lists
      const int parts = s.threads;
      auto each = [&](int64_t part, auto&& visit) {
        const int32_t first = (int32_t)(s.num * part / parts), last = (int32_t)(s.num * (part + 1) / parts);
        for (int64_t block = 0; block < bins.blocks; ++block) {
          int64_t* mine = start + block / bins.blocks_per_scene * s.num;
          for (int64_t i = bins.offsets.data[block]; i < bins.offsets.data[block + 1]; ++i) {
            const int32_t k = bins.list.data[i];
            if (k >= first && k < last) visit(mine + k, i);
          }
        }
      };
      auto count = [&](int, int64_t part) { each(part, [](int64_t* at, int64_t) { ++at[2]; }); };
      parallel_for(parts, s.threads, count);
      for (int64_t i = 0; i < total; ++i) start[i + 2] += start[i + 1];
      int64_t* slot = of_pair.ensure(bins.pairs + 1);
      auto fill = [&](int, int64_t part) { each(part, [&](int64_t* at, int64_t i) { slot[i] = at[1]++; }); };
      parallel_for(parts, s.threads, fill);
    }
    geometry.ensure(bins.pairs * 10 + 1);
    features.ensure(bins.pairs * channels + 1);
    if (with_origins) origins.ensure(bins.blocks * 3 + 1);
  }

  // Of the pair at place i of all lists. The tiles of a Gaussian are a rectangle, row by row.
  int64_t of(const Scene<T>& s, const Bins<T>& bins, int64_t block, int64_t i) const {
    if (!s.projection) return of_pair.data[i];
    const int64_t scene = block / bins.blocks_per_scene, tile = block % bins.blocks_per_scene,
                  g = scene * s.num + bins.list.data[i];
    return starts.data[g] + bins.projected.data[g].place(tile % bins.tiles_x, tile / bins.tiles_x);
  }
};

template <class T>
VOGE_INLINE void add_hit_gradients(const Scene<T>& s, const Packet<T>& p, const WeightMemory<T>& w,
                                   const BlockGaussians<T>& gaussians, const Sym3<T>* symmetric, const int32_t* list,
                                   typename Simd<T>::Vec* sums, const Vec3<typename Simd<T>::Vec>* grad_normal,
                                   bool rays_wanted, Vec3<typename Simd<T>::Vec>& grad_direction,
                                   Vec3<typename Simd<T>::Vec>& grad_origin) {
  typedef typename Simd<T>::Vec Vec;
  const Vec zero = broadcast((T)0);
  for (int i = 0; i < p.n; ++i) {
    const Record<T>& g = gaussians[p.entry[i]].record;
    const auto hit = p.peak[i] > (T)0;
    const Hit<Vec> h{p.length[i], p.rate[i], p.exponent[i]};
    HitGradient<Vec> grad =
        hit_adjoint(g.mean - p.origin, g.density, p.direction, h, p.peak[i], s.world,
                    select(hit, w.grad_length[i], zero), w.grad_peak[i], select(hit, w.grad_rate[i], zero));
    if (grad_normal) {  // the precision, the mean and the direction as they stand in sum_normals
      const Vec sigma = rcp(h.inverse_width), turn = sigma * sigma * w.stop[i];
      grad.mean = grad.mean - w.weight[i] * *grad_normal;
      grad.direction = grad.direction + (w.weight[i] * h.length - turn) * *grad_normal;
      const Vec3<Vec> across = w.weight[i] * (h.length * p.direction - (g.mean - p.origin)) - turn * p.direction;
      grad.precision = grad.precision + symmetric_outer(broadcast((T)0.5), *grad_normal, across);
    }
    Vec* sum = sums + 10 * p.entry[i];
    sum[0] += grad.mean.x, sum[1] += grad.mean.y, sum[2] += grad.mean.z;
    sum[3] += grad.precision.xx, sum[4] += grad.precision.xy, sum[5] += grad.precision.xz;
    sum[6] += grad.precision.yy, sum[7] += grad.precision.yz, sum[8] += grad.precision.zz;
    sum[9] += grad.density;
    if (rays_wanted) {
      const Sym3<T>& precision = symmetric[list[p.entry[i]]];
      grad_direction = grad_direction + precision * grad.direction;
      grad_origin = grad_origin - precision * grad.mean;
    }
  }
}

template <class T>
static void render_backward_block(const Scene<T>& s, const RenderBackward<T>& r, const Bins<T>& bins,
                                  const Sym3<T>* precisions, Slots<T>& slots, int64_t block, Worker<T>& w) {
  typedef typename Simd<T>::Vec Vec;
  constexpr int lanes = Packet<T>::lanes;
  const int64_t b = block / bins.blocks_per_scene, begin = bins.offsets.data[block],
                m = bins.offsets.data[block + 1] - begin;
  const int32_t* list = bins.list.data + begin;
  const int64_t C = r.channels, padded = (C + lanes - 1) / lanes * lanes;
  const T* features = r.features + (r.feature_batch == 1 ? 0 : b) * s.num * C;
  const Record<T>* records = bins.records.data + (s.geometry_batch == 1 ? 0 : b) * s.num;
  const Sym3<T>* symmetric = precisions + (s.geometry_batch == 1 ? 0 : b) * s.num;
  const bool rays_wanted = r.grad_directions || (r.grad_origins && s.origins_per_scene > 1),
             shared = s.origins_per_scene == 1;
  Packet<T>& p = w.packet;
  WeightMemory<T>& v = w.weigher.memory;
  w.attach(m);
  Stopwatch loading;
  w.gaussians.load(s, bins, b, list, m);
  loading.lap(w.counters.hit_cycles);
  Vec* sums = w.geometry.ensure(10 * m + 1);
  memset(sums, 0, sizeof(Vec) * 10 * m);
  T* feature_sums = w.features.ensure(m * padded + 1);
  memset(feature_sums, 0, sizeof(T) * m * padded);
  Vec* by_ray = w.by_ray.ensure(C + 1);
  T* by_channel = w.by_channel.ensure(lanes * padded + 1);
  for (int i = 0; i < block_rays / lanes; ++i) {
    if (!packet_rays(s, bins, block, i, p, w.gaussians.corner)) continue;
    load_rays(s, b, p);
    Stopwatch watch;
    p.n = 0;
    if (p.any && m > 0) gather(s, bins, list, m, w.gaussians, p);
    watch.lap(w.counters.hit_cycles);
    const Vec zero = broadcast((T)0);
    Vec3<Vec> grad_direction{zero, zero, zero}, grad_origin = grad_direction;
    if (p.n > 0) {
      Vec grad_alpha = zero, grad_depth = zero;
      Vec3<Vec> grad_normal{zero, zero, zero};
      memset(by_channel, 0, sizeof(T) * lanes * padded);
      for (int j = 0; j < lanes; ++j) {
        T* lane = reinterpret_cast<T*>(by_ray) + j;
        const int64_t at = b * s.rays + p.ray[j];
        const bool alive = p.alive[j];
        for (int64_t c = 0; c < C; ++c)
          lane[c * lanes] = by_channel[j * padded + c] = alive ? r.grad_image[at * C + c] : (T)0;
        if (!alive) continue;
        grad_alpha[j] = r.grad_alpha[at], grad_depth[j] = r.grad_depth[at];
        if (r.grad_normals) {
          const T* n = r.grad_normals + 3 * at;
          grad_normal.x[j] = n[0], grad_normal.y[j] = n[1], grad_normal.z[j] = n[2];
        }
      }
      const bool some_depth = bits(grad_depth != zero) != 0, with_depth = some_depth && !s.median;
      const Vec grad_median = grad_depth;
      Vec alpha = zero, depth = zero;
      watch.lap(w.counters.composite_cycles);
      w.weigher.prepare(p, with_depth);
      watch.lap(w.counters.weight_cycles);
      if (with_depth) {  // a ratio of sums over all hits
        for (int k = 0; k < p.n; ++k) alpha += v.weight[k], depth += v.weight[k] * p.length[k];
        const auto some = alpha > (T)0;
        grad_depth = select(some, grad_depth / alpha, zero), depth = select(some, depth / alpha, zero);
      }
      for (int k = 0; k < p.n; ++k)
        v.grad_weight[k] = with_depth ? grad_alpha + grad_depth * (p.length[k] - depth) : grad_alpha;
      for (int k = 0; k < p.n && r.grad_normals; ++k) {
        const int32_t g = list[p.entry[k]];
        const Vec3<Vec> across = symmetric[g] * grad_normal;
        const Vec sigma = rcp(p.rate[k]), along = dot(across, p.direction);
        v.grad_weight[k] += p.length[k] * along - dot(across, records[g].mean - p.origin);
        v.grad_stop[k] = -sigma * sigma * along;
      }
      for_channels(C, [&](int64_t c, auto width) {
        composite_adjoint<decltype(width)::value>(p, v.grad_weight, features + c, C, list, by_ray + c);
      });
      watch.lap(w.counters.composite_cycles);
      w.weigher.backward(p);
      watch.lap(w.counters.weight_cycles);
      if (with_depth)
        for (int k = 0; k < p.n; ++k) v.grad_length[k] += grad_depth * v.weight[k];
      if (some_depth && s.median) Median<T>::find(p).adjoint(p, grad_median, v);
      for (int k = 0; k < p.n && r.grad_normals; ++k) {
        const Vec sigma = rcp(p.rate[k]), along = dot(symmetric[list[p.entry[k]]] * grad_normal, p.direction);
        v.grad_length[k] += v.weight[k] * along;
        v.grad_rate[k] += (T)2 * v.stop[k] * along * sigma * sigma * sigma;
      }
      for (int k = 0; k < p.n; ++k) {
        T* row = feature_sums + p.entry[k] * padded;
        const T* weight = reinterpret_cast<const T*>(v.weight + k);
        for (int64_t c = 0; c < padded; c += lanes) {
          Vec sum = *reinterpret_cast<Vec*>(row + c);
          for (int j = 0; j < lanes; ++j) sum += weight[j] * *reinterpret_cast<const Vec*>(by_channel + j * padded + c);
          *reinterpret_cast<Vec*>(row + c) = sum;
        }
      }
      add_hit_gradients(s, p, v, w.gaussians, symmetric, list, sums, r.grad_normals ? &grad_normal : nullptr,
                        rays_wanted, grad_direction, grad_origin);
    }
    if (rays_wanted) {
      // A unit direction d / |d| passes on the part of its gradient across it, over the length.
      for (int j = 0; j < lanes; ++j) {
        if (p.ray[j] < 0) continue;
        const int64_t at = (b * s.rays + p.ray[j]) * 3;
        if (r.grad_directions) {
          const bool alive = p.alive[j];
          const T* d = s.directions + ((s.ray_batch == 1 ? 0 : b) * s.rays + p.ray[j]) * 3;
          const Vec3<T> g = normalise_adjoint(alive ? Vec3<T>{d[0], d[1], d[2]} : Vec3<T>{0, 0, 1},
                                              Vec3<T>{grad_direction.x[j], grad_direction.y[j], grad_direction.z[j]});
          r.grad_directions[at] = g.x, r.grad_directions[at + 1] = g.y, r.grad_directions[at + 2] = g.z;
        }
        if (r.grad_origins && !shared)
          r.grad_origins[at] = grad_origin.x[j], r.grad_origins[at + 1] = grad_origin.y[j],
          r.grad_origins[at + 2] = grad_origin.z[j];
      }
    }
    watch.lap(w.counters.composite_cycles);
  }
  Vec3<double> origin{0, 0, 0};
  for (int64_t i = 0; i < m; ++i) {
    const int64_t slot = slots.of(s, bins, block, begin + i);
    T* out = slots.geometry.data + slot * 10;
    for (int c = 0; c < 10; ++c) out[c] = lane_sum(sums[10 * i + c]);
    memcpy(slots.features.data + slot * C, feature_sums + i * padded, sizeof(T) * C);
    if (r.grad_origins && shared) {
      const Vec3<T> g = symmetric[list[i]] * Vec3<T>{out[0], out[1], out[2]};
      origin = {origin.x - g.x, origin.y - g.y, origin.z - g.z};
    }
  }
  if (r.grad_origins && shared) memcpy(slots.origins.data + 3 * block, &origin, sizeof origin);
}

// Sums the slots of Gaussian k over the scenes that share it.
template <class T>
static void reduce(const Scene<T>& s, const RenderBackward<T>& r, const Sym3<T>* precisions, const Slots<T>& slots,
                   int64_t k) {
  const int64_t C = r.channels;
  const int64_t* starts = slots.starts.data;
  for (int64_t g = 0; g < s.geometry_batch; ++g) {
    double sum[10] = {0};
    for (int64_t b = g; b < (s.geometry_batch == 1 ? s.batch : g + 1); ++b)
      for (int64_t i = starts[b * s.num + k]; i < starts[b * s.num + k + 1]; ++i)
        for (int c = 0; c < 10; ++c) sum[c] += slots.geometry.data[10 * i + c];
    const int64_t at = g * s.num + k;
    const Vec3<double> mean = precisions[at] * Vec3<double>{sum[0], sum[1], sum[2]};
    T* m = r.grad_means + 3 * at;
    m[0] = (T)mean.x, m[1] = (T)mean.y, m[2] = (T)mean.z;
    T* p = r.grad_precisions + 9 * at;
    p[0] = (T)sum[3], p[1] = p[3] = (T)sum[4], p[2] = p[6] = (T)sum[5], p[4] = (T)sum[6], p[5] = p[7] = (T)sum[7],
    p[8] = (T)sum[8];
    r.grad_density[at] = (T)sum[9];
  }
  for (int64_t f = 0; f < r.feature_batch; ++f) {
    T* out = r.grad_features + (f * s.num + k) * C;
    for (int64_t c = 0; c < C; ++c) out[c] = 0;
    for (int64_t b = f; b < (r.feature_batch == 1 ? s.batch : f + 1); ++b)
      for (int64_t i = starts[b * s.num + k]; i < starts[b * s.num + k + 1]; ++i) {
        const T* in = slots.features.data + i * C;
        for (int64_t c = 0; c < C; ++c) out[c] += in[c];
      }
  }
}

template <class T>
static void render_forward(const Scene<T>& s, const RenderForward<T>& r) {
  Stopwatch watch;
  Team<Worker<T>> team(s.threads, s, r.normals != nullptr);
  Bins<T> bins;
  prepare(s, bins, team[0].counters);
  check_finite("features", r.features, r.feature_batch, s.num, r.channels, s.threads);
  if (!s.projection) bin_rays(s, bins, team);
  Scratch<Sym3<T>> precisions;
  if (r.normals) load_precisions(s, precisions);
  watch.lap(team[0].counters.bin_cycles);
  auto body = [&](int worker, int64_t block) {
    render_forward_block(s, r, bins, precisions.data, block, team[worker]);
  };
  parallel_for(bins.blocks, s.threads, body);
  team.add_counters();
}

template <class T>
static void render_backward(const Scene<T>& s, const RenderBackward<T>& r) {
  Stopwatch watch;
  Team<Worker<T>> team(s.threads, s, r.grad_normals != nullptr);
  Bins<T> bins;
  prepare(s, bins, team[0].counters);
  if (!s.projection) bin_rays(s, bins, team);
  Slots<T> slots;
  slots.assign(s, bins, r.channels, r.grad_origins && s.origins_per_scene == 1);
  Scratch<Sym3<T>> precisions;
  load_precisions(s, precisions);
  watch.lap(team[0].counters.bin_cycles);
  auto body = [&](int worker, int64_t block) {
    render_backward_block(s, r, bins, precisions.data, slots, block, team[worker]);
  };
  parallel_for(bins.blocks, s.threads, body);
  watch = Stopwatch();
  const int64_t chunk = 256;
  auto sum = [&](int, int64_t c) {
    for (int64_t k = c * chunk; k < least(s.num, (c + 1) * chunk); ++k) reduce(s, r, precisions.data, slots, k);
  };
  parallel_for((s.num + chunk - 1) / chunk, s.threads, sum);
  if (r.grad_origins && s.origins_per_scene == 1)
    for (int64_t o = 0; o < s.ray_batch; ++o) {
      double g[3] = {0, 0, 0};
      for (int64_t b = o; b < (s.ray_batch == 1 ? s.batch : o + 1); ++b)
        for (int64_t i = b * bins.blocks_per_scene; i < (b + 1) * bins.blocks_per_scene; ++i)
          for (int c = 0; c < 3; ++c) g[c] += slots.origins.data[3 * i + c];
      for (int c = 0; c < 3; ++c) r.grad_origins[3 * o + c] = (T)g[c];
    }
  watch.lap(team[0].counters.reduce_cycles);
  team.add_counters();
}

VOGE_NAMESPACE_END
