// Where few lanes of a packet hit each entry (small Gaussians, rays that diverge), the hits of every lane are moved up:
// row j holds the j-th hit of every lane, whichever Gaussian that is. Weights depend on lengths, peaks and rates alone.
#pragma once
#include "cpu/hermite.h"

VOGE_NAMESPACE_BEGIN

// Completes the intervals of rows whose lanes hold different Gaussians: peak, length and rate are there, and in `high`
// the reach of the widest.
template <class T>
static void bound_rows(Packet<T>& p) {
  T run = -INFINITY;
  for (int j = 0; j < p.n; ++j) {
    const auto hit = p.peak[j] > (T)0;
    const T reach = p.high[j];
    p.first[j] = lane_min(select(hit, p.length[j], missing_length<T>()));
    p.last[j] = lane_max(select(hit, p.length[j], -missing_length<T>()));
    p.length[j] = select(hit, p.length[j], broadcast(p.first[j]));
    p.low[j] = p.first[j] - reach, p.high[j] = p.last[j] + reach;
    p.high_before[j] = run = most(run, p.high[j]);
  }
  run = INFINITY;
  for (int j = p.n - 1; j >= 0; --j) p.low_after[j] = run = least(run, p.low[j]);
}

template <class T>
struct Regrouped {
  typedef typename Simd<T>::Vec Vec;
  static constexpr int lanes = Packet<T>::lanes;
  Packet<T> packet;
  PacketMemory<T> memory;
  WeightMemory<T> weights;
  bool used = false;

  // Calls body(entry, row, lane) for every hit.
  template <class F>
  inline __attribute__((always_inline)) void each(const Packet<T>& p, F&& body) const {
    int rows[lanes] = {0};
    for (int k = 0; k < p.n; ++k)
      for (unsigned hit = bits(p.peak[k] > (T)0); hit; hit &= hit - 1) {
        const int lane = __builtin_ctz(hit);
        body(k, rows[lane]++, lane);
      }
  }

  // Whether it was worth it.
  bool regroup(const Packet<T>& p) {
    Vec count = broadcast((T)0);
    for (int k = 0; k < p.n; ++k) count += select(p.peak[k] > (T)0, broadcast((T)1), broadcast((T)0));
    const int rows = (int)lane_max(count);
    used = p.n > 4 && 3 * rows <= 2 * p.n;
    if (!used) return false;
    memory.attach(packet, rows), weights.attach(rows);
    packet.n = rows;
    for (int j = 0; j < rows; ++j)
      packet.peak[j] = broadcast((T)0), packet.rate[j] = broadcast((T)1), packet.length[j] = missing_length<T>(),
      packet.high[j] = 0;
    each(p, [&](int k, int j, int lane) __attribute__((always_inline)) {
      reinterpret_cast<T*>(packet.length + j)[lane] = reinterpret_cast<const T*>(p.length + k)[lane];
      reinterpret_cast<T*>(packet.peak + j)[lane] = reinterpret_cast<const T*>(p.peak + k)[lane];
      reinterpret_cast<T*>(packet.rate + j)[lane] = reinterpret_cast<const T*>(p.rate + k)[lane];
      packet.high[j] = most(packet.high[j], p.high[k] - p.last[k]);
    });
    bound_rows(packet);
    return true;
  }

  // Copies arrays of entries to arrays of rows, and back; 0 where there is no hit.
  template <int N>
  void move_up(const Packet<T>& p, const Vec* const (&entries)[N], Vec* const (&to)[N]) const {
    for (Vec* rows : to)
      for (int j = 0; j < packet.n; ++j) rows[j] = broadcast((T)0);
    each(p, [&](int k, int j, int lane) __attribute__((always_inline)) {
      for (int a = 0; a < N; ++a)
        reinterpret_cast<T*>(to[a] + j)[lane] = reinterpret_cast<const T*>(entries[a] + k)[lane];
    });
  }
  template <int N>
  void move_back(const Packet<T>& p, const Vec* const (&rows)[N], Vec* const (&to)[N]) const {
    for (Vec* entries : to)
      for (int k = 0; k < p.n; ++k) entries[k] = broadcast((T)0);
    each(p, [&](int k, int j, int lane) __attribute__((always_inline)) {
      for (int a = 0; a < N; ++a) reinterpret_cast<T*>(to[a] + k)[lane] = reinterpret_cast<const T*>(rows[a] + j)[lane];
    });
  }
};

VOGE_NAMESPACE_END
