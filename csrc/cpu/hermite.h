// Weights of a packet's hits by Gauss-Hermite quadrature, and their adjoint: core/hermite.h, one ray a lane.
//
// W_i = A_i sum_p w_p T(l_i + c_p sigma_i),  T(t) = exp(-sum_k A_k Phi((t - l_k) / sigma_k)).
// With `stops` also S_i, the density of i where the ray is stopped: the integral of -T' rho_i = T R rho_i, R = sum rho,
//   S_i = A_i sum_p w_p T R,  R(t) = sum_k A_k phi((t - l_k) / sigma_k) / sigma_k.
// A pair (i, k) costs nothing when the whole of k lies in front of t in every lane (a running sum of A stands for all
// such), or behind.
#pragma once
#include "core/hermite.h"
#include "cpu/packet.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct WeightMemory {
  typedef typename Simd<T>::Vec Vec;
  Scratch<Vec> vectors;
  Vec *weight, *grad_weight, *grad_peak, *grad_length, *grad_rate;  // per entry
  Vec *stop, *grad_stop, *stop_sum;                                 // S and what belongs to it
  Vec* sum_peak;                                                    // A of all entries before (n + 1)
  Vec *skipped, *bell_sum, *bell_z_sum;                             // accumulators of the adjoint
  Vec *cdf, *bell, *z;                                              // one row of pairs
  Vec* slope;                                                       // A / sigma

  void attach(int64_t capacity) {
    const int64_t c = capacity + 1;
    Vec* v = vectors.ensure(16 * c);
    weight = v, grad_weight = v + c, grad_peak = v + 2 * c, grad_length = v + 3 * c, grad_rate = v + 4 * c,
    sum_peak = v + 5 * c;
    skipped = v + 6 * c, bell_sum = v + 7 * c, bell_z_sum = v + 8 * c, cdf = v + 9 * c, bell = v + 10 * c,
    z = v + 11 * c, slope = v + 12 * c;
    stop = v + 13 * c, grad_stop = v + 14 * c, stop_sum = v + 15 * c;
  }
};

// Nodes in standard deviations and their weights.
struct HermiteRule {
  int points;
  double at[max_hermite_points], weight[max_hermite_points];
  explicit HermiteRule(int n) : points(n) {
    for (int p = 0; p < n; ++p) hermite_node(n, p, at[p], weight[p]);
  }
};

// The entries [begin, end) that may overlap an interval of positions: from the first one not wholly in front of it to
// the last one before all begin behind it. Both ends move with the intervals.
struct Overlap {
  int begin = 0, end = 0;

  template <class T>
  inline __attribute__((always_inline)) void move(const Packet<T>& p, T low, T high) {
    while (begin > 0 && p.high_before[begin - 1] >= low) --begin;
    while (begin < p.n && p.high_before[begin] < low) ++begin;
    while (end > 0 && p.low_after[end - 1] > high) --end;
    while (end < p.n && p.low_after[end] <= high) ++end;
  }
};

// A node of row i: how far from l_i, and an interval that holds it in every lane.
template <class T>
struct Node {
  typename Simd<T>::Vec shift;
  T low, high;
};

template <bool shifted, class T>
VOGE_INLINE Node<T> place_node(const Packet<T>& p, int i, double at, typename Simd<T>::Vec sigma) {
  if (!shifted) return {broadcast((T)0), p.first[i], p.last[i]};
  const T most_shift = (T)at * (p.high[i] - p.last[i]) / Cutoff<T>::sigmas;  // by the largest sigma
  return {(T)at * sigma, p.first[i] + least(most_shift, (T)0), p.last[i] + most(most_shift, (T)0)};
}

// Position of a node of row i as seen from entry k. The difference comes first: far from the camera l_i + shift loses
// digits.
template <bool shifted, class T>
VOGE_INLINE typename Simd<T>::Vec apart(const Packet<T>& p, int i, int k, typename Simd<T>::Vec shift) {
  const auto difference = p.length[i] - p.length[k];
  return shifted ? difference + shift : difference;
}

template <bool shifted, bool stops, class T>
static void hermite_rows(const Packet<T>& p, const HermiteRule& rule, WeightMemory<T>& w) {
  typedef typename Simd<T>::Vec Vec;
  const int n = p.n;
  const Vec zero = broadcast((T)0);
  const T density = (T)0.39894228040143267794;  // 1 / sqrt(2 pi)
  w.sum_peak[0] = zero;
  for (int k = 0; k < n; ++k) w.sum_peak[k + 1] = w.sum_peak[k] + p.peak[k];
  Overlap near;
  for (int i = 0; i < n; ++i) {
    Vec total = zero, stopped = zero;
    const Vec sigma = shifted ? rcp(p.rate[i]) : zero;
    for (int q = 0; q < rule.points; ++q) {
      const Node<T> node = place_node<shifted>(p, i, rule.at[q], sigma);
      near.move(p, node.low, node.high);
      Vec depth = w.sum_peak[near.begin], slope = zero;
      for (int k = near.begin; k < near.end; ++k) {
        const Vec z = apart<shifted, T>(p, i, k, node.shift) * p.rate[k];
        if constexpr (stops) {
          Vec cdf, bell;
          normal_cdf_bell(z, cdf, bell);
          depth += p.peak[k] * cdf, slope += p.peak[k] * p.rate[k] * bell;
        } else {
          depth += p.peak[k] * normal_cdf(z);
        }
      }
      const Vec through = (T)rule.weight[q] * vexp(-depth);
      total += through;
      if constexpr (stops) stopped += through * slope * density;
    }
    w.weight[i] = p.peak[i] * total;
    if constexpr (stops) w.stop[i] = p.peak[i] * stopped;
  }
}

