// Gradients of the fused route. A warp takes a block of rays as in the forward pass and sums up what its rays give to
// each Gaussian of the block's list: one row of the slots for every pair, so that nothing is added up atomically.
#include "cuda/median.h"
#include "cuda/scene.h"
#include "cuda/sums.h"
#include "cuda/weights.h"

VOGE_NAMESPACE_BEGIN

// Sums of a pair: P^-1 times the mean's gradient (3), the precision's (6), the density's.
constexpr int geometry_values = 10;
// Up to this many channels their sums lie beside those of the geometry; rows of more are added to in the slots.
constexpr int64_t few_channels = 8;

template <class T>
struct Gradients {
  const T *features, *precisions;                        // (feature_batch, num, channels), (geometry_batch, num, 3, 3)
  const int64_t* slot;                                   // (pairs): the pair's row in the slots
  const T *of_image, *of_alpha, *of_depth, *of_normals;  // normals: null where they are not wanted
  T *geometry, *slot_features;                           // slots: (pairs, geometry_values), (pairs, channels)
  T *origins, *directions;                               // (batch, rays, 3), or null
  double* block_origins;                                 // (blocks, 3), where the rays share an origin; or null
  int64_t feature_batch, channels;
  int points;
  bool median;

  __device__ bool few() const { return channels <= few_channels; }
  __device__ int sums() const { return geometry_values + (few() ? (int)channels : 0); }
};

// Gradients of one ray's outputs.
template <class T>
struct RayGradient {
  const T* image;
  T alpha, depth;
  Vec3<T> normal;
};

// grad_weight, grad_stop. The mean depth is a ratio of sums over all hits: `depth` and its gradient by that sum.
template <bool normals, class T>
__device__ void fill_grad_weights(const Scene<T>& s, const Gradients<T>& p, const Block<T>& block, const Ray<T>& ray,
                                  const RayGradient<T>& grad, T depth, T grad_depth, RayHits<T>& h) {
  const T* features = p.features + (p.feature_batch == 1 ? 0 : block.scene) * s.num * p.channels;
  sum_rows<T>(
      h.n, p.channels,
      [&](int64_t k, int64_t c) { return grad.image[c] * features[block.list[h.entry[k]] * p.channels + c]; },
      [&](int64_t k, T sum) { h.grad_weight[k] = sum + grad.alpha + grad_depth * (h.length[k] - depth); });
  for (int k = lane_index(); normals && k < h.n; k += warp_size) {
    const int32_t g = block.list[h.entry[k]];
    const Vec3<T> across = symmetric(p.precisions, block.first_gaussian + g) * grad.normal;
    const T sigma = 1 / h.rate[k], along = dot(across, ray.direction);
    h.grad_weight[k] += h.length[k] * along - dot(across, block.records[g].mean - ray.origin);
    h.grad_stop[k] = -sigma * sigma * along;
  }
  __syncwarp();
}

