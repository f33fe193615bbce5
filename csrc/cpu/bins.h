// Which Gaussians each block of rays can meet, and the checks of every input value.
//
// A block is an 8x8 tile of a camera's pixels or 64 rays of a list. For a camera a Gaussian enters the tiles that the
// exact tangent bounds of its ellipsoid touch; for a list of rays they are found in a tree of boxes (bin_rays.h). Lists
// are sorted by distance.
#pragma once
#include "cpu/args.h"
#include "cpu/clock.h"
#include "cpu/pool.h"
#include "cpu/radix.h"
#include "cpu/simd.h"
// after simd.h, whose functions the templates must see
#include "core/hit.h"

VOGE_NAMESPACE_BEGIN

constexpr int tile_side = 8;
constexpr int block_rays = tile_side * tile_side;

// What a Gaussian is to any ray: P = L L'.
template <class T>
struct Record {
  Lower3<T> factor;
  Vec3<T> mean;
  T density;
  T reach;  // no ray sees it wider than this (times the cut-off in standard deviations)
};

// What it is to one scene's rays: y = L'(mean - origin) when they share an origin; its bounds in pixels; its tiles.
template <class T>
struct Projected {
  Vec3<T> y;
  float x0, x1, y0, y1;
  int tx0, tx1, ty0, ty1;
  float distance;

  // Of cameras: how many tiles, and which one is (x, y), row by row.
  int64_t tiles() const { return tx0 < tx1 && ty0 < ty1 ? (int64_t)(tx1 - tx0) * (ty1 - ty0) : 0; }
  int64_t place(int64_t x, int64_t y) const { return (y - ty0) * (tx1 - tx0) + (x - tx0); }
};

template <class T>
struct Bins {
  int64_t blocks_per_scene = 0, tiles_x = 0, blocks = 0, pairs = 0;
  double radius2 = 0;               // of the ellipsoids in standard deviations, squared, and a little more
  Scratch<Record<T>> records;       // (geometry_batch, num)
  Scratch<Projected<T>> projected;  // (batch, num)
  Scratch<int64_t> offsets;         // (blocks + 1)
  Scratch<int32_t> list;            // Gaussian of each pair, block by block
  Scratch<int32_t> order;           // (batch, num) by distance; of cameras
  Scratch<uint64_t> rays_of;        // of each pair, a bit a ray of the block: who may hit; of lists of rays
  Scratch<int64_t> ray_order;       // (ray_batch, rays): neighbours side by side; of lists of rays
};

VOGE_INLINE bool finite(double x) { return x - x == 0; }

template <class T>
void check_finite(const char* name, const T* x, int64_t batch, int64_t num, int64_t width, int threads) {
  const int64_t chunk = 16384, total = batch * num * width;
  auto body = [&](int, int64_t c) {
    const int64_t begin = c * chunk, end = least(total, begin + chunk);
    T sum = 0;
    for (int64_t i = begin; i < end; ++i) sum += x[i] - x[i];
    if (sum == 0) return;
    for (int64_t i = begin; i < end; ++i)
      if (!finite(x[i])) throw BadValue{name, i / (num * width), i / width % num, "is NaN or infinite"};
  };
  parallel_for((total + chunk - 1) / chunk, threads, body);
}

template <class T>
void check_directions(const Scene<T>& s) {
  const int64_t chunk = 8192, total = s.ray_batch * s.rays;
  auto body = [&](int, int64_t c) {
    for (int64_t i = c * chunk; i < least(total, (c + 1) * chunk); ++i) {
      if (s.valid && !s.valid[i]) continue;
      const T* d = s.directions + 3 * i;
      const T square = d[0] * d[0] + d[1] * d[1] + d[2] * d[2];
      if (!finite(square)) throw BadValue{"directions", i / s.rays, i % s.rays, "is NaN, infinite or too long"};
      if (!(square > 0)) throw BadValue{"directions", i / s.rays, i % s.rays, "has length zero"};
    }
  };
  parallel_for((total + chunk - 1) / chunk, s.threads, body);
}

