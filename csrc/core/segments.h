// Weights of one ray's hits by slabs of linearly changing shares, and the adjoint. The hits may come in any order.
//
// The line is cut at, nearly, quantiles of each lone Gaussian's absorption. At a cut Gaussian k has the density
// rho_k = A_k phi(z_k) / sigma_k and the share s_k = rho_k / sum rho. A slab between two cuts has the optical depths
// d_k = A_k (Phi(z_k) at its end - at its start), D = sum d; T is the transmittance at its start. If the shares change
// linearly with optical depth, Gaussian k absorbs T (f d_k + u g_k) there, where g_k is the change of its share and
//   e = exp(-D),   f = (1 - e) / D,   u = f - (1 + e) / 2.
// The first and the last slab know one end only: g = 2 (s_end - d / D) and 2 (d / D - s_start). u g_k is clipped to
// [d_k (e - f), d_k (1 - f)], the bounds T e d <= W <= T d of any slab, and the larger of the positive and the negative
// sums is scaled down to the smaller. So weights are never negative, they sum to 1 - T(inf), and a lone Gaussian is
// exact.
#pragma once
#include "core/hermite.h"

VOGE_NAMESPACE_BEGIN

constexpr int max_segments_points = 5;

// Values and integers of scratch memory that `segments` and `segments_adjoint` need.
VOGE_HD int segments_scratch_values(int points, int count) { return (3 * points + 8) * count; }
VOGE_HD int segments_scratch_integers(int points, int count) { return points * count; }

// Cut i of a lone Gaussian lies b0 + s (b1 + s b2) standard deviations from its centre, s = A / (A + 4). With one cut
// and with two the numbers make the errors against the integral least, on random rays like those of the tests. With
// more, for A up to 60 the cuts lie within 0.08 of where the part .07 .42 .85 (3 points), .03 .2 .55 .87 (4) or .02 .1
// .35 .65 .9 (5) of the absorption is in front.
struct LoneCut {
  double b0, b1, b2;
};
VOGE_HD LoneCut lone_cut(int points, int i) {
  // clang-format off
  static constexpr LoneCut cuts[] = {  // one rule a line
      {-0.5606, -0.9227, -1.2403},
      {-1.1731, -0.3581, -1.9044}, {0.6017, -1.4776, -1.585},
      {-1.4919, -0.7602, -0.8658}, {-0.207, -1.2482, -1.0411}, {1.0633, -1.4451, -1.74},
      {-1.8972, -0.6343, -0.8306}, {-0.855, -0.9961, -0.929}, {0.1276, -1.3595, -1.1421}, {1.1554, -1.4244, -1.8353},
      {-2.07, -0.5875, -0.8152}, {-1.2973, -0.8281, -0.8832}, {-0.3935, -1.1781, -1}, {0.394, -1.4263, -1.2562}, {1.3135, -1.372, -2.0187}};
  // clang-format on
  return cuts[points * (points - 1) / 2 + i];
}

// The cut, and its derivative with respect to the peak. T may be a vector of lanes.
template <class S, class T>
VOGE_HD T lone_cut(const LoneCut& cut, T peak, T& derivative) {
  const T rest = S(4) * rcp(peak + S(4)), s = S(1) - rest;
  derivative = (S(cut.b1) + S(2 * cut.b2) * s) * rest * rest * S(0.25);
  return S(cut.b0) + s * (S(cut.b1) + S(cut.b2) * s);
}

// d/dD of f(D) = (1 - exp(-D)) / D.
template <class T>
VOGE_HD T slab_f_derivative(T depth, T e, T f) {
  if (depth > T(sizeof(T) == 4 ? 0.1 : 0.01)) return (e - f) / depth;
  return T(-0.5) + depth * (T(1) / 3 - depth * (T(1) / 8 - depth * (T(1) / 30 - depth * (T(1) / 144 - depth / 840))));
}

// What every Gaussian is at one cut.
template <class T>
struct CutState {
  T *cdf, *rho;  // Phi(z), A phi(z) / sigma
  T total;       // sum of rho
};

