// Weights of one ray's hits by slabs of linearly changing shares, and their adjoint: core/segments.h, a hit a lane.
//
// The slabs are taken one after another, from the front and, by the adjoint, from behind; sums over the hits are sums
// over the warp. A slab costs nothing for hits that begin behind it or end in front of it. With `stops` also S_k, the
// density of k where the ray is stopped: the integral of -T' rho_k = T R rho_k, R = sum rho. In a slab where rho_k
// changes linearly with optical depth it is T D ((f + df) rho_start - df rho_end), df = f'(D).
#pragma once
#include "core/segments.h"
#include "cuda/hermite.h"

VOGE_NAMESPACE_BEGIN

// Densities and depths below this are taken as this before they divide.
template <class T>
__device__ T tiny() {
  return T(sizeof(T) == 4 ? 1e-30 : 1e-200);
}

// Which slab: its start and its end, counted from the nearest hit.
template <class T>
struct SlabPlace {
  bool first, last;
  T from, to;
};

// f(D), u(D) and their derivatives, e = exp(-D).
template <class T>
struct SlabFunctions {
  T e, f, u, df, du;
};
template <class T>
__device__ SlabFunctions<T> slab_functions(T D, T thickness) {
  const T e = vexp(-D);
  if (D < T(sizeof(T) == 4 ? 0.2 : 0.02)) {  // series, to a relative error of one rounding
    constexpr T c2 = T(1. / 2), c3 = T(1. / 3), c6 = T(1. / 6), c8 = T(1. / 8), c12 = T(1. / 12), c20 = T(1. / 20),
                c24 = T(1. / 24), c30 = T(1. / 30), c72 = T(1. / 72), c80 = T(1. / 80), c120 = T(1. / 120),
                c144 = T(1. / 144), c360 = T(1. / 360), c720 = T(1. / 720), c5040 = T(1. / 5040);
    return {e, 1 - D * (c2 - D * (c6 - D * (c24 - D * (c120 - D * (c720 - D * c5040))))),
            D * D * (-c12 + D * (c24 - D * (c80 - D * c360))), -c2 + D * (c3 - D * (c8 - D * (c30 - D * c144))),
            D * (-c6 + D * (c8 - D * (c20 - D * c72)))};
  }
  const T f = (1 - e) * thickness, df = (e - f) * thickness;
  return {e, f, f - (1 + e) / 2, df, df + e / 2};
}

// A slab; g_k = grow_end rho_k(end) - grow_start rho_k(start) + grow_depth d_k, where the grow_ are 0, 1 or 2 times
// 1 / R at the cut.
template <class T>
struct RaySlab {
  T depth, thickness;  // D, 1 / D
  SlabFunctions<T> at;
  T share_start, share_end, grow_start, grow_end, grow_depth;
  T gained, lost, scale_gain, scale_loss;

  __device__ T growth(const RayHits<T>& h, int k) const {
    return grow_end * h.rho[k] - grow_start * h.rho_start[k] + grow_depth * h.part[k];
  }
  __device__ T low() const { return at.e - at.f; }
  __device__ T high() const { return 1 - at.f; }
  __device__ T clip(T change, T part) const { return most(least(change, part * high()), part * low()); }
  __device__ T change(const RayHits<T>& h, int k) const { return clip(at.u * growth(h, k), h.part[k]); }
};

// Calls visit(k) for the entries [begin, end), each in the lane that owns it.
template <class Visit>
__device__ void each_hit(int begin, int end, Visit visit) {
  for (int k = begin / warp_size * warp_size + lane_index(); k < end; k += warp_size)
    if (k >= begin) visit(k);
}

// Phi and the density of hit k at a place.
template <class T>
struct HitAt {
  T cdf, rho;
};
template <class T>
__device__ HitAt<T> hit_at(const RayHits<T>& h, int k, T place) {
  const T z = (place - (h.length[k] - h.length[0])) * h.rate[k];
  return {normal_cdf(z), h.peak[k] * h.rate[k] * normal_pdf(z)};
}

