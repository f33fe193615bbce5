// What the 32 lanes of a warp do together. Every function is called by all lanes; results that all lanes get are the
// same to the last bit, from lane to lane and from run to run.
//
// Shuffles exchange registers only. Before a lane reads memory that another one wrote, and before it writes what
// another one may still read, there is a __syncwarp().
#pragma once
#include "core/scalar.h"
#include "cuda/kernel.h"

VOGE_NAMESPACE_BEGIN

constexpr int warp_size = 32;
constexpr unsigned all_lanes = 0xffffffffu;

__device__ inline int lane_index() { return (int)(threadIdx.x % warp_size); }
// Of all warps of the launch: which one this is, and how many there are.
__device__ inline int64_t warp_index() { return ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / warp_size; }
__device__ inline int64_t warp_count() { return (int64_t)gridDim.x * blockDim.x / warp_size; }
// Of all threads of the launch.
__device__ inline int64_t thread_index() { return (int64_t)blockIdx.x * blockDim.x + threadIdx.x; }
__device__ inline int64_t thread_count() { return (int64_t)gridDim.x * blockDim.x; }

// Lane `from`'s value.
template <class T>
__device__ inline T broadcast(T x, int from) {
  return __shfl_sync(all_lanes, x, from);
}

// A bit a lane.
__device__ inline unsigned ballot(bool x) { return __ballot_sync(all_lanes, x); }
// How many bits of a ballot belong to lanes before this one.
__device__ inline int rank_among(unsigned ballots) { return __popc(ballots & ((1u << lane_index()) - 1)); }

template <class T>
__device__ inline T warp_sum(T x) {
  for (int apart = warp_size / 2; apart > 0; apart /= 2) x += __shfl_xor_sync(all_lanes, x, apart);
  return x;
}
template <class T>
__device__ inline T warp_least(T x) {
  for (int apart = warp_size / 2; apart > 0; apart /= 2) x = least(x, __shfl_xor_sync(all_lanes, x, apart));
  return x;
}
template <class T>
__device__ inline T warp_most(T x) {
  for (int apart = warp_size / 2; apart > 0; apart /= 2) x = most(x, __shfl_xor_sync(all_lanes, x, apart));
  return x;
}

// Scans: of lanes 0 .. this one, or of this one .. 31.
template <class T>
__device__ inline T sum_so_far(T x) {
  for (int apart = 1; apart < warp_size; apart *= 2) {
    const T other = __shfl_up_sync(all_lanes, x, apart);
    if (lane_index() >= apart) x += other;
  }
  return x;
}
template <class T>
__device__ inline T most_so_far(T x) {
  for (int apart = 1; apart < warp_size; apart *= 2) x = most(x, __shfl_up_sync(all_lanes, x, apart));
  return x;
}
template <class T>
__device__ inline T least_from_here(T x) {
  for (int apart = 1; apart < warp_size; apart *= 2) x = least(x, __shfl_down_sync(all_lanes, x, apart));
  return x;
}
template <class T>
__device__ inline T sum_from_here(T x) {
  for (int apart = 1; apart < warp_size; apart *= 2) {
    const T other = __shfl_down_sync(all_lanes, x, apart);
    if (lane_index() + apart < warp_size) x += other;
  }
  return x;
}

VOGE_NAMESPACE_END