template <class T>
VOGE_HD void evaluate_cut(const Hits<T>& hits, const Place<T>& t, CutState<T>& cut) {
  cut.total = 0;
  for (int k = 0; k < hits.count; ++k) {
    const T z = t.behind(hits.lengths[k]) * hits.inverse_widths[k];
    const T apart = z < 0 ? -z : z;
    cut.cdf[k] = apart < Cutoff<T>::sigmas ? normal_cdf(z) : T(z > 0);
    cut.rho[k] = apart < Cutoff<T>::share_sigmas ? hits.peaks[k] * hits.inverse_widths[k] * normal_pdf(z) : T(0);
    cut.total += cut.rho[k];
  }
}

// Before the first cut (passed = 0) and behind the last one (passed = 1).
template <class T>
VOGE_HD void evaluate_end(const Hits<T>& hits, T passed, CutState<T>& cut) {
  cut.total = 0;
  for (int k = 0; k < hits.count; ++k) cut.cdf[k] = passed, cut.rho[k] = 0;
}

// One slab; g_k = grow_end rho_k(end) - grow_start rho_k(start) + grow_depth d_k.
template <class T>
struct Slab {
  T depth, e, f, u, grow_start, grow_end, grow_depth;
  T gained, lost;  // sums of the positive and of the negative changes, both >= 0
  T scale_gain, scale_loss;

  VOGE_HD T part(const Hits<T>& hits, const CutState<T>& start, const CutState<T>& end, int k) const {  // d_k
    return most(T(0), hits.peaks[k] * (end.cdf[k] - start.cdf[k]));
  }
  VOGE_HD T growth(const CutState<T>& start, const CutState<T>& end, int k, T d) const {  // g_k
    return grow_end * end.rho[k] - grow_start * start.rho[k] + grow_depth * d;
  }
  VOGE_HD T clip(T change, T d) const { return most(d * (e - f), least(d * (1 - f), change)); }
  VOGE_HD T absorb(T change, T d) const {  // W_k / T, from the clipped change
    return most(T(0), f * d + change * (change > 0 ? scale_gain : scale_loss));
  }
};

template <class T>
VOGE_HD Slab<T> make_slab(const Hits<T>& hits, const CutState<T>& start, const CutState<T>& end, bool first,
                          bool last) {
  Slab<T> s;
  s.depth = 0;
  for (int k = 0; k < hits.count; ++k) s.depth += s.part(hits, start, end, k);
  const T thickness = s.depth > 0 ? 1 / s.depth : T(0);
  s.e = vexp(-s.depth);
  s.f = s.depth > 0 ? -vexpm1(-s.depth) * thickness : T(1);
  s.u = s.f - (1 + s.e) / 2;
  s.grow_end = !last && end.total > 0 ? (first ? 2 : 1) / end.total : T(0);
  s.grow_start = !first && start.total > 0 ? (last ? 2 : 1) / start.total : T(0);
  s.grow_depth = first ? -2 * thickness : last ? 2 * thickness : T(0);
  s.gained = s.lost = 0;
  for (int k = 0; k < hits.count; ++k) {
    const T d = s.part(hits, start, end, k), change = s.clip(s.u * s.growth(start, end, k, d), d);
    (change > 0 ? s.gained : s.lost) += change > 0 ? change : -change;
  }
  const T moved = least(s.gained, s.lost);
  s.scale_gain = s.gained > 0 ? moved / s.gained : T(0);
  s.scale_loss = s.lost > 0 ? moved / s.lost : T(0);
  return s;
}

// The cuts of all real hits. Cut i of hit k has the number k * points + i.
template <class T>
struct Cuts {
  int points, count;
  T *shifts, *places;  // by number: distance from the owner's centre, place on the ray
  int* order;          // numbers along the ray, `count` of them

  VOGE_HD int owner(int j) const { return order[j] / points; }
  VOGE_HD Place<T> place(const Hits<T>& hits, int j) const { return {hits.lengths[owner(j)], shifts[order[j]]}; }
};

