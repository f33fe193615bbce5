// Cameras of voge._cpu: their value checks, their rays, and the adjoint of these.
#include "cpu/cameras.h"

#include "bindings/arrays.h"

namespace voge {
namespace {
using namespace VOGE_ISA;

template <class T>
bool are_cameras_of(const py::object& R, const py::object& t, const py::object& K) {
  const int64_t rotations = size(R, 0), translations = size(t, 0), calibrations = size(K, 0);
  return are_cameras(values<T>(R, "R", {rotations, 3, 3}), rotations, values<T>(t, "t", {translations, 3}),
                     translations, values<T>(K, "K", {calibrations, 3, 3}), calibrations);
}

template <class T>
CameraArgs<T> camera_args(const py::object& R, const py::object& t, const py::object& K, int64_t batch, int64_t height,
                          int64_t width, int threads) {
  CameraArgs<T> a{batch,   height,     width,      nullptr,    nullptr,
                  nullptr, size(R, 0), size(t, 0), size(K, 0), threads < 1 ? 1 : threads};
  for (int64_t b : {a.R_batch, a.t_batch, a.K_batch})
    if (b != 1 && b != batch) throw py::value_error("a batch size is neither 1 nor the whole batch");
  a.R = values<T>(R, "R", {a.R_batch, 3, 3}), a.t = values<T>(t, "t", {a.t_batch, 3});
  a.K = values<T>(K, "K", {a.K_batch, 3, 3});
  return a;
}

template <class T>
void rays(const py::object& R, const py::object& t, const py::object& K, const py::object& origins,
          const py::object& directions, const py::object& projections, int threads) {
  const int64_t batch = size(directions, 0), height = size(directions, 1), width = size(directions, 2);
  const auto a = camera_args<T>(R, t, K, batch, height, width, threads);
  T* o = values<T>(origins, "origins", {batch, 3});
  T* d = values<T>(directions, "directions", {batch, height, width, 3});
  double* p = values<double>(projections, "projections", {batch, 3, 4});
  released([&] { camera_rays(a, o, d, p); });
}

template <class T>
void rays_backward(const py::object& R, const py::object& t, const py::object& K, const py::object& grad_origins,
                   const py::object& grad_directions, const py::object& grad_R, const py::object& grad_t,
                   const py::object& grad_K, int threads) {
  const int64_t batch = size(grad_directions, 0), height = size(grad_directions, 1), width = size(grad_directions, 2);
  const auto a = camera_args<T>(R, t, K, batch, height, width, threads);
  const T* go = values<T>(grad_origins, "grad_origins", {batch, 3});
  const T* gd = values<T>(grad_directions, "grad_directions", {batch, height, width, 3});
  T *gR = values<T>(grad_R, "grad_R", {batch, 3, 3}), *gt = values<T>(grad_t, "grad_t", {batch, 3});
  T* gK = values<T>(grad_K, "grad_K", {batch, 3, 3});
  released([&] { camera_rays_backward(a, go, gd, gR, gt, gK); });
}

}  // namespace
}  // namespace voge

void bind_cameras(pybind11::module_& m) {
  using namespace voge;
  m.def(
      "are_cameras",
      [](const py::object& R, const py::object& t, const py::object& K) {
        return is_double(R) ? are_cameras_of<double>(R, t, K) : are_cameras_of<float>(R, t, K);
      },
      "Whether R (n, 3, 3), t (m, 3) and K (k, 3, 3) are finite, rotations, and calibrations.");
  m.def("camera_rays", [](const py::object& R, const py::object& t, const py::object& K, const py::object& origins,
                          const py::object& directions, const py::object& projections, int threads) {
    (is_double(R) ? rays<double> : rays<float>)(R, t, K, origins, directions, projections, threads);
  });
  m.def("camera_rays_backward",
        [](const py::object& R, const py::object& t, const py::object& K, const py::object& grad_origins,
           const py::object& grad_directions, const py::object& grad_R, const py::object& grad_t,
           const py::object& grad_K, int threads) {
          (is_double(R) ? rays_backward<double> : rays_backward<float>)(R, t, K, grad_origins, grad_directions, grad_R,
                                                                        grad_t, grad_K, threads);
        });
}
