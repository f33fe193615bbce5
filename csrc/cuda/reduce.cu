// Gradients of each Gaussian, from its slots: those of one scene, or of all scenes that share it. A warp a Gaussian.
#include "cuda/scene.h"
#include "cuda/sums.h"

VOGE_NAMESPACE_BEGIN

constexpr int reduce_threads = 128;
constexpr int geometry_values = 10;  // as render_backward.cu sums them

// Calls body(first, rows) for the slots of Gaussian `index` of the items, scene after scene.
template <class Body>
__device__ void each_scene(const int64_t* slot_starts, int64_t batch, int64_t items, int64_t num, int64_t index,
                           Body body) {
  for (int64_t i = index; i < (items == 1 ? batch * num : index + 1); i += num)
    body(slot_starts[i], slot_starts[i + 1] - slot_starts[i]);
}

template <class T>
__device__ void reduce_gaussians(const T* slot_geometry, const int64_t* slot_starts, const T* precisions, T* grad_means,
                                 T* grad_precisions, T* grad_density, int64_t batch, int64_t geometry_batch,
                                 int64_t num) {
  for (int64_t k = warp_index(); k < geometry_batch * num; k += warp_count()) {
    double mine = 0;  // lane c: value c
    each_scene(slot_starts, batch, geometry_batch, num, k, [&](int64_t first, int64_t rows) {
      const T* values = slot_geometry + first * geometry_values;
      sum_columns<double>(
          rows, geometry_values, [&](int64_t row, int64_t c) { return values[row * geometry_values + c]; },
          [&](int64_t, double sum) { mine += sum; });
    });
    double sum[geometry_values];
    for (int c = 0; c < geometry_values; ++c) sum[c] = broadcast(mine, c);
    if (lane_index() != 0) continue;
    const Vec3<double> mean = symmetric(precisions, k) * Vec3<double>{sum[0], sum[1], sum[2]};
    store(grad_means, k, {(T)mean.x, (T)mean.y, (T)mean.z});
    const int order[] = {3, 4, 5, 4, 6, 7, 5, 7, 8};  // of the full matrix
    for (int i = 0; i < 9; ++i) grad_precisions[9 * k + i] = (T)sum[order[i]];
    grad_density[k] = (T)sum[9];
  }
}
VOGE_KERNEL(reduce_gaussians, reduce_threads,
            (const T* slot_geometry, const int64_t* slot_starts, const T* precisions, T* grad_means, T* grad_precisions,
             T* grad_density, int64_t batch, int64_t geometry_batch, int64_t num),
            (slot_geometry, slot_starts, precisions, grad_means, grad_precisions, grad_density, batch, geometry_batch,
             num))

template <class T>
__device__ void reduce_features(const T* slot_features, const int64_t* slot_starts, T* grad_features, int64_t batch,
                                int64_t feature_batch, int64_t num, int64_t channels) {
  for (int64_t k = warp_index(); k < feature_batch * num; k += warp_count()) {
    T* out = grad_features + k * channels;
    bool some = false;
    each_scene(slot_starts, batch, feature_batch, num, k, [&](int64_t first, int64_t rows) {
      sum_columns<T>(
          rows, channels, [&](int64_t row, int64_t c) { return slot_features[(first + row) * channels + c]; },
          [&](int64_t c, T sum) { out[c] = some ? out[c] + sum : sum; });
      some = true;
    });
  }
}
VOGE_KERNEL(reduce_features, reduce_threads,
            (const T* slot_features, const int64_t* slot_starts, T* grad_features, int64_t batch, int64_t feature_batch,
             int64_t num, int64_t channels),
            (slot_features, slot_starts, grad_features, batch, feature_batch, num, channels))

VOGE_NAMESPACE_END