// Adds a ray's hits to the sums of the block's list, value after value.
template <bool normals, class T>
VOGE_CALLED void add_hits(const Scene<T>& s, const Gradients<T>& p, const Block<T>& block, const Ray<T>& ray,
                          const RayGradient<T>& grad, T grad_depth, const RayHits<T>& h, T* sums, Vec3<T>& grad_origin,
                          Vec3<T>& grad_direction) {
  for (int k = lane_index(); k < h.n; k += warp_size) {
    const int entry = h.entry[k], g = block.list[entry];
    const Record<T>& record = block.records[g];
    const T l = h.length[k], sigma = 1 / h.rate[k], weight = h.weight[k];
    T grad_length = h.grad_length[k] + grad_depth * weight, grad_rate = h.grad_rate[k];
    Sym3<T> precision{0, 0, 0, 0, 0, 0};
    if (normals || p.directions || p.origins) precision = symmetric(p.precisions, block.first_gaussian + g);
    if (normals) {
      const T along = dot(precision * grad.normal, ray.direction);
      grad_length += weight * along;
      grad_rate += 2 * h.stop[k] * along * sigma * sigma * sigma;
    }
    const Vec3<T> offset = record.mean - ray.origin;
    HitGradient<T> hit = hit_adjoint(offset, record.density, ray.direction, Hit<T>{l, h.rate[k], 0}, h.peak[k], s.world,
                                     grad_length, h.grad_peak[k], grad_rate);
    if (normals) {  // the precision, the mean and the direction as they stand in the normal
      const T turn = sigma * sigma * h.stop[k];
      hit.mean = hit.mean - weight * grad.normal;
      hit.direction = hit.direction + (weight * l - turn) * grad.normal;
      hit.precision = hit.precision +
                      symmetric_outer(T(.5), grad.normal, weight * (l * ray.direction - offset) - turn * ray.direction);
    }
    const Sym3<T>& m = hit.precision;
    const T values[geometry_values] = {hit.mean.x, hit.mean.y, hit.mean.z, m.xx, m.xy,
                                       m.xz,       m.yy,       m.yz,       m.zz, hit.density};
    for (int i = 0; i < geometry_values; ++i) sums[i * block.count + entry] += values[i];
    for (int64_t c = 0; p.few() && c < p.channels; ++c)
      sums[(geometry_values + c) * block.count + entry] += weight * grad.image[c];
    if (p.directions) grad_direction = grad_direction + precision * hit.direction;
    if (p.origins) grad_origin = grad_origin - precision * hit.mean;
  }
  for (int k = 0; !p.few() && k < h.n; ++k) {
    T* row = p.slot_features + p.slot[block.first_pair + h.entry[k]] * p.channels;
    for (int64_t c = lane_index(); c < p.channels; c += warp_size) row[c] += h.weight[k] * grad.image[c];
  }
}

template <bool segments, bool normals, class T>
__device__ void differentiate_ray(const Scene<T>& s, const Gradients<T>& p, const Block<T>& block, const Ray<T>& ray,
                                  RayHits<T>& h, T* sums, Vec3<T>& grad_origin, Vec3<T>& grad_direction) {
  const int64_t at = block.scene * s.rays.rays + ray.index;
  const RayGradient<T> grad{p.of_image + at * p.channels, p.of_alpha[at], p.of_depth[at],
                            normals ? load(p.of_normals, at) : Vec3<T>{0, 0, 0}};
  T depth = 0, grad_depth = 0;
  if (!p.median && grad.depth != 0) {
    weigh<segments, false>(h, p.points);
    T alpha = 0;
    for (int k = lane_index(); k < h.n; k += warp_size) alpha += h.weight[k], depth += h.weight[k] * h.length[k];
    alpha = warp_sum(alpha), depth = warp_sum(depth);
    if (alpha > 0) grad_depth = grad.depth / alpha, depth /= alpha;
  }
  fill_grad_weights<normals>(s, p, block, ray, grad, depth, grad_depth, h);
  weigh_adjoint<segments, normals>(h, p.points);
  if (p.median && grad.depth != 0) median_adjoint(find_median(h), h, grad.depth);
  add_hits<normals>(s, p, block, ray, grad, grad_depth, h, sums, grad_origin, grad_direction);
}

// Everything starts at 0, and what is summed up in the slots does so there.
template <class T>
__device__ void clear_sums(const Gradients<T>& p, const Block<T>& block, T* sums) {
  for (int64_t i = lane_index(); i < (int64_t)p.sums() * block.count; i += warp_size) sums[i] = 0;
  for (int i = 0; !p.few() && i < block.count; ++i) {
    T* row = p.slot_features + p.slot[block.first_pair + i] * p.channels;
    for (int64_t c = lane_index(); c < p.channels; c += warp_size) row[c] = 0;
  }
  __syncwarp();
}

