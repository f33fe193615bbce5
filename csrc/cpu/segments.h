// Weights of a packet's hits by slabs of linearly changing shares, and their adjoint: core/segments.h, one ray a lane.
//
// Every lane has its own order of cuts: the rank of a cut in its lane says in which row of the sorted table it stands.
// A slab costs nothing for the entries that begin behind it or end in front of it in every lane. With `stops` also S_k,
// the density of k where the ray is stopped: the integral of -T' rho_k = T R rho_k, R = sum rho. In a slab where rho_k
// changes linearly with optical depth it is T D ((f + df) rho_start - df rho_end), df = f'(D).
#pragma once
#include "core/segments.h"
#include "cpu/hermite.h"

VOGE_NAMESPACE_BEGIN

// An entry in one slab: optical depth d, densities rho at the cuts, the clipped change.
template <class T>
struct SlabEntry {
  typename Simd<T>::Vec part, rho_start, rho_end, change;
  int32_t entry;
};

// A slab and the cut at its end.
template <class T>
struct SlabRow {
  typename Simd<T>::Vec transmittance, depth, e, f, u, df, du;        // at the start; D and functions of it
  typename Simd<T>::Vec thickness, grow_start, grow_end, grow_depth;  // 1 / D; g in terms of rho and d
  typename Simd<T>::Vec share_start, share_end;                       // g in terms of the shares: 0, 1 or 2
  typename Simd<T>::Vec gained, lost, scale_gain, scale_loss;
  typename Simd<T>::Vec per_rho;  // 1 / sum rho at the end cut, 0 without one
  int64_t first;                  // its entries
  int count;
  bool inner;
};

template <class T>
struct SegmentsMemory {
  typedef typename Simd<T>::Vec Vec;
  Scratch<Vec> vectors, cut_vectors;
  Scratch<T> scalars;
  Scratch<int32_t> integers;
  Scratch<SlabEntry<T>> entries;
  Scratch<SlabRow<T>> rows;
  Vec *length, *sigma, *amplitude;          // per entry: from the lane's nearest hit; A / (sigma sqrt(2 pi))
  Vec *cdf, *rho;                           // state at the cut
  Vec *grad_part_after, *grad_share_after;  // from the slab behind the cut
  Vec *grad_part, *grad_share;              // per entry of the slab
  Vec *grad_log_peak, *grad_log_rate;
  T *low, *high;
  bool* done;
  // Per cut: distance from its owner's centre in sigma, derivative to the peak, place, row of the sorted table.
  Vec *at, *slope, *place, *rank, *seen;
  Vec *sorted, *grad_sorted;
  T *first, *last, *last_before, *first_after;
  int32_t *order, *active;
  Vec end;  // where the last hit of the lane has passed
  int slabs;

  void attach(int n, int cuts) {
    const int64_t c = n + 1, k = cuts + 1;
    Vec* v = vectors.ensure(11 * c);
    length = v, sigma = v + c, amplitude = v + 2 * c, cdf = v + 3 * c, rho = v + 4 * c;
    grad_part_after = v + 5 * c, grad_share_after = v + 6 * c, grad_part = v + 7 * c, grad_share = v + 8 * c;
    grad_log_peak = v + 9 * c, grad_log_rate = v + 10 * c;
    Vec* u = cut_vectors.ensure(7 * k);
    at = u, slope = u + k, place = u + 2 * k, rank = u + 3 * k, seen = u + 4 * k, sorted = u + 5 * k;
    grad_sorted = u + 6 * k;
    T* s = scalars.ensure(2 * c + 4 * k);
    low = s, high = s + c, first = s + 2 * c, last = first + k, last_before = last + k, first_after = last_before + k;
    order = integers.ensure(k + 2 * c), active = order + k;
    done = reinterpret_cast<bool*>(active + c);
    rows.ensure(k);
  }
};

