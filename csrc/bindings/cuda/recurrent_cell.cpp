#include "wordkiln/cuda/recurrent_cell.h"

#include <pybind11/stl.h>

#include <stdexcept>

#include "bindings/cuda/register.h"
#include "bindings/recurrent_cell_arguments.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

// The kernels count rows, and the elements of one, in 32 bits.
void check_sizes(const RecurrentSizes& s) {
  constexpr int64_t kMost = int64_t{1} << 28;
  if (s.batch > kMost || s.hidden > kMost) {
    throw std::invalid_argument("sizes: batch and hidden must be at most 2^28");
  }
}

void forward(const std::string& dtype, const std::string& kind, const CellForwardArrays& arrays, const CellSizes& sizes,
             int64_t step, const CellZoneout& zoneout, double eps, bool keep, uintptr_t stream) {
  const CellForward arguments = to_cell_forward(kind, arrays, sizes, step, zoneout, eps, keep);
  check_sizes(arguments.sizes);
  const cuda::DType type = parse_cuda_dtype(dtype);
  const py::gil_scoped_release release;
  cuda::cell_forward(type, arguments, reinterpret_cast<void*>(stream));
}

void backward(const std::string& dtype, const std::string& kind, const CellBackwardArrays& arrays,
              const CellSizes& sizes, int64_t step, const CellZoneout& zoneout, uintptr_t stream) {
  const CellBackward arguments = to_cell_backward(kind, arrays, sizes, step, zoneout);
  check_sizes(arguments.sizes);
  const cuda::DType type = parse_cuda_dtype(dtype);
  const py::gil_scoped_release release;
  cuda::cell_backward(type, arguments, reinterpret_cast<void*>(stream));
}

}  // namespace

void register_cuda_recurrent_cell(py::module_& m) {
  m.def("cell_forward", &forward, py::arg("dtype"), py::arg("kind"), py::arg("arrays"), py::arg("sizes"),
        py::arg("step"), py::arg("zoneout"), py::arg("eps"), py::arg("keep"), py::kw_only(), py::arg("stream"));
  m.def("cell_backward", &backward, py::arg("dtype"), py::arg("kind"), py::arg("arrays"), py::arg("sizes"),
        py::arg("step"), py::arg("zoneout"), py::kw_only(), py::arg("stream"));
}

}  // namespace wordkiln::bindings