template <class T>
__device__ void store_sums(const Gradients<T>& p, const Block<T>& block, const T* sums) {
  const int64_t n = block.count;
  auto store_rows = [&](T* rows, const T* from, int64_t width) {
    for (int64_t j = lane_index(); j < n * width; j += warp_size)
      rows[p.slot[block.first_pair + j / width] * width + j % width] = from[j % width * n + j / width];
  };
  __syncwarp();
  store_rows(p.geometry, sums, geometry_values);
  if (p.few()) store_rows(p.slot_features, sums + geometry_values * n, p.channels);
  if (!p.block_origins) return;
  Vec3<double> origin{0, 0, 0};
  for (int64_t i = lane_index(); i < n; i += warp_size) {
    const Vec3<T> mean{sums[i], sums[n + i], sums[2 * n + i]},
        g = symmetric(p.precisions, block.first_gaussian + block.list[i]) * mean;
    origin = {origin.x - g.x, origin.y - g.y, origin.z - g.z};
  }
  origin = warp_sum(origin);
  if (lane_index() == 0) store(p.block_origins, block.index, origin);
}

template <bool segments, bool normals, class T>
__device__ void differentiate_block(const Scene<T>& s, const Gradients<T>& p, const Block<T>& block, const Ray<T>& mine,
                                    RayHits<T>& h, T* sums) {
  clear_sums(p, block, sums);
  for (int place = 0; place < block_rays; ++place) {
    const Ray<T> ray = broadcast(mine, place);
    if (ray.index < 0) continue;
    const int64_t at = block.scene * s.rays.rays + ray.index;
    Vec3<T> grad_origin{0, 0, 0}, grad_direction{0, 0, 0};
    gather(h, s, block, ray);
    if (h.n > 0) differentiate_ray<segments, normals>(s, p, block, ray, h, sums, grad_origin, grad_direction);
    if (p.origins) {
      grad_origin = warp_sum(grad_origin);
      if (lane_index() == 0) store(p.origins, at, grad_origin);
    }
    if (p.directions) {
      grad_direction = normalise_adjoint(ray.norm * ray.direction, warp_sum(grad_direction));
      if (lane_index() == 0) store(p.directions, at, grad_direction);
    }
  }
  store_sums(p, block, sums);
}

template <bool segments, class T>
__device__ void differentiate_blocks(const Scene<T>& s, const Gradients<T>& p, T* scratch, int shared_capacity) {
  VOGE_DYNAMIC_SHARED(T, shared);
  const Rule rule{segments, p.points, p.of_normals != nullptr, true};
  for (int64_t index = warp_index(); index < s.blocks; index += warp_count()) {
    const Block<T> block = load_block(s, index);
    const Ray<T> mine = load_ray(s.rays, index, lane_index());
    RayHits<T> h;
    T* const sums = attach(h, s, block, mine, rule, p.sums(), shared_capacity, shared, scratch);
    if (p.of_normals)
      differentiate_block<segments, true>(s, p, block, mine, h, sums);
    else
      differentiate_block<segments, false>(s, p, block, mine, h, sums);
    __syncwarp();  // the next block's sums lie in the same memory
  }
}

