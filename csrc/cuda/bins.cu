// What every Gaussian is to any ray, which tiles of a camera's picture it may touch, and the checks of the values.
//
// A tile is 8 pixels wide and 4 high: one warp's rays. A Gaussian enters the tiles that the ellipse touches which the
// camera sees of its ellipsoid. Its pairs with tiles have slots side by side; sorted by tile they become the lists of
// the tiles.
#include "cuda/hits.h"

VOGE_NAMESPACE_BEGIN

constexpr int bad_means = 1, bad_precisions = 2, bad_density = 4, bad_origins = 8, bad_directions = 16;
constexpr int warps = 4;  // of a block, at most

// P = L L' in double, for the bounds subtract nearly equal numbers. False unless P is finite, symmetric and positive
// definite.
template <class T>
__device__ bool factorise(const T* precision, Lower3<double>& factor) {
  double p[9], largest = 0;
  for (int i = 0; i < 9; ++i) {
    p[i] = (double)precision[i];
    if (!is_finite(p[i])) return false;
    largest = most(largest, fabs(p[i]));
  }
  const double skew = most(most(fabs(p[1] - p[3]), fabs(p[2] - p[6])), fabs(p[5] - p[7]));
  if (skew > 1e-4 * largest) return false;
  return cholesky({p[0], .5 * (p[1] + p[3]), .5 * (p[2] + p[6]), p[4], .5 * (p[5] + p[7]), p[8]}, factor);
}

__device__ inline Lower3<double> inverse(const Lower3<double>& l) {
  Lower3<double> w;
  w.xx = 1 / l.xx, w.yy = 1 / l.yy, w.zz = 1 / l.zz;
  w.yx = -l.yx * w.xx * w.yy, w.zy = -l.zy * w.yy * w.zz, w.zx = -(l.zx * w.xx + l.zy * w.yx) * w.zz;
  return w;
}

// At least the widest standard deviation: the covariance's largest eigenvalue is at most its largest row sum.
__device__ inline double widest_sigma(const Lower3<double>& factor) {
  const Lower3<double> w = inverse(factor);
  const double xx = w.xx * w.xx + w.yx * w.yx + w.zx * w.zx, yy = w.yy * w.yy + w.zy * w.zy, zz = w.zz * w.zz;
  const double xy = fabs(w.yx * w.yy + w.zx * w.zy), xz = fabs(w.zx * w.zz), yz = fabs(w.zy * w.zz);
  return sqrt(most(most(xx + xy + xz, xy + yy + yz), xz + yz + zz));
}

// One thread a Gaussian. A factor of 0 meets no ray.
template <class T>
__device__ void records(const T* means, const T* precisions, const T* density, int64_t total, T* records,
                        int32_t* flag) {
  for (int64_t i = thread_index(); i < total; i += thread_count()) {
    const T* x = means + 3 * i;
    Lower3<double> l;
    int bad = 0;
    if (!is_finite(x[0]) || !is_finite(x[1]) || !is_finite(x[2])) bad |= bad_means;
    if (!(density[i] > 0) || !is_finite(density[i])) bad |= bad_density;
    if (!factorise(precisions + 9 * i, l)) bad |= bad_precisions;
    if (bad) {
      atomicOr(flag, bad);
      l = {0, 0, 0, 0, 0, 0};
    }
    reinterpret_cast<Record<T>*>(records)[i] = {{(T)l.xx, (T)l.yx, (T)l.zx, (T)l.yy, (T)l.zy, (T)l.zz},
                                                {x[0], x[1], x[2]},
                                                density[i],
                                                (T)(widest_sigma(l) * Cutoff<T>::sigmas * 1.0001),
                                                0};
  }
}
VOGE_KERNEL(records, 128,
            (const T* means, const T* precisions, const T* density, int64_t total, T* records, int32_t* flag),
            (means, precisions, density, total, records, flag))

template <class T>
__device__ void check_finite(const T* x, int64_t total, int32_t bit, int32_t* flag) {
  for (int64_t i = thread_index(); i < total; i += thread_count())
    if (!is_finite(x[i])) atomicOr(flag, bit);
}
VOGE_KERNEL(check_finite, 128, (const T* x, int64_t total, int32_t bit, int32_t* flag), (x, total, bit, flag))

// Origins must be finite; directions of valid rays must have a length, and one whose square is finite.
template <class T>
__device__ void check_rays(const T* origins, int64_t origin_values, const T* directions, const uint8_t* valid,
                           int64_t rays, int32_t* flag) {
  check_finite(origins, origin_values, bad_origins, flag);
  for (int64_t i = thread_index(); i < rays; i += thread_count()) {
    if (valid && !valid[i]) continue;
    const Vec3<T> d{directions[3 * i], directions[3 * i + 1], directions[3 * i + 2]};
    const T square = dot(d, d);
    if (!(square > 0) || !is_finite(square)) atomicOr(flag, bad_directions);
  }
}
VOGE_KERNEL(check_rays, 128,
            (const T* origins, int64_t origin_values, const T* directions, const uint8_t* valid, int64_t rays,
             int32_t* flag),
            (origins, origin_values, directions, valid, rays, flag))

