// The fragments route behind the search for hits (trace.cu), over lists of hits of every ray; weights are in weigh.cu.
//
// Hits lie in slots, ray after ray: dense, `most` slots a ray, or ragged, slots offsets[r] .. offsets[r + 1] of ray r.
// A slot's index is the Gaussian within the ray's own scene; -1 is an empty slot. Sums over the rays of a Gaussian run
// over its slots in a given order: that of their keys.
#include "cuda/scene.h"
#include "cuda/sums.h"

VOGE_NAMESPACE_BEGIN

constexpr int threads = 128;

struct Slots {
  const int64_t *indices, *offsets;  // offsets (rays + 1), or null: dense
  int64_t most, num;

  __device__ int64_t begin(int64_t ray) const { return offsets ? offsets[ray] : ray * most; }
  __device__ int64_t end(int64_t ray) const { return offsets ? offsets[ray + 1] : (ray + 1) * most; }
  // The Gaussian of a slot, -1 for none; so is what is not the index of one.
  __device__ int64_t gaussian(int64_t slot) const {
    const int64_t k = indices[slot];
    return k >= 0 && k < num ? k : -1;
  }
};

// Row of every slot, item * num + index, where the rays are split evenly between the items; items * num for empty ones.
// And the ray of every slot. A warp a ray.
template <class T>
__device__ void slot_keys(const int64_t* indices, const int64_t* offsets, int64_t* keys, int64_t* ray_of, int64_t rays,
                          int64_t most, int64_t items, int64_t num) {
  const Slots slots{indices, offsets, most, num};
  for (int64_t ray = warp_index(); ray < rays; ray += warp_count())
    for (int64_t i = slots.begin(ray) + lane_index(); i < slots.end(ray); i += warp_size) {
      const int64_t k = slots.gaussian(i);
      keys[i] = k < 0 ? items * num : ray / (rays / items) * num + k;
      ray_of[i] = ray;
    }
}
VOGE_KERNEL(slot_keys, threads,
            (const int64_t* indices, const int64_t* offsets, int64_t* keys, int64_t* ray_of, int64_t rays, int64_t most,
             int64_t items, int64_t num),
            (indices, offsets, keys, ray_of, rays, most, items, num))

// ---- hits: length, peak and width of every slot

template <class T>
struct HitScene {
  const T* records;               // (geometry_batch, num, 12)
  const T *origins, *directions;  // (ray_batch, 1 or rays_per_scene, 3), (ray_batch, rays_per_scene, 3)
  int64_t rays_per_scene, num, geometry_batch, ray_batch, origins_per_scene;
  int32_t world;

  __device__ const Record<T>& record(int64_t i) const { return reinterpret_cast<const Record<T>*>(records)[i]; }
  // Of the first Gaussian of a ray's scene, in arrays of the geometry batch.
  __device__ int64_t base(int64_t ray) const { return geometry_batch == 1 ? 0 : ray / rays_per_scene * num; }
  __device__ int64_t own(int64_t ray) const { return ray_batch == 1 ? ray % rays_per_scene : ray; }
  __device__ Vec3<T> given_direction(int64_t ray) const { return load(directions, own(ray)); }
  __device__ Vec3<T> direction(int64_t ray) const {
    const Vec3<T> d = given_direction(ray);
    return rcp(length(d)) * d;
  }
  __device__ Vec3<T> origin(int64_t ray) const {
    return load(origins, origins_per_scene == 1 ? own(ray) / rays_per_scene : own(ray));
  }
  __device__ Hit<T> find(const Record<T>& g, int64_t ray) const {
    return find_hit(g.factor, transpose_times(g.factor, g.mean - origin(ray)), direction(ray));
  }
};

template <class T>
struct SlotGradient {
  const T *lengths, *peaks, *widths;
};

template <class T>
__device__ HitGradient<T> slot_adjoint(const HitScene<T>& s, const Record<T>& g, int64_t ray, int64_t slot,
                                       const SlotGradient<T>& grad) {
  const Hit<T> hit = s.find(g, ray);
  const T width = rcp(hit.inverse_width);
  return hit_adjoint(g.mean - s.origin(ray), g.density, s.direction(ray), hit, peak(g.density, hit, s.world), s.world,
                     grad.lengths[slot], grad.peaks[slot], -grad.widths[slot] * width * width);
}

