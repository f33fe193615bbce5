// What the kernels that follow rays through a scene share: the Gaussians, and the list of those that each block of rays
// may meet.
#pragma once
#include "cuda/hits.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct Scene {
  Rays<T> rays;
  const T* records;       // (geometry_batch, num, 12)
  const int32_t* list;    // (pairs): Gaussians, block by block
  const int64_t* starts;  // (blocks + 1)
  int64_t blocks, num, geometry_batch;
  int64_t pairs, capacity;  // room for pairs; for the list of a block
  int64_t max_hits;         // 0: all
  T lowest, near;           // a hit: exponent >= lowest, the log of the threshold, and length > near
  bool world;
};

// The rays of one warp and their list.
template <class T>
struct Block {
  int64_t index, scene, first_pair;
  int64_t first_gaussian;  // of the scene, in arrays of the geometry batch
  const Record<T>* records;
  const int32_t* list;
  int count;
};

// A list beyond the room that there is counts as empty: the caller finds out from `starts`.
template <class T>
__device__ Block<T> load_block(const Scene<T>& s, int64_t index) {
  const int64_t scene = index / s.rays.blocks_per_scene, first = s.starts[index], end = s.starts[index + 1];
  const int64_t first_gaussian = s.geometry_batch == 1 ? 0 : scene * s.num;
  const bool fits = end <= s.pairs && end - first <= s.capacity;
  return {index,
          scene,
          first,
          first_gaussian,
          reinterpret_cast<const Record<T>*>(s.records) + first_gaussian,
          s.list + (fits ? first : 0),
          fits ? (int)(end - first) : 0};
}

// Comes before `gather` for the rays of a block, a ray a lane; see hits.h.
template <class T>
__device__ int mark_hits(const Scene<T>& s, const Block<T>& block, const Ray<T>& mine, int32_t* marks) {
  return mark_hits(mine, block.records, block.list, block.count, s.lowest, s.near, marks);
}

template <class T>
__device__ void gather(RayHits<T>& h, const Scene<T>& s, const Block<T>& block, const Ray<T>& ray) {
  gather(h, ray, block.records, block.list, block.count, s.max_hits, s.world);
}

// Memory of a block of rays: `sums` values and a mark for each Gaussian of its list, and the hits of one ray. Shared
// memory holds what it has room for, `shared_capacity` times as much as one Gaussian can need; the rest lies in this
// warp's part of `scratch`. Marks the hits of the lanes' rays; returns where the sums are.
template <class T>
__device__ T* attach(RayHits<T>& h, const Scene<T>& s, const Block<T>& block, const Ray<T>& mine, const Rule& rule,
                     int sums, int shared_capacity, T* shared, T* scratch) {
  const int64_t of_hit = hit_values<T>(rule), values = sums + 1 + of_hit, room = shared_capacity * values;
  const int64_t of_list = (int64_t)(sums + 1) * block.count;
  T* const own = scratch + warp_index() * values * s.capacity;
  T* const memory = of_list <= room ? shared : own;
  int32_t* const marks = reinterpret_cast<int32_t*>(memory + (int64_t)sums * block.count);
  const int hits = warp_most(mark_hits(s, block, mine, marks));
  const bool together = memory == own || of_list + hits * of_hit <= room;
  attach(h, together ? memory + of_list : own, hits, rule);
  h.marks = marks;
  return memory;
}

// P, from the full matrix of Gaussian i, of which the symmetric part counts.
template <class T>
__device__ Sym3<T> symmetric(const T* precisions, int64_t i) {
  const T* p = precisions + 9 * i;
  return {p[0], T(.5) * (p[1] + p[3]), T(.5) * (p[2] + p[6]), p[4], T(.5) * (p[5] + p[7]), p[8]};
}

template <class T>
__device__ Vec3<T> warp_sum(const Vec3<T>& v) {
  return {warp_sum(v.x), warp_sum(v.y), warp_sum(v.z)};
}

template <class T>
__device__ Vec3<T> load(const T* x, int64_t i) {
  return {x[3 * i], x[3 * i + 1], x[3 * i + 2]};
}
template <class T>
__device__ void store(T* x, int64_t i, const Vec3<T>& v) {
  x[3 * i] = v.x, x[3 * i + 1] = v.y, x[3 * i + 2] = v.z;
}

VOGE_NAMESPACE_END
