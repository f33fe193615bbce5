// The fragments route behind the search for hits (trace.h), over lists of hits of every ray; weights are in weigh.h.
//
// Hits lie in slots, ray after ray: dense, `most` slots a ray, or ragged, slots offsets[r] .. offsets[r + 1] of ray r.
// A slot's index is the Gaussian within the ray's own scene; -1 is an empty slot. Sums over rays run in the order of
// the slots, whatever the number of threads: results are bit-identical.
#pragma once
#include <cstdint>
#include <vector>

#include "core/hit.h"
#include "cpu/args.h"
#include "cpu/pool.h"

VOGE_NAMESPACE_BEGIN

struct Slots {
  int64_t rays, most;      // rays of all scenes
  const int64_t* offsets;  // (rays + 1), or null: dense
  const int64_t* indices;  // or null where they do not matter
  int threads;

  int64_t begin(int64_t ray) const { return offsets ? offsets[ray] : ray * most; }
  int64_t end(int64_t ray) const { return offsets ? offsets[ray + 1] : (ray + 1) * most; }
};

// Calls body(worker, first, last) for pieces of [0, count).
template <class F>
void parallel_pieces(int64_t count, int64_t piece, int threads, F body) {
  auto task = [&](int worker, int64_t i) { body(worker, i * piece, least(count, (i + 1) * piece)); };
  parallel_for((count + piece - 1) / piece, threads, task);
}

constexpr int64_t ray_piece = 256, gaussian_piece = 64;

// The slots of every Gaussian, in order: of row item * num + index, where the rays are split evenly between the items.
struct SlotsByGaussian {
  std::vector<int64_t> offsets, slots, rays;

  SlotsByGaussian(const Slots& s, int64_t items, int64_t num) : offsets(items * num + 1, 0) {
    const int64_t per_item = items ? s.rays / items : 0, total = s.rays ? s.end(s.rays - 1) : 0;
    for (int64_t i = 0; i < total; ++i)
      if (s.indices[i] >= num || s.indices[i] < -1) throw BadValue{"indices", -1, i, "is not the index of a Gaussian"};
    // Counted and filled by bands of rays: where a band writes follows from what the bands before it count.
    const int64_t bands = s.threads > 1 && total > 4 * items * num ? s.threads : 1;
    std::vector<std::vector<int64_t>> cursors(bands);
    auto each = [&](int64_t band, auto&& visit) {
      for (int64_t ray = s.rays * band / bands; ray < s.rays * (band + 1) / bands; ++ray)
        for (int64_t i = s.begin(ray); i < s.end(ray); ++i)
          if (s.indices[i] >= 0) visit(ray / per_item * num + s.indices[i], i, ray);
    };
    auto count = [&](int, int64_t band) {
      cursors[band].assign(items * num, 0);
      each(band, [&](int64_t row, int64_t, int64_t) { ++cursors[band][row]; });
    };
    parallel_for(bands, s.threads, count);
    int64_t sum = 0;
    for (int64_t row = 0; row < items * num; ++row) {
      offsets[row] = sum;
      for (auto& cursor : cursors) {
        const int64_t n = cursor[row];
        cursor[row] = sum, sum += n;
      }
    }
    offsets[items * num] = sum;
    slots.resize(sum), rays.resize(sum);
    auto fill = [&](int, int64_t band) {
      each(band, [&](int64_t row, int64_t i, int64_t ray) {
        const int64_t at = cursors[band][row]++;
        slots[at] = i, rays[at] = ray;
      });
    };
    parallel_for(bands, s.threads, fill);
  }
};

// ---- hits: length, peak and width of every slot

template <class T>
struct FragmentScene {
  int64_t num, rays_per_scene;
  int64_t geometry_batch;  // 1: shared by all scenes
  const T* means;          // (geometry_batch, num, 3)
  const T* precisions;     // (geometry_batch, num, 3, 3)
  const T* density;        // (geometry_batch, num), absorptivity included
  int64_t ray_batch, origins_per_scene;
  const T* origins;     // (ray_batch, 1 or rays_per_scene, 3)
  const T* directions;  // (ray_batch, rays_per_scene, 3)
  bool world;

  Vec3<T> direction(int64_t ray) const { return load(directions, ray_batch == 1 ? ray % rays_per_scene : ray); }
  Vec3<T> origin(int64_t ray) const {
    const int64_t own = ray_batch == 1 ? ray % rays_per_scene : ray;
    return load(origins, origins_per_scene == 1 ? own / rays_per_scene : own);
  }
  static Vec3<T> load(const T* x, int64_t i) { return {x[3 * i], x[3 * i + 1], x[3 * i + 2]}; }
};

template <class T>
struct Ellipsoid {
  Vec3<T> mean;
  Sym3<T> precision;
  Lower3<T> factor;
  T density;
};