// A warp a ray.
template <class T>
__device__ void fragment_hits(const int64_t* indices, const int64_t* offsets, const T* records, const T* origins,
                              const T* directions, T* lengths, T* peaks, T* widths, int64_t rays, int64_t most,
                              int64_t rays_per_scene, int64_t num, int64_t geometry_batch, int64_t ray_batch,
                              int64_t origins_per_scene, int32_t world) {
  const Slots slots{indices, offsets, most, num};
  const HitScene<T> s{records,        origins,   directions,        rays_per_scene, num,
                      geometry_batch, ray_batch, origins_per_scene, world};
  for (int64_t ray = warp_index(); ray < rays; ray += warp_count())
    for (int64_t i = slots.begin(ray) + lane_index(); i < slots.end(ray); i += warp_size) {
      const int64_t k = slots.gaussian(i);
      lengths[i] = peaks[i] = 0, widths[i] = 1;
      if (k < 0) continue;
      const Record<T>& g = s.record(s.base(ray) + k);
      const Hit<T> hit = s.find(g, ray);
      lengths[i] = hit.length, peaks[i] = peak(g.density, hit, s.world), widths[i] = 1 / hit.inverse_width;
    }
}
VOGE_KERNEL(fragment_hits, threads,
            (const int64_t* indices, const int64_t* offsets, const T* records, const T* origins, const T* directions,
             T* lengths, T* peaks, T* widths, int64_t rays, int64_t most, int64_t rays_per_scene, int64_t num,
             int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene, int32_t world),
            (indices, offsets, records, origins, directions, lengths, peaks, widths, rays, most, rays_per_scene, num,
             geometry_batch, ray_batch, origins_per_scene, world))

// Gradients of the Gaussians, a warp each, from their slots: the slots sorted by key, where each key's begin, and the
// ray of every slot.
template <class T>
__device__ void fragment_hits_gaussians(const int64_t* slots, const int64_t* starts, const int64_t* ray_of,
                                        const T* records, const T* precisions, const T* origins, const T* directions,
                                        const T* grad_lengths, const T* grad_peaks, const T* grad_widths, T* grad_means,
                                        T* grad_precisions, T* grad_density, int64_t rays_per_scene, int64_t num,
                                        int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene,
                                        int32_t world) {
  const HitScene<T> s{records,        origins,   directions,        rays_per_scene, num,
                      geometry_batch, ray_batch, origins_per_scene, world};
  const SlotGradient<T> grad{grad_lengths, grad_peaks, grad_widths};
  for (int64_t k = warp_index(); k < geometry_batch * num; k += warp_count()) {
    HitGradient<T> sum{{0, 0, 0}, {0, 0, 0}, {0, 0, 0, 0, 0, 0}, 0};
    for (int64_t j = starts[k] + lane_index(); j < starts[k + 1]; j += warp_size) {
      const HitGradient<T> g = slot_adjoint(s, s.record(k), ray_of[slots[j]], slots[j], grad);
      sum.mean = sum.mean + g.mean, sum.precision = sum.precision + g.precision, sum.density += g.density;
    }
    const Vec3<T> mean = symmetric(precisions, k) * warp_sum(sum.mean);
    const Sym3<T>& p = sum.precision;
    const Vec3<T> first = warp_sum(Vec3<T>{p.xx, p.xy, p.xz}), second = warp_sum(Vec3<T>{p.yy, p.yz, p.zz});
    const T density = warp_sum(sum.density);
    if (lane_index() != 0) continue;
    store(grad_means, k, mean);
    store(grad_precisions, 3 * k, first);
    store(grad_precisions, 3 * k + 1, {first.y, second.x, second.y});
    store(grad_precisions, 3 * k + 2, {first.z, second.y, second.z});
    grad_density[k] = density;
  }
}
VOGE_KERNEL(fragment_hits_gaussians, threads,
            (const int64_t* slots, const int64_t* starts, const int64_t* ray_of, const T* records, const T* precisions,
             const T* origins, const T* directions, const T* grad_lengths, const T* grad_peaks, const T* grad_widths,
             T* grad_means, T* grad_precisions, T* grad_density, int64_t rays_per_scene, int64_t num,
             int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene, int32_t world),
            (slots, starts, ray_of, records, precisions, origins, directions, grad_lengths, grad_peaks, grad_widths,
             grad_means, grad_precisions, grad_density, rays_per_scene, num, geometry_batch, ray_batch,
             origins_per_scene, world))