// From the sums over the hits: D and, at the cuts, R.
template <class T>
__device__ RaySlab<T> make_slab(const SlabPlace<T>& place, T depth, T density_start, T density_end) {
  RaySlab<T> s;
  s.depth = depth, s.thickness = rcp(most(depth, tiny<T>()));
  s.at = slab_functions(depth, s.thickness);
  const bool starts = !place.first && density_start > tiny<T>(), ends = !place.last && density_end > tiny<T>();
  s.share_end = ends ? T(starts ? 1 : 2) : T(0), s.share_start = starts ? T(ends ? 1 : 2) : T(0);
  s.grow_end = s.share_end / most(density_end, tiny<T>());
  s.grow_start = s.share_start / most(density_start, tiny<T>());
  s.grow_depth = starts && ends ? T(0) : (s.share_start - s.share_end) * s.thickness;
  return s;
}

template <class T>
__device__ void scale_changes(RaySlab<T>& s, T gained, T lost) {
  const T moved = least(gained, lost);
  s.gained = gained, s.lost = lost;
  s.scale_gain = moved * rcp(most(gained, tiny<T>())), s.scale_loss = moved * rcp(most(lost, tiny<T>()));
}

// Places of the cuts in order. Cut i of hit k has the number k * points + i.
template <class T>
__device__ void sort_cuts(const RayHits<T>& h, int points) {
  for (int k = lane_index(); k < h.n; k += warp_size)
    for (int i = 0; i < points; ++i) {
      const int number = k * points + i;
      T slope;
      h.places[number] = (h.length[k] - h.length[0]) + lone_cut<T>(lone_cut(points, i), h.peak[k], slope) / h.rate[k];
      h.cuts[number] = number;
    }
  __syncwarp();
  sort_pairs(points * h.n, h.places, h.cuts, [](int32_t i, int32_t j) { return i < j; });
}

template <class T>
__device__ SlabPlace<T> slab_place(const RayHits<T>& h, int j, int cuts) {
  return {j == 0, j == cuts, j == 0 ? -infinity<T>() : h.places[j - 1], j == cuts ? infinity<T>() : h.places[j]};
}

// `keep`: also depths, for the adjoint.
template <bool keep, bool stops, class T>
__device__ void segments_weights(const RayHits<T>& h, int points) {
  if (h.n == 0) return;
  bound_hits(h, Cutoff<T>::share_sigmas, h.length[0]);
  sort_cuts(h, points);
  each_hit(0, h.n, [&](int k) {
    h.cdf[k] = h.rho[k] = h.weight[k] = 0;
    if (stops) h.stop[k] = 0;
  });
  const int cuts = points * h.n;
  int begin = 0, end = 0;
  T before = 0, transmittance = 1, density_start = 0;
  for (int j = 0; j <= cuts; ++j) {
    const SlabPlace<T> place = slab_place(h, j, cuts);
    while (begin < h.n && h.high_before[begin] < place.from) ++begin;
    while (end < h.n && h.low_after[end] <= place.to) ++end;
    T depth = 0, density = 0;
    each_hit(begin, end, [&](int k) {
      const HitAt<T> now = place.last ? HitAt<T>{1, 0} : hit_at(h, k, place.to);
      h.part[k] = h.peak[k] * most(now.cdf - h.cdf[k], T(0));
      h.rho_start[k] = h.rho[k], h.cdf[k] = now.cdf, h.rho[k] = now.rho;
      depth += h.part[k], density += now.rho;
    });
    depth = warp_sum(depth), density = warp_sum(density);
    RaySlab<T> s = make_slab(place, depth, density_start, density);
    T gained = 0, lost = 0;
    each_hit(begin, end, [&](int k) {
      const T change = s.change(h, k);
      (change > 0 ? gained : lost) += change > 0 ? change : -change;
    });
    scale_changes(s, warp_sum(gained), warp_sum(lost));
    each_hit(begin, end, [&](int k) {
      const T change = s.change(h, k), moved = change * (change > 0 ? s.scale_gain : s.scale_loss);
      h.weight[k] += transmittance * most(s.at.f * h.part[k] + moved, T(0));
      if (stops) h.stop[k] += transmittance * depth * ((s.at.f + s.at.df) * h.rho_start[k] - s.at.df * h.rho[k]);
    });
    before += depth;
    transmittance = vexp(-before);  // a product of many e would gather their errors
    density_start = density;
    if (keep && !place.last && lane_index() == 0) h.depths[j] = before;
  }
  __syncwarp();
}