// Tiles x0 <= x < x1, y0 <= y < y1.
struct Rectangle {
  int32_t x0, y0, x1, y1;
  __device__ int64_t tiles() const { return x0 < x1 && y0 < y1 ? (int64_t)(x1 - x0) * (y1 - y0) : 0; }
};

// Pixels p with (p - centre)' Q (p - centre) <= 1; Q = 0: all.
struct Ellipse {
  double x, y, xx, xy, yy;
};

__device__ inline double clamp(double x, double low, double high) { return most(low, least(high, x)); }

// Whether some pixel centre of the tile may be inside. The least value is at the centre or else on an edge of the tile
// that faces it.
__device__ inline bool touches(const Ellipse& e, int64_t tile_x, int64_t tile_y) {
  const double left = (double)(tile_x * tile_width) + .5 - e.x, right = left + (tile_width - 1);
  const double top = (double)(tile_y * tile_height) + .5 - e.y, bottom = top + (tile_height - 1);
  const double x = clamp(0, left, right), y = clamp(0, top, bottom);
  auto inside = [&](double u, double v) { return e.xx * u * u + 2 * e.xy * u * v + e.yy * v * v <= 1; };
  return inside(x, clamp(-e.xy / e.yy * x, top, bottom)) || inside(clamp(-e.xy / e.xx * y, left, right), y);
}

// What the camera sees of an ellipsoid: an ellipse, a little wider than it is, and the tiles around it.
struct Footprint {
  Rectangle tiles;
  Ellipse ellipse;
};

// Tiles first <= i < last along one axis that hold a pixel centre from centre - half to centre + half.
__device__ inline void tile_range(double centre, double half, int side, int64_t tiles, int32_t& first, int32_t& last) {
  const double slack = .01 + 1e-6 * (fabs(centre) + half), end = (double)tiles;
  first = (int32_t)clamp(floor(ceil(centre - half - slack - .5) / side), 0, end);
  last = (int32_t)clamp(floor(floor(centre + half + slack - .5) / side) + 1, 0, end);
}

// The dual conic of the image is m m' - r^2 A C A': A = K R, m the mean's image, C the covariance, r the standard
// deviations at the threshold. Its centre and its "covariance" follow from the tangents through the camera.
template <class T>
__device__ Footprint footprint(const T* mean, const T* precision, const double* projection, double radius2,
                               int64_t tiles_x, int64_t tiles_y) {
  const Footprint none{{0, 0, 0, 0}, {}}, all{{0, 0, (int32_t)tiles_x, (int32_t)tiles_y}, {}};
  Lower3<double> l;
  if (!factorise(precision, l)) return none;
  const Lower3<double> w = inverse(l);
  double m[3];
  Vec3<double> a[3];  // rows of A L^-T, so that A C A' = a a'
  for (int i = 0; i < 3; ++i) {
    const double* p = projection + 4 * i;
    m[i] = p[0] * mean[0] + p[1] * mean[1] + p[2] * mean[2] + p[3];
    a[i] = {w.xx * p[0], w.yx * p[0] + w.yy * p[1], w.zx * p[0] + w.zy * p[1] + w.zz * p[2]};
  }
  auto dual = [&](int i, int j) { return m[i] * m[j] - radius2 * dot(a[i], a[j]); };
  const double zz = dual(2, 2), square = m[2] * m[2];
  if (!is_finite(zz)) return none;
  if (zz <= 1e-9 * square) return all;  // the camera's plane cuts it
  if (m[2] < 0) return none;            // it is behind the camera
  const double x = dual(0, 2) / zz, y = dual(1, 2) / zz;
  double xx = x * x - dual(0, 0) / zz, xy = x * y - dual(0, 1) / zz, yy = y * y - dual(1, 1) / zz;
  if (!is_finite(xx + yy)) return all;
  Footprint f;
  tile_range(x, sqrt(most(xx, 0.)), tile_width, tiles_x, f.tiles.x0, f.tiles.x1);
  tile_range(y, sqrt(most(yy, 0.)), tile_height, tiles_y, f.tiles.y0, f.tiles.y1);
  // Rounding counts most where the camera is near the ellipsoid.
  const double wider = 1e-4 + 1e-13 * (1 + square / zz) * (x * x + y * y + fabs(xx) + fabs(yy));
  xx = most(xx, 0.) + wider, yy = most(yy, 0.) + wider;
  const double area2 = xx * yy - xy * xy;
  f.ellipse = area2 > 0 ? Ellipse{x, y, yy / area2, -xy / area2, xx / area2} : Ellipse{};
  return f;
}