// From grad_weight: weight, grad_peak, grad_length, grad_rate. With h = -dL/dW_i A_i w_p T, each pair adds h Phi to the
// peak, h A phi / sigma to the lengths, h A phi z sigma to the rate; the sums over i are kept without their common
// factors. With H = dL/dS_i A_i w_p T, which adds H R to -h, each pair adds H phi / sigma to the peak, -H A phi z /
// sigma^2 to the lengths, H A phi (1 - z^2) to the rate.
template <bool shifted, bool stops, class T>
static void hermite_adjoint_rows(const Packet<T>& p, const HermiteRule& rule, WeightMemory<T>& w) {
  typedef typename Simd<T>::Vec Vec;
  const int n = p.n;
  const Vec zero = broadcast((T)0);
  const T density = (T)0.39894228040143267794;  // 1 / sqrt(2 pi)
  w.sum_peak[0] = zero;
  for (int k = 0; k < n; ++k) {
    w.sum_peak[k + 1] = w.sum_peak[k] + p.peak[k];
    w.slope[k] = p.peak[k] * p.rate[k];
    w.skipped[k] = w.bell_sum[k] = w.bell_z_sum[k] = w.grad_peak[k] = w.grad_length[k] = w.grad_rate[k] = zero;
    if (stops) w.stop_sum[k] = zero;
  }
  w.skipped[n] = zero;
  Overlap near;
  for (int i = 0; i < n; ++i) {
    Vec total = zero, stopped = zero;
    const Vec sigma = rcp(p.rate[i]);
    for (int q = 0; q < rule.points; ++q) {
      const Node<T> node = place_node<shifted>(p, i, rule.at[q], sigma);
      near.move(p, node.low, node.high);
      Vec depth = w.sum_peak[near.begin], slope = zero;
      for (int k = near.begin; k < near.end; ++k) {
        w.z[k] = apart<shifted, T>(p, i, k, node.shift) * p.rate[k];
        normal_cdf_bell(w.z[k], w.cdf[k], w.bell[k]);
        depth += p.peak[k] * w.cdf[k];
        if (stops) slope += w.slope[k] * w.bell[k];
      }
      const Vec through = (T)rule.weight[q] * vexp(-depth);
      total += through;
      Vec grad_through = w.grad_weight[i], H = zero;
      if constexpr (stops) {
        stopped += through * slope * density;
        grad_through += w.grad_stop[i] * slope * density;
        H = w.grad_stop[i] * p.peak[i] * through;
      }
      const Vec h = -grad_through * p.peak[i] * through;
      w.skipped[near.begin] += h;
      Vec grad_t = zero;
      for (int k = near.begin; k < near.end; ++k) {
        Vec hb = h * w.bell[k];
        w.grad_peak[k] += h * w.cdf[k];
        if constexpr (stops) {
          const Vec Hb = H * w.bell[k];
          w.stop_sum[k] += Hb;
          hb -= Hb * w.z[k] * p.rate[k];
        }
        w.bell_sum[k] += hb;
        w.bell_z_sum[k] += hb * w.z[k];
        grad_t += stops ? w.slope[k] * hb : w.slope[k] * w.bell[k];
      }
      grad_t *= stops ? broadcast(density) : h * density;
      w.grad_length[i] += grad_t;
      if (shifted) w.grad_rate[i] -= grad_t * (T)rule.at[q] * sigma * sigma;
    }
    w.weight[i] = p.peak[i] * total;
    w.grad_peak[i] += w.grad_weight[i] * total;
    if constexpr (stops) w.stop[i] = p.peak[i] * stopped, w.grad_peak[i] += w.grad_stop[i] * stopped;
  }
  Vec later = zero;  // rows that counted this entry as wholly in front
  for (int k = n - 1; k >= 0; --k) {
    later += w.skipped[k + 1];
    w.grad_peak[k] += later;
    w.grad_length[k] -= density * w.slope[k] * w.bell_sum[k];
    w.grad_rate[k] += density * p.peak[k] * rcp(p.rate[k]) * w.bell_z_sum[k];
    if constexpr (stops) {
      w.grad_peak[k] += density * p.rate[k] * w.stop_sum[k];
      w.grad_rate[k] += density * p.peak[k] * w.stop_sum[k];
    }
  }
}

VOGE_NAMESPACE_END