// Cuts of all hits, and in which order they stand in each lane.
template <class T>
static void sort_cuts(const Packet<T>& p, int points, SegmentsMemory<T>& m) {
  typedef typename Simd<T>::Vec Vec;
  const int n = p.n, cuts = n * points;
  constexpr int lanes = Packet<T>::lanes;
  const Vec zero = broadcast((T)0), missing = missing_length<T>();
  Vec base = missing;
  for (int k = 0; k < n; ++k) base = vmin(base, select(p.peak[k] > zero, p.length[k], missing));
  m.end = zero;
  for (int k = 0; k < n; ++k) {
    const auto hit = p.peak[k] > zero;
    m.length[k] = select(hit, p.length[k] - base, zero);
    m.sigma[k] = rcp(p.rate[k]);
    m.amplitude[k] = (T)0.39894228040143267794 * p.peak[k] * p.rate[k];
    const Vec reach = Cutoff<T>::share_sigmas * m.sigma[k];
    m.low[k] = lane_min(select(hit, m.length[k] - reach, missing));
    const Vec high = select(hit, m.length[k] + reach, -missing);
    m.high[k] = lane_max(high);
    m.end = vmax(m.end, high);
    for (int q = 0; q < points; ++q) {
      const int c = k * points + q;
      m.at[c] = lone_cut<T>(lone_cut(points, q), p.peak[k], m.slope[c]);
      const Vec t = m.length[k] + m.at[c] * m.sigma[k];
      m.place[c] = select(hit, t, missing);
      m.first[c] = lane_min(m.place[c]);
      m.last[c] = lane_max(select(hit, t, -missing));
    }
  }
  for (int c = 0; c < cuts; ++c) {  // nearly sorted
    int i = c;
    for (; i > 0 && m.first[m.order[i - 1]] > m.first[c]; --i) m.order[i] = m.order[i - 1];
    m.order[i] = c;
  }
  Vec seen = zero;
  for (int i = 0; i < cuts; ++i) {
    m.seen[i] = seen;
    seen += select(m.place[m.order[i]] < (T)1e29, broadcast((T)1), zero);
    m.sorted[i] = m.end;
  }
  m.seen[cuts] = seen;
  rank_rows<T>(
      cuts, [&](int i) { return m.first[m.order[i]]; }, [&](int i) { return m.last[m.order[i]]; }, m.seen,
      m.last_before, m.first_after, [&](int i) { return m.place[m.order[i]]; }, [](int i, int j) { return i < j; },
      [&](int j, Vec rank) {
        const int c = m.order[j];
        m.rank[c] = select(m.place[c] < (T)1e29, rank, broadcast((T)-1));
        const T *values = reinterpret_cast<const T*>(&m.place[c]), *ranks = reinterpret_cast<const T*>(&m.rank[c]);
        T* table = reinterpret_cast<T*>(m.sorted);
        for (int i = 0; i < lanes; ++i)
          if (ranks[i] >= 0) table[(int)ranks[i] * lanes + i] = values[i];
      });
}

// f(D), u(D) and their derivatives, e = exp(-D).
template <class T>
VOGE_INLINE void slab_functions(typename Simd<T>::Vec depth, typename Simd<T>::Vec thickness, SlabRow<T>& s) {
  const auto thin = depth < (T)(sizeof(T) == 4 ? 0.2 : 0.02);
  const auto& D = depth;
  s.e = vexp(-D);
  const auto f = ((T)1 - s.e) * thickness, df = (s.e - f) * thickness;
  // Series to a relative error of one rounding below the limit.
  constexpr T c2 = (T)(1. / 2), c6 = (T)(1. / 6), c24 = (T)(1. / 24), c120 = (T)(1. / 120), c720 = (T)(1. / 720),
              c5040 = (T)(1. / 5040);
  s.f = select(thin, (T)1 - D * (c2 - D * (c6 - D * (c24 - D * (c120 - D * (c720 - D * c5040))))), f);
  s.df = select(thin, -c2 + D * ((T)(1. / 3) - D * ((T)(1. / 8) - D * ((T)(1. / 30) - D * (T)(1. / 144)))), df);
  s.u = select(thin, D * D * ((T)(-1. / 12) + D * ((T)(1. / 24) - D * ((T)(1. / 80) - D * (T)(1. / 360)))),
               s.f - (T)0.5 * ((T)1 + s.e));
  s.du =
      select(thin, D * ((T)(-1. / 6) + D * ((T)(1. / 8) - D * ((T)(1. / 20) - D * (T)(1. / 72)))), s.df + (T)0.5 * s.e);
}