// Cholesky factor and the widest standard deviation, in double: the bounds subtract nearly equal numbers.
struct Factor {
  Lower3<double> l, inverse;
  double widest;
};

template <class T>
static Factor factorise(const T* p, int64_t b, int64_t k) {
  double largest = 0;
  for (int i = 0; i < 9; ++i) {
    if (!finite(p[i])) throw BadValue{"precisions", b, k, "is NaN or infinite"};
    largest = most(largest, fabs((double)p[i]));
  }
  const double skew = most(most(fabs((double)p[1] - p[3]), fabs((double)p[2] - p[6])), fabs((double)p[5] - p[7]));
  if (skew > 1e-4 * largest) throw BadValue{"precisions", b, k, "is not symmetric"};
  const Sym3<double> symmetric{(double)p[0], .5 * ((double)p[1] + p[3]), .5 * ((double)p[2] + p[6]),
                               (double)p[4], .5 * ((double)p[5] + p[7]), (double)p[8]};
  Factor f;
  if (!cholesky(symmetric, f.l)) throw BadValue{"precisions", b, k, "is not positive definite"};
  const Lower3<double>& l = f.l;
  Lower3<double>& w = f.inverse;
  w.xx = 1 / l.xx, w.yy = 1 / l.yy, w.zz = 1 / l.zz;
  w.yx = -l.yx * w.xx * w.yy, w.zy = -l.zy * w.yy * w.zz, w.zx = -(l.zx * w.xx + l.zy * w.yx) * w.zz;
  // The covariance's largest eigenvalue is at most its largest absolute row sum.
  const double cxx = w.xx * w.xx + w.yx * w.yx + w.zx * w.zx, cyy = w.yy * w.yy + w.zy * w.zy, czz = w.zz * w.zz,
               cxy = fabs(w.yx * w.yy + w.zx * w.zy), cxz = fabs(w.zx * w.zz), cyz = fabs(w.zy * w.zz);
  f.widest = sqrt(most(most(cxx + cxy + cxz, cxy + cyy + cyz), cxz + cyz + czz));
  return f;
}

// Bounds of a projected ellipsoid along one image axis, from the tangent planes through the origin: roots of
// zz x^2 - 2 xz x + xx = 0 for the dual conic m m' - r^2 A C A' (A = K R, m its centre). Returns false when it crosses
// the camera plane.
VOGE_INLINE bool tangent_bounds(double xx, double xz, double zz, float& low, float& high) {
  const double disc = sqrt(most(xz * xz - zz * xx, 0.0)), a = (xz - disc) / zz, b = (xz + disc) / zz;
  const double slack = .01 + 1e-6 * (fabs(a) + fabs(b));
  low = (float)(a - slack), high = (float)(b + slack);
  return finite(low) && finite(high);
}

VOGE_INLINE int clamp_tile(double pixel, int64_t tiles) {
  const double t = floor(pixel / tile_side);
  return (int)(t<0 ? 0 : t>(double) tiles ? (double)tiles : t);
}

