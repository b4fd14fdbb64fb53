#include "wordkiln/norm.h"

#include <pybind11/stl.h>

#include <tuple>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

using Sizes = std::tuple<int64_t, int64_t>;

void forward(const std::string& dtype, uintptr_t x, uintptr_t residual, uintptr_t weight, uintptr_t total,
             uintptr_t out, uintptr_t scale, const Sizes& sizes, double eps) {
  const auto [rows, width] = sizes;
  const int64_t elements = count_elements("x", {rows, width});
  const RmsNormForward arguments = {
      .x = to_pointer("x", x, elements),
      .residual = to_pointer("residual", residual, 0),
      .weight = to_pointer("weight", weight, width),
      .total = to_pointer("total", total, residual == 0 ? 0 : elements),
      .out = to_pointer("out", out, elements),
      .scale = to_pointer("scale", scale, rows),
      .rows = rows,
      .width = width,
      .eps = eps,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  rms_norm_forward(type, arguments);
}

void backward(const std::string& dtype, uintptr_t total, uintptr_t weight, uintptr_t scale, uintptr_t grad_out,
              uintptr_t grad_total, uintptr_t grad_x, uintptr_t grad_weight, const Sizes& sizes) {
  const auto [rows, width] = sizes;
  const int64_t elements = count_elements("total", {rows, width});
  const RmsNormBackward arguments = {
      .total = to_pointer("total", total, elements),
      .weight = to_pointer("weight", weight, width),
      .scale = to_pointer("scale", scale, rows),
      .grad_out = to_pointer("grad_out", grad_out, elements),
      .grad_total = to_pointer("grad_total", grad_total, 0),
      .grad_x = to_pointer("grad_x", grad_x, elements),
      .grad_weight = to_pointer("grad_weight", grad_weight, width),
      .rows = rows,
      .width = width,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  rms_norm_backward(type, arguments);
}

}  // namespace

void register_norm(py::module_& m) {
  m.def("rms_norm_forward", &forward, py::arg("dtype"), py::arg("x"), py::arg("residual"), py::arg("weight"),
        py::arg("total"), py::arg("out"), py::arg("scale"), py::arg("sizes"), py::arg("eps"));
  m.def("rms_norm_backward", &backward, py::arg("dtype"), py::arg("total"), py::arg("weight"), py::arg("scale"),
        py::arg("grad_out"), py::arg("grad_total"), py::arg("grad_x"), py::arg("grad_weight"), py::arg("sizes"));
}

}  // namespace wordkiln::bindings