// Weights; with `keep` also all that the adjoint needs.
template <bool keep, bool stops, class T>
static void segments_rows(const Packet<T>& p, int points, WeightMemory<T>& w, SegmentsMemory<T>& m) {
  typedef typename Simd<T>::Vec Vec;
  typedef typename Simd<T>::Mask Mask;
  const int n = p.n, cuts = n * points;
  const Vec zero = broadcast((T)0), one = broadcast((T)1), two = broadcast((T)2), missing = missing_length<T>();
  const T tiny = (T)(sizeof(T) == 4 ? 1e-30 : 1e-200);
  m.attach(n, cuts);
  sort_cuts(p, points, m);
  for (int k = 0; k < n; ++k) m.cdf[k] = m.rho[k] = w.weight[k] = w.stop[k] = zero, m.done[k] = false;
  const Vec total_cuts = m.seen[cuts];
  Vec transmittance = one, before = zero, per_rho_start = zero;
  Mask open = total_cuts > zero, valid_start = zero > one;  // lanes with slabs to come; with a cut at the slab's start
  int begin = 0, j = 0;
  int64_t used = 0;
  for (; bits(open); ++j) {
    const Vec t = j < cuts ? m.sorted[j] : m.end;
    const Mask valid_end = total_cuts > broadcast((T)j);
    const T from = lane_min(select(open, t, missing)), to = lane_max(select(open, t, -missing));
    if (!keep) used = 0;
    m.entries.grow(used + n, used);
    SlabEntry<T>* const entries = m.entries.data + used;
    int count = 0;  // without branches: which entries take part follows no pattern
    for (int k = begin; k < n; ++k) {
      m.active[count] = k;
      count += !m.done[k] & (m.low[k] <= to);
      m.done[k] = m.high[k] < from;
    }
    Vec depth = zero, total = zero;
    for (int a = 0; a < count; ++a) {
      SlabEntry<T>& entry = entries[a];
      const int k = m.active[a];
      Vec cdf, rho;
      normal_cdf_bell((t - m.length[k]) * p.rate[k], cdf, rho);
      rho *= m.amplitude[k];
      const Vec part = p.peak[k] * vmax(cdf - m.cdf[k], zero);
      entry.part = part, entry.rho_start = m.rho[k], entry.rho_end = rho, entry.entry = k;
      m.cdf[k] = cdf, m.rho[k] = rho;
      depth += part;
      total += rho;
    }
    while (begin < n && m.done[begin]) ++begin;
    SlabRow<T>& s = m.rows.data[keep ? j : 0];
    s.transmittance = transmittance, s.depth = depth;
    s.thickness = rcp(vmax(depth, broadcast(tiny)));
    slab_functions<T>(depth, s.thickness, s);
    const Mask ends = valid_end & (total > tiny), starts = valid_start;
    s.per_rho = select(ends, rcp(vmax(total, broadcast(tiny))), zero);
    s.share_end = select(ends, select(starts, one, two), zero);
    s.share_start = select(starts, select(ends, one, two), zero);
    s.grow_end = s.share_end * s.per_rho;
    s.grow_start = s.share_start * per_rho_start;
    s.grow_depth = select(starts & ends, zero, (s.share_start - s.share_end) * s.thickness);
    const Vec low = s.e - s.f, high = one - s.f;
    const bool inner = bits(open & (s.grow_depth != zero)) == 0;  // no lane's first or last slab
    Vec gained = zero, lost = zero;
    for (int a = 0; a < count; ++a) {
      SlabEntry<T>& entry = entries[a];
      const Vec d = entry.part;
      Vec growth = s.grow_end * entry.rho_end - s.grow_start * entry.rho_start;
      if (!inner) growth += s.grow_depth * d;
      const Vec change = vmax(vmin(s.u * growth, d * high), d * low);
      entry.change = change;
      gained += vmax(change, zero);
      lost -= vmin(change, zero);
    }
    const Vec moved = vmin(gained, lost);
    s.gained = gained, s.lost = lost;
    s.scale_gain = moved * rcp(vmax(gained, broadcast(tiny)));
    s.scale_loss = moved * rcp(vmax(lost, broadcast(tiny)));
    const Vec through = transmittance * s.f, gain = transmittance * s.scale_gain, loss = transmittance * s.scale_loss;
    for (int a = 0; a < count; ++a) {
      const SlabEntry<T>& entry = entries[a];
      const Vec moved_here = entry.change * select(entry.change > zero, gain, loss);
      w.weight[entry.entry] += vmax(through * entry.part + moved_here, zero);
      if (stops) w.stop[entry.entry] += transmittance * depth * ((s.f + s.df) * entry.rho_start - s.df * entry.rho_end);
    }
    s.first = used, s.count = count, s.inner = inner;
    used += count;
    before += depth;
    transmittance = vexp(-before);  // a product of many e would gather their errors
    per_rho_start = s.per_rho;
    open = open & valid_end;
    valid_start = ends;
  }
  m.slabs = j;
}

