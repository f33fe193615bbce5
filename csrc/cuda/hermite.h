// Weights of one ray's hits by Gauss-Hermite quadrature, and their adjoint: core/hermite.h, a hit a lane.
//
// W_i = A_i sum_q w_q T(t_iq),  t_iq = l_i + c_q sigma_i,  T(t) = exp(-sum_k A_k Phi((t - l_k) / sigma_k)), and with
// `stops` also S_i, the density of i where the ray is stopped: S_i = A_i sum_q w_q T R, R = sum_k A_k phi / sigma_k.
// A pair (i, k) costs nothing when the whole of k lies in front of t, where a running sum stands for it, or behind.
#pragma once
#include "core/hermite.h"
#include "cuda/hits.h"

VOGE_NAMESPACE_BEGIN

// Intervals of `sigmas` standard deviations, from `base` on: where those of the hits up to here end at most, and where
// those of the hits from here on begin at least.
template <class T>
__device__ void bound_hits(const RayHits<T>& h, T sigmas, T base) {
  T run = -infinity<T>();
  for (int first = 0; first < h.n; first += warp_size) {
    const int k = first + lane_index();
    const T high = k < h.n ? (h.length[k] - base) + sigmas / h.rate[k] : -infinity<T>();
    const T so_far = most(most_so_far(high), run);
    if (k < h.n) h.high_before[k] = so_far;
    run = broadcast(so_far, warp_size - 1);
  }
  run = infinity<T>();
  for (int first = (h.n - 1) / warp_size * warp_size; first >= 0; first -= warp_size) {
    const int k = first + lane_index();
    const T low = k < h.n ? (h.length[k] - base) - sigmas / h.rate[k] : infinity<T>();
    const T from_here = least(least_from_here(low), run);
    if (k < h.n) h.low_after[k] = from_here;
    run = broadcast(from_here, 0);
  }
  __syncwarp();
}

// The first of x[begin .. end), ascending, that is not below a value.
template <class T>
__device__ int first_not_below(const T* x, int begin, int end, T value) {
  while (begin < end) {
    const int middle = (begin + end) / 2;
    if (x[middle] < value)
      begin = middle + 1;
    else
      end = middle;
  }
  return begin;
}

// At one place of the ray: optical depth in front, density R, and R'.
template <class T>
struct Passed {
  T depth, density, bend;
};

// At t = length[i] + shift; all hits before `begin` lie in front of it.
template <bool sloped, bool bent, class T>
__device__ Passed<T> pass(const RayHits<T>& h, int i, T shift, int begin) {
  const T length = h.length[i], t = length + shift;
  Passed<T> p{h.sums[begin], 0, 0};
  for (int k = begin; k < h.n && h.low_after[k] < t; ++k) {
    const T rate = h.rate[k], peak = h.peak[k], z = ((length - h.length[k]) + shift) * rate;
    p.depth += peak * normal_cdf(z);
    if (sloped) {
      const T density = peak * rate * normal_pdf(z);
      p.density += density;
      if (bent) p.bend -= density * z * rate;
    }
  }
  return p;
}

// sums[k]: A of all hits before k.
template <class T>
__device__ void sum_peaks(const RayHits<T>& h) {
  T run = 0;
  for (int first = 0; first < h.n; first += warp_size) {
    const int k = first + lane_index();
    const T peak = k < h.n ? h.peak[k] : T(0), so_far = sum_so_far(peak);
    if (k < h.n) h.sums[k] = run + (so_far - peak);
    run += broadcast(so_far, warp_size - 1);
  }
  __syncwarp();
}

template <bool stops, class T>
__device__ void hermite_weights(const RayHits<T>& h, int points) {
  bound_hits(h, Cutoff<T>::sigmas, T(0));
  sum_peaks(h);
  for (int i = lane_index(); i < h.n; i += warp_size) {
    const T length = h.length[i], sigma = rcp(h.rate[i]);
    T total = 0, stopped = 0;
    int begin = 0;
    for (int q = 0; q < points; ++q) {
      T node, share;
      hermite_node(points, q, node, share);
      const T shift = node * sigma;
      begin = first_not_below(h.high_before, begin, i, length + shift);
      const Passed<T> p = pass<stops, false>(h, i, shift, begin);
      const T through = share * vexp(-p.depth);
      total += through;
      if (stops) stopped += through * p.density;
    }
    h.weight[i] = h.peak[i] * total;
    if (stops) h.stop[i] = h.peak[i] * stopped;
  }
  __syncwarp();
}

