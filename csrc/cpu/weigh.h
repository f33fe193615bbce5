// Weights of hits that lie in slots (the fragments route), and their adjoint: one ray a lane, its hits in the rows.
#pragma once
#include "cpu/clock.h"
#include "cpu/weights.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct SlotWorker {
  Packet<T> packet;
  PacketMemory<T> packet_memory;
  Weigher<T> weigher;
  Counters counters{};

  explicit SlotWorker(const SlotWeights<T>& s) : weigher(s.segments, false, s.points) {}
};

template <class T>
static void weigh_packet(const SlotWeights<T>& s, int64_t first_ray, SlotWorker<T>& w) {
  constexpr int lanes = Packet<T>::lanes;
  Packet<T>& p = w.packet;
  int64_t begin[lanes], count[lanes], rows = 0;
  for (int i = 0; i < lanes; ++i) {
    const int64_t ray = first_ray + i;
    begin[i] = ray >= s.rays ? 0 : s.offsets ? s.offsets[ray] : ray * s.most;
    count[i] = ray >= s.rays ? 0 : s.offsets ? s.offsets[ray + 1] - begin[i] : s.most;
    rows = most(rows, count[i]);
  }
  w.packet_memory.attach(p, rows);
  w.weigher.memory.attach(rows);
  p.n = (int)rows;
  T* const in_lanes[] = {reinterpret_cast<T*>(p.length), reinterpret_cast<T*>(p.peak), reinterpret_cast<T*>(p.rate)};
  for (int64_t j = 0; j < rows; ++j) {
    T widest = 0;
    for (int i = 0; i < lanes; ++i) {
      const bool hit = j < count[i] && s.peaks[begin[i] + j] > 0;
      const int64_t at = begin[i] + (hit ? j : 0), to = j * lanes + i;
      in_lanes[0][to] = hit ? s.lengths[at] : (T)0, in_lanes[1][to] = hit ? s.peaks[at] : (T)0;
      in_lanes[2][to] = hit ? 1 / s.widths[at] : (T)1;
      if (hit) widest = most(widest, s.widths[at]);
    }
    p.high[j] = widest * Cutoff<T>::sigmas;
  }
  while (p.n > 0 && !bits(p.peak[p.n - 1] > (T)0)) --p.n;
  bound_rows(p);
  WeightMemory<T>& v = w.weigher.memory;
  auto each = [&](auto&& visit) {
    for (int i = 0; i < lanes; ++i)
      for (int64_t j = 0; j < count[i]; ++j)
        visit(begin[i] + j, j * lanes + i, j < p.n && in_lanes[1][j * lanes + i] > 0);
  };
  auto lane = [](const typename Simd<T>::Vec* x, int64_t i) { return reinterpret_cast<const T*>(x)[i]; };
  if (s.weights) {
    w.weigher.forward(p);
    each([&](int64_t slot, int64_t i, bool hit) { s.weights[slot] = hit ? lane(v.weight, i) : (T)0; });
    return;
  }
  for (int k = 0; k < p.n; ++k) v.grad_weight[k] = broadcast((T)0);
  each([&](int64_t slot, int64_t i, bool hit) {
    if (hit) reinterpret_cast<T*>(v.grad_weight)[i] = s.grad_weights[slot];
  });
  w.weigher.prepare(p, false);
  w.weigher.backward(p);
  each([&](int64_t slot, int64_t i, bool hit) {
    s.grad_lengths[slot] = hit ? lane(v.grad_length, i) : (T)0;
    s.grad_peaks[slot] = hit ? lane(v.grad_peak, i) : (T)0;
    s.grad_widths[slot] = hit ? -lane(v.grad_rate, i) * in_lanes[2][i] * in_lanes[2][i] : (T)0;
  });
}

template <class T>
static void weigh(const SlotWeights<T>& s) {
  constexpr int64_t piece = 256;
  Team<SlotWorker<T>> team(s.threads, s);
  auto body = [&](int worker, int64_t c) {
    for (int64_t ray = c * piece; ray < least(s.rays, (c + 1) * piece); ray += Packet<T>::lanes)
      weigh_packet(s, ray, team[worker]);
  };
  parallel_for((s.rays + piece - 1) / piece, s.threads, body);
}

VOGE_NAMESPACE_END