// Gradients of the rays, a warp each: of one scene, or the sum over the scenes that share them.
template <class T>
__device__ void fragment_hits_rays(const int64_t* indices, const int64_t* offsets, const T* records,
                                   const T* precisions, const T* origins, const T* directions, const T* grad_lengths,
                                   const T* grad_peaks, const T* grad_widths, T* grad_origins, T* grad_directions,
                                   int64_t rays, int64_t most, int64_t rays_per_scene, int64_t num,
                                   int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene,
                                   int32_t world) {
  const Slots slots{indices, offsets, most, num};
  const HitScene<T> s{records,        origins,   directions,        rays_per_scene, num,
                      geometry_batch, ray_batch, origins_per_scene, world};
  const SlotGradient<T> grad{grad_lengths, grad_peaks, grad_widths};
  const int64_t own_rays = ray_batch * rays_per_scene;
  for (int64_t own = warp_index(); own < own_rays; own += warp_count()) {
    Vec3<T> origin{0, 0, 0}, direction{0, 0, 0};
    for (int64_t ray = own; ray < rays; ray += own_rays)
      for (int64_t i = slots.begin(ray) + lane_index(); i < slots.end(ray); i += warp_size) {
        const int64_t k = slots.gaussian(i);
        if (k < 0) continue;
        const HitGradient<T> g = slot_adjoint(s, s.record(s.base(ray) + k), ray, i, grad);
        const Sym3<T> precision = symmetric(precisions, s.base(ray) + k);
        origin = origin - precision * g.mean, direction = direction + precision * g.direction;
      }
    origin = warp_sum(origin), direction = warp_sum(direction);
    if (lane_index() != 0) continue;
    store(grad_origins, own, origin);
    const bool any = direction.x != 0 || direction.y != 0 || direction.z != 0;  // rays without a hit may hold anything
    store(grad_directions, own, any ? normalise_adjoint(s.given_direction(own), direction) : direction);
  }
}
VOGE_KERNEL(fragment_hits_rays, threads,
            (const int64_t* indices, const int64_t* offsets, const T* records, const T* precisions, const T* origins,
             const T* directions, const T* grad_lengths, const T* grad_peaks, const T* grad_widths, T* grad_origins,
             T* grad_directions, int64_t rays, int64_t most, int64_t rays_per_scene, int64_t num,
             int64_t geometry_batch, int64_t ray_batch, int64_t origins_per_scene, int32_t world),
            (indices, offsets, records, precisions, origins, directions, grad_lengths, grad_peaks, grad_widths,
             grad_origins, grad_directions, rays, most, rays_per_scene, num, geometry_batch, ray_batch,
             origins_per_scene, world))

// ---- F = sum over slots of w_slot <x_Gaussian, y_ray>: its derivatives by y (gather), x (scatter) and w (pair).
// x is (items, num, channels): the rays are split evenly between the items. y is (rays, channels).

// A warp a ray.
template <class T>
__device__ void gather_slots(const int64_t* indices, const int64_t* offsets, const T* weights, const T* x, T* y,
                             int64_t rays, int64_t most, int64_t items, int64_t num, int64_t channels) {
  const Slots slots{indices, offsets, most, num};
  for (int64_t ray = warp_index(); ray < rays; ray += warp_count()) {
    const int64_t first = slots.begin(ray), base = ray / (rays / items) * num;
    sum_columns<T>(
        slots.end(ray) - first, channels,
        [&](int64_t i, int64_t c) {
          const int64_t k = slots.gaussian(first + i);
          return k < 0 ? T(0) : weights[first + i] * x[(base + k) * channels + c];
        },
        [&](int64_t c, T sum) { y[ray * channels + c] = sum; });
  }
}
VOGE_KERNEL(gather_slots, threads,
            (const int64_t* indices, const int64_t* offsets, const T* weights, const T* x, T* y, int64_t rays,
             int64_t most, int64_t items, int64_t num, int64_t channels),
            (indices, offsets, weights, x, y, rays, most, items, num, channels))

// A warp a row of x, from its slots: sorted by key, where each key's begin, and the ray of every slot.
template <class T>
__device__ void scatter_slots(const int64_t* slots, const int64_t* starts, const int64_t* ray_of, const T* weights,
                              const T* y, T* x, int64_t rows, int64_t channels) {
  for (int64_t row = warp_index(); row < rows; row += warp_count()) {
    const int64_t first = starts[row];
    sum_columns<T>(
        starts[row + 1] - first, channels,
        [&](int64_t j, int64_t c) {
          const int64_t slot = slots[first + j];
          return weights[slot] * y[ray_of[slot] * channels + c];
        },
        [&](int64_t c, T sum) { x[row * channels + c] = sum; });
  }
}
VOGE_KERNEL(scatter_slots, threads,
            (const int64_t* slots, const int64_t* starts, const int64_t* ray_of, const T* weights, const T* y, T* x,
             int64_t rows, int64_t channels),
            (slots, starts, ray_of, weights, y, x, rows, channels))

// A warp a ray.
template <class T>
__device__ void pair_slots(const int64_t* indices, const int64_t* offsets, const T* x, const T* y, T* weights,
                           int64_t rays, int64_t most, int64_t items, int64_t num, int64_t channels) {
  const Slots slots{indices, offsets, most, num};
  for (int64_t ray = warp_index(); ray < rays; ray += warp_count()) {
    const int64_t first = slots.begin(ray), base = ray / (rays / items) * num;
    sum_rows<T>(
        slots.end(ray) - first, channels,
        [&](int64_t i, int64_t c) {
          const int64_t k = slots.gaussian(first + i);
          return k < 0 ? T(0) : x[(base + k) * channels + c] * y[ray * channels + c];
        },
        [&](int64_t i, T sum) { weights[first + i] = sum; });
  }
}
VOGE_KERNEL(pair_slots, threads,
            (const int64_t* indices, const int64_t* offsets, const T* x, const T* y, T* weights, int64_t rays,
             int64_t most, int64_t items, int64_t num, int64_t channels),
            (indices, offsets, x, y, weights, rays, most, items, num, channels))

VOGE_NAMESPACE_END
