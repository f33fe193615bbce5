// The order in which a list of rays is cut into blocks: along a Z curve through where they start and where they go, so
// that the rays of a block meet the same Gaussians. It depends on the rays alone, not on the number of threads.
#pragma once
#include "cpu/bins.h"

VOGE_NAMESPACE_BEGIN

struct Bounds {
  double low[5], high[5];
  int size;

  explicit Bounds(int n) : size(n) {
    for (int i = 0; i < n; ++i) low[i] = INFINITY, high[i] = -INFINITY;
  }
  void add(const double* l, const double* h) {
    for (int i = 0; i < size; ++i) low[i] = least(low[i], l[i]), high[i] = most(high[i], h[i]);
  }
  bool empty() const { return !(low[0] <= high[0]); }
  double middle(int i) const { return empty() ? 0 : .5 * (low[i] + high[i]); }
  double radius() const {  // half the diagonal
    double square = 0;
    for (int i = 0; i < size && !empty(); ++i) square += .25 * (high[i] - low[i]) * (high[i] - low[i]);
    return sqrt(square);
  }
};

// Calls body(i, bounds) for every i, each chunk with bounds of its own, and returns the bounds of all.
template <class F>
static Bounds bounds_of(int size, int64_t count, int threads, F&& body) {
  constexpr int64_t chunk = 8192;
  const int64_t chunks = (count + chunk - 1) / chunk;
  Scratch<Bounds> parts;
  parts.ensure(chunks);
  auto part = [&](int, int64_t c) {
    Bounds& mine = parts.data[c] = Bounds(size);
    for (int64_t i = c * chunk; i < least(count, (c + 1) * chunk); ++i) body(i, mine);
  };
  parallel_for(chunks, threads, part);
  Bounds all(size);
  for (int64_t c = 0; c < chunks; ++c) all.add(parts.data[c].low, parts.data[c].high);
  return all;
}

template <class T>
static Bounds bounds_of_points(const T* points, const bool* valid, int64_t count, int threads) {
  return bounds_of(3, count, threads, [&](int64_t i, Bounds& b) {
    const double x[3] = {(double)points[3 * i], (double)points[3 * i + 1], (double)points[3 * i + 2]};
    if (!valid || valid[i]) b.add(x, x);
  });
}

// A ray as a point of five dimensions: its start, or the point next to the scene's middle where it starts outside, and
// its direction on an octahedron as large as the scene.
template <class T>
VOGE_INLINE void ray_point(const T* origin, const T* direction, const Bounds& scene, double radius, double* out) {
  const double d[3] = {(double)direction[0], (double)direction[1], (double)direction[2]};
  double square = 0, along = 0, apart = 0;
  for (int a = 0; a < 3; ++a) {
    const double v = scene.middle(a) - origin[a];
    square += d[a] * d[a], along += v * d[a], apart += v * v;
  }
  const double t = apart > radius * radius && along > 0 ? along / square : 0;
  for (int a = 0; a < 3; ++a) out[a] = origin[a] + t * d[a];
  const double size = radius / (fabs(d[0]) + fabs(d[1]) + fabs(d[2]));
  double u = d[0] * size, v = d[1] * size;
  if (d[2] < 0) {
    const double folded = radius - fabs(v);
    v = v < 0 ? fabs(u) - radius : radius - fabs(u);
    u = u < 0 ? -folded : folded;
  }
  out[3] = u, out[4] = v;
}

// `out`: the rays of one scene in their new order; those that are not valid come last.
template <class T>
static void order_rays(const T* origins, bool shared, const T* directions, const bool* valid, int64_t rays,
                       const Bounds& scene, int threads, Scratch<uint64_t>& memory, int64_t* out) {
  const double radius = most(scene.radius(), 1e-30);
  auto point = [&](int64_t i, double* x) {
    ray_point(origins + (shared ? 0 : 3 * i), directions + 3 * i, scene, radius, x);
  };
  const Bounds box = bounds_of(5, rays, threads, [&](int64_t i, Bounds& b) {
    double x[5];
    if (valid && !valid[i]) return;
    point(i, x);
    b.add(x, x);
  });
  // All axes have the same step; those along which the rays do not spread get no bits of the key.
  double widest = 0;
  for (int a = 0; a < 5 && !box.empty(); ++a) widest = most(widest, box.high[a] - box.low[a]);
  constexpr int key_bits = 33;
  int axes[5], used = 0;
  for (int a = 0; a < 5; ++a)
    if (box.high[a] - box.low[a] > widest / 1024) axes[used++] = a;
  const int bits_each = used ? least(key_bits / used, 16) : 0;
  const double scale = used ? ((1 << bits_each) - 1) / widest : 0;
  struct Keyed {
    uint64_t key;
    int64_t ray;
  };
  Keyed* keyed = reinterpret_cast<Keyed*>(memory.ensure(4 * rays));
  constexpr int64_t chunk = 8192;
  auto keys = [&](int, int64_t c) {
    for (int64_t i = c * chunk; i < least(rays, (c + 1) * chunk); ++i) {
      uint64_t key = (uint64_t{1} << key_bits) - 1;
      if (!valid || valid[i]) {
        double x[5];
        point(i, x);
        uint32_t q[5];
        for (int j = 0; j < used; ++j) q[j] = (uint32_t)((x[axes[j]] - box.low[axes[j]]) * scale);
        key = 0;
        for (int bit = bits_each - 1; bit >= 0; --bit)
          for (int j = 0; j < used; ++j) key = key << 1 | (q[j] >> bit & 1);
      }
      keyed[i] = {key, i};
    }
  };
  parallel_for((rays + chunk - 1) / chunk, threads, keys);
  const Keyed* sorted = radix_sort<11>(keyed, keyed + rays, rays, 0, key_bits, [](const Keyed& k) { return k.key; });
  for (int64_t i = 0; i < rays; ++i) out[i] = sorted[i].ray;
}

VOGE_NAMESPACE_END