// Gradients that the hits of a slab share. Scaling the larger side couples the changes: dL/dc_k = w_k scale + shift,
// one of each for either sign.
template <class T>
struct SlabGradient {
  T transmittance, scale_gain, scale_loss, shift_gain, shift_loss;
  T mean, depth, stop;  // of the shares at the end; of D; dS / d rho at the end, this slab's and the next one's
};

// Carries the gradients at the cut behind the slab to the hits; returns what moving the cut does.
template <bool stops, class T>
__device__ T cut_adjoint(const RayHits<T>& h, int k, T place, T per_density, const SlabGradient<T>& g) {
  const T apart = place - (h.length[k] - h.length[0]), rate = h.rate[k], rho = per_density > 0 ? h.rho[k] : T(0);
  const T grad_part = h.grad_part[k] + g.depth;
  T grad_log_rho = (h.grad_share[k] - g.mean) * per_density * rho;
  if (stops) grad_log_rho += h.grad_stop[k] * g.stop * rho;
  const T grad_place = (grad_part - h.part_after[k]) * rho - grad_log_rho * apart * rate * rate;
  h.part_after[k] = grad_part;
  h.grad_length[k] -= grad_place;
  h.grad_rate[k] += grad_place * apart + grad_log_rho;
  h.grad_peak[k] += grad_part * h.part[k] + grad_log_rho;
  return grad_place;
}

// The cut at the end of slab j moves with its owner.
template <class T>
__device__ void owner_adjoint(const RayHits<T>& h, int points, int j, T grad_place) {
  const int owner = h.cuts[j] / points;
  if (owner % warp_size != lane_index()) return;
  const T sigma = rcp(h.rate[owner]), peak = h.peak[owner];
  T slope;
  const T at = lone_cut<T>(lone_cut(points, h.cuts[j] % points), peak, slope);
  h.grad_length[owner] += grad_place;
  h.grad_rate[owner] -= grad_place * at * sigma;
  h.grad_peak[owner] += grad_place * slope * sigma * peak;
}

