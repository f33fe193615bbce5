// Weights of a packet's hits, and their adjoint, by the quadrature of the call; with `stops` also the densities where
// the ray is stopped, which normals need.
#pragma once
#include "cpu/hermite.h"
#include "cpu/segments.h"

VOGE_NAMESPACE_BEGIN

template <class T>
struct Weigher {
  bool segments, stops;
  int points;
  HermiteRule rule;
  WeightMemory<T> memory;
  SegmentsMemory<T> slabs;

  Weigher(bool segments, bool stops, int points)
      : segments(segments), stops(stops), points(points), rule(segments ? 1 : points) {}

  // memory.weight, memory.stop
  void forward(const Packet<T>& p) {
    if (segments)
      stops ? segments_rows<false, true>(p, points, memory, slabs)
            : segments_rows<false, false>(p, points, memory, slabs);
    else if (points > 1)
      stops ? hermite_rows<true, true>(p, rule, memory) : hermite_rows<true, false>(p, rule, memory);
    else
      stops ? hermite_rows<false, true>(p, rule, memory) : hermite_rows<false, false>(p, rule, memory);
  }
  // Comes before `backward`; `weights`: those of the forward pass are wanted already.
  void prepare(const Packet<T>& p, bool weights) {
    if (segments)
      stops ? segments_rows<true, true>(p, points, memory, slabs)
            : segments_rows<true, false>(p, points, memory, slabs);
    else if (weights)
      forward(p);
  }
  // From memory.grad_weight, memory.grad_stop: memory.weight and the gradients.
  void backward(const Packet<T>& p) {
    if (segments)
      stops ? segments_adjoint_rows<true>(p, points, memory, slabs)
            : segments_adjoint_rows<false>(p, points, memory, slabs);
    else if (points > 1)
      stops ? hermite_adjoint_rows<true, true>(p, rule, memory) : hermite_adjoint_rows<true, false>(p, rule, memory);
    else
      stops ? hermite_adjoint_rows<false, true>(p, rule, memory) : hermite_adjoint_rows<false, false>(p, rule, memory);
  }
};

VOGE_NAMESPACE_END