template <class T>
static void project(const Scene<T>& s, Bins<T>& bins, const Factor& f, int64_t b, int64_t k) {
  const int64_t g = s.geometry_batch == 1 ? 0 : b, r = s.ray_batch == 1 ? 0 : b;
  const Record<T>& rec = bins.records.data[g * s.num + k];
  Projected<T>& out = bins.projected.data[b * s.num + k];
  const T* o = s.origins + r * s.origins_per_scene * 3;
  const Vec3<double> v{(double)rec.mean.x - o[0], (double)rec.mean.y - o[1], (double)rec.mean.z - o[2]};
  const Vec3<double> y = transpose_times(f.l, v);
  out.y = {(T)y.x, (T)y.y, (T)y.z};
  out.distance = (float)dot(v, v);
  if (!s.projection) return;
  const double* p = s.projection + r * 12;
  const Lower3<double>& w = f.inverse;
  const double radius2 = bins.radius2;
  double m[3];        // the centre's image
  Vec3<double> a[3];  // rows of A L^-T, so that A C A' = a a'
  for (int i = 0; i < 3; ++i) {
    const double* row = p + 4 * i;
    m[i] = row[0] * rec.mean.x + row[1] * rec.mean.y + row[2] * rec.mean.z + row[3];
    a[i] = {w.xx * row[0], w.yx * row[0] + w.yy * row[1], w.zx * row[0] + w.zy * row[1] + w.zz * row[2]};
  }
  auto dual = [&](int i, int j) { return m[i] * m[j] - radius2 * dot(a[i], a[j]); };
  const double zz = dual(2, 2);
  const int64_t tiles_y = bins.blocks_per_scene / bins.tiles_x;
  out.tx0 = out.ty0 = 0, out.tx1 = (int)bins.tiles_x, out.ty1 = (int)tiles_y;
  out.x0 = out.y0 = -INFINITY, out.x1 = out.y1 = INFINITY;
  if (zz <= 1e-9 * m[2] * m[2]) return;  // the camera's plane cuts it: every tile
  if (m[2] < 0) {                        // wholly behind the camera
    out.tx1 = out.ty1 = 0;
    return;
  }
  if (!tangent_bounds(dual(0, 0), dual(0, 2), zz, out.x0, out.x1)) out.x0 = -INFINITY, out.x1 = INFINITY;
  if (!tangent_bounds(dual(1, 1), dual(1, 2), zz, out.y0, out.y1)) out.y0 = -INFINITY, out.y1 = INFINITY;
  // The tile of the first and of the last pixel centre inside.
  out.tx0 = clamp_tile(ceil(out.x0 - .5), bins.tiles_x),
  out.tx1 = clamp_tile(floor(out.x1 - .5) + tile_side, bins.tiles_x);
  out.ty0 = clamp_tile(ceil(out.y0 - .5), tiles_y), out.ty1 = clamp_tile(floor(out.y1 - .5) + tile_side, tiles_y);
}

// Indices by ascending distance; the bits of floats that are not negative stand in the order of the floats. `keys`: of
// 2 num.
template <class T>
static void sort_by_distance(const Projected<T>* p, int64_t num, int32_t* order, uint64_t* keys) {
  for (int64_t k = 0; k < num; ++k) {
    uint32_t bits_;
    memcpy(&bits_, &p[k].distance, 4);
    keys[k] = (uint64_t)bits_ << 32 | (uint64_t)k;
  }
  const uint64_t* sorted = radix_sort<11>(keys, keys + num, num, 32, 64, [](uint64_t key) { return key; });
  for (int64_t k = 0; k < num; ++k) order[k] = (int32_t)sorted[k];
}

template <class T>
static void bin_tiles(const Scene<T>& s, Bins<T>& bins) {
  const int64_t tiles_y = bins.blocks_per_scene / bins.tiles_x;
  int64_t bands = s.batch >= 2 * s.threads ? 1 : least<int64_t>(tiles_y, 4 * s.threads);
  if (bands < 1) bands = 1;
  int64_t* offsets = bins.offsets.data;
  Scratch<int64_t> cursors;
  // Tiles of the Gaussians by distance, side by side: every band reads all of its scene's.
  struct Rectangle {
    int32_t gaussian, x0, x1, y0, y1;
  };
  Scratch<Rectangle> rectangles;
  Scratch<int64_t> counts;
  rectangles.ensure(s.batch * s.num);
  counts.ensure(s.batch);
  auto collect = [&](int, int64_t b) {
    Rectangle* out = rectangles.data + b * s.num;
    int64_t n = 0;
    for (int64_t j = 0; j < s.num; ++j) {
      const int32_t k = bins.order.data[b * s.num + j];
      const Projected<T>& q = bins.projected.data[b * s.num + k];
      if (q.tiles() > 0) out[n++] = {k, q.tx0, q.tx1, q.ty0, q.ty1};
    }
    counts.data[b] = n;
  };
  parallel_for(s.batch, s.threads, collect);
  auto each_tile = [&](int64_t item, auto&& visit) {  // every (tile, Gaussian) of one band of one scene, by distance
    const int64_t b = item / bands, band = item % bands;
    const int first = (int)(tiles_y * band / bands), last = (int)(tiles_y * (band + 1) / bands);
    const Rectangle* r = rectangles.data + b * s.num;
    for (int64_t j = 0; j < counts.data[b]; ++j) {
      const int y1 = least(r[j].y1, last);
      for (int y = most(r[j].y0, first); y < y1; ++y)
        for (int x = r[j].x0; x < r[j].x1; ++x) visit(b * bins.blocks_per_scene + y * bins.tiles_x + x, r[j].gaussian);
    }
  };
  auto count = [&](int, int64_t item) { each_tile(item, [&](int64_t block, int32_t) { ++offsets[block + 1]; }); };
  parallel_for(s.batch * bands, s.threads, count);
  for (int64_t i = 0; i < bins.blocks; ++i) offsets[i + 1] += offsets[i];
  bins.pairs = offsets[bins.blocks];
  int32_t* list = bins.list.ensure(bins.pairs + 1);
  memcpy(cursors.ensure(bins.blocks + 1), offsets, sizeof(int64_t) * bins.blocks);
  auto fill = [&](int, int64_t item) {
    each_tile(item, [&](int64_t block, int32_t k) { list[cursors.data[block]++] = k; });
  };
  parallel_for(s.batch * bands, s.threads, fill);
}

