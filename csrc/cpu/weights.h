// Weights of a packet's hits, and their adjoint, by the quadrature of the call; with `stops` also the densities where
// the ray is stopped, which normals need.
#pragma once
#include "cpu/regroup.h"
#include "cpu/segments.h"

VOGE_NAMESPACE_BEGIN

template <class T>
class Weigher {
 public:
  WeightMemory<T> memory;

  Weigher(bool segments, bool stops, int points)
      : segments_(segments), stops_(stops), points_(points), rule_(segments ? 1 : points) {}

  // memory.weight, memory.stop
  void forward(const Packet<T>& p) {
    if (!rows_.regroup(p)) {
      weigh(p, memory);
      return;
    }
    weigh(rows_.packet, rows_.weights);
    move_weights_back(p);
  }
  // Comes before `backward`; `weights`: those of the forward pass are wanted already.
  void prepare(const Packet<T>& p, bool weights) {
    const bool regrouped = rows_.regroup(p);
    const Packet<T>& q = regrouped ? rows_.packet : p;
    WeightMemory<T>& w = regrouped ? rows_.weights : memory;
    if (segments_)
      stops_ ? segments_rows<true, true>(q, points_, w, slabs_) : segments_rows<true, false>(q, points_, w, slabs_);
    else if (weights)
      weigh(q, w);
    if (regrouped && weights) move_weights_back(p);
  }
  // From memory.grad_weight, memory.grad_stop: memory.weight and the gradients.
  void backward(const Packet<T>& p) {
    if (!rows_.used) {
      weigh_adjoint(p, memory);
      return;
    }
    WeightMemory<T>& w = rows_.weights;
    rows_.move_up(p, {memory.grad_weight}, {w.grad_weight});
    if (stops_) rows_.move_up(p, {memory.grad_stop}, {w.grad_stop});
    weigh_adjoint(rows_.packet, w);
    rows_.move_back(p, {w.weight, w.grad_peak, w.grad_length, w.grad_rate},
                    {memory.weight, memory.grad_peak, memory.grad_length, memory.grad_rate});
    if (stops_) rows_.move_back(p, {w.stop}, {memory.stop});
  }

 private:
  bool segments_, stops_;
  int points_;
  HermiteRule rule_;
  SegmentsMemory<T> slabs_;
  Regrouped<T> rows_;

  void weigh(const Packet<T>& p, WeightMemory<T>& w) {
    if (segments_)
      stops_ ? segments_rows<false, true>(p, points_, w, slabs_) : segments_rows<false, false>(p, points_, w, slabs_);
    else if (points_ > 1)
      stops_ ? hermite_rows<true, true>(p, rule_, w) : hermite_rows<true, false>(p, rule_, w);
    else
      stops_ ? hermite_rows<false, true>(p, rule_, w) : hermite_rows<false, false>(p, rule_, w);
  }
  void weigh_adjoint(const Packet<T>& p, WeightMemory<T>& w) {
    if (segments_)
      stops_ ? segments_adjoint_rows<true>(p, points_, w, slabs_) : segments_adjoint_rows<false>(p, points_, w, slabs_);
    else if (points_ > 1)
      stops_ ? hermite_adjoint_rows<true, true>(p, rule_, w) : hermite_adjoint_rows<true, false>(p, rule_, w);
    else
      stops_ ? hermite_adjoint_rows<false, true>(p, rule_, w) : hermite_adjoint_rows<false, false>(p, rule_, w);
  }
  void move_weights_back(const Packet<T>& p) {
    rows_.move_back(p, {rows_.weights.weight}, {memory.weight});
    if (stops_) rows_.move_back(p, {rows_.weights.stop}, {memory.stop});
  }
};

VOGE_NAMESPACE_END
