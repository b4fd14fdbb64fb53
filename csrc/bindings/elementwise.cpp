#include "wordkiln/elementwise.h"

#include <stdexcept>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

ElementwiseFunction parse_function(const std::string& name) {
  if (name == "exp") return ElementwiseFunction::kExp;
  if (name == "sigmoid") return ElementwiseFunction::kSigmoid;
  if (name == "tanh") return ElementwiseFunction::kTanh;
  if (name == "erf") return ElementwiseFunction::kErf;
  throw std::invalid_argument("function='" + name + "': must be 'exp', 'sigmoid', 'tanh' or 'erf'");
}

void apply(const std::string& dtype, const std::string& function, uintptr_t x, uintptr_t out, int64_t count) {
  const int64_t elements = count_elements("x", {count});
  const void* from = to_pointer("x", x, elements);
  void* to = to_pointer("out", out, elements);
  const ElementwiseFunction chosen = parse_function(function);
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  elementwise(type, chosen, from, to, elements);
}

}  // namespace

void register_elementwise(py::module_& m) {
  m.def("elementwise", &apply, py::arg("dtype"), py::arg("function"), py::arg("x"), py::arg("out"), py::arg("count"));
}

}  // namespace wordkiln::bindings
