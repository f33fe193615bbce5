// Kernels with one mistake each, and right ones beside them, for the tests of the emulator.
#include "cuda/warp.h"

VOGE_NAMESPACE_BEGIN

// Right: all that the emulator knows, in one sum for each block.
template <class T>
__device__ void block_sum(const T* x, int64_t n, T* sums, int32_t* positive, double by) {
  VOGE_DYNAMIC_SHARED(T, tile);
  VOGE_SHARED(T, part, [32]);
  const int t = threadIdx.x, warps = blockDim.x / 32;
  tile[t] = thread_index() < n ? x[thread_index()] * T(by) : 0;
  __syncthreads();
  T sum = warp_sum(tile[(t + 1) % blockDim.x]);
  const unsigned ballots = ballot(tile[t] > 0);
  if (lane_index() == 0) {
    part[t / 32] = sum;
    atomicAdd(positive, __popc(ballots));
  }
  __syncthreads();
  if (t >= 32) return;
  sum = warp_sum(t < warps ? part[t] : 0);
  if (t == 0) sums[blockIdx.x] = sum;
}
VOGE_KERNEL(block_sum, 128, (const T* x, int64_t n, T* sums, int32_t* positive, double by), (x, n, sums, positive, by))

// Right: halves of a warp on their own, a value read by all and then written, atomics read after a barrier.
template <class T>
__device__ void orderly(T* x, int32_t* tickets) {
  VOGE_SHARED(T, values, [64]);
  VOGE_SHARED(int, count, [1]);
  const int t = threadIdx.x, lane = lane_index();
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  if (t == 0) *count = 0;
  values[t] = x[t];
  __syncwarp(half);
  const T other = values[t ^ 15];
  __syncwarp(half);
  values[t] = other + __shfl_xor_sync(half, other, 1);
  __syncthreads();
  const T first = values[0];
  tickets[t] = atomicAdd(count, 1);
  __syncthreads();
  if (t == 0) values[0] = *count;
  x[t] = first;
  __syncthreads();
  if (t == 63) x[t] = values[0];
}
VOGE_KERNEL(orderly, 64, (T * x, int32_t* tickets), (x, tickets))

// --- mistakes: x has an element a thread, n an element a block
// ---------------------------------------------------------

