// The fragments route, first half: which Gaussians each ray meets, sorted by length. Everything differentiable follows
// from these indices (fragments.h).
#pragma once
#include "cpu/render.h"

VOGE_NAMESPACE_BEGIN

template <class T>
static void trace_block(const Scene<T>& s, const TraceOut<T>& out, const Bins<T>& bins, int64_t block, Worker<T>& w) {
  constexpr int lanes = Packet<T>::lanes;
  const int64_t b = block / bins.blocks_per_scene, begin = bins.offsets.data[block],
                m = bins.offsets.data[block + 1] - begin;
  const int32_t* list = bins.list.data + begin;
  Packet<T>& p = w.packet;
  w.attach(m);
  w.gaussians.load(s, bins, b, list, m);
  for (int i = 0; i < block_rays / lanes; ++i) {
    if (!packet_rays(s, bins, block, i, p, w.gaussians.corner)) continue;
    load_rays(s, b, p);
    p.n = 0;
    if (p.any && m > 0) gather(s, bins, list, m, w.gaussians, p);
    for (int j = 0; j < lanes; ++j) {
      if (p.ray[j] < 0) continue;
      const int64_t ray = b * s.rays + p.ray[j];
      int64_t n = 0;
      if (out.counts) {
        for (int k = 0; k < p.n; ++k) n += p.peak[k][j] > 0;
        out.counts[ray] = n;
        continue;
      }
      int64_t* index = out.indices + (out.offsets ? out.offsets[ray] : ray * s.max_hits);
      const int64_t room = out.offsets ? out.offsets[ray + 1] - out.offsets[ray] : s.max_hits;
      T* sorted = w.by_channel.ensure(p.n + 1);
      for (int k = 0; k < p.n; ++k) {  // nearly sorted already
        if (!(p.peak[k][j] > 0)) continue;
        const T l = p.length[k][j];
        const int64_t id = list[p.entry[k]];
        int64_t at = n++;
        for (; at > 0 && (sorted[at - 1] > l || (sorted[at - 1] == l && index[at - 1] > id)); --at)
          sorted[at] = sorted[at - 1], index[at] = index[at - 1];
        sorted[at] = l, index[at] = id;
      }
      for (; n < room; ++n) index[n] = -1;
    }
  }
}

template <class T>
static void trace(const Scene<T>& s, const TraceOut<T>& out) {
  Team<Worker<T>> team(s.threads, s);
  Bins<T> bins;
  prepare(s, bins, team[0].counters);
  if (!s.projection) bin_rays(s, bins, team);
  auto body = [&](int worker, int64_t block) { trace_block(s, out, bins, block, team[worker]); };
  parallel_for(bins.blocks, s.threads, body);
}

VOGE_NAMESPACE_END