template <bool segments, class T>
__device__ void render_backward(const T* records, const T* precisions, const T* features, const T* origins,
                                const T* directions, const uint8_t* valid, const int64_t* ray_order,
                                const int32_t* list, const int64_t* starts, const int64_t* slot, const T* grad_image,
                                const T* grad_alpha, const T* grad_depth, const T* grad_normals, T* scratch,
                                T* slot_geometry, T* slot_features, T* grad_origins, T* grad_directions,
                                double* block_origins, int64_t blocks, int64_t blocks_per_scene, int64_t tiles_x,
                                int64_t width, int64_t rays, int64_t num, int64_t geometry_batch, int64_t ray_batch,
                                int64_t origins_per_scene, int64_t feature_batch, int64_t channels, int64_t pairs,
                                int64_t capacity, int32_t shared_capacity, int64_t max_hits, double threshold,
                                double near, int32_t world, int32_t points, int32_t median) {
  const Rays<T> of_rays{origins,           directions,       valid,   ray_order, rays, ray_batch,
                        origins_per_scene, blocks_per_scene, tiles_x, width};
  const Scene<T> scene{
      of_rays, records,   list, starts, blocks, num, geometry_batch, pairs, capacity, max_hits, (T)vlog(threshold),
      (T)near, world != 0};
  const Gradients<T> gradients{features,        precisions,    slot,          grad_image,    grad_alpha,
                               grad_depth,      grad_normals,  slot_geometry, slot_features, grad_origins,
                               grad_directions, block_origins, feature_batch, channels,      points,
                               median != 0};
  differentiate_blocks<segments>(scene, gradients, scratch, shared_capacity);
}

template <class T, class... Arguments>
__device__ void render_backward_hermite(const T* records, Arguments... rest) {
  render_backward<false>(records, rest...);
}
VOGE_KERNEL(render_backward_hermite, warp_size,
            (const T* records, const T* precisions, const T* features, const T* origins, const T* directions,
             const uint8_t* valid, const int64_t* ray_order, const int32_t* list, const int64_t* starts,
             const int64_t* slot, const T* grad_image, const T* grad_alpha, const T* grad_depth, const T* grad_normals,
             T* scratch, T* slot_geometry, T* slot_features, T* grad_origins, T* grad_directions, double* block_origins,
             int64_t blocks, int64_t blocks_per_scene, int64_t tiles_x, int64_t width, int64_t rays, int64_t num,
             int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene, int64_t feature_batch,
             int64_t channels, int64_t pairs, int64_t capacity, int32_t shared_capacity, int64_t max_hits,
             double threshold, double near, int32_t world, int32_t points, int32_t median),
            (records, precisions, features, origins, directions, valid, ray_order, list, starts, slot, grad_image,
             grad_alpha, grad_depth, grad_normals, scratch, slot_geometry, slot_features, grad_origins, grad_directions,
             block_origins, blocks, blocks_per_scene, tiles_x, width, rays, num, geometry_batch, ray_batch,
             origins_per_scene, feature_batch, channels, pairs, capacity, shared_capacity, max_hits, threshold, near,
             world, points, median))

template <class T, class... Arguments>
__device__ void render_backward_segments(const T* records, Arguments... rest) {
  render_backward<true>(records, rest...);
}
VOGE_KERNEL(render_backward_segments, warp_size,
            (const T* records, const T* precisions, const T* features, const T* origins, const T* directions,
             const uint8_t* valid, const int64_t* ray_order, const int32_t* list, const int64_t* starts,
             const int64_t* slot, const T* grad_image, const T* grad_alpha, const T* grad_depth, const T* grad_normals,
             T* scratch, T* slot_geometry, T* slot_features, T* grad_origins, T* grad_directions, double* block_origins,
             int64_t blocks, int64_t blocks_per_scene, int64_t tiles_x, int64_t width, int64_t rays, int64_t num,
             int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene, int64_t feature_batch,
             int64_t channels, int64_t pairs, int64_t capacity, int32_t shared_capacity, int64_t max_hits,
             double threshold, double near, int32_t world, int32_t points, int32_t median),
            (records, precisions, features, origins, directions, valid, ray_order, list, starts, slot, grad_image,
             grad_alpha, grad_depth, grad_normals, scratch, slot_geometry, slot_features, grad_origins, grad_directions,
             block_origins, blocks, blocks_per_scene, tiles_x, width, rays, num, geometry_batch, ray_batch,
             origins_per_scene, feature_batch, channels, pairs, capacity, shared_capacity, max_hits, threshold, near,
             world, points, median))

VOGE_NAMESPACE_END
