// csrc/core through plain C functions, once for float and once for double: what tests/test_core.py calls.
#include "core/hit.h"
#include "core/segments.h"

using namespace voge::VOGE_ISA;

template <class T>
static void hits(int n, const T* means, const T* precisions, const T* density, const T* origin, const T* direction,
                 int world, T* out, int* definite) {  // out (n, 4): length, inverse width, exponent, peak
  const Vec3<T> o{origin[0], origin[1], origin[2]}, v{direction[0], direction[1], direction[2]};
  const Vec3<T> d = rcp(length(v)) * v;
  for (int k = 0; k < n; ++k) {
    const T *m = means + 3 * k, *p = precisions + 6 * k;
    Lower3<T> factor{};
    definite[k] = cholesky(Sym3<T>{p[0], p[1], p[2], p[3], p[4], p[5]}, factor);
    const Hit<T> hit = find_hit(factor, transpose_times(factor, Vec3<T>{m[0], m[1], m[2]} - o), d);
    out[4 * k] = hit.length, out[4 * k + 1] = hit.inverse_width, out[4 * k + 2] = hit.exponent;
    out[4 * k + 3] = peak(density[k], hit, world);
  }
}

template <class T>
static void hits_adjoint(int n, const T* means, const T* precisions, const T* density, const T* origin,
                         const T* direction, int world, const T* grads,  // (n, 3): of length, peak, inverse width
                         T* grad_means, T* grad_precisions, T* grad_density, T* grad_origin, T* grad_direction) {
  const Vec3<T> o{origin[0], origin[1], origin[2]}, v{direction[0], direction[1], direction[2]};
  const Vec3<T> d = rcp(length(v)) * v;
  Vec3<T> go{0, 0, 0}, gd{0, 0, 0};
  for (int k = 0; k < n; ++k) {
    const T *m = means + 3 * k, *p = precisions + 6 * k, *g = grads + 3 * k;
    const Sym3<T> precision{p[0], p[1], p[2], p[3], p[4], p[5]};
    Lower3<T> factor{};
    cholesky(precision, factor);
    const Vec3<T> offset = Vec3<T>{m[0], m[1], m[2]} - o;
    const Hit<T> hit = find_hit(factor, transpose_times(factor, offset), d);
    const HitGradient<T> r =
        hit_adjoint(offset, density[k], d, hit, peak(density[k], hit, world), world, g[0], g[1], g[2]);
    const Vec3<T> mean = precision * r.mean;
    go = go - mean, gd = gd + precision * r.direction;
    grad_means[3 * k] = mean.x, grad_means[3 * k + 1] = mean.y, grad_means[3 * k + 2] = mean.z;
    const T entries[] = {r.precision.xx, r.precision.xy, r.precision.xz,
                         r.precision.yy, r.precision.yz, r.precision.zz};
    for (int i = 0; i < 6; ++i) grad_precisions[6 * k + i] = entries[i];
    grad_density[k] = r.density;
  }
  gd = normalise_adjoint(v, gd);
  grad_origin[0] = go.x, grad_origin[1] = go.y, grad_origin[2] = go.z;
  grad_direction[0] = gd.x, grad_direction[1] = gd.y, grad_direction[2] = gd.z;
}

// quadrature 0: hermite, 1: segments; the adjoint runs when grad_weights is not null.
template <class T>
static void weigh(int quadrature, int points, int n, const T* peaks, const T* lengths, const T* inverse_widths,
                  T* weights, const T* grad_weights, T* grad_peaks, T* grad_lengths, T* grad_inverse_widths, T* scratch,
                  int* integers) {
  const Hits<T> hits{n, peaks, lengths, inverse_widths};
  const HitsGradient<T> grad{grad_peaks, grad_lengths, grad_inverse_widths};
  if (quadrature == 0) {
    hermite(points, hits, weights);
    if (grad_weights) hermite_adjoint(points, hits, grad_weights, grad);
  } else {
    segments(points, hits, weights, scratch, integers);
    if (grad_weights) segments_adjoint(points, hits, grad_weights, grad, scratch, integers);
  }
}

extern "C" {
int scratch_values(int points, int n) { return segments_scratch_values(points, n); }
int scratch_integers(int points, int n) { return segments_scratch_integers(points, n); }

#define VOGE_EXPORT(T, suffix)                                                                                         \
  T cdf_##suffix(T z) { return normal_cdf(z); }                                                                        \
  T pdf_##suffix(T z) { return normal_pdf(z); }                                                                        \
  void node_##suffix(int points, int i, T* node, T* weight) { hermite_node(points, i, *node, *weight); }               \
  T lone_cut_##suffix(int points, int i, T peak, T* derivative) {                                                      \
    return lone_cut<T>(lone_cut(points, i), peak, *derivative);                                                        \
  }                                                                                                                    \
  void hits_##suffix(int n, const T* m, const T* p, const T* a, const T* o, const T* d, int world, T* out,             \
                     int* definite) {                                                                                  \
    hits(n, m, p, a, o, d, world, out, definite);                                                                      \
  }                                                                                                                    \
  void hits_adjoint_##suffix(int n, const T* m, const T* p, const T* a, const T* o, const T* d, int world, const T* g, \
                             T* gm, T* gp, T* ga, T* go, T* gd) {                                                      \
    hits_adjoint(n, m, p, a, o, d, world, g, gm, gp, ga, go, gd);                                                      \
  }                                                                                                                    \
  void weigh_##suffix(int q, int points, int n, const T* a, const T* l, const T* r, T* w, const T* gw, T* ga, T* gl,   \
                      T* gr, T* scratch, int* integers) {                                                              \
    weigh(q, points, n, a, l, r, w, gw, ga, gl, gr, scratch, integers);                                                \
  }
VOGE_EXPORT(float, f32)
VOGE_EXPORT(double, f64)
}