// Fills `bins` for the call; throws BadValue. `bin_rays` (bin_rays.h) does the lists of rays.
template <class T>
static void prepare(const Scene<T>& s, Bins<T>& bins, Counters& counters) {
  Stopwatch watch;
  check_finite("means", s.means, s.geometry_batch, s.num, 3, s.threads);
  check_finite("origins", s.origins, s.ray_batch, s.origins_per_scene, 3, s.threads);
  check_directions(s);
  bins.tiles_x = s.projection ? (s.width + tile_side - 1) / tile_side : 1;
  bins.blocks_per_scene =
      s.projection ? bins.tiles_x * ((s.height + tile_side - 1) / tile_side) : (s.rays + block_rays - 1) / block_rays;
  bins.blocks = s.batch * bins.blocks_per_scene;
  bins.radius2 = -2 * log(s.threshold) * (1 + 1e-5);
  bins.records.ensure(s.geometry_batch * s.num);
  bins.projected.ensure(s.batch * s.num);
  bins.order.ensure(s.batch * s.num);
  memset(bins.offsets.ensure(bins.blocks + 1), 0, sizeof(int64_t) * (bins.blocks + 1));
  const int64_t chunk = 256, chunks = (s.num + chunk - 1) / chunk;
  auto records = [&](int, int64_t item) {
    const int64_t g = item / chunks, begin = item % chunks * chunk, end = least(s.num, begin + chunk);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t i = g * s.num + k;
      const T density = s.density[i];
      if (!(density > 0) || !finite(density)) throw BadValue{"density", g, k, "is not positive and finite"};
      const Factor f = factorise(s.precisions + 9 * i, g, k);
      Record<T>& rec = bins.records.data[i];
      const Lower3<double>& l = f.l;
      rec.factor = {(T)l.xx, (T)l.yx, (T)l.zx, (T)l.yy, (T)l.zy, (T)l.zz};
      rec.mean = {s.means[3 * i], s.means[3 * i + 1], s.means[3 * i + 2]};
      rec.density = density;
      rec.reach = (T)(f.widest * Cutoff<T>::sigmas * 1.0001);
      for (int64_t b = s.geometry_batch == 1 ? 0 : g; b < (s.geometry_batch == 1 ? s.batch : g + 1); ++b)
        project(s, bins, f, b, k);
    }
  };
  parallel_for(s.geometry_batch * chunks, s.threads, records);
  watch.lap(counters.project_cycles);
  if (!s.projection) return;
  Scratch<uint64_t> keys;
  keys.ensure(2 * s.num * s.threads);
  auto sort = [&](int worker, int64_t b) {
    sort_by_distance(bins.projected.data + b * s.num, s.num, bins.order.data + b * s.num,
                     keys.data + 2 * s.num * worker);
  };
  parallel_for(s.batch, s.threads, sort);
  watch.lap(counters.sort_cycles);
  bin_tiles(s, bins);
}

VOGE_NAMESPACE_END
