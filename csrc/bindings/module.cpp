// The module voge._cpu: NumPy arrays in and out, no copies; shapes and types are checked here, values in the kernels.
#include "bindings/arrays.h"

#include <cstdlib>
#include <mutex>
#include <vector>

using namespace pybind11::literals;

void bind_cameras(pybind11::module_& m);
void bind_fragments(pybind11::module_& m);

namespace voge {
Counters counters{};
bool counting_pairs = false;

void add_to_counters(const Counters& c) {
  static std::mutex mutex;
  std::lock_guard<std::mutex> lock(mutex);
  counters.bin_cycles += c.bin_cycles, counters.project_cycles += c.project_cycles,
      counters.sort_cycles += c.sort_cycles, counters.reduce_cycles += c.reduce_cycles;
  counters.hit_cycles += c.hit_cycles, counters.weight_cycles += c.weight_cycles;
  counters.composite_cycles += c.composite_cycles, counters.hits += c.hits,
      counters.overlapping_pairs += c.overlapping_pairs;
}

namespace {

// The instruction sets compiled in that this machine can run, best first.
std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#if defined(VOGE_HAVE_AVX512)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl"))
    found.push_back(avx512_kernels());
#endif
#if defined(VOGE_HAVE_AVX2)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
    found.push_back(avx2_kernels());
#endif
  found.push_back(baseline_kernels());
  return found;
}

}  // namespace

const Kernels& chosen_kernels() {
  const auto found = available_kernels();
  const char* wanted = std::getenv("VOGE_ISA");
  if (!wanted || !*wanted) return *found.front();
  std::string names;
  for (const Kernels* k : found) {
    if (std::string(k->name) == wanted) return *k;
    names += (names.empty() ? "" : ", ") + std::string(k->name);
  }
  throw py::value_error("VOGE_ISA is " + std::string(wanted) + "; this machine and build have " + names);
}

namespace {

template <class T>
Scene<T> make_scene(const py::dict& d) {
  Scene<T> s{};
  const py::object means = d["means"], directions = d["directions"], origins = d["origins"];
  s.batch = py::cast<int64_t>(d["batch"]);
  s.geometry_batch = size(means, 0), s.num = size(means, 1);
  s.ray_batch = size(directions, 0), s.rays = size(directions, 1), s.origins_per_scene = size(origins, 1);
  for (int64_t b : {s.geometry_batch, s.ray_batch})
    if (b != 1 && b != s.batch) throw py::value_error("a batch size is neither 1 nor the whole batch");
  if (s.origins_per_scene != 1 && s.origins_per_scene != s.rays) throw py::value_error("origins: one, or one a ray");
  if (s.num > INT32_MAX) throw py::value_error("more than 2^31 Gaussians");
  s.means = values<T>(means, "means", {s.geometry_batch, s.num, 3});
  s.precisions = values<T>(d["precisions"], "precisions", {s.geometry_batch, s.num, 3, 3});
  s.density = values<T>(d["density"], "density", {s.geometry_batch, s.num});
  s.origins = values<T>(origins, "origins", {s.ray_batch, s.origins_per_scene, 3});
  s.directions = values<T>(directions, "directions", {s.ray_batch, s.rays, 3});
  s.valid = values<bool>(d["valid"], "valid", {s.ray_batch, s.rays});
  s.projection = values<double>(d["projection"], "projection", {s.ray_batch, 3, 4});
  s.height = py::cast<int64_t>(d["height"]), s.width = py::cast<int64_t>(d["width"]);
  if (s.projection && s.height * s.width != s.rays) throw py::value_error("the rays are not the pixel grid");
  s.max_hits = py::cast<int64_t>(d["max_hits"]);
  s.threshold = py::cast<double>(d["threshold"]), s.near = py::cast<double>(d["near"]);
  s.world = py::cast<bool>(d["world"]);
  s.segments = py::cast<bool>(d["segments"]), s.points = py::cast<int>(d["points"]);
  s.median = py::cast<bool>(d["median"]);
  s.threads = py::cast<int>(d["threads"]);
  if (s.threads < 1) s.threads = 1;
  return s;
}

template <class T>
void render_forward(const py::dict& d, void (*kernel)(const Scene<T>&, const RenderForward<T>&)) {
  const Scene<T> s = make_scene<T>(d);
  RenderForward<T> r{};
  const py::object features = d["features"];
  r.feature_batch = size(features, 0), r.channels = size(features, 2);
  r.features = values<T>(features, "features", {r.feature_batch, s.num, r.channels});
  r.image = values<T>(d["image"], "image", {s.batch, s.rays, r.channels});
  r.alpha = values<T>(d["alpha"], "alpha", {s.batch, s.rays});
  r.depth = values<T>(d["depth"], "depth", {s.batch, s.rays});
  r.normals = values<T>(d["normals"], "normals", {s.batch, s.rays, 3});
  released([&] { kernel(s, r); });
}

template <class T>
void render_backward(const py::dict& d, void (*kernel)(const Scene<T>&, const RenderBackward<T>&)) {
  const Scene<T> s = make_scene<T>(d);
  RenderBackward<T> r{};
  const py::object features = d["features"];
  r.feature_batch = size(features, 0), r.channels = size(features, 2);
  r.features = values<T>(features, "features", {r.feature_batch, s.num, r.channels});
  r.grad_image = values<T>(d["grad_image"], "grad_image", {s.batch, s.rays, r.channels});
  r.grad_alpha = values<T>(d["grad_alpha"], "grad_alpha", {s.batch, s.rays});
  r.grad_depth = values<T>(d["grad_depth"], "grad_depth", {s.batch, s.rays});
  r.grad_normals = values<T>(d["grad_normals"], "grad_normals", {s.batch, s.rays, 3});
  r.grad_means = values<T>(d["grad_means"], "grad_means", {s.geometry_batch, s.num, 3});
  r.grad_precisions = values<T>(d["grad_precisions"], "grad_precisions", {s.geometry_batch, s.num, 3, 3});
  r.grad_density = values<T>(d["grad_density"], "grad_density", {s.geometry_batch, s.num});
  r.grad_features = values<T>(d["grad_features"], "grad_features", {r.feature_batch, s.num, r.channels});
  const int64_t origin_batch = s.origins_per_scene == 1 ? s.ray_batch : s.batch;
  r.grad_origins = values<T>(d["grad_origins"], "grad_origins", {origin_batch, s.origins_per_scene, 3});
  r.grad_directions = values<T>(d["grad_directions"], "grad_directions", {s.batch, s.rays, 3});
  released([&] { kernel(s, r); });
}

template <class T>
void trace(const py::dict& d, void (*kernel)(const Scene<T>&, const TraceOut<T>&)) {
  const Scene<T> s = make_scene<T>(d);
  TraceOut<T> t{};
  t.offsets = values<int64_t>(d["offsets"], "offsets", {s.batch * s.rays + 1});
  t.counts = values<int64_t>(d["counts"], "counts", {s.batch * s.rays});
  const py::object indices = d["indices"];
  if (!indices.is_none())
    t.indices = t.offsets ? values<int64_t>(indices, "indices", {t.offsets[s.batch * s.rays]})
                          : values<int64_t>(indices, "indices", {s.batch, s.rays, s.max_hits});
  else if (!t.counts)
    throw py::value_error("indices or counts are needed");
  released([&] { kernel(s, t); });
}

}  // namespace
}  // namespace voge

