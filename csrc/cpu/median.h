// Median depth: the length in front of which a ray loses half of the light that it loses at all, and its adjoint.
//
// With the optical depth tau(t) = sum A Phi((t - l) / sigma) it solves tau(t) = tau* where exp(-tau*) = (1 + e) / 2,
// e = exp(-tau(inf)). By the implicit function theorem dt = (dtau* - dtau) / R(t), R = sum A phi / sigma,
// dtau* = e / (1 + e) dtau(inf).
#pragma once
#include "cpu/hermite.h"

VOGE_NAMESPACE_BEGIN

// tau(base + t) and R(base + t); lengths counted from `base` keep their digits.
template <class T>
VOGE_INLINE void depth_at(const Packet<T>& p, typename Simd<T>::Vec base, typename Simd<T>::Vec t,
                          typename Simd<T>::Vec& depth, typename Simd<T>::Vec& density) {
  depth = density = broadcast((T)0);
  for (int k = 0; k < p.n; ++k) {
    typename Simd<T>::Vec cdf, bell;
    normal_cdf_bell((t - (p.length[k] - base)) * p.rate[k], cdf, bell);
    depth += p.peak[k] * cdf;
    density += (T)0.39894228040143267794 * p.peak[k] * p.rate[k] * bell;
  }
}

template <class T>
struct Median {
  typename Simd<T>::Vec base, t, share, density;  // length base + t; e / (1 + e); R

  VOGE_INLINE Median find(const Packet<T>& p) {
    typedef typename Simd<T>::Vec Vec;
    const Vec zero = broadcast((T)0), missing = missing_length<T>();
    Vec base = missing, high = zero, total = zero;
    for (int k = 0; k < p.n; ++k) base = vmin(base, select(p.peak[k] > zero, p.length[k], missing));
    Vec low = zero;
    for (int k = 0; k < p.n; ++k) {
      const auto hit = p.peak[k] > zero;
      const Vec reach = Cutoff<T>::sigmas * rcp(p.rate[k]), at = p.length[k] - base;
      low = vmin(low, select(hit, at - reach, zero)), high = vmax(high, select(hit, at + reach, zero));
      total += p.peak[k];
    }
    const Vec e = vexp(-total), sparse = (T)1e-3 * total / vmax(high - low, broadcast((T)1e-30));
    const Vec wanted = (T)0.5 * ((T)1 + e);
    Vec t = (T)0.5 * (low + high), depth, density;
    for (int step = 0; step < (sizeof(T) == 4 ? 24 : 60); ++step) {  // Newton on T(t), bisection where it leaves
      depth_at(p, base, t, depth, density);
      const Vec through = vexp(-depth);
      const auto before = through > wanted;
      low = select(before, t, low), high = select(before, high, t);
      const Vec newton = t + (through - wanted) / vmax(through * density, broadcast((T)1e-30));
      const auto inside = (newton > low) & (newton < high);
      const Vec next = select(inside, newton, (T)0.5 * (low + high));
      const bool still = !bits(vabs(next - t) > (T)(sizeof(T) == 4 ? 1e-6 : 1e-14) * (high - low));
      t = next;
      if (still) break;
    }
    depth_at(p, base, t, depth, density);
    // In a gap where nothing absorbs the place is arbitrary: no gradient.
    return {base, t, e / ((T)1 + e), select(density > sparse, density, broadcast((T)INFINITY))};
  }

  // Adds grad times the derivatives of the length to those of the hits.
  void adjoint(const Packet<T>& p, typename Simd<T>::Vec grad, WeightMemory<T>& w) const {
    typedef typename Simd<T>::Vec Vec;
    const Vec scale = grad / density;
    for (int k = 0; k < p.n; ++k) {
      const Vec apart = t - (p.length[k] - base);
      Vec cdf, bell;
      normal_cdf_bell(apart * p.rate[k], cdf, bell);
      const Vec per_z = (T)0.39894228040143267794 * scale * p.peak[k] * bell;
      w.grad_peak[k] += scale * (share - cdf);
      w.grad_length[k] += per_z * p.rate[k];
      w.grad_rate[k] -= per_z * apart;
    }
  }
};

VOGE_NAMESPACE_END
