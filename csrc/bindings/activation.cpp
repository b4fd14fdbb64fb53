#include "wordkiln/activation.h"

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

void forward(const std::string& dtype, uintptr_t gate, uintptr_t up, uintptr_t out, int64_t count) {
  const int64_t elements = count_elements("gate", {count});
  const SwigluForward arguments = {to_pointer("gate", gate, elements), to_pointer("up", up, elements),
                                   to_pointer("out", out, elements), elements};
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  swiglu_forward(type, arguments);
}

void backward(const std::string& dtype, uintptr_t gate, uintptr_t up, uintptr_t grad_out, uintptr_t grad_gate,
              uintptr_t grad_up, int64_t count) {
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
  m.def("swiglu_forward", &forward, py::arg("dtype"), py::arg("gate"), py::arg("up"), py::arg("out"), py::arg("count"));
  m.def("swiglu_backward", &backward, py::arg("dtype"), py::arg("gate"), py::arg("up"), py::arg("grad_out"),
        py::arg("grad_gate"), py::arg("grad_up"), py::arg("count"));
}

}  // namespace wordkiln::bindings
