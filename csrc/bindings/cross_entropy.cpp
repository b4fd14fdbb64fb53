#include "wordkiln/cross_entropy.h"

#include <pybind11/stl.h>

#include <stdexcept>
#include <tuple>

#include "bindings/checks.h"
#include "bindings/register.h"

namespace py = pybind11;

namespace wordkiln::bindings {
namespace {

void check_targets(const int64_t* targets, int64_t rows, int64_t vocabulary, int64_t ignore_index) {
  for (int64_t i = 0; i < rows; ++i) {
    if (targets[i] == ignore_index || (targets[i] >= 0 && targets[i] < vocabulary)) continue;
    throw std::invalid_argument("targets: " + std::to_string(targets[i]) + " must be 0 to " +
                                std::to_string(vocabulary - 1) + " or " + std::to_string(ignore_index));
  }
}

double run(const std::string& dtype, uintptr_t hidden, uintptr_t weight, uintptr_t bias, uintptr_t targets,
           uintptr_t grad_hidden, uintptr_t grad_weight, uintptr_t grad_bias,
           const std::tuple<int64_t, int64_t, int64_t>& sizes, int64_t ignore_index, double label_smoothing,
           double z_loss, bool mean) {
  const auto [rows, vocabulary, width] = sizes;
  const int64_t of_hidden = count_elements("hidden", {rows, width});
  const int64_t of_weight = count_elements("weight", {vocabulary, width});
  if (vocabulary == 0) throw std::invalid_argument("weight: has 0 rows; the vocabulary must have at least 1");
  double loss = 0;
  const LinearCrossEntropy arguments = {
      .hidden = to_pointer("hidden", hidden, of_hidden),
      .weight = to_pointer("weight", weight, of_weight),
      .bias = to_pointer("bias", bias, 0),
      .targets = static_cast<const int64_t*>(to_pointer("targets", targets, rows)),
      .loss = &loss,
      .grad_hidden = to_pointer("grad_hidden", grad_hidden, 0),
      .grad_weight = to_pointer("grad_weight", grad_weight, 0),
      .grad_bias = to_pointer("grad_bias", grad_bias, 0),
      .sizes = {rows, vocabulary, width},
      .ignore_index = ignore_index,
      .label_smoothing = label_smoothing,
      .z_loss = z_loss,
      .mean = mean,
  };
  const DType type = parse_dtype(dtype);
  const py::gil_scoped_release release;
  check_targets(arguments.targets, rows, vocabulary, ignore_index);
  linear_cross_entropy(type, arguments);
  return loss;
}

}  // namespace

void register_cross_entropy(py::module_& m) {
  m.def(
      "has_linear_cross_entropy", [](const std::string& dtype) { return has_linear_cross_entropy(parse_dtype(dtype)); },
      py::arg("dtype"));
  m.def("linear_cross_entropy", &run, py::arg("dtype"), py::arg("hidden"), py::arg("weight"), py::arg("bias"),
        py::arg("targets"), py::arg("grad_hidden"), py::arg("grad_weight"), py::arg("grad_bias"), py::arg("sizes"),
        py::arg("ignore_index"), py::arg("label_smoothing"), py::arg("z_loss"), py::arg("mean"));
}

}  // namespace wordkiln::bindings