template <class T>
std::vector<Ellipsoid<T>> ellipsoids(const FragmentScene<T>& s, int threads) {
  std::vector<Ellipsoid<T>> all(s.geometry_batch * s.num);
  parallel_pieces(s.geometry_batch * s.num, gaussian_piece, threads, [&](int, int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      const T* p = s.precisions + 9 * k;
      Ellipsoid<T>& e = all[k];
      e.mean = s.load(s.means, k);
      e.precision = {p[0], (p[1] + p[3]) / 2, (p[2] + p[6]) / 2, p[4], (p[5] + p[7]) / 2, p[8]};
      e.density = s.density[k];
      const Sym3<T>& m = e.precision;
      Lower3<double> l;  // in double: the pivots of a flat Gaussian are differences
      if (!cholesky(Sym3<double>{m.xx, m.xy, m.xz, m.yy, m.yz, m.zz}, l))
        throw BadValue{"precisions", k / s.num, k % s.num, "is not positive definite"};
      e.factor = {T(l.xx), T(l.yx), T(l.zx), T(l.yy), T(l.zy), T(l.zz)};
    }
  });
  return all;
}

template <class T>
struct HitArrays {
  T *lengths, *peaks, *widths;
};
template <class T>
struct ConstHitArrays {
  const T *lengths, *peaks, *widths;
};

template <class T>
void fragment_hits(const Slots& slots, const FragmentScene<T>& s, const HitArrays<T>& out) {
  const auto all = ellipsoids(s, slots.threads);
  parallel_pieces(slots.rays, ray_piece, slots.threads, [&](int, int64_t first, int64_t last) {
    for (int64_t ray = first; ray < last; ++ray) {
      const Vec3<T> v = s.direction(ray), d = rcp(length(v)) * v, o = s.origin(ray);
      const int64_t base = s.geometry_batch == 1 ? 0 : ray / s.rays_per_scene * s.num;
      for (int64_t i = slots.begin(ray); i < slots.end(ray); ++i) {
        const int64_t k = slots.indices[i];
        if (k >= s.num || k < -1) throw BadValue{"indices", -1, i, "is not the index of a Gaussian"};
        if (k < 0) {
          out.lengths[i] = out.peaks[i] = 0, out.widths[i] = 1;
          continue;
        }
        const Ellipsoid<T>& e = all[base + k];
        const Hit<T> hit = find_hit(e.factor, transpose_times(e.factor, e.mean - o), d);
        out.lengths[i] = hit.length, out.peaks[i] = peak(e.density, hit, s.world),
        out.widths[i] = 1 / hit.inverse_width;
      }
    }
  });
}

template <class T>
struct SceneGradient {  // of the shapes of the inputs
  T *means, *precisions, *density, *origins, *directions;
};

template <class T>
HitGradient<T> slot_adjoint(const FragmentScene<T>& s, const Ellipsoid<T>& e, int64_t ray, int64_t i,
                            const ConstHitArrays<T>& grad) {
  const Vec3<T> v = s.direction(ray), d = rcp(length(v)) * v, offset = e.mean - s.origin(ray);
  const Hit<T> hit = find_hit(e.factor, transpose_times(e.factor, offset), d);
  const T width = 1 / hit.inverse_width;
  return hit_adjoint(offset, e.density, d, hit, peak(e.density, hit, s.world), s.world, grad.lengths[i], grad.peaks[i],
                     -grad.widths[i] * width * width);
}

