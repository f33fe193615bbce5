// What a call hands to the kernels: plain pointers and sizes, the same for every instruction set.
#pragma once
#include <cstdint>

namespace voge {

// Gaussians, rays and settings. Every batch size is 1 (shared) or `batch`. Arrays are C-contiguous, shapes in the
// comments.
template <class T>
struct Scene {
  int64_t batch, num, rays;  // scenes of the batch; Gaussians and rays of one scene
  int64_t geometry_batch;
  const T* means;       // (geometry_batch, num, 3)
  const T* precisions;  // (geometry_batch, num, 3, 3)
  const T* density;     // (geometry_batch, num), absorptivity included
  int64_t ray_batch, origins_per_scene;
  const T* origins;     // (ray_batch, origins_per_scene, 3), one or one a ray
  const T* directions;  // (ray_batch, rays, 3), any length but zero
  const bool* valid;    // (ray_batch, rays) or null
  const double*
      projection;  // (ray_batch, 3, 4): K [R | t] of a camera whose pixel grid, row by row, the rays are; or null
  int64_t height, width;   // of that grid
  int64_t max_hits;        // the nearest this many of a ray; 0: all
  double threshold, near;  // hit: peak >= threshold and length > near
  bool world;              // medium: optical depth grows with the width along the ray
  bool segments;           // quadrature: segments, else hermite
  int points;              // of the quadrature
  bool median;             // depth: where half of the absorption is reached, else the mean
  int threads;
};

template <class T>
struct RenderForward {
  int64_t feature_batch, channels;
  const T* features;  // (feature_batch, num, channels)
  T* image;           // (batch, rays, channels)
  T* alpha;           // (batch, rays)
  T* depth;           // (batch, rays)
  T* normals;         // (batch, rays, 3), or null: not wanted
};

template <class T>
struct RenderBackward {
  int64_t feature_batch, channels;
  const T* features;
  const T *grad_image, *grad_alpha, *grad_depth;
  const T* grad_normals;                           // null: not wanted
  T *grad_means, *grad_precisions, *grad_density;  // of the inputs' shapes
  T* grad_features;
  T *grad_origins, *grad_directions;  // null: not wanted
};

// Hits of every ray, sorted by length. Dense: max_hits slots a ray. Ragged: slots offsets[r] .. offsets[r + 1] of ray
// r.
template <class T>
struct TraceOut {
  const int64_t* offsets;  // (batch * rays + 1), or null: dense
  int64_t* counts;         // (batch * rays): counting pass, nothing else is written; or null
  int64_t* indices;        // hits, -1 for none
};

// Hits in slots, dense or ragged as above, in any order; a peak of 0 is no hit.
template <class T>
struct SlotWeights {
  int64_t rays, most;      // rays of all scenes; slots a ray where they are dense
  const int64_t* offsets;  // (rays + 1), or null: dense
  const T *lengths, *peaks, *widths;
  bool segments;
  int points, threads;
  T* weights;             // forward; null: backward
  const T* grad_weights;  // backward
  T *grad_lengths, *grad_peaks, *grad_widths;
};

// Bookkeeping for benchmarks: processor cycles by stage and pairs of overlapping hits, summed over threads.
struct Counters {
  uint64_t bin_cycles;                                   // all that comes before the blocks; of these:
  uint64_t project_cycles, sort_cycles;                  // values checked and Gaussians projected; sorted by distance
  uint64_t hit_cycles, weight_cycles, composite_cycles;  // of the blocks
  uint64_t reduce_cycles;                                // gradients of a Gaussian summed over the blocks
  uint64_t hits, overlapping_pairs;
};

struct Kernels {
  const char* name;
  void (*render_forward_f32)(const Scene<float>&, const RenderForward<float>&);
  void (*render_forward_f64)(const Scene<double>&, const RenderForward<double>&);
  void (*render_backward_f32)(const Scene<float>&, const RenderBackward<float>&);
  void (*render_backward_f64)(const Scene<double>&, const RenderBackward<double>&);
  void (*trace_f32)(const Scene<float>&, const TraceOut<float>&);
  void (*trace_f64)(const Scene<double>&, const TraceOut<double>&);
  void (*weigh_f32)(const SlotWeights<float>&);
  void (*weigh_f64)(const SlotWeights<double>&);
};

// Error in the values of an input: becomes a ValueError.
struct BadValue {
  const char* argument;
  int64_t batch, index;  // -1: not applicable
  const char* problem;
};

const Kernels* baseline_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();

}  // namespace voge
