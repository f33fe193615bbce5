// Elementary functions on float and double under one name each; cpu/simd.h has the same names for vectors of lanes.
//
// Code that is to run on both must see those declarations first: include cpu/simd.h before hit.h.
#pragma once
#include "core/portable.h"

VOGE_NAMESPACE_BEGIN

VOGE_HD float vexp(float x) { return expf(x); }
VOGE_HD double vexp(double x) { return exp(x); }
VOGE_HD float vexpm1(float x) { return expm1f(x); }
VOGE_HD double vexpm1(double x) { return expm1(x); }
VOGE_HD float vlog(float x) { return logf(x); }
VOGE_HD double vlog(double x) { return log(x); }
VOGE_HD float vlog1p(float x) { return log1pf(x); }
VOGE_HD double vlog1p(double x) { return log1p(x); }
VOGE_HD float vsqrt(float x) { return sqrtf(x); }
VOGE_HD double vsqrt(double x) { return sqrt(x); }
VOGE_HD float verfc(float x) { return erfcf(x); }
VOGE_HD double verfc(double x) { return erfc(x); }
VOGE_HD float rcp(float x) { return 1.f / x; }
VOGE_HD double rcp(double x) { return 1. / x; }

// Of our own: std::min is a template that the linker would merge between instruction sets, and a GPU compiler has none.
template <class T>
VOGE_HD T least(T a, T b) {
  return b < a ? b : a;
}
template <class T>
VOGE_HD T most(T a, T b) {
  return a < b ? b : a;
}
template <class T>
VOGE_HD void exchange(T& a, T& b) {
  const T c = a;
  a = b, b = c;
}

// Pairs further apart than `sigmas` standard deviations: the normal distribution function is 0 or 1 to rounding. Where
// densities are compared with each other, not summed, a dense Gaussian's tail beside a faint one counts further out.
template <class T>
struct Cutoff;
template <>
struct Cutoff<float> {
  static constexpr float sigmas = 5.3f, share_sigmas = 5.8f;
};
template <>
struct Cutoff<double> {
  static constexpr double sigmas = 8.3, share_sigmas = 10.5;
};

VOGE_NAMESPACE_END
