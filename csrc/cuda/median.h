// Median depth of one ray: the length in front of which it loses half of the light that it loses at all, and its
// adjoint.
//
// With the optical depth tau(t) = sum A Phi((t - l) / sigma) it solves tau(t) = tau* where exp(-tau*) = (1 + e) / 2,
// e = exp(-tau(inf)). By the implicit function theorem dt = (dtau* - dtau) / R(t), R = sum A phi / sigma,
// dtau* = e / (1 + e) dtau(inf).
#pragma once
#include "core/phi.h"
#include "cuda/hits.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct Median {
  T base, t;         // the length is base + t: counted from the nearest hit, it keeps its digits
  T share, density;  // e / (1 + e); R

  __device__ T length() const { return base + t; }
};

// tau and R at base + t.
template <class T>
__device__ void depth_at(const RayHits<T>& h, T base, T t, T& depth, T& density) {
  T depth_here = 0, density_here = 0;
  for (int k = lane_index(); k < h.n; k += warp_size) {
    const T z = (t - (h.length[k] - base)) * h.rate[k];
    depth_here += h.peak[k] * normal_cdf(z);
    density_here += h.peak[k] * h.rate[k] * normal_pdf(z);
  }
  depth = warp_sum(depth_here), density = warp_sum(density_here);
}

// Of a ray with a hit.
template <class T>
VOGE_CALLED Median<T> find_median(const RayHits<T>& h) {
  const T base = h.length[0], smallest = T(1e-30);
  T low = 0, high = 0, total = 0;
  for (int k = lane_index(); k < h.n; k += warp_size) {
    const T reach = Cutoff<T>::sigmas / h.rate[k], at = h.length[k] - base;
    low = least(low, at - reach), high = most(high, at + reach), total += h.peak[k];
  }
  low = warp_least(low), high = warp_most(high), total = warp_sum(total);
  const T e = vexp(-total), wanted = (1 + e) / 2, sparse = T(1e-3) * total / most(high - low, smallest);
  T t = (low + high) / 2, depth, density;
  for (int step = 0; step < (sizeof(T) == 4 ? 24 : 60); ++step) {  // Newton on T(t), bisection where it leaves
    depth_at(h, base, t, depth, density);
    const T through = vexp(-depth);
    (through > wanted ? low : high) = t;
    const T newton = t + (through - wanted) / most(through * density, smallest);
    const T next = newton > low && newton < high ? newton : (low + high) / 2, moved = next - t;
    t = next;
    if (!(most(moved, -moved) > T(sizeof(T) == 4 ? 1e-6 : 1e-14) * (high - low))) break;
  }
  depth_at(h, base, t, depth, density);
  // In a gap where nothing absorbs the place is arbitrary: no gradient.
  return {base, t, e / (1 + e), density > sparse ? density : infinity<T>()};
}

// Adds `grad` times the derivatives of the length to those of the hits.
template <class T>
VOGE_CALLED void median_adjoint(const Median<T>& m, const RayHits<T>& h, T grad) {
  const T scale = grad / m.density;
  for (int k = lane_index(); k < h.n; k += warp_size) {
    const T apart = m.t - (h.length[k] - m.base), rate = h.rate[k], z = apart * rate;
    const T per_z = scale * h.peak[k] * normal_pdf(z);
    h.grad_peak[k] += scale * (m.share - normal_cdf(z));
    h.grad_length[k] += per_z * rate;
    h.grad_rate[k] -= per_z * apart;
  }
  __syncwarp();
}

VOGE_NAMESPACE_END
