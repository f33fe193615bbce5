// Weights of hits that lie in slots (the fragments route), and their adjoint: one warp a ray.
//
// Slots are dense, `most` a ray, or ragged, slots offsets[r] .. offsets[r + 1] of ray r; they stand in any order, and a
// peak of 0 is an empty slot.
#include "cuda/weights.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct SlotHits {
  const T *lengths, *peaks, *widths;
  const int64_t* offsets;  // (rays + 1), or null: dense
  int64_t most;

  __device__ int64_t begin(int64_t ray) const { return offsets ? offsets[ray] : ray * most; }
  __device__ int64_t end(int64_t ray) const { return offsets ? offsets[ray + 1] : (ray + 1) * most; }
};

// The hits among `count` slots from `begin` on, sorted; entries are slots.
template <class T>
__device__ void load_hits(RayHits<T>& h, const SlotHits<T>& slots, int64_t begin, int count) {
  int n = 0;
  __syncwarp();  // other lanes may still read the hits of the ray before
  for (int first = 0; first < count; first += warp_size) {
    const int i = first + lane_index();
    const bool hit = i < count && slots.peaks[begin + i] > 0;
    const unsigned hits = ballot(hit);
    const int at = n + rank_among(hits);
    if (hit) h.length[at] = slots.lengths[begin + i], h.entry[at] = i;
    n += __popc(hits);
  }
  __syncwarp();
  sort_pairs(n, h.length, h.entry, [](int32_t i, int32_t j) { return i < j; });
  h.n = n;
  for (int k = lane_index(); k < n; k += warp_size) {
    const int64_t slot = begin + h.entry[k];
    h.peak[k] = slots.peaks[slot], h.rate[k] = rcp(slots.widths[slot]);
  }
  __syncwarp();
}

// Calls visit(begin, count) for the slots of every ray of this warp, with its hits loaded.
template <class T, class Visit>
__device__ void each_ray(RayHits<T>& h, const SlotHits<T>& slots, int64_t rays, const Rule& rule, int shared_capacity,
                         int capacity, T* shared, T* scratch, Visit visit) {
  const int values = hit_values<T>(rule);
  for (int64_t ray = warp_index(); ray < rays; ray += warp_count()) {
    const int64_t begin = slots.begin(ray), count = slots.end(ray) - begin;
    attach(h, hit_memory(count, values, shared_capacity, shared, scratch, capacity),
           count <= shared_capacity ? shared_capacity : capacity, rule);
    load_hits(h, slots, begin, (int)count);
    visit(begin, (int)count);
  }
}

template <class T>
__device__ void weigh_slots(const T* lengths, const T* peaks, const T* widths, const int64_t* offsets, int64_t most,
                            int64_t rays, int32_t segments, int32_t points, int32_t shared_capacity, int32_t capacity,
                            T* scratch, T* weights) {
  VOGE_DYNAMIC_SHARED(T, shared);
  RayHits<T> h{};
  each_ray(h, {lengths, peaks, widths, offsets, most}, rays, {segments, points, false, false}, shared_capacity,
           capacity, shared, scratch, [&](int64_t begin, int count) {
             if (segments)
               weigh<true, false>(h, points);
             else
               weigh<false, false>(h, points);
             for (int i = lane_index(); i < count; i += warp_size)
               if (!(peaks[begin + i] > 0)) weights[begin + i] = 0;
             for (int k = lane_index(); k < h.n; k += warp_size) weights[begin + h.entry[k]] = h.weight[k];
           });
}

template <class T>
__device__ void weigh_slots_backward(const T* lengths, const T* peaks, const T* widths, const int64_t* offsets,
                                     int64_t most, int64_t rays, int32_t segments, int32_t points,
                                     int32_t shared_capacity, int32_t capacity, T* scratch, const T* grad_weights,
                                     T* grad_lengths, T* grad_peaks, T* grad_widths) {
  VOGE_DYNAMIC_SHARED(T, shared);
  RayHits<T> h{};
  each_ray(h, {lengths, peaks, widths, offsets, most}, rays, {segments, points, false, true}, shared_capacity, capacity,
           shared, scratch, [&](int64_t begin, int count) {
             for (int k = lane_index(); k < h.n; k += warp_size) h.grad_weight[k] = grad_weights[begin + h.entry[k]];
             __syncwarp();
             if (segments)
               weigh_adjoint<true, false>(h, points);
             else
               weigh_adjoint<false, false>(h, points);
             for (int i = lane_index(); i < count; i += warp_size)
               if (!(peaks[begin + i] > 0))
                 grad_lengths[begin + i] = grad_peaks[begin + i] = grad_widths[begin + i] = 0;
             for (int k = lane_index(); k < h.n; k += warp_size) {
               const int64_t slot = begin + h.entry[k];
               grad_lengths[slot] = h.grad_length[k], grad_peaks[slot] = h.grad_peak[k];
               grad_widths[slot] = -h.grad_rate[k] * h.rate[k] * h.rate[k];
             }
           });
}

VOGE_KERNEL(weigh_slots, 32,
            (const T* lengths, const T* peaks, const T* widths, const int64_t* offsets, int64_t most, int64_t rays,
             int32_t segments, int32_t points, int32_t shared_capacity, int32_t capacity, T* scratch, T* weights),
            (lengths, peaks, widths, offsets, most, rays, segments, points, shared_capacity, capacity, scratch,
             weights))
VOGE_KERNEL(weigh_slots_backward, 32,
            (const T* lengths, const T* peaks, const T* widths, const int64_t* offsets, int64_t most, int64_t rays,
             int32_t segments, int32_t points, int32_t shared_capacity, int32_t capacity, T* scratch,
             const T* grad_weights, T* grad_lengths, T* grad_peaks, T* grad_widths),
            (lengths, peaks, widths, offsets, most, rays, segments, points, shared_capacity, capacity, scratch,
             grad_weights, grad_lengths, grad_peaks, grad_widths))

VOGE_NAMESPACE_END
