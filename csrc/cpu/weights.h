// Weights of a packet's hits, and their adjoint, by the quadrature of the call.
#pragma once
#include "cpu/hermite.h"
#include "cpu/segments.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct Weigher {
  bool segments;
  int points;
  HermiteRule rule;
  WeightMemory<T> memory;
  SegmentsMemory<T> slabs;

  Weigher(bool segments, int points) : segments(segments), points(points), rule(segments ? 1 : points) {}

  // memory.weight
  void forward(const Packet<T>& p) {
    if (segments)
      segments_rows<false>(p, points, memory, slabs);
    else
      points > 1 ? hermite_rows<true>(p, rule, memory) : hermite_rows<false>(p, rule, memory);
  }
  // From memory.grad_weight: weight and the gradients. `prepare` comes first; `weights`: memory.weight is wanted then.
  void prepare(const Packet<T>& p, bool weights) {
    if (segments)
      segments_rows<true>(p, points, memory, slabs);
    else if (weights)
      forward(p);
  }
  void backward(const Packet<T>& p) {
    if (segments)
      segments_adjoint_rows(p, points, memory, slabs);
    else
      points > 1 ? hermite_adjoint_rows<true>(p, rule, memory) : hermite_adjoint_rows<false>(p, rule, memory);
  }
};

VOGE_NAMESPACE_END
