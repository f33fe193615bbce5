// The rays of a block and the hits of one ray, side by side over the lanes of a warp: gathered from the block's list,
// sorted by length and cut to the nearest max_hits.
#pragma once
#include "core/hit.h"
#include "cuda/warp.h"

// Large functions of a whole warp: compiled once for all that call them, with the registers to themselves.
#if defined(__CUDACC__)
#define VOGE_CALLED __device__ __noinline__
#else
#define VOGE_CALLED __device__
#endif

VOGE_NAMESPACE_BEGIN

// What a Gaussian is to any ray: P = L L'. A row of the records.
template <class T>
struct alignas(16) Record {
  Lower3<T> factor;
  Vec3<T> mean;
  T density, reach, unused;
};

// A block is 8 x 4 pixels of a camera, row by row, or as many rays of a list.
constexpr int tile_width = 8, tile_height = 4, block_rays = tile_width * tile_height;

template <class T>
struct Rays {
  const T *origins, *directions;  // (ray_batch, 1 or rays, 3), (ray_batch, rays, 3)
  const uint8_t* valid;           // (ray_batch, rays), or null: all
  const int64_t* order;           // (ray_batch, rays): neighbours side by side; null: a camera's pixels
  int64_t rays, ray_batch, origins_per_scene;
  int64_t blocks_per_scene, tiles_x, width;
};

template <class T>
struct Ray {
  int64_t index;  // within the scene, -1: there is none at this place
  int place;      // in its block
  bool alive;     // others meet nothing
  Vec3<T> origin, direction;
  T norm;  // of the direction as it was given, here it is of length 1
};

// Which ray of its scene is at a place of a block, -1: none.
template <class T>
__device__ int64_t find_ray(const Rays<T>& s, int64_t block, int place) {
  const int64_t in_scene = block % s.blocks_per_scene;
  if (!s.order) {
    const int64_t x = in_scene % s.tiles_x * tile_width + place % tile_width,
                  y = in_scene / s.tiles_x * tile_height + place / tile_width;
    return x < s.width && y < s.rays / s.width ? y * s.width + x : -1;
  }
  const int64_t at = in_scene * block_rays + place;
  return at < s.rays ? s.order[(s.ray_batch == 1 ? 0 : block / s.blocks_per_scene) * s.rays + at] : -1;
}

template <class T>
__device__ Ray<T> load_ray(const Rays<T>& s, int64_t block, int place) {
  Ray<T> ray{find_ray(s, block, place), place, false, {0, 0, 0}, {0, 0, 1}, 1};
  const int64_t item = s.ray_batch == 1 ? 0 : block / s.blocks_per_scene, at = item * s.rays + ray.index;
  if (ray.index < 0 || (s.valid && !s.valid[at])) return ray;
  const T *o = s.origins + 3 * (s.origins_per_scene == 1 ? item : at), *d = s.directions + 3 * at;
  ray.alive = true;
  ray.origin = {o[0], o[1], o[2]};
  ray.direction = {d[0], d[1], d[2]};
  ray.norm = length(ray.direction);
  ray.direction = (1 / ray.norm) * ray.direction;
  return ray;
}

// The ray of lane `place`.
template <class T>
__device__ Ray<T> broadcast(const Ray<T>& mine, int place) {
  auto of_place = [&](const Vec3<T>& v) {
    return Vec3<T>{broadcast(v.x, place), broadcast(v.y, place), broadcast(v.z, place)};
  };
  return {broadcast(mine.index, place),
          place,
          broadcast((int)mine.alive, place) != 0,
          of_place(mine.origin),
          of_place(mine.direction),
          broadcast(mine.norm, place)};
}

// How hits are weighed: Gauss-Hermite or segments; `stops`: also the density S where the ray is stopped, for normals.
struct Rule {
  int segments, points;
  bool stops, backward;
};

// The hits of one ray: memory of a warp. Lane j writes entries j, j + 32, ..
template <class T>
struct RayHits {
  int n, capacity;
  int32_t* entry;              // place in the block's list
  const int32_t* marks;        // of the block's list, elsewhere: a bit a ray that is hit
  T *length, *peak, *rate;     // l, A, 1 / sigma
  T *high_before, *low_after;  // greatest end of the intervals up to here, least start of those from here on
  T *weight, *stop;            // W, S
  T *grad_weight, *grad_stop, *grad_peak, *grad_length, *grad_rate;
  T* sums;                          // hermite: running sums
  T *slopes, *stopped;              // hermite, backward: of each node, points x capacity
  T* places;                        // segments: of each cut, in order
  int32_t* cuts;                    // segments: hit and number of each cut
  T *cdf, *rho, *rho_start, *part;  // segments: at a slab's end; at its start; optical depth of the slab
  T* depths;                        // segments, backward: optical depth in front of each cut
  T *part_after, *share_after, *grad_part, *grad_share;  // segments, backward: of the next slab, and of this one
};

// T's of memory that attach() hands out to each hit, integers included.
template <class T>
__device__ int hit_values(const Rule& r) {
  const int stops = r.stops ? 1 : 0, integers = r.segments ? 1 + r.points : 1;
  int values = 6 + stops + (r.backward ? 4 + stops : 0);
  if (r.segments)
    values += 4 + r.points + (r.backward ? 4 + r.points : 0);
  else
    values += 1 + (r.backward ? r.points * (1 + stops) : 0);
  return values + (integers * (int)sizeof(int32_t) + (int)sizeof(T) - 1) / (int)sizeof(T);
}