template <class T>
__device__ void past_the_end(T* x, int32_t* n) {
  if (threadIdx.x == 0) n[blockIdx.x + 1] = int(x[0]);
}
VOGE_KERNEL(past_the_end, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void past_shared(T* x, int32_t*) {
  VOGE_SHARED(T, values, [64]);
  values[threadIdx.x * 2] = x[threadIdx.x];
}
VOGE_KERNEL(past_shared, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void overflow(T* x, int32_t* n) {
  const int big = 1 << 30;
  x[thread_index()] = T(big * (int)gridDim.x);
  if (threadIdx.x == 0) n[blockIdx.x] = 0;
}
VOGE_KERNEL(overflow, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void not_in_mask(T* x, int32_t*) {
  x[thread_index()] = __shfl_sync(0x0000ffffu, x[thread_index()], 0);
}
VOGE_KERNEL(not_in_mask, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void other_masks(T* x, int32_t*) {
  const unsigned mask = lane_index() < 16 ? all_lanes : 0xffff0000u;
  x[thread_index()] = __shfl_sync(mask, x[thread_index()], 31);
}
VOGE_KERNEL(other_masks, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void source_not_in_mask(T* x, int32_t*) {
  const unsigned mask = lane_index() < 16 ? 0x0000ffffu : 0xffff0000u;
  x[thread_index()] = __shfl_sync(mask, x[thread_index()], 0);
}
VOGE_KERNEL(source_not_in_mask, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void other_places(T* x, int32_t* n) {
  if (lane_index() < 16)
    x[thread_index()] = broadcast(x[thread_index()], 0);
  else
    n[blockIdx.x] = warp_sum(1);
}
VOGE_KERNEL(other_places, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void early_return(T* x, int32_t*) {
  if (threadIdx.x == 63) return;
  __syncthreads();
  x[thread_index()] = 0;
}
VOGE_KERNEL(early_return, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void early_return_in_warp(T* x, int32_t*) {
  if (threadIdx.x == 63) return;
  x[thread_index()] = warp_sum(x[thread_index()]);
}
VOGE_KERNEL(early_return_in_warp, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void divergent_barrier(T* x, int32_t*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    x[thread_index()] = 0;
  __syncthreads();
}
VOGE_KERNEL(divergent_barrier, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void no_block_barrier(T* x, int32_t*) {
  VOGE_SHARED(T, values, [64]);
  values[threadIdx.x] = x[thread_index()];
  x[thread_index()] = values[threadIdx.x ^ 1];
}
VOGE_KERNEL(no_block_barrier, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void warp_barrier_between_warps(T* x, int32_t*) {
  VOGE_SHARED(T, values, [64]);
  values[threadIdx.x] = x[thread_index()];
  __syncwarp();
  x[thread_index()] = values[63 - threadIdx.x];
}
VOGE_KERNEL(warp_barrier_between_warps, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void shuffle_for_barrier(T* x, int32_t*) {
  VOGE_SHARED(T, values, [64]);
  values[threadIdx.x] = broadcast(x[thread_index()], 0);
  const unsigned all = ballot(true);
  x[thread_index()] = values[threadIdx.x ^ 1] + __popc(all);
}
VOGE_KERNEL(shuffle_for_barrier, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void half_a_warp_barrier(T* x, int32_t*) {
  VOGE_SHARED(T, values, [64]);
  values[threadIdx.x] = x[thread_index()];
  __syncwarp(lane_index() < 16 ? 0x0000ffffu : 0xffff0000u);
  x[thread_index()] = values[threadIdx.x ^ 16];
}
VOGE_KERNEL(half_a_warp_barrier, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void overwritten(T* x, int32_t*) {
  VOGE_SHARED(T, values, [64]);
  values[threadIdx.x] = x[thread_index()];
  __syncthreads();
  const T other = values[threadIdx.x ^ 1];
  values[threadIdx.x] = 2 * other;
  __syncthreads();
  x[thread_index()] = values[threadIdx.x];
}
VOGE_KERNEL(overwritten, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void plain_add(T* x, int32_t* n) {
  x[thread_index()] = 0;
  n[blockIdx.x] += 1;
}
VOGE_KERNEL(plain_add, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void between_blocks(T* x, int32_t* n) {
  if (threadIdx.x == 0) n[blockIdx.x] = n[blockIdx.x ^ 1] + int(x[0]);
}
VOGE_KERNEL(between_blocks, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void read_of_atomic(T* x, int32_t* n) {
  atomicAdd(n, 1);
  x[thread_index()] = *n;
}
VOGE_KERNEL(read_of_atomic, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void unwritten(T* x, int32_t*) {
  VOGE_SHARED(T, values, [64]);
  if (threadIdx.x < 63) values[threadIdx.x] = x[thread_index()];
  __syncthreads();
  x[thread_index()] = values[63 - threadIdx.x];
}
VOGE_KERNEL(unwritten, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void too_much_shared(T* x, int32_t*) {
  VOGE_SHARED(T, values, [16384]);
  values[threadIdx.x] = x[thread_index()];
  x[thread_index()] = values[threadIdx.x];
}
VOGE_KERNEL(too_much_shared, 64, (T * x, int32_t* n), (x, n))

template <class T>
__device__ void no_dynamic_shared(T* x, int32_t*) {
  VOGE_DYNAMIC_SHARED(T, values);
  values[threadIdx.x] = x[thread_index()];
}
VOGE_KERNEL(no_dynamic_shared, 64, (T * x, int32_t* n), (x, n))

VOGE_NAMESPACE_END
