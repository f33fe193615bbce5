// Bins of a list of rays: every Gaussian is tried on every packet, and a block keeps those that some ray of it meets.
#pragma once
#include "cpu/packet.h"

VOGE_NAMESPACE_BEGIN

struct RayCandidate {
  float length;
  int32_t gaussian;
};
inline int by_length(const void* a, const void* b) {
  const RayCandidate &x = *static_cast<const RayCandidate*>(a), &y = *static_cast<const RayCandidate*>(b);
  if (x.length != y.length) return x.length < y.length ? -1 : 1;
  return x.gaussian < y.gaussian ? -1 : x.gaussian > y.gaussian;
}

template <class T, class Workers>
static void bin_rays(const Scene<T>& s, Bins<T>& bins, Workers& team) {
  typedef typename Simd<T>::Vec Vec;
  Scratch<RayCandidate>* found = new Scratch<RayCandidate>[bins.blocks];
  int64_t* offsets = bins.offsets.data;
  const Vec lowest = broadcast((T)log(s.threshold)), near = broadcast((T)s.near);
  const bool shared = s.origins_per_scene == 1;
  auto search = [&](int worker, int64_t block) {
    constexpr int lanes = Packet<T>::lanes, packets = block_rays / lanes;
    Packet<T>& p = team[worker].packet;
    const int64_t b = block / bins.blocks_per_scene;
    const Record<T>* records = bins.records.data + (s.geometry_batch == 1 ? 0 : b) * s.num;
    const Projected<T>* projected = bins.projected.data + b * s.num;
    Scratch<RayCandidate>& mine = found[block];
    int64_t n = 0;
    int corner[2];
    struct Rays {
      Vec3<Vec> direction, origin;
      typename Simd<T>::Mask alive;
    };
    Rays rays[packets];
    int used = 0;
    for (int i = 0; i < packets; ++i) {
      if (!packet_rays(s, bins, block, i, p, corner)) continue;
      load_rays(s, b, p);
      if (p.any) rays[used++] = {p.direction, p.origin, p.alive};
    }
    for (int64_t k = 0; used && k < s.num; ++k) {
      const Record<T>& g = records[k];
      T nearest = INFINITY;
      for (int i = 0; i < used; ++i) {
        const Rays& r = rays[i];
        const Hit<Vec> h = shared ? find_hit(g.factor, projected[k].y, r.direction)
                                  : find_hit(g.factor, transpose_times(g.factor, g.mean - r.origin), r.direction);
        const auto hit = (h.exponent >= lowest) & (h.length > near) & r.alive;
        if (bits(hit)) nearest = least(nearest, lane_min(select(hit, h.length, missing_length<T>())));
      }
      if (nearest == INFINITY) continue;
      if (n == (int64_t)mine.capacity) {  // grow and keep
        Scratch<RayCandidate> larger;
        memcpy(larger.ensure(2 * n + 64), mine.data, sizeof(RayCandidate) * n);
        RayCandidate* old = mine.data;
        mine.data = larger.data, mine.capacity = larger.capacity;
        larger.data = old, larger.capacity = 0;
      }
      mine.data[n++] = {(float)nearest, (int32_t)k};
    }
    qsort(mine.data, n, sizeof(RayCandidate), by_length);
    offsets[block + 1] = n;
  };
  try {
    parallel_for(bins.blocks, s.threads, search);
  } catch (...) {
    delete[] found;
    throw;
  }
  for (int64_t i = 0; i < bins.blocks; ++i) offsets[i + 1] += offsets[i];
  bins.pairs = offsets[bins.blocks];
  int32_t* list = bins.list.ensure(bins.pairs + 1);
  for (int64_t i = 0; i < bins.blocks; ++i)
    for (int64_t j = offsets[i]; j < offsets[i + 1]; ++j) list[j] = found[i].data[j - offsets[i]].gaussian;
  delete[] found;
}

VOGE_NAMESPACE_END
