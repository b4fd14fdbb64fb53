#include "wordkiln/rotary.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

void apply(const std::string& dtype, uintptr_t x, uintptr_t cos, uintptr_t sin, uintptr_t out,
           const std::tuple<int64_t, int64_t, int64_t>& sizes, int64_t x_row, bool back) {
  const auto [rows, heads, head_size] = sizes;
  const int64_t elements = count_elements("x", {rows, heads, head_size});
  if (head_size % 2 != 0) {
    throw std::invalid_argument("head_size=" + std::to_string(head_size) + ": must be even");
  }
  const int64_t angles = count_elements("cos", {rows, head_size / 2});
  const Rotary arguments = {
      .x = to_pointer("x", x, elements),
      .cos = to_pointer("cos", cos, angles),
      .sin = to_pointer("sin", sin, angles),
      .out = to_pointer("out", out, elements),
      .rows = rows,
      .heads = heads,
      .head_size = head_size,
      .x_row = x_row,
      .back = back,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  rotary(type, arguments);
}

}  // namespace

void register_rotary(py::module_& m) {
  m.def("rotary", &apply, py::arg("dtype"), py::arg("x"), py::arg("cos"), py::arg("sin"), py::arg("out"),
        py::arg("sizes"), py::arg("x_row"), py::arg("back"));
}

}  // namespace wordkiln::bindings