template <class T>
void fragment_hits_adjoint(const Slots& slots, const FragmentScene<T>& s, const ConstHitArrays<T>& grad,
                           const SceneGradient<T>& out) {
  const auto all = ellipsoids(s, slots.threads);
  const SlotsByGaussian by(slots, s.geometry_batch, s.num);
  auto store = [](T* x, int64_t i, const Vec3<T>& v) { x[3 * i] = v.x, x[3 * i + 1] = v.y, x[3 * i + 2] = v.z; };
  parallel_pieces(s.geometry_batch * s.num, gaussian_piece, slots.threads, [&](int, int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      HitGradient<T> sum{};
      for (int64_t j = by.offsets[k]; j < by.offsets[k + 1]; ++j) {
        const HitGradient<T> g = slot_adjoint(s, all[k], by.rays[j], by.slots[j], grad);
        sum.mean = sum.mean + g.mean, sum.precision = sum.precision + g.precision, sum.density += g.density;
      }
      const Sym3<T>& p = sum.precision;
      const T full[] = {p.xx, p.xy, p.xz, p.xy, p.yy, p.yz, p.xz, p.yz, p.zz};
      for (int j = 0; j < 9; ++j) out.precisions[9 * k + j] = full[j];
      store(out.means, k, all[k].precision * sum.mean);
      out.density[k] = sum.density;
    }
  });
  // Rays: of one scene, or the sum over the scenes that share them.
  const int64_t own_rays = s.ray_batch * s.rays_per_scene, shared = s.rays_per_scene ? slots.rays / own_rays : 0;
  std::vector<Vec3<T>> origins(own_rays);
  parallel_pieces(own_rays, ray_piece, slots.threads, [&](int, int64_t first, int64_t last) {
    for (int64_t own = first; own < last; ++own) {
      Vec3<T> origin{0, 0, 0}, direction{0, 0, 0};
      for (int64_t ray = own, n = 0; n < shared; ++n, ray += own_rays) {
        const int64_t base = s.geometry_batch == 1 ? 0 : ray / s.rays_per_scene * s.num;
        for (int64_t i = slots.begin(ray); i < slots.end(ray); ++i) {
          if (slots.indices[i] < 0) continue;
          const Ellipsoid<T>& e = all[base + slots.indices[i]];
          const HitGradient<T> g = slot_adjoint(s, e, ray, i, grad);
          origin = origin - e.precision * g.mean, direction = direction + e.precision * g.direction;
        }
      }
      origins[own] = origin;
      const bool any =
          direction.x != 0 || direction.y != 0 || direction.z != 0;  // rays without a hit may hold anything
      store(out.directions, own, any ? normalise_adjoint(s.direction(own), direction) : direction);
    }
  });
  for (int64_t i = 0; i < s.ray_batch * s.origins_per_scene; ++i) {
    const int64_t n = s.origins_per_scene == 1 ? s.rays_per_scene : 1;
    Vec3<T> sum{0, 0, 0};
    for (int64_t j = 0; j < n; ++j) sum = sum + origins[i * n + j];
    store(out.origins, i, sum);
  }
}

// ---- F = sum over slots of w_slot <x_Gaussian, y_ray>: its derivatives by y (gather), x (scatter) and w (pair).
// x is (items, num, channels): the rays are split evenly between the items. y is (rays, channels).

template <class T>
void fragment_gather(const Slots& s, const T* w, const T* x, int64_t items, int64_t num, int64_t channels, T* y) {
  const int64_t per_item = items ? s.rays / items : 0;
  parallel_pieces(s.rays, ray_piece, s.threads, [&](int, int64_t first, int64_t last) {
    for (int64_t ray = first; ray < last; ++ray) {
      T* out = y + ray * channels;
      for (int64_t c = 0; c < channels; ++c) out[c] = 0;
      for (int64_t i = s.begin(ray); i < s.end(ray); ++i) {
        const int64_t k = s.indices[i];
        if (k >= num || k < -1) throw BadValue{"indices", -1, i, "is not the index of a Gaussian"};
        if (k < 0) continue;
        const T* row = x + (ray / per_item * num + k) * channels;
        for (int64_t c = 0; c < channels; ++c) out[c] += w[i] * row[c];
      }
    }
  });
}

template <class T>
void fragment_scatter(const Slots& s, const T* w, const T* y, int64_t items, int64_t num, int64_t channels, T* x) {
  const SlotsByGaussian by(s, items, num);
  parallel_pieces(items * num, gaussian_piece, s.threads, [&](int, int64_t first, int64_t last) {
    for (int64_t k = first; k < last; ++k) {
      T* out = x + k * channels;
      for (int64_t c = 0; c < channels; ++c) out[c] = 0;
      for (int64_t j = by.offsets[k]; j < by.offsets[k + 1]; ++j) {
        const T weight = w[by.slots[j]], *row = y + by.rays[j] * channels;
        for (int64_t c = 0; c < channels; ++c) out[c] += weight * row[c];
      }
    }
  });
}

template <class T>
void fragment_pair(const Slots& s, const T* x, const T* y, int64_t items, int64_t num, int64_t channels, T* w) {
  const int64_t per_item = items ? s.rays / items : 0;
  parallel_pieces(s.rays, ray_piece, s.threads, [&](int, int64_t first, int64_t last) {
    for (int64_t ray = first; ray < last; ++ray)
      for (int64_t i = s.begin(ray); i < s.end(ray); ++i) {
        const int64_t k = s.indices[i];
        if (k >= num || k < -1) throw BadValue{"indices", -1, i, "is not the index of a Gaussian"};
        const T *a = x + (ray / per_item * num + k) * channels, *b = y + ray * channels;
        T sum[8] = {};  // independent sums, so that the loop fills vector registers
        int64_t c = 0;
        if (k >= 0) {
          for (; c + 8 <= channels; c += 8)
            for (int j = 0; j < 8; ++j) sum[j] += a[c + j] * b[c + j];
          for (; c < channels; ++c) sum[0] += a[c] * b[c];
        }
        w[i] = ((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7]));
      }
  });
}

VOGE_NAMESPACE_END