// From grad_weight, after segments_rows<true>: grad_peak, grad_length, grad_rate.
template <bool stops, class T>
static void segments_adjoint_rows(const Packet<T>& p, int points, WeightMemory<T>& w, SegmentsMemory<T>& m) {
  typedef typename Simd<T>::Vec Vec;
  typedef typename Simd<T>::Mask Mask;
  constexpr int lanes = Packet<T>::lanes;
  const int n = p.n, cuts = n * points;
  const Vec zero = broadcast((T)0);
  const T tiny = (T)(sizeof(T) == 4 ? 1e-30 : 1e-200);
  for (int k = 0; k < n; ++k)
    w.grad_length[k] = m.grad_log_peak[k] = m.grad_log_rate[k] = m.grad_part_after[k] = m.grad_share_after[k] = zero;
  Vec behind = zero, stop_start = zero;  // what the slabs behind absorb, times gradients; dS / d rho at their start
  for (int j = m.slabs - 1; j >= 0; --j) {
    const SlabRow<T>& s = m.rows.data[j];
    const SlabEntry<T>* const entries = m.entries.data + s.first;
    const int count = s.count;
    const Vec low = s.e - s.f, high = (T)1 - s.f, through = s.transmittance * s.f;
    // Scaling the larger side couples the changes: dL/dc_k = T w_k scale + shift, one of each for either sign.
    Vec parts = zero, gains = zero, changes = zero;
    for (int a = 0; a < count; ++a) {
      const SlabEntry<T>& entry = entries[a];
      const Vec g = w.grad_weight[entry.entry], gc = g * entry.change;
      parts += g * entry.part;
      changes += gc;
      gains += (Vec)((Mask)gc & (entry.change > zero));
    }
    const Vec losses = changes - gains;
    const Mask more = s.gained > s.lost;
    const Vec r = s.transmittance * select(more, gains, losses) * rcp(vmax(vmax(s.gained, s.lost), broadcast(tiny)));
    const Vec scale_gain = s.transmittance * s.scale_gain, scale_loss = s.transmittance * s.scale_loss;
    const Vec shift_gain = select(more, -s.scale_gain * r, r), shift_loss = select(more, -r, s.scale_loss * r);
    Vec grad_f = s.transmittance * parts, grad_e = zero, grad_u = zero, grown = zero, mean = zero;
    Vec starts = zero, ends = zero;  // gradients of S times densities
    for (int a = 0; a < count; ++a) {
      const SlabEntry<T>& entry = entries[a];
      const int k = entry.entry;
      const Vec d = entry.part, g = w.grad_weight[k];
      Vec growth = s.grow_end * entry.rho_end - s.grow_start * entry.rho_start;
      if (!s.inner) growth += s.grow_depth * d;
      const Vec wanted = s.u * growth;
      const Mask below = wanted<d * low, above = wanted> d * high, gain = entry.change > zero;
      const Vec grad_change = g * select(gain, scale_gain, scale_loss) + select(gain, shift_gain, shift_loss);
      const Vec g_below = (Vec)((Mask)grad_change & below), g_above = (Vec)((Mask)grad_change & above),
                g_wanted = (Vec)((Mask)grad_change & ~(below | above)), grad_growth = s.u * g_wanted;
      grad_f -= (g_below + g_above) * d;
      grad_e += g_below * d;
      grad_u += g_wanted * growth;
      Vec grad_part = g * through + g_below * low + g_above * high;
      if (!s.inner) grown += grad_growth * d, grad_part += grad_growth * s.grow_depth;
      const Vec grad_share = m.grad_share_after[k] + s.share_end * grad_growth;
      m.grad_share_after[k] = -s.share_start * grad_growth;
      mean += grad_share * entry.rho_end;
      m.grad_share[a] = grad_share, m.grad_part[a] = grad_part;
      if (stops) starts += w.grad_stop[k] * entry.rho_start, ends += w.grad_stop[k] * entry.rho_end;
    }
    Vec grad_depth = grad_f * s.df + grad_u * s.du - grad_e * s.e - behind - s.grow_depth * s.thickness * grown;
    behind += through * parts + scale_gain * gains + scale_loss * losses;
    Vec per_stop = zero;  // dS / d rho at the end, this slab's and the next one's
    if constexpr (stops) {
      const Vec to_start = s.transmittance * s.depth * (s.f + s.df), to_end = -s.transmittance * s.depth * s.df;
      grad_depth += s.transmittance * (ends * (s.df + s.e) - starts * s.df);
      behind += starts * to_start + ends * to_end;
      per_stop = to_end + stop_start, stop_start = to_start;
    }
    if (j == cuts) {
      for (int a = 0; a < count; ++a) {
        const int k = entries[a].entry;
        m.grad_part_after[k] = m.grad_part[a] + grad_depth;
        m.grad_log_peak[k] += m.grad_part_after[k] * entries[a].part;
      }
      continue;
    }
    mean *= s.per_rho;
    const Vec t = m.sorted[j];
    const Mask cut = s.per_rho > zero;
    Vec grad_t = zero;
    for (int a = 0; a < count; ++a) {
      const SlabEntry<T>& entry = entries[a];
      const int k = entry.entry;
      const Vec grad_part = m.grad_part[a] + grad_depth, rho = (Vec)((Mask)entry.rho_end & cut);
      const Vec apart = t - m.length[k], rate = p.rate[k];
      Vec grad_log_rho = (m.grad_share[a] - mean) * s.per_rho * rho;
      if (stops) grad_log_rho += w.grad_stop[k] * per_stop * rho;
      const Vec grad_place = (grad_part - m.grad_part_after[k]) * rho - grad_log_rho * apart * rate * rate;
      m.grad_part_after[k] = grad_part;
      grad_t += grad_place;
      w.grad_length[k] -= grad_place;
      m.grad_log_rate[k] += grad_place * apart + grad_log_rho;
      m.grad_log_peak[k] += grad_part * entry.part + grad_log_rho;
    }
    m.grad_sorted[j] = grad_t;
  }
  for (int k = 0; k < n; ++k) {
    const Vec sigma = m.sigma[k];
    w.grad_peak[k] = m.grad_log_peak[k] * rcp(vmax(p.peak[k], broadcast(tiny)));
    w.grad_rate[k] = m.grad_log_rate[k] * sigma;
    for (int q = 0; q < points; ++q) {  // the cut's place moves with its owner
      const int c = k * points + q;
      Vec grad_t = zero;
      const T *ranks = reinterpret_cast<const T*>(&m.rank[c]), *table = reinterpret_cast<const T*>(m.grad_sorted);
      for (int i = 0; i < lanes; ++i)
        if (ranks[i] >= 0) grad_t[i] = table[(int)ranks[i] * lanes + i];
      w.grad_length[k] += grad_t;
      w.grad_rate[k] -= grad_t * m.at[c] * sigma * sigma;
      w.grad_peak[k] += grad_t * m.slope[c] * sigma;
    }
  }
}

VOGE_NAMESPACE_END
