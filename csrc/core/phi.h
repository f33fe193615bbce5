// The normal distribution: Phi and its density, for float and double.
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

VOGE_NAMESPACE_END
