// The normal distribution: Phi, its density and its quantiles, for float and double.
#pragma once
#include "core/scalar.h"

VOGE_NAMESPACE_BEGIN

// Phi(z). Relative error: a few units of rounding for z < 1 and down to Phi(-8) = 6e-16, absolute error of one rounding
// above.
template <class T>
VOGE_HD T normal_cdf(T z) {
  return T(0.5) * verfc(z * T(-0.70710678118654752440));
}

// phi(z) = exp(-z^2 / 2) / sqrt(2 pi). Relative error: z^2 / 2 roundings.
template <class T>
VOGE_HD T normal_pdf(T z) {
  return T(0.39894228040143267794) * vexp(T(-0.5) * z * z);
}

// Phi^-1(p) for 1e-12 <= p <= 0.99. Absolute error 3e-14 (double), 2e-6 (float): a start with error 4.5e-4 (Abramowitz
// and Stegun 26.2.23) and Halley steps, each of which cubes the error.
template <class T>
VOGE_HD T normal_quantile(T p) {
  const T tail = p < T(0.5) ? p : 1 - p, t = vsqrt(T(-2) * vlog(tail));
  const T above = T(2.515517) + t * (T(0.802853) + t * T(0.010328));
  const T below = 1 + t * (T(1.432788) + t * (T(0.189269) + t * T(0.001308)));
  T z = above / below - t;  // of the lower tail
  for (int step = 0; step < (sizeof(T) == 4 ? 1 : 2); ++step) {
    const T error = (normal_cdf(z) - tail) / normal_pdf(z);
    z -= error / (1 + T(0.5) * z * error);
  }
  return p < T(0.5) ? z : -z;
}

VOGE_NAMESPACE_END
