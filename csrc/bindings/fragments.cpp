// The fragments route of the module voge._cpu. Every function takes a dict of arrays and writes into the arrays it
// names.
#include "cpu/fragments.h"

#include "bindings/arrays.h"
#include "core/segments.h"

void bind_fragments(pybind11::module_& m);

namespace voge {
namespace {
using namespace VOGE_ISA;

// From "indices" (or another array of the slots' shape) and "offsets"; fills the shape of arrays of one value a slot.
struct Layout {
  Slots slots;
  py::ssize_t total;

  Layout(const py::dict& d, const char* like) {
    const auto array = py::cast<py::array>(d[like]);
    const py::object offsets = d["offsets"];
    slots.threads = py::cast<int>(d["threads"]);
    if (slots.threads < 1) slots.threads = 1;
    if (array.ndim() != 1) throw py::value_error("arrays of slots are flat");
    total = array.shape(0);
    slots.rays = py::cast<int64_t>(d["rays"]);
    slots.offsets = offsets.is_none() ? nullptr : values<int64_t>(offsets, "offsets", {slots.rays + 1});
    slots.most = slots.rays ? total / slots.rays : 0;
    slots.indices = d.contains("indices") ? values<int64_t>(d["indices"], "indices", {total}) : nullptr;
    if (slots.offsets ? !ascending() : slots.most * slots.rays != total)
      throw py::value_error("offsets do not fit the slots");
  }
  bool ascending() const {
    for (int64_t r = 0; r < slots.rays; ++r)
      if (slots.offsets[r + 1] < slots.offsets[r]) return false;
    return slots.offsets[0] == 0 && slots.offsets[slots.rays] == total;
  }
  template <class T>
  T* slot_values(const py::dict& d, const char* name) const {
    return values<T>(d[name], name, {total});
  }
};

template <class T>
FragmentScene<T> fragment_scene(const py::dict& d, const Slots& slots) {
  FragmentScene<T> s{};
  const py::object means = d["means"], origins = d["origins"], directions = d["directions"];
  s.geometry_batch = size(means, 0), s.num = size(means, 1);
  s.ray_batch = size(directions, 0), s.rays_per_scene = size(directions, 1), s.origins_per_scene = size(origins, 1);
  s.means = values<T>(means, "means", {s.geometry_batch, s.num, 3});
  s.precisions = values<T>(d["precisions"], "precisions", {s.geometry_batch, s.num, 3, 3});
  s.density = values<T>(d["density"], "density", {s.geometry_batch, s.num});
  s.origins = values<T>(origins, "origins", {s.ray_batch, s.origins_per_scene, 3});
  s.directions = values<T>(directions, "directions", {s.ray_batch, s.rays_per_scene, 3});
  s.world = py::cast<bool>(d["world"]);
  const int64_t scenes = s.rays_per_scene ? slots.rays / s.rays_per_scene : 0;
  if (scenes * s.rays_per_scene != slots.rays) throw py::value_error("the slots are not those of the rays");
  for (int64_t b : {s.geometry_batch, s.ray_batch})
    if (b != 1 && b != scenes) throw py::value_error("a batch size is neither 1 nor the whole batch");
  if (s.origins_per_scene != 1 && s.origins_per_scene != s.rays_per_scene)
    throw py::value_error("origins: one, or one a ray");
  return s;
}

template <class T>
void hits(const py::dict& d) {
  const Layout layout(d, "indices");
  const FragmentScene<T> s = fragment_scene<T>(d, layout.slots);
  const HitArrays<T> out{layout.slot_values<T>(d, "lengths"), layout.slot_values<T>(d, "peaks"),
                         layout.slot_values<T>(d, "widths")};
  released([&] { fragment_hits(layout.slots, s, out); });
}

template <class T>
void hits_backward(const py::dict& d) {
  const Layout layout(d, "indices");
  const FragmentScene<T> s = fragment_scene<T>(d, layout.slots);
  const ConstHitArrays<T> grad{layout.slot_values<T>(d, "grad_lengths"), layout.slot_values<T>(d, "grad_peaks"),
                               layout.slot_values<T>(d, "grad_widths")};
  const SceneGradient<T> out{values<T>(d["grad_means"], "grad_means", {s.geometry_batch, s.num, 3}),
                             values<T>(d["grad_precisions"], "grad_precisions", {s.geometry_batch, s.num, 3, 3}),
                             values<T>(d["grad_density"], "grad_density", {s.geometry_batch, s.num}),
                             values<T>(d["grad_origins"], "grad_origins", {s.ray_batch, s.origins_per_scene, 3}),
                             values<T>(d["grad_directions"], "grad_directions", {s.ray_batch, s.rays_per_scene, 3})};
  released([&] { fragment_hits_adjoint(layout.slots, s, grad, out); });
}

bool by_segments(const py::dict& d) { return py::cast<std::string>(d["quadrature"]) == "segments"; }

int points(const py::dict& d) {
  const int n = py::cast<int>(d["points"]), most = by_segments(d) ? max_segments_points : max_hermite_points;
  if (n < 1 || n > most) throw py::value_error("points must lie between 1 and " + std::to_string(most));
  return n;
}

template <class T>
SlotWeights<T> slot_weights(const Layout& layout, const py::dict& d) {
  SlotWeights<T> s{};
  s.rays = layout.slots.rays, s.most = layout.slots.most, s.offsets = layout.slots.offsets;
  s.threads = layout.slots.threads, s.segments = by_segments(d), s.points = points(d);
  s.lengths = layout.slot_values<T>(d, "lengths"), s.peaks = layout.slot_values<T>(d, "peaks");
  s.widths = layout.slot_values<T>(d, "widths");
  return s;
}

template <class T>
void weights(const py::dict& d, void (*kernel)(const SlotWeights<T>&)) {
  const Layout layout(d, "lengths");
  SlotWeights<T> s = slot_weights<T>(layout, d);
  s.weights = layout.slot_values<T>(d, "weights");
  if (layout.total) released([&] { kernel(s); });
}

template <class T>
void weights_backward(const py::dict& d, void (*kernel)(const SlotWeights<T>&)) {
  const Layout layout(d, "lengths");
  SlotWeights<T> s = slot_weights<T>(layout, d);
  s.grad_weights = layout.slot_values<T>(d, "grad_weights");
  s.grad_lengths = layout.slot_values<T>(d, "grad_lengths"), s.grad_peaks = layout.slot_values<T>(d, "grad_peaks");
  s.grad_widths = layout.slot_values<T>(d, "grad_widths");
  if (layout.total) released([&] { kernel(s); });
}

// gather, scatter and pair: "weights" (slots), "x" (items, num, channels), "y" (rays, channels), one of which is
// written.
enum class Product { gather, scatter, pair };

template <class T>
void product(const py::dict& d, Product which) {
  const Layout layout(d, "indices");
  const py::object x = d["x"];
  const int64_t items = size(x, 0), num = size(x, 1), channels = size(x, 2);
  if (items == 0 || layout.slots.rays % items) throw py::value_error("the rays cannot be split between the items of x");
  T *w = layout.slot_values<T>(d, "weights"), *px = values<T>(x, "x", {items, num, channels}),
    *y = values<T>(d["y"], "y", {layout.slots.rays, channels});
  released([&] {
    if (which == Product::gather)
      fragment_gather<T>(layout.slots, w, px, items, num, channels, y);
    else if (which == Product::scatter)
      fragment_scatter<T>(layout.slots, w, y, items, num, channels, px);
    else
      fragment_pair<T>(layout.slots, px, y, items, num, channels, w);
  });
}

}  // namespace
}  // namespace voge

void bind_fragments(pybind11::module_& m) {
  using namespace voge;
  m.def("fragment_hits", [](const py::dict& d) { is_double(d["means"]) ? hits<double>(d) : hits<float>(d); });
  m.def("fragment_hits_backward",
        [](const py::dict& d) { is_double(d["means"]) ? hits_backward<double>(d) : hits_backward<float>(d); });
  m.def("fragment_weights", [](const py::dict& d) {
    const Kernels& k = chosen_kernels();
    is_double(d["lengths"]) ? weights<double>(d, k.weigh_f64) : weights<float>(d, k.weigh_f32);
  });
  m.def("fragment_weights_backward", [](const py::dict& d) {
    const Kernels& k = chosen_kernels();
    is_double(d["lengths"]) ? weights_backward<double>(d, k.weigh_f64) : weights_backward<float>(d, k.weigh_f32);
  });
  for (auto [name, which] : {std::pair{"fragment_gather", Product::gather},
                             {"fragment_scatter", Product::scatter},
                             {"fragment_pair", Product::pair}})
    m.def(name, [which = which](const py::dict& d) {
      is_double(d["x"]) ? product<double>(d, which) : product<float>(d, which);
    });
}