template <class T>
VOGE_HD Cuts<T> make_cuts(int points, const Hits<T>& hits, T* scratch, int* integers) {
  Cuts<T> cuts{points, 0, scratch, scratch + points * hits.count, integers};
  for (int k = 0; k < hits.count; ++k)
    for (int i = 0; i < points && hits.peaks[k] > 0; ++i) {
      T unused;
      const int number = k * points + i;
      cuts.shifts[number] = lone_cut<T>(lone_cut(points, i), hits.peaks[k], unused) / hits.inverse_widths[k];
      cuts.places[number] = hits.lengths[k] + cuts.shifts[number];
      cuts.order[cuts.count++] = number;
    }
  for (int gap = cuts.count / 2; gap > 0; gap = gap == 2 ? 1 : gap * 5 / 11)  // Shell's sort
    for (int j = gap; j < cuts.count; ++j) {
      const int moving = cuts.order[j];
      int i = j;
      for (; i >= gap && cuts.places[cuts.order[i - gap]] > cuts.places[moving]; i -= gap)
        cuts.order[i] = cuts.order[i - gap];
      cuts.order[i] = moving;
    }
  return cuts;
}

template <class T>
VOGE_HD void segments(int points, const Hits<T>& hits, T* weights, T* scratch, int* scratch_integers) {
  const int count = hits.count;
  CutState<T> start{scratch, scratch + count, 0}, end{scratch + 2 * count, scratch + 3 * count, 0};
  for (int k = 0; k < count; ++k) weights[k] = 0;
  const Cuts<T> cuts = make_cuts(points, hits, scratch + 4 * count, scratch_integers);
  const int n = cuts.count;
  evaluate_end(hits, T(0), start);
  T transmittance = 1;
  for (int j = 0; n > 0 && j <= n; ++j) {
    if (j < n)
      evaluate_cut(hits, cuts.place(hits, j), end);
    else
      evaluate_end(hits, T(1), end);
    const Slab<T> slab = make_slab(hits, start, end, j == 0, j == n);
    for (int k = 0; k < count; ++k) {
      const T d = slab.part(hits, start, end, k), change = slab.clip(slab.u * slab.growth(start, end, k, d), d);
      weights[k] += transmittance * slab.absorb(change, d);
    }
    transmittance *= slab.e;
    exchange(start, end);
  }
}

// Carries the gradients at one cut to the hits and, through the cut's place, to its owner.
template <class T>
VOGE_HD void cut_adjoint(const Cuts<T>& cuts, int j, const Hits<T>& hits, const CutState<T>& cut, const T* grad_shares,
                         const T* grad_parts_before, const T* grad_parts_after, const HitsGradient<T>& grad) {
  const Place<T> t = cuts.place(hits, j);
  T mean = 0, grad_t = 0;
  for (int k = 0; k < hits.count; ++k) mean += grad_shares[k] * cut.rho[k];
  mean /= cut.total;
  for (int k = 0; k < hits.count; ++k) {
    const T rho = cut.rho[k], rate = hits.inverse_widths[k], apart = t.behind(hits.lengths[k]);
    if (!(rho > 0)) continue;
    const T grad_rho = (grad_shares[k] - mean) / cut.total * rho;  // times rho
    const T grad_z = (grad_parts_before[k] - grad_parts_after[k]) * rho / rate - grad_rho * apart * rate;
    grad_t += grad_z * rate;
    grad.lengths[k] -= grad_z * rate;
    grad.inverse_widths[k] += grad_z * apart + grad_rho / rate;
    grad.peaks[k] += grad_rho / hits.peaks[k];
  }
  const int owner = cuts.owner(j);
  const T rate = hits.inverse_widths[owner];
  T derivative;
  const T c = lone_cut<T>(lone_cut(cuts.points, cuts.order[j] % cuts.points), hits.peaks[owner], derivative);
  grad.lengths[owner] += grad_t;
  grad.inverse_widths[owner] -= grad_t * c / (rate * rate);
  grad.peaks[owner] += grad_t * derivative / rate;
}

