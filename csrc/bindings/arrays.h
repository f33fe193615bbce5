// NumPy arrays as plain pointers: no copies, type, shape and contiguity checked; and kernels that run without the GIL.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <initializer_list>
#include <string>

#include "cpu/args.h"

namespace voge {
namespace py = pybind11;

// The values of a contiguous array of exactly this type and shape; null for None.
template <class T>
T* values(const py::object& o, const char* name, std::initializer_list<py::ssize_t> shape) {
  if (o.is_none()) return nullptr;
  if (!py::isinstance<py::array>(o)) throw py::type_error(std::string(name) + " must be a NumPy array");
  const auto a = py::reinterpret_borrow<py::array>(o);
  if (!a.dtype().is(py::dtype::of<T>())) throw py::type_error(std::string(name) + " has the wrong dtype");
  if (!(a.flags() & py::array::c_style)) throw py::value_error(std::string(name) + " must be contiguous");
  if (a.ndim() != static_cast<py::ssize_t>(shape.size()))
    throw py::value_error(std::string(name) + " has the wrong rank");
  int i = 0;
  for (py::ssize_t n : shape)
    if (a.shape(i++) != n) throw py::value_error(std::string(name) + " has the wrong shape");
  return static_cast<T*>(const_cast<void*>(a.data()));
}

inline py::ssize_t size(const py::object& o, int axis) { return py::cast<py::array>(o).shape(axis); }

inline bool is_double(const py::object& o) { return py::cast<py::array>(o).dtype().is(py::dtype::of<double>()); }

inline std::string words(const BadValue& e) {
  std::string at;
  if (e.index >= 0)
    at = "[" + (e.batch >= 0 ? std::to_string(e.batch) + ", " : std::string()) + std::to_string(e.index) + "]";
  return std::string(e.argument) + at + " " + e.problem;
}

// Those of the best instruction set of this machine, or of VOGE_ISA.
const Kernels& chosen_kernels();

// Runs body without the GIL; a bad value becomes a ValueError.
template <class F>
void released(F&& body) {
  try {
    py::gil_scoped_release release;
    body();
  } catch (const BadValue& e) {
    throw py::value_error(words(e));
  }
}

}  // namespace voge