PYBIND11_MODULE(_cpu, m) {
  using namespace voge;
  m.doc() = "Native kernels of voge for the CPU.";
  m.def(
      "isas",
      [] {
        py::list names;
        for (const Kernels* k : available_kernels()) names.append(k->name);
        return names;
      },
      "Instruction sets of this build that this machine runs, best first.");
  m.def("isa", [] { return chosen_kernels().name; }, "The instruction set in use (VOGE_ISA overrides).");
  m.def("render_forward", [](const py::dict& d) {
    const Kernels& k = chosen_kernels();
    is_double(d["means"]) ? render_forward<double>(d, k.render_forward_f64)
                          : render_forward<float>(d, k.render_forward_f32);
  });
  m.def("render_backward", [](const py::dict& d) {
    const Kernels& k = chosen_kernels();
    is_double(d["means"]) ? render_backward<double>(d, k.render_backward_f64)
                          : render_backward<float>(d, k.render_backward_f32);
  });
  m.def("trace", [](const py::dict& d) {
    const Kernels& k = chosen_kernels();
    is_double(d["means"]) ? trace<double>(d, k.trace_f64) : trace<float>(d, k.trace_f32);
  });
  m.def(
      "reset_counters",
      [](bool pairs) {
        counters = Counters{};
        counting_pairs = pairs;
      },
      "pairs"_a = false,
      "Starts counting anew; with pairs=True hits and overlapping pairs of the forward pass are counted too.");
  m.def(
      "counters",
      [] {
        return py::dict("bin_cycles"_a = counters.bin_cycles, "project_cycles"_a = counters.project_cycles,
                        "sort_cycles"_a = counters.sort_cycles, "reduce_cycles"_a = counters.reduce_cycles,
                        "hit_cycles"_a = counters.hit_cycles, "weight_cycles"_a = counters.weight_cycles,
                        "composite_cycles"_a = counters.composite_cycles, "hits"_a = counters.hits,
                        "overlapping_pairs"_a = counters.overlapping_pairs);
      },
      "Processor cycles by stage summed over threads, hits, and pairs of hits closer than the cut-off.");
  bind_cameras(m);
  bind_fragments(m);
}