// Shares out memory of capacity * hit_values(rule).
template <class T>
__device__ void attach(RayHits<T>& h, T* memory, int capacity, const Rule& r) {
  auto take = [&](bool wanted, int many = 1) {
    T* const taken = memory;
    if (wanted) memory += (int64_t)many * capacity;
    return wanted ? taken : nullptr;
  };
  h.n = 0, h.capacity = capacity;
  h.length = take(true), h.peak = take(true), h.rate = take(true);
  h.high_before = take(true), h.low_after = take(true);
  h.weight = take(true), h.stop = take(r.stops);
  h.grad_weight = take(r.backward), h.grad_stop = take(r.backward && r.stops);
  h.grad_peak = take(r.backward), h.grad_length = take(r.backward), h.grad_rate = take(r.backward);
  h.sums = take(!r.segments);
  h.slopes = take(!r.segments && r.backward, r.points);
  h.stopped = take(!r.segments && r.backward && r.stops, r.points);
  h.places = take(r.segments, r.points);
  h.cdf = take(r.segments), h.rho = take(r.segments), h.rho_start = take(r.segments), h.part = take(r.segments);
  const bool slabs = r.segments && r.backward;
  h.depths = take(slabs, r.points);
  h.part_after = take(slabs), h.share_after = take(slabs), h.grad_part = take(slabs), h.grad_share = take(slabs);
  h.entry = reinterpret_cast<int32_t*>(memory);
  h.cuts = h.entry + capacity;
}

// This warp's memory for `count` hits: shared where they fit, else its part of a buffer that has room for `capacity`.
template <class T>
__device__ T* hit_memory(int64_t count, int64_t values, int shared_capacity, T* shared, T* scratch, int64_t capacity) {
  return count <= shared_capacity ? shared : scratch + warp_index() * values * capacity;
}

// Sorts n values ascending, with an integer each; of equal values i comes first where earlier(i, j). A bitonic network
// whose comparisons all point the same way, so that what lies beyond n never moves.
template <class T, class Earlier>
__device__ void sort_pairs(int n, T* value, int32_t* integer, Earlier earlier) {
  for (int size = 2; size < 2 * n; size *= 2)
    for (int apart = size / 2; apart > 0; apart /= 2) {
      const bool mirrored = apart == size / 2;
      for (int pair = lane_index();; pair += warp_size) {
        const int i = 2 * pair - (pair & (apart - 1)), j = mirrored ? i ^ (size - 1) : i + apart;
        if (i >= n) break;
        if (j >= n) continue;
        const T a = value[i], b = value[j];
        if (a < b || (a == b && earlier(integer[i], integer[j]))) continue;
        value[i] = b, value[j] = a;
        exchange(integer[i], integer[j]);
      }
      __syncwarp();
    }
}

// Of each Gaussian of a list, a bit a ray of the block: which ones it hits, into `marks` (or null). A ray a lane, so
// that a Gaussian is read once for all of them; returns how many this lane's ray hits.
template <class T>
VOGE_CALLED int mark_hits(const Ray<T>& mine, const Record<T>* records, const int32_t* list, int count, T lowest,
                          T near, int32_t* marks) {
  int n = 0;
  __syncwarp();  // other lanes may still read what lies there of the block before
  for (int first = 0; first < count; first += warp_size) {
    unsigned own = 0;
    for (int j = 0; j < warp_size && first + j < count; ++j) {
      const Record<T> g = records[list[first + j]];
      const Hit<T> hit = find_hit(g.factor, transpose_times(g.factor, g.mean - mine.origin), mine.direction);
      const bool met = mine.alive && hit.exponent >= lowest && hit.length > near;
      const unsigned rays = ballot(met);
      if (lane_index() == j) own = rays;
      n += met;
    }
    if (marks && first + lane_index() < count) marks[first + lane_index()] = (int32_t)own;
  }
  __syncwarp();
  return n;
}

// All hits of a ray whose block is marked, or the nearest max_hits if that is above 0.
template <class T>
VOGE_CALLED void gather(RayHits<T>& h, const Ray<T>& ray, const Record<T>* records, const int32_t* list, int count,
                        int64_t max_hits, bool world) {
  int n = 0;
  auto hit_of = [&](int k) {
    const Record<T> g = records[list[h.entry[k]]];
    return find_hit(g.factor, transpose_times(g.factor, g.mean - ray.origin), ray.direction);
  };
  __syncwarp();  // other lanes may still read the hits of the ray before
  for (int first = 0; first < count; first += warp_size) {
    const int i = first + lane_index();
    const bool met = i < count && ((unsigned)h.marks[i] >> ray.place & 1);
    const unsigned hits = ballot(met);
    if (met) h.entry[n + rank_among(hits)] = i;
    n += __popc(hits);
  }
  __syncwarp();
  for (int k = lane_index(); k < n; k += warp_size) h.length[k] = hit_of(k).length;
  __syncwarp();
  sort_pairs(n, h.length, h.entry, [&](int32_t i, int32_t j) { return list[i] < list[j]; });
  h.n = max_hits > 0 && max_hits < n ? (int)max_hits : n;
  for (int k = lane_index(); k < h.n; k += warp_size) {  // again: cheaper than carrying them through the sort
    const Hit<T> hit = hit_of(k);
    h.peak[k] = peak(records[list[h.entry[k]]].density, hit, world), h.rate[k] = hit.inverse_width;
  }
  __syncwarp();
}

VOGE_NAMESPACE_END