// Calls visit(touched, owner, tile) for tile after tile of the rectangles, in the order of the lanes whose they are
// (`owner`). All lanes call it together and share the tiles evenly, however large each rectangle is.
template <class Visit>
__device__ void each_tile(const Footprint& mine, int64_t tiles_x, Visit&& visit) {
  VOGE_SHARED(Footprint, footprints, [warps][warp_size]);
  VOGE_SHARED(int64_t, ends, [warps][warp_size]);
  const int lane = lane_index(), warp = (int)threadIdx.x / warp_size;
  __syncwarp();
  footprints[warp][lane] = mine;
  ends[warp][lane] = sum_so_far(mine.tiles.tiles());
  __syncwarp();
  const int64_t total = ends[warp][warp_size - 1];
  for (int64_t begin = 0; begin < total; begin += warp_size) {
    const int64_t j = least(begin + lane, total - 1);
    int owner = 0;  // the first whose end is beyond j
    for (int step = warp_size / 2; step > 0; step /= 2)
      if (ends[warp][owner + step - 1] <= j) owner += step;
    const Footprint& f = footprints[warp][owner];
    const int64_t place = j - (ends[warp][owner] - f.tiles.tiles()), width = f.tiles.x1 - f.tiles.x0;
    const int64_t x = f.tiles.x0 + place % width, y = f.tiles.y0 + place / width;
    visit(begin + lane < total && touches(f.ellipse, x, y), owner, y * tiles_x + x);
  }
}

// The footprint and the number of tiles of every Gaussian in every scene, and how many Gaussians each tile has. A warp
// takes 32 Gaussians.
template <class T>
__device__ void project(const T* means, const T* precisions, const double* projection, int64_t batch, int64_t num,
                        int64_t geometry_batch, int64_t ray_batch, int64_t tiles_x, int64_t tiles_y, double threshold,
                        int32_t* rectangles, double* ellipses, int64_t* counts, int32_t* tile_counts) {
  VOGE_SHARED(int32_t, touched_tiles, [warps][warp_size]);
  int32_t* touched_by = touched_tiles[threadIdx.x / warp_size];
  const int lane = lane_index();
  const double radius2 = -2 * log(threshold) * (1 + 1e-5);
  const int64_t total = batch * num;
  for (int64_t first = warp_index() * warp_size; first < total; first += warp_count() * warp_size) {
    const int64_t i = first + lane;
    Footprint f{};
    if (i < total) {
      const int64_t b = i / num, k = (geometry_batch == 1 ? 0 : b) * num + i % num;
      f = footprint(means + 3 * k, precisions + 9 * k, projection + 12 * (ray_batch == 1 ? 0 : b), radius2, tiles_x,
                    tiles_y);
      reinterpret_cast<Rectangle*>(rectangles)[i] = f.tiles;
      reinterpret_cast<Ellipse*>(ellipses)[i] = f.ellipse;
    }
    touched_by[lane] = 0;
    each_tile(f, tiles_x, [&](bool touched, int owner, int64_t tile) {
      if (!touched) return;
      atomicAdd(touched_by + owner, 1);
      atomicAdd(tile_counts + (first + owner) / num * tiles_x * tiles_y + tile, 1);
    });
    __syncwarp();
    if (i < total) counts[i] = touched_by[lane];
  }
}
VOGE_KERNEL(project, 128,
            (const T* means, const T* precisions, const double* projection, int64_t batch, int64_t num,
             int64_t geometry_batch, int64_t ray_batch, int64_t tiles_x, int64_t tiles_y, double threshold,
             int32_t* rectangles, double* ellipses, int64_t* counts, int32_t* tile_counts),
            (means, precisions, projection, batch, num, geometry_batch, ray_batch, tiles_x, tiles_y, threshold,
             rectangles, ellipses, counts, tile_counts))

// The pairs, Gaussian after Gaussian: tile (of all scenes) and Gaussian (of its scene) of every slot below `capacity`.
template <class T>
__device__ void fill_tiles(const int32_t* rectangles, const double* ellipses, const int64_t* slot_starts, int64_t batch,
                           int64_t num, int64_t tiles_x, int64_t tiles_y, int64_t capacity, int32_t* keys,
                           int32_t* gaussians) {
  const int64_t total = batch * num;
  for (int64_t first = warp_index() * warp_size; first < total; first += warp_count() * warp_size) {
    const int64_t i = first + lane_index();
    Footprint f{};
    if (i < total) {
      f.tiles = reinterpret_cast<const Rectangle*>(rectangles)[i];
      f.ellipse = reinterpret_cast<const Ellipse*>(ellipses)[i];
    }
    int64_t end = slot_starts[first];
    each_tile(f, tiles_x, [&](bool touched, int owner, int64_t tile) {
      const unsigned all_touched = ballot(touched);
      const int64_t slot = end + rank_among(all_touched);
      end += __popc(all_touched);
      if (!touched || slot >= capacity) return;
      keys[slot] = (int32_t)((first + owner) / num * tiles_x * tiles_y + tile);
      gaussians[slot] = (int32_t)((first + owner) % num);
    });
  }
}
VOGE_KERNEL(fill_tiles, 128,
            (const int32_t* rectangles, const double* ellipses, const int64_t* slot_starts, int64_t batch, int64_t num,
             int64_t tiles_x, int64_t tiles_y, int64_t capacity, int32_t* keys, int32_t* gaussians),
            (rectangles, ellipses, slot_starts, batch, num, tiles_x, tiles_y, capacity, keys, gaussians))

VOGE_NAMESPACE_END
