// Where a ray meets a Gaussian, and the adjoint.
//
// A ray o + t d, |d| = 1, runs through exp(-(x - M)' P (x - M) / 2). With V = M - o, at the densest point of the ray
//   s = d'P d,   length l = d'P V / s,   u = V - l d,   exponent q = -u'P u / 2,   width 1 / sqrt(s),
// and the optical depth of the whole line is A = density exp(q) ("ray": the profile is normalised along the ray) or
// A = density exp(q) sqrt(2 pi / s) ("world": a physical medium). Since u'P d = 0,
//   dl = d'P dV / s + (P u - l P d)' dd / s + u'dP d / s,     dq = -u'P dV + l u'P dd - u'dP u / 2,
//   ds = 2 d'P dd + d'dP d.
// Numbers of the Gaussian have type S, numbers of the ray type T: both scalars, or T a vector of lanes.
#pragma once
#include "core/vec.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct Hit {
  T length, inverse_width, exponent;
};

// factor: L with P = L L';  offset: L'(M - o), one number a Gaussian where all rays share an origin;  direction: of
// length 1.
template <class S, class Y, class T>
VOGE_HD Hit<T> find_hit(const Lower3<S>& factor, const Vec3<Y>& offset, const Vec3<T>& direction) {
  const Vec3<T> e = transpose_times(factor, direction);
  const T s = dot(e, e), length = dot(offset, e) * rcp(s);
  const Vec3<T> u = offset - length * e;
  return {length, vsqrt(s), S(-0.5) * dot(u, u)};
}

// Optical depth A; density includes the absorptivity.
template <class S, class T>
VOGE_HD T peak(S density, const Hit<T>& hit, bool world) {
  const T opacity = density * vexp(hit.exponent);
  return world ? S(2.50662827463100050242) * opacity * rcp(hit.inverse_width) : opacity;
}

// Gradients with respect to what find_hit and peak were given. Sums over rays may be taken before `times_precision`.
template <class T>
struct HitGradient {
  Vec3<T> mean;       // to be multiplied by P; the gradient of the origin is its negative
  Vec3<T> direction;  // to be multiplied by P; of the unit direction
  Sym3<T> precision;  // every entry as it stands in the full symmetric matrix
  T density;          // absorptivity included
};

// offset: M - o, in world axes; grad_*: of the loss with respect to l, A and 1 / sigma.
template <class S, class Y, class T>
VOGE_HD HitGradient<T> hit_adjoint(const Vec3<Y>& offset, S density, const Vec3<T>& direction, const Hit<T>& hit,
                                   T peak, bool world, T grad_length, T grad_peak, T grad_inverse_width) {
  const T w = rcp(hit.inverse_width), l = hit.length;
  const Vec3<T> u = offset - l * direction;
  const T gq = grad_peak * peak, gl = grad_length * w * w;
  const T gs = S(0.5) * w * (world ? grad_inverse_width - gq * w : grad_inverse_width);
  HitGradient<T> g;
  g.mean = gl * direction - gq * u;
  g.direction = (gq * l + gl) * u + (gs + gs - l * gl) * direction;
  g.precision = outer(S(-0.5) * gq, u) + symmetric_outer(S(0.5) * gl, u, direction) + outer(gs, direction);
  g.density = gq * (1 / density);
  return g;
}

template <class T>
VOGE_HD T length(const Vec3<T>& v) {
  return vsqrt(dot(v, v));
}

// Gradient of v from that of the unit vector v / |v|.
template <class T>
VOGE_HD Vec3<T> normalise_adjoint(const Vec3<T>& v, const Vec3<T>& grad_unit) {
  const T scale = rcp(length(v));
  const Vec3<T> unit = scale * v;
  return scale * (grad_unit - dot(unit, grad_unit) * unit);
}

VOGE_NAMESPACE_END