// From grad_weight, after segments_weights<true>: grad_peak, grad_length, grad_rate; until the end those of the peak
// and the rate are those of their logarithms.
template <bool stops, class T>
__device__ void segments_adjoint_slabs(const RayHits<T>& h, int points) {
  each_hit(0, h.n, [&](int k) {
    h.grad_peak[k] = h.grad_length[k] = h.grad_rate[k] = h.part_after[k] = h.share_after[k] = h.rho[k] = 0;
    h.cdf[k] = 1;
  });
  const int cuts = points * h.n;
  int begin = h.n, end = h.n;
  T behind = 0, stop_start = 0, density = 0;  // what the slabs behind absorb, times gradients; of the next slab
  for (int j = cuts; j >= 0; --j) {
    const SlabPlace<T> place = slab_place(h, j, cuts);
    while (begin > 0 && h.high_before[begin - 1] >= place.from) --begin;
    while (end > 0 && h.low_after[end - 1] > place.to) --end;
    T depth = 0, density_start = 0;
    each_hit(begin, end, [&](int k) {
      const HitAt<T> start = place.first ? HitAt<T>{0, 0} : hit_at(h, k, place.from);
      h.part[k] = h.peak[k] * most(h.cdf[k] - start.cdf, T(0));
      h.cdf[k] = start.cdf, h.rho_start[k] = start.rho;
      depth += h.part[k], density_start += start.rho;
    });
    depth = warp_sum(depth), density_start = warp_sum(density_start);
    RaySlab<T> s = make_slab(place, depth, density_start, density);
    T gained = 0, lost = 0, parts = 0, gains = 0, losses = 0, starts = 0, ends = 0;
    each_hit(begin, end, [&](int k) {
      const T change = s.change(h, k), grad = h.grad_weight[k];
      (change > 0 ? gained : lost) += change > 0 ? change : -change;
      (change > 0 ? gains : losses) += grad * change;
      parts += grad * h.part[k];
      if (stops) starts += h.grad_stop[k] * h.rho_start[k], ends += h.grad_stop[k] * h.rho[k];
    });
    scale_changes(s, warp_sum(gained), warp_sum(lost));
    parts = warp_sum(parts), gains = warp_sum(gains), losses = warp_sum(losses);
    const bool more = s.gained > s.lost;
    SlabGradient<T> g;
    g.transmittance = place.first ? T(1) : vexp(-h.depths[j - 1]);
    const T r = g.transmittance * (more ? gains : losses) * rcp(most(most(s.gained, s.lost), tiny<T>()));
    g.scale_gain = g.transmittance * s.scale_gain, g.scale_loss = g.transmittance * s.scale_loss;
    g.shift_gain = more ? -s.scale_gain * r : r, g.shift_loss = more ? -r : s.scale_loss * r;
    const T through = g.transmittance * s.at.f;
    T grad_f = 0, grad_e = 0, grad_u = 0, grown = 0, mean = 0;
    each_hit(begin, end, [&](int k) {
      const T part = h.part[k], grad = h.grad_weight[k], growth = s.growth(h, k), wanted = s.at.u * growth;
      const bool below = wanted<part * s.low(), above = wanted> part * s.high(), gain = s.clip(wanted, part) > 0;
      const T grad_change = grad * (gain ? g.scale_gain : g.scale_loss) + (gain ? g.shift_gain : g.shift_loss);
      const T grad_wanted = below || above ? T(0) : grad_change, grad_growth = s.at.u * grad_wanted;
      if (below || above) grad_f -= grad_change * part;
      if (below) grad_e += grad_change * part;
      grad_u += grad_wanted * growth;
      grown += grad_growth * part;
      h.grad_part[k] = grad * through + grad_growth * s.grow_depth +
                       (below   ? grad_change * s.low()
                        : above ? grad_change * s.high()
                                : T(0));
      h.grad_share[k] = h.share_after[k] + s.share_end * grad_growth;
      h.share_after[k] = -s.share_start * grad_growth;
      mean += h.grad_share[k] * h.rho[k];
    });
    grad_f = g.transmittance * parts + warp_sum(grad_f), grad_e = warp_sum(grad_e), grad_u = warp_sum(grad_u);
    grown = warp_sum(grown), mean = warp_sum(mean);
    g.depth = grad_f * s.at.df + grad_u * s.at.du - grad_e * s.at.e - behind - s.grow_depth * s.thickness * grown;
    g.stop = stop_start;
    behind += through * parts + g.scale_gain * gains + g.scale_loss * losses;
    if (stops) {
      starts = warp_sum(starts), ends = warp_sum(ends);
      const T to_end = -g.transmittance * depth * s.at.df;
      stop_start = g.transmittance * depth * s.at.f - to_end;
      g.depth += g.transmittance * (ends * (s.at.df + s.at.e) - starts * s.at.df);
      behind += starts * stop_start + ends * to_end;
      g.stop += to_end;
    }
    if (place.last) {
      each_hit(begin, end, [&](int k) {
        h.part_after[k] = h.grad_part[k] + g.depth;
        h.grad_peak[k] += h.part_after[k] * h.part[k];
      });
    } else {
      const T per_density = density > tiny<T>() ? 1 / density : T(0);
      g.mean = mean * per_density;
      T grad_place = 0;
      each_hit(begin, end, [&](int k) { grad_place += cut_adjoint<stops>(h, k, place.to, per_density, g); });
      owner_adjoint(h, points, j, warp_sum(grad_place));
    }
    each_hit(begin, end, [&](int k) { h.rho[k] = h.rho_start[k]; });
    density = density_start;
  }
  each_hit(0, h.n, [&](int k) {
    h.grad_peak[k] *= rcp(most(h.peak[k], tiny<T>()));
    h.grad_rate[k] *= rcp(h.rate[k]);
  });
  __syncwarp();
}

template <bool stops, class T>
__device__ void segments_weights_adjoint(const RayHits<T>& h, int points) {
  segments_weights<true, stops>(h, points);
  segments_adjoint_slabs<stops>(h, points);
}

VOGE_NAMESPACE_END
