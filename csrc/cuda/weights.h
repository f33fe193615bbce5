// Weights of one ray's hits, and their adjoint, by the quadrature of the call.
#pragma once
#include "cuda/segments.h"

VOGE_NAMESPACE_BEGIN

// weight and, with `stops`, the density where the ray is stopped.
template <bool segments, bool stops, class T>
VOGE_CALLED void weigh(const RayHits<T>& h, int points) {
  if (h.n == 0) return;
  if constexpr (segments)
    segments_weights<false, stops>(h, points);
  else
    hermite_weights<stops>(h, points);
}

// From grad_weight, with `stops` and grad_stop: the same, and grad_peak, grad_length, grad_rate.
template <bool segments, bool stops, class T>
VOGE_CALLED void weigh_adjoint(const RayHits<T>& h, int points) {
  if (h.n == 0) return;
  if constexpr (segments)
    segments_weights_adjoint<stops>(h, points);
  else
    hermite_weights_adjoint<stops>(h, points);
}

VOGE_NAMESPACE_END