// From the last slab to the first; `behind` is what the slabs behind absorb, times their gradients.
template <class T>
VOGE_HD void segments_adjoint(int points, const Hits<T>& hits, const T* grad_weights, const HitsGradient<T>& grad,
                              T* scratch, int* scratch_integers) {
  const int count = hits.count;
  CutState<T> start{scratch, scratch + count, 0}, end{scratch + 2 * count, scratch + 3 * count, 0};
  T *grad_shares = scratch + 4 * count, *grad_shares_start = scratch + 5 * count;  // at the end cut, at the start cut
  T *grad_parts = scratch + 6 * count, *grad_parts_after = scratch + 7 * count;    // of d_k here and in the next slab
  T* transmittances = scratch + 8 * count;                                         // at the cuts
  for (int k = 0; k < count; ++k)
    grad.peaks[k] = grad.lengths[k] = grad.inverse_widths[k] = grad_shares[k] = grad_parts_after[k] = 0;
  const Cuts<T> cuts = make_cuts(points, hits, transmittances + points * count, scratch_integers);
  const int n = cuts.count;
  for (int j = 0; j < n; ++j) transmittances[j] = vexp(-depth_before(hits, cuts.place(hits, j)));
  evaluate_end(hits, T(1), end);
  T behind = 0;
  for (int j = n; n > 0 && j >= 0; --j) {
    const bool first = j == 0, last = j == n;
    const T transmittance = first ? T(1) : transmittances[j - 1];
    if (first)
      evaluate_end(hits, T(0), start);
    else
      evaluate_cut(hits, cuts.place(hits, j - 1), start);
    const Slab<T> slab = make_slab(hits, start, end, first, last);
    const T low = slab.e - slab.f, high = 1 - slab.f;

    // Scaling the larger side couples the changes: dL/dc_k = T w_k scale + shift, with a scale and a shift for each
    // sign.
    const bool gains = slab.gained > slab.lost;
    T coupled = 0, absorbed = 0, grad_f = 0;
    for (int k = 0; k < count; ++k) {
      const T d = slab.part(hits, start, end, k), c = slab.clip(slab.u * slab.growth(start, end, k, d), d);
      if ((c > 0) == gains) coupled += transmittance * grad_weights[k] * c;
      absorbed += transmittance * grad_weights[k] * slab.absorb(c, d);
      grad_f += transmittance * grad_weights[k] * d;
    }
    const T larger = most(slab.gained, slab.lost), r = larger > 0 ? coupled / larger : T(0);
    const T shift_gain = gains ? -slab.scale_gain * r : r, shift_loss = gains ? -r : slab.scale_loss * r;

    T grad_e = 0, grad_u = 0, grown = 0;
    for (int k = 0; k < count; ++k) {
      const T d = slab.part(hits, start, end, k), g = slab.growth(start, end, k, d), wanted = slab.u * g;
      const T seen = transmittance * grad_weights[k];
      const bool below = wanted<d * low, above = wanted> d * high;
      const T grad_c =
          slab.clip(wanted, d) > 0 ? seen * slab.scale_gain + shift_gain : seen * slab.scale_loss + shift_loss;
      const T grad_wanted = below || above ? T(0) : grad_c, grad_g = slab.u * grad_wanted;
      if (below || above) grad_f -= grad_c * d;
      if (below) grad_e += grad_c * d;
      grad_u += grad_wanted * g;
      grown += grad_g * d;
      grad_parts[k] = seen * slab.f + (below ? grad_c * low : above ? grad_c * high : T(0)) + grad_g * slab.grow_depth;
      grad_shares[k] += grad_g * (first ? 2 : 1);
      grad_shares_start[k] = grad_g * (last ? -2 : -1);
    }
    const T df = slab_f_derivative(slab.depth, slab.e, slab.f);
    const T grad_depth = grad_f * df + grad_u * (df + slab.e / 2) - grad_e * slab.e - behind -
                         (slab.depth > 0 ? slab.grow_depth * grown / slab.depth : T(0));
    for (int k = 0; k < count; ++k) {
      grad_parts[k] += grad_depth;
      grad.peaks[k] += grad_parts[k] * (end.cdf[k] - start.cdf[k]);
    }
    behind += absorbed;
    if (!last) cut_adjoint(cuts, j, hits, end, grad_shares, grad_parts, grad_parts_after, grad);
    exchange(start, end);
    exchange(grad_shares, grad_shares_start);
    exchange(grad_parts, grad_parts_after);
  }
}

VOGE_NAMESPACE_END
