// The fragments route, first half: which Gaussians each ray meets, by ascending length. Everything differentiable
// follows from these indices (fragments.cu).
#include "cuda/scene.h"

VOGE_NAMESPACE_BEGIN

// With `counts` only counts the hits of every ray. Else fills its slots: offsets[ray] .. offsets[ray + 1], or max_hits
// of them, those without a hit with -1.
template <class T>
__device__ void trace_rays(const Scene<T>& s, T* scratch, int shared_capacity, const int64_t* offsets, int64_t* counts,
                           int64_t* indices) {
  VOGE_DYNAMIC_SHARED(T, shared);
  const Rule rule{0, 1, false, false};
  for (int64_t index = warp_index(); index < s.blocks; index += warp_count()) {
    const Block<T> block = load_block(s, index);
    const Ray<T> mine = load_ray(s.rays, index, lane_index());
    if (counts) {
      const int n = mark_hits(s, block, mine, nullptr);
      if (mine.index >= 0) counts[block.scene * s.rays.rays + mine.index] = n;
      continue;
    }
    RayHits<T> h;
    attach(h, s, block, mine, rule, 0, shared_capacity, shared, scratch);
    for (int place = 0; place < block_rays; ++place) {
      const Ray<T> ray = broadcast(mine, place);
      if (ray.index < 0) continue;
      const int64_t at = block.scene * s.rays.rays + ray.index;
      gather(h, s, block, ray);
      const int64_t first = offsets ? offsets[at] : at * s.max_hits,
                    end = offsets ? offsets[at + 1] : first + s.max_hits;
      for (int64_t i = first + lane_index(); i < end; i += warp_size)
        indices[i] = i - first < h.n ? block.list[h.entry[i - first]] : -1;
    }
  }
}

template <class T>
__device__ void trace(const T* records, const T* origins, const T* directions, const uint8_t* valid,
                      const int64_t* ray_order, const int32_t* list, const int64_t* starts, T* scratch,
                      const int64_t* offsets, int64_t* counts, int64_t* indices, int64_t blocks,
                      int64_t blocks_per_scene, int64_t tiles_x, int64_t width, int64_t rays, int64_t num,
                      int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene, int64_t pairs,
                      int64_t capacity, int32_t shared_capacity, int64_t max_hits, double threshold, double near) {
  const Rays<T> of_rays{origins,           directions,       valid,   ray_order, rays, ray_batch,
                        origins_per_scene, blocks_per_scene, tiles_x, width};
  const Scene<T> scene{
      of_rays, records, list, starts, blocks, num, geometry_batch, pairs, capacity, max_hits, (T)vlog(threshold),
      (T)near, false};
  trace_rays(scene, scratch, shared_capacity, offsets, counts, indices);
}
VOGE_KERNEL(trace, warp_size,
            (const T* records, const T* origins, const T* directions, const uint8_t* valid, const int64_t* ray_order,
             const int32_t* list, const int64_t* starts, T* scratch, const int64_t* offsets, int64_t* counts,
             int64_t* indices, int64_t blocks, int64_t blocks_per_scene, int64_t tiles_x, int64_t width, int64_t rays,
             int64_t num, int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene, int64_t pairs,
             int64_t capacity, int32_t shared_capacity, int64_t max_hits, double threshold, double near),
            (records, origins, directions, valid, ray_order, list, starts, scratch, offsets, counts, indices, blocks,
             blocks_per_scene, tiles_x, width, rays, num, geometry_batch, ray_batch, origins_per_scene, pairs, capacity,
             shared_capacity, max_hits, threshold, near))

VOGE_NAMESPACE_END
