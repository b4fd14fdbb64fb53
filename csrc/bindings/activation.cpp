#include "wordkiln/activation.h"

#include <pybind11/stl.h>

#include <tuple>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

using Sizes = std::tuple<int64_t, int64_t>;

void run_gelu_forward(const std::string& dtype, uintptr_t x, uintptr_t bias, uintptr_t out, const Sizes& sizes,
                      bool tanh) {
  const auto [rows, width] = sizes;
  const int64_t elements = count_elements("x", {rows, width});
  const GeluForward arguments = {
      .x = to_pointer("x", x, elements),
      .bias = to_pointer("bias", bias, 0),
      .out = to_pointer("out", out, elements),
      .rows = rows,
      .width = width,
      .tanh = tanh,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  gelu_forward(type, arguments);
}

void run_gelu_backward(const std::string& dtype, uintptr_t x, uintptr_t bias, uintptr_t grad_out, uintptr_t grad_x,
                       uintptr_t grad_bias, const Sizes& sizes, bool tanh) {
  const auto [rows, width] = sizes;
  const int64_t elements = count_elements("x", {rows, width});
  const GeluBackward arguments = {
      .x = to_pointer("x", x, elements),
      .bias = to_pointer("bias", bias, 0),
      .grad_out = to_pointer("grad_out", grad_out, elements),
      .grad_x = to_pointer("grad_x", grad_x, elements),
      .grad_bias = to_pointer("grad_bias", grad_bias, bias == 0 ? 0 : width),
      .rows = rows,
      .width = width,
      .tanh = tanh,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  gelu_backward(type, arguments);
}

void run_swiglu_forward(const std::string& dtype, uintptr_t gate, uintptr_t up, uintptr_t out, int64_t count) {
  const int64_t elements = count_elements("gate", {count});
  const SwigluForward arguments = {to_pointer("gate", gate, elements), to_pointer("up", up, elements),
                                   to_pointer("out", out, elements), elements};
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  swiglu_forward(type, arguments);
}

void run_swiglu_backward(const std::string& dtype, uintptr_t gate, uintptr_t up, uintptr_t grad_out,
                         uintptr_t grad_gate, uintptr_t grad_up, int64_t count) {
  const int64_t elements = count_elements("gate", {count});
  const SwigluBackward arguments = {
      .gate = to_pointer("gate", gate, elements),
      .up = to_pointer("up", up, elements),
      .grad_out = to_pointer("grad_out", grad_out, elements),
      .grad_gate = to_pointer("grad_gate", grad_gate, elements),
      .grad_up = to_pointer("grad_up", grad_up, elements),
      .count = elements,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  swiglu_backward(type, arguments);
}

}  // namespace

void register_activation(py::module_& m) {
  m.def("gelu_forward", &run_gelu_forward, py::arg("dtype"), py::arg("x"), py::arg("bias"), py::arg("out"),
        py::arg("sizes"), py::arg("tanh"));
  m.def("gelu_backward", &run_gelu_backward, py::arg("dtype"), py::arg("x"), py::arg("bias"), py::arg("grad_out"),
        py::arg("grad_x"), py::arg("grad_bias"), py::arg("sizes"), py::arg("tanh"));
  m.def("swiglu_forward", &run_swiglu_forward, py::arg("dtype"), py::arg("gate"), py::arg("up"), py::arg("out"),
        py::arg("count"));
  m.def("swiglu_backward", &run_swiglu_backward, py::arg("dtype"), py::arg("gate"), py::arg("up"), py::arg("grad_out"),
        py::arg("grad_gate"), py::arg("grad_up"), py::arg("count"));
}

}  // namespace wordkiln::bindings
