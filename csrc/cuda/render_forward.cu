// The fused route: features, alpha, depth and normal of every ray, with nothing kept of size rays x hits. A warp takes
// a block of rays, one ray after another, with the hits of a ray spread over its lanes.
#include "cuda/median.h"
#include "cuda/scene.h"
#include "cuda/sums.h"
#include "cuda/weights.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct Picture {
  const T *features, *precisions;      // (feature_batch, num, channels); (geometry_batch, num, 3, 3)
  T *image, *alpha, *depth, *normals;  // (batch, rays, channels), .. ; no normals: null
  int64_t feature_batch, channels;
  int points;
  bool median;
};

// Minus the integral of T grad rho: rho_k has the gradient -P (x - M) rho_k, and the integral of T (t - l_k) rho_k is
// -sigma_k^2 S_k by parts. So every hit adds P (W (l d - V) - sigma^2 S d), V = M - o.
template <class T>
__device__ Vec3<T> find_normal(const Block<T>& block, const Ray<T>& ray, const RayHits<T>& h, const T* precisions) {
  Vec3<T> sum{0, 0, 0};
  for (int k = lane_index(); k < h.n; k += warp_size) {
    const int32_t g = block.list[h.entry[k]];
    const T sigma = 1 / h.rate[k];
    const Vec3<T> from_mean = h.length[k] * ray.direction - (block.records[g].mean - ray.origin);
    sum = sum + symmetric(precisions, block.first_gaussian + g) *
                    (h.weight[k] * from_mean - sigma * sigma * h.stop[k] * ray.direction);
  }
  return warp_sum(sum);
}

template <bool segments, bool normals, class T>
__device__ void render_block(const Scene<T>& s, const Picture<T>& p, const Block<T>& block, const Ray<T>& mine,
                             RayHits<T>& h) {
  for (int place = 0; place < block_rays; ++place) {
    const Ray<T> ray = broadcast(mine, place);
    if (ray.index < 0) continue;
    const int64_t at = block.scene * s.rays.rays + ray.index;
    gather(h, s, block, ray);
    T alpha = 0, depth = 0;
    Vec3<T> normal{0, 0, 0};
    if (h.n > 0) {
      weigh<segments, normals>(h, p.points);
      for (int k = lane_index(); k < h.n; k += warp_size) alpha += h.weight[k], depth += h.weight[k] * h.length[k];
      alpha = warp_sum(alpha);
      depth = p.median ? find_median(h).length() : warp_sum(depth) / alpha;
      if (normals) normal = find_normal(block, ray, h, p.precisions);
    }
    if (lane_index() == 0) {
      p.alpha[at] = alpha, p.depth[at] = alpha > 0 ? depth : T(0);
      if (normals) store(p.normals, at, normal);
    }
    const T* features = p.features + (p.feature_batch == 1 ? 0 : block.scene) * s.num * p.channels;
    sum_columns<T>(
        h.n, p.channels,
        [&](int64_t k, int64_t c) { return h.weight[k] * features[block.list[h.entry[k]] * p.channels + c]; },
        [&](int64_t c, T sum) { p.image[at * p.channels + c] = sum; });
  }
}

template <bool segments, class T>
__device__ void render_blocks(const Scene<T>& s, const Picture<T>& p, T* scratch, int shared_capacity) {
  VOGE_DYNAMIC_SHARED(T, shared);
  const Rule rule{segments, p.points, p.normals != nullptr, false};
  for (int64_t index = warp_index(); index < s.blocks; index += warp_count()) {
    const Block<T> block = load_block(s, index);
    RayHits<T> h;
    const Ray<T> mine = load_ray(s.rays, index, lane_index());
    attach(h, s, block, mine, rule, 0, shared_capacity, shared, scratch);
    if (p.normals)
      render_block<segments, true>(s, p, block, mine, h);
    else
      render_block<segments, false>(s, p, block, mine, h);
  }
}

template <bool segments, class T>
__device__ void render_forward(const T* records, const T* precisions, const T* features, const T* origins,
                               const T* directions, const uint8_t* valid, const int64_t* ray_order, const int32_t* list,
                               const int64_t* starts, T* scratch, T* image, T* alpha, T* depth, T* normals,
                               int64_t blocks, int64_t blocks_per_scene, int64_t tiles_x, int64_t width, int64_t rays,
                               int64_t num, int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene,
                               int64_t feature_batch, int64_t channels, int64_t pairs, int64_t capacity,
                               int32_t shared_capacity, int64_t max_hits, double threshold, double near, int32_t world,
                               int32_t points, int32_t median) {
  const Rays<T> of_rays{origins,           directions,       valid,   ray_order, rays, ray_batch,
                        origins_per_scene, blocks_per_scene, tiles_x, width};
  const Scene<T> scene{
      of_rays, records,   list, starts, blocks, num, geometry_batch, pairs, capacity, max_hits, (T)vlog(threshold),
      (T)near, world != 0};
  const Picture<T> picture{features, precisions,    image,    alpha,  depth,
                           normals,  feature_batch, channels, points, median != 0};
  render_blocks<segments>(scene, picture, scratch, shared_capacity);
}

template <class T, class... Arguments>
__device__ void render_forward_hermite(const T* records, Arguments... rest) {
  render_forward<false>(records, rest...);
}
VOGE_KERNEL(render_forward_hermite, warp_size,
            (const T* records, const T* precisions, const T* features, const T* origins, const T* directions,
             const uint8_t* valid, const int64_t* ray_order, const int32_t* list, const int64_t* starts, T* scratch,
             T* image, T* alpha, T* depth, T* normals, int64_t blocks, int64_t blocks_per_scene, int64_t tiles_x,
             int64_t width, int64_t rays, int64_t num, int64_t geometry_batch, int64_t ray_batch,
             int64_t origins_per_scene, int64_t feature_batch, int64_t channels, int64_t pairs, int64_t capacity,
             int32_t shared_capacity, int64_t max_hits, double threshold, double near, int32_t world, int32_t points,
             int32_t median),
            (records, precisions, features, origins, directions, valid, ray_order, list, starts, scratch, image, alpha,
             depth, normals, blocks, blocks_per_scene, tiles_x, width, rays, num, geometry_batch, ray_batch,
             origins_per_scene, feature_batch, channels, pairs, capacity, shared_capacity, max_hits, threshold, near,
             world, points, median))

template <class T, class... Arguments>
__device__ void render_forward_segments(const T* records, Arguments... rest) {
  render_forward<true>(records, rest...);
}
VOGE_KERNEL(render_forward_segments, warp_size,
            (const T* records, const T* precisions, const T* features, const T* origins, const T* directions,
             const uint8_t* valid, const int64_t* ray_order, const int32_t* list, const int64_t* starts, T* scratch,
             T* image, T* alpha, T* depth, T* normals, int64_t blocks, int64_t blocks_per_scene, int64_t tiles_x,
             int64_t width, int64_t rays, int64_t num, int64_t geometry_batch, int64_t ray_batch,
             int64_t origins_per_scene, int64_t feature_batch, int64_t channels, int64_t pairs, int64_t capacity,
             int32_t shared_capacity, int64_t max_hits, double threshold, double near, int32_t world, int32_t points,
             int32_t median),
            (records, precisions, features, origins, directions, valid, ray_order, list, starts, scratch, image, alpha,
             depth, normals, blocks, blocks_per_scene, tiles_x, width, rays, num, geometry_batch, ray_batch,
             origins_per_scene, feature_batch, channels, pairs, capacity, shared_capacity, max_hits, threshold, near,
             world, points, median))

VOGE_NAMESPACE_END
