#include "wordkiln/recurrent_cell.h"

#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/checks.h"
#include "bindings/recurrent_cell_arguments.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

void check_lengths(const int64_t* lengths, const RecurrentSizes& s) {
  for (int64_t row = 0; lengths != nullptr && row < s.batch; ++row) {
    if (lengths[row] < 0 || lengths[row] > s.steps) {
      throw std::invalid_argument("lengths[" + std::to_string(row) + "]=" + std::to_string(lengths[row]) +
                                  ": must be 0 to " + std::to_string(s.steps));
    }
  }
}

void forward(const std::string& dtype, const std::string& kind, const CellForwardArrays& arrays, const CellSizes& sizes,
             int64_t step, const CellZoneout& zoneout, double eps, bool keep) {
  const CellForward arguments = to_cell_forward(kind, arrays, sizes, step, zoneout, eps, keep);
  check_lengths(arguments.lengths, arguments.sizes);
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  cell_forward(type, arguments);
}

void backward(const std::string& dtype, const std::string& kind, const CellBackwardArrays& arrays,
              const CellSizes& sizes, int64_t step, const CellZoneout& zoneout) {
  const CellBackward arguments = to_cell_backward(kind, arrays, sizes, step, zoneout);
  check_lengths(arguments.lengths, arguments.sizes);
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  cell_backward(type, arguments);
}

}  // namespace

void register_recurrent_cell(py::module_& m) {
  m.def("cell_forward", &forward, py::arg("dtype"), py::arg("kind"), py::arg("arrays"), py::arg("sizes"),
        py::arg("step"), py::arg("zoneout"), py::arg("eps"), py::arg("keep"));
  m.def("cell_backward", &backward, py::arg("dtype"), py::arg("kind"), py::arg("arrays"), py::arg("sizes"),
        py::arg("step"), py::arg("zoneout"));
}

}  // namespace wordkiln::bindings
