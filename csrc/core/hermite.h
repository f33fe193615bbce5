// Weights of one ray's hits by Gauss-Hermite quadrature, and the adjoint.
//
//   W_k = A_k sum_i w_i T(l_k + c_i sigma_k),   T(t) = exp(-sum_m A_m Phi((t - l_m) / sigma_m))
// with nodes c_i and weights w_i of the standard normal distribution. One point is VoGE's own rule. The hits may come
// in any order.
#pragma once
#include "core/phi.h"

VOGE_NAMESPACE_BEGIN

// Hits of one ray: optical depth A (0: no hit), length l, inverse width 1 / sigma.
template <class T>
struct Hits {
  int count;
  const T *peaks, *lengths, *inverse_widths;
};
template <class T>
struct HitsGradient {
  T *peaks, *lengths, *inverse_widths;  // overwritten
};

constexpr int max_hermite_points = 8;

// Node i and weight of the rule with `points` points, for the standard normal distribution.
template <class T>
VOGE_HD void hermite_node(int points, int i, T& node, T& weight) {
  // The nodes >= 0 of 1, 2, .. 8 points, one rule a line.
  // clang-format off
  static constexpr double nodes[] = {
      0.0,
      1.0,
      0.0, 1.7320508075688773,
      0.74196378430272586, 2.3344142183389772,
      0.0, 1.3556261799742659, 2.8569700138728057,
      0.61670659019259415, 1.8891758777537107, 3.324257433552119,
      0.0, 1.1544053947399681, 2.3667594107345413, 3.7504397177257423,
      0.53907981135137511, 1.636519042435108, 2.8024858612875417, 4.1445471861258943};
  static constexpr double weights[] = {
      1.0,
      0.5,
      0.66666666666666667, 0.16666666666666667,
      0.45412414523193151, 0.045875854768068492,
      0.53333333333333333, 0.22207592200561264, 0.011257411327720689,
      0.40882846955602923, 0.088615746041914527, 0.0025557844020562464,
      0.45714285714285714, 0.24012317860501271, 0.030757123967586497, 0.00054826885597221779,
      0.37301225767907735, 0.11723990766175902, 0.0096352201207882672, 0.00011261453837536777};
  // clang-format on
  const int side = 2 * i - (points - 1);
  const int entry = points * points / 4 + (side < 0 ? -side : side) / 2;
  node = T(side < 0 ? -nodes[entry] : nodes[entry]);
  weight = T(weights[entry]);
}

// A place on the ray. Kept as a hit's length and a distance from there: the difference of two large lengths keeps its
// digits.
template <class T>
struct Place {
  T anchor, shift;
  VOGE_HD T behind(T length) const { return (anchor - length) + shift; }
};

// sum_m A_m Phi((t - l_m) / sigma_m)
template <class T>
VOGE_HD T depth_before(const Hits<T>& hits, const Place<T>& t) {
  T depth = 0;
  for (int m = 0; m < hits.count; ++m) {
    const T z = t.behind(hits.lengths[m]) * hits.inverse_widths[m];
    if (z >= Cutoff<T>::sigmas)
      depth += hits.peaks[m];
    else if (z > -Cutoff<T>::sigmas)
      depth += hits.peaks[m] * normal_cdf(z);
  }
  return depth;
}

template <class T>
VOGE_HD void hermite(int points, const Hits<T>& hits, T* weights) {
  for (int k = 0; k < hits.count; ++k) {
    T mean = 0;  // of the transmittance that meets hit k
    for (int i = 0; i < points && hits.peaks[k] > 0; ++i) {
      T node, share;
      hermite_node(points, i, node, share);
      mean += share * vexp(-depth_before(hits, Place<T>{hits.lengths[k], node / hits.inverse_widths[k]}));
    }
    weights[k] = hits.peaks[k] * mean;
  }
}

template <class T>
VOGE_HD void hermite_adjoint(int points, const Hits<T>& hits, const T* grad_weights, const HitsGradient<T>& grad) {
  for (int k = 0; k < hits.count; ++k) grad.peaks[k] = grad.lengths[k] = grad.inverse_widths[k] = 0;
  for (int k = 0; k < hits.count; ++k) {
    for (int i = 0; i < points; ++i) {
      T node, share;
      hermite_node(points, i, node, share);
      const T sigma = 1 / hits.inverse_widths[k];
      const Place<T> t{hits.lengths[k], node * sigma};
      const T mean = share * vexp(-depth_before(hits, t));
      grad.peaks[k] += grad_weights[k] * mean;
      const T h = -grad_weights[k] * hits.peaks[k] * mean;  // dL / d depth_before(t)
      if (h == 0) continue;
      T grad_t = 0;
      for (int m = 0; m < hits.count; ++m) {
        const T apart = t.behind(hits.lengths[m]), z = apart * hits.inverse_widths[m];
        if (z >= Cutoff<T>::sigmas)
          grad.peaks[m] += h;
        else if (z > -Cutoff<T>::sigmas) {
          grad.peaks[m] += h * normal_cdf(z);
          const T grad_z = h * hits.peaks[m] * normal_pdf(z);
          grad_t += grad_z * hits.inverse_widths[m];
          grad.lengths[m] -= grad_z * hits.inverse_widths[m];
          grad.inverse_widths[m] += grad_z * apart;
        }
      }
      grad.lengths[k] += grad_t;
      grad.inverse_widths[k] -= grad_t * node * sigma * sigma;
    }
  }
}

VOGE_NAMESPACE_END