// First half of the adjoint: what each hit does as the one whose nodes are met. Keeps, of each node, -h = dL/dW_i A_i
// w_q T (with stops: of W_i + S_i R) and H = dL/dS_i A_i w_q T.
template <bool stops, class T>
__device__ void hermite_adjoint_nodes(const RayHits<T>& h, int points) {
  for (int i = lane_index(); i < h.n; i += warp_size) {
    const T length = h.length[i], peak = h.peak[i], sigma = rcp(h.rate[i]), grad_weight = h.grad_weight[i];
    T total = 0, stopped = 0, grad_length = 0, grad_shift = 0;
    int begin = 0;
    for (int q = 0; q < points; ++q) {
      T node, share;
      hermite_node(points, q, node, share);
      const T shift = node * sigma;
      begin = first_not_below(h.high_before, begin, i, length + shift);
      const Passed<T> p = pass<true, stops>(h, i, shift, begin);
      const T through = share * vexp(-p.depth);
      total += through;
      T grad_through = grad_weight, grad_t = 0;
      if (stops) {
        stopped += through * p.density;
        grad_through += h.grad_stop[i] * p.density;
        const T grad_density = h.grad_stop[i] * peak * through;
        grad_t = grad_density * p.bend;
        h.stopped[q * h.capacity + i] = grad_density;
      }
      const T grad_depth = -grad_through * peak * through;
      h.slopes[q * h.capacity + i] = grad_depth;
      grad_t += grad_depth * p.density;
      grad_length += grad_t, grad_shift += grad_t * node;
    }
    h.weight[i] = peak * total;
    if (stops) h.stop[i] = peak * stopped;
    h.grad_peak[i] = grad_weight * total + (stops ? h.grad_stop[i] * stopped : T(0));
    h.grad_length[i] = grad_length, h.grad_rate[i] = -grad_shift * sigma * sigma;
  }
  __syncwarp();
}

// sums[k]: dL/d depth of the nodes of all hits from k on.
template <class T>
__device__ void sum_slopes(const RayHits<T>& h, int points) {
  T run = 0;
  for (int first = (h.n - 1) / warp_size * warp_size; first >= 0; first -= warp_size) {
    const int k = first + lane_index();
    T slope = 0;
    for (int q = 0; q < points && k < h.n; ++q) slope += h.slopes[q * h.capacity + k];
    const T from_here = run + sum_from_here(slope);
    if (k < h.n) h.sums[k] = from_here;
    run = broadcast(from_here, 0);
  }
  __syncwarp();
}

// Second half: what each hit does as the one that lies in front of nodes.
template <bool stops, class T>
__device__ void hermite_adjoint_hits(const RayHits<T>& h, int points) {
  for (int k = lane_index(); k < h.n; k += warp_size) {
    const T length = h.length[k], peak = h.peak[k], rate = h.rate[k], sigma = rcp(rate);
    const T reach = Cutoff<T>::sigmas * sigma;
    const int begin = first_not_below(h.high_before, 0, h.n, length - reach),
              end = first_not_below(h.low_after, begin, h.n, length + reach);
    T grad_peak = end < h.n ? h.sums[end] : T(0), bells = 0, bells_z = 0, stopped = 0;
    for (int q = 0; q < points; ++q) {
      T node, share;
      hermite_node(points, q, node, share);
      const T *slopes = h.slopes + q * h.capacity, *stops_of = h.stopped + q * h.capacity;
      for (int i = begin; i < end; ++i) {
        const T shift = points > 1 ? node * rcp(h.rate[i]) : T(0);
        const T z = ((h.length[i] - length) + shift) * rate, bell = normal_pdf(z), slope = slopes[i];
        grad_peak += slope * normal_cdf(z);
        T slope_bell = slope * bell;
        if (stops) {
          const T stop_bell = stops_of[i] * bell;
          stopped += stop_bell;
          slope_bell -= stop_bell * z * rate;
        }
        bells += slope_bell, bells_z += slope_bell * z;
      }
    }
    h.grad_peak[k] += grad_peak + (stops ? rate * stopped : T(0));
    h.grad_length[k] -= peak * rate * bells;
    h.grad_rate[k] += peak * (sigma * bells_z + (stops ? stopped : T(0)));
  }
  __syncwarp();
}

template <bool stops, class T>
__device__ void hermite_weights_adjoint(const RayHits<T>& h, int points) {
  bound_hits(h, Cutoff<T>::sigmas, T(0));
  sum_peaks(h);
  hermite_adjoint_nodes<stops>(h, points);
  T furthest, share;
  hermite_node(points, points - 1, furthest, share);
  bound_hits(h, furthest, T(0));
  sum_slopes(h, points);
  hermite_adjoint_hits<stops>(h, points);
}

VOGE_NAMESPACE_END
